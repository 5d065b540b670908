"""Finite ReLU networks in the parametrisation of the tangent kernel, and plain gradient descent on a fixed training set."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._checks import (
    RealScalar,
    as_key,
    as_positive_integer,
    is_concrete,
    require_parameters,
    require_positive,
)
from .._kinds import checks_kinds
from ..denoisers import AbstractDenoiser
from ..parametrization import Prediction, as_prediction, to_denoised
from ._tangent_kernels import ReLUTangentKernel
from ._training_set import DenoisingProblem, TrainingSet


class TangentNetwork(eqx.Module):
    """A fully connected ReLU network whose tangent kernel is that of a `ReLUTangentKernel`, in the limit of large width.

    `x -> sqrt(g / fan in) w x + bias_scale b` in every layer, with g = 1 in the first and the last and 2 between them; all w
    and b are standard normal at first, and trained. The outputs are independent Gaussian processes for infinite width.

    Args:
        kernel: decides the number of layers, the embedding (whose arrays are not trained) and the scale of the biases.
        dim: outputs, and the dimension d of the point.
        width: units of every hidden layer.
        key: of the initial parameters.
        dtype: of the parameters; by default that of JAX.

    Raises:
        ValueError: for a width or dimension that is no positive integer.

    Source: Jacot, Gabriel and Hongler 2018 (the parametrisation in which training does not move the kernel).

    Example:
        >>> import jax, smoothjax as sj
        >>> kernel = sj.variance.ReLUTangentKernel(3)
        >>> network = sj.variance.TangentNetwork(kernel, 2, 64, key=jax.random.key(0))
        >>> network(jax.numpy.zeros(2), jax.numpy.ones(())).shape
        (2,)
    """

    kernel: ReLUTangentKernel
    weights: tuple[Float[Array, "_ _"], ...]
    biases: tuple[Float[Array, " _"], ...]

    @checks_kinds
    def __init__(
        self,
        kernel: ReLUTangentKernel,
        dim: int,
        width: int,
        *,
        key: PRNGKeyArray,
        dtype: DTypeLike | None = None,
    ):
        dim, width = as_positive_integer(dim, "dim"), as_positive_integer(width, "width")
        dtype = jnp.result_type(float if dtype is None else dtype)
        point, level = jax.ShapeDtypeStruct((dim,), dtype), jax.ShapeDtypeStruct((), dtype)
        embedded = eqx.filter_eval_shape(kernel.embedding, point, level)
        sizes = [embedded.size, *[width] * (kernel.num_layers - 1), dim]
        weight_keys, bias_keys = jax.random.split(as_key(key), (2, kernel.num_layers))
        self.kernel = kernel
        self.weights = tuple(
            jax.random.normal(k, (b, a), dtype)
            for k, (a, b) in zip(weight_keys, itertools.pairwise(sizes), strict=True)
        )
        self.biases = tuple(
            jax.random.normal(k, (b,), dtype) for k, b in zip(bias_keys, sizes[1:], strict=True)
        )

    def __call__(self, u: Float[Array, " d"], sigma: Float[Array, ""]) -> Float[Array, " d"]:
        kernel = jax.tree.map(
            lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x, self.kernel
        )
        x = kernel.embedding(u, sigma)
        last = len(self.weights) - 1
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            gain = 1 if i in (0, last) else 2
            x = math.sqrt(gain / x.size) * (w @ x) + kernel.bias_scale * b
            x = x if i == last else jax.nn.relu(x)
        return x


class OutputDenoiser(AbstractDenoiser):
    """`D = b + c f`: the output f of a model read as a denoiser, with b and c of the prediction, see `DenoisingProblem`.

    Args:
        model: callable `(u, sigma) -> (d,)`, e.g. a `TangentNetwork`.
        dim: dimension d.
        prediction: what the output stands for.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.variance.OutputDenoiser(lambda u, sigma: jnp.ones(1), 1, prediction="eps")
        >>> print(D(jnp.array([3.0]), 2.0))  # u - sigma f
        [1.]
    """

    model: Callable[[Array, Array], Array]
    _dim: int = eqx.field(static=True)
    prediction: Prediction = eqx.field(static=True)

    @checks_kinds
    def __init__(
        self,
        model: Callable[[Array, Array], Array],
        dim: int,
        *,
        prediction: Prediction = "x0",
    ):
        self.model, self.prediction = model, as_prediction(prediction)
        self._dim = as_positive_integer(dim, "dim")

    @property
    def dim(self) -> int:
        return self._dim

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        return to_denoised(self.prediction, self.model(u, sigma), u, sigma)


@checks_kinds
def gradient_descent(
    problem: DenoisingProblem,
    model: Callable[[Array, Array], Array],
    triples: TrainingSet,
    *,
    step_size: RealScalar,
    num_steps: Sequence[int],
    observe: Callable[[Any], Any] = lambda model: model,
) -> Any:
    """Trains a model by plain gradient descent on half its weighted mean squared error over a fixed training set.

    The loss is `(1 / 2P) sum_n w_n |y_n - f_n|^2`, so that n small steps follow `KernelLaw.gradient_flow` on the model's
    tangent kernel for a duration `step_size * n`, as long as that kernel stays what it was. Of a mode that the flow fits to
    `1 - exp(-r n)`, with r = omega step_size / P, the steps fit `1 - (1 - r)^n`: they follow the flow for r well below one,
    and diverge beyond r = 2. Pure: `jax.vmap` or `jax.lax.map` it over models and training sets.

    Args:
        problem: how the output is read, which decides targets and weights.
        model: callable pytree `(u, sigma) -> (d,)`, e.g. a `TangentNetwork`; its floating-point arrays are trained.
        triples: all that the model sees, e.g. `problem.draw(key, P)`. Any x may stand for the targets: the posterior mean
            trains on the exact denoiser.
        step_size: positive.
        num_steps: increasing numbers of steps after which the model is observed.
        observe: what to return of the trained model; by default the model. Keeps many wide networks out of memory.

    Returns:
        `observe(model)` with a leading axis of observations.

    Raises:
        ValueError: for numbers of steps that are not positive or do not increase, or a step size that is not positive.
        RuntimeError: where the parameters overflow: the step size is too large. Inside `jax.jit` they are not finite then.

    Example:
        >>> import jax, jax.numpy as jnp, smoothjax as sj
        >>> problem = sj.variance.DenoisingProblem(jnp.array([[4.0]]), lambda key, num: jnp.ones(num))  # sigma = 1
        >>> model = jax.tree_util.Partial(lambda w, u, sigma: w, jnp.zeros(1))
        >>> found = sj.variance.gradient_descent(
        ...     problem, model, problem.draw(jax.random.key(0), 3), step_size=0.5, num_steps=[1, 2]
        ... )
        >>> print(found.args[0][:, 0])  # each step leaves half of the error
        [2. 3.]
    """
    counts = [as_positive_integer(n, "num_steps") for n in num_steps]
    if not counts or any(b <= a for a, b in itertools.pairwise(counts)):
        raise ValueError(f"`num_steps` must be increasing and not empty; got {tuple(num_steps)}.")
    step = require_positive(step_size, "step_size")
    require_parameters(model)
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    roots = jax.vmap(problem.root_weight)(triples.u, triples.sigma)
    targets = jax.vmap(problem.target)(*triples)

    def loss(parameters: Any) -> Array:
        outputs = jax.vmap(eqx.combine(parameters, static))(triples.u, triples.sigma)
        errors = roots[:, None] * outputs - targets
        return 0.5 * jnp.sum(errors**2) / targets.shape[0]

    def descend(_: Any, parameters: Any) -> Any:
        slopes = jax.grad(loss)(parameters)
        return jax.tree.map(lambda p, g: p - step.astype(p.dtype) * g, parameters, slopes)

    def onwards(parameters: Any, num: Array) -> tuple[Any, Any]:
        parameters = jax.lax.fori_loop(0, num, descend, parameters)
        finite = [jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(parameters)]
        return parameters, (observe(eqx.combine(parameters, static)), jnp.all(jnp.stack(finite)))

    pieces = jnp.diff(jnp.asarray(counts), prepend=0)
    observed, finite = jax.lax.scan(onwards, parameters, pieces)[1]
    if is_concrete(finite) and not np.all(finite):
        raise RuntimeError("Training diverged: reduce `step_size`.")
    return observed
