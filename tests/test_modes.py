"""Flows and samples that export, and keys of another kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

LAW = sj.GaussianDenoiser(np.zeros(2), np.diag([1.0, 4.0]))
GRID = {"steps": 4, "solver": sj.ExponentialMultistep(order=3)}
FUNCTIONS = {
    "flow": lambda u, s: sj.flow(LAW, u, s, 0.1),
    "flow on a grid": lambda u, s: sj.flow(LAW, u, s, 0.1, **GRID),
    "likelihood": lambda u, s: sj.log_likelihood(LAW, u, sigma_max=s),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_flows_export(name):
    """Nothing calls the host: the program runs again after it was written and read."""
    pytest.importorskip("flatbuffers")
    arguments = jnp.array([1.0, -2.0]), jnp.array(3.0)
    function = jax.jit(FUNCTIONS[name])
    exported = jax.export.export(function)(*arguments)
    assert "callback" not in str(jax.make_jaxpr(function)(*arguments))
    again = jax.export.deserialize(exported.serialize())
    # The same program, compiled again.
    np.testing.assert_array_equal(again.call(*arguments), function(*arguments))


def test_samples_of_other_keys_do_not_depend_on_their_number():
    key = jax.random.key(0, impl="rbg")
    few, many = (sj.sample(LAW, key, num, steps=4) for num in (3, 7))
    np.testing.assert_allclose(few, many[:3], rtol=1e-5)
