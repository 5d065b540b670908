#!/usr/bin/env bash
# The weighted covariance of a training set inside a jitted function: the set as a constant of the program, and as its argument.
#
# Seen with jax and jaxlib 0.10.1 (CPU), numpy 2.4.6, Python 3.11: for 1,500 points of 300 numbers the constant's product with itself
# is computed when the program compiles, by a slow evaluator: 7 seconds of a processor (57 for 3,000 of 600) beside .1 with the set
# as an argument, and no product is left in the program. Behind `lax.optimization_barrier` it stays there. XLA says on standard error
# that folding is slow. Without weights and centring, the same sizes took .1 s.
#
# One would expect a compiler to fold small constants only: XLA's bound is of what comes out, not of the work.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "jax==0.10.1" "jaxlib==0.10.1" "numpy==2.4.6"
cat > "$folder/check.py" <<'PY'
import time

import jax
import jax.numpy as jnp
import numpy as np

data = jnp.asarray(np.random.default_rng(0).standard_normal((1500, 300), np.float32))


weights = jnp.full(len(data), 1 / len(data))


def covariance(data):
    centred = data - data.mean(0)
    return (weights[:, None] * centred).T @ centred


def seen(function, *arguments):
    lowered = jax.jit(function).lower(*arguments)
    start = time.process_time()
    compiled = lowered.compile()
    return time.process_time() - start, " dot(" in compiled.as_text()


constant = seen(lambda: covariance(data))
argument = seen(covariance, data)
barred = seen(lambda: covariance(jax.lax.optimization_barrier(data)))
for name, (seconds, has_product) in (("constant", constant), ("argument", argument), ("barrier", barred)):
    print(f"{name}: compiled in {seconds:.2f} s, {'a' if has_product else 'no'} product in the program")
assert not constant[1] and argument[1] and barred[1]
assert constant[0] > 5 * argument[0]
PY
"$folder/venv/bin/python" "$folder/check.py"
