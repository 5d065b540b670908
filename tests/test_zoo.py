"""Every denoiser through every transformation and mode, against the values of `zoo`'s references in mpmath.

Cells that a denoiser cannot do are declared in `GAPS`, each with its reason. One compiled program serves all transformations
of a denoiser, under strict promotion (see `conftest`), and with NaN debugging on.
"""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from zoo import MAKERS, made, reference

LEVELS = (0.4, 0.7, 1.5)
# Of each cell that a denoiser cannot do, the reason.
_HOST = "no function of JAX's: the points stay on the host; its method `denoise` is tested in `test_streamed`"
GAPS: dict[tuple[str, str], str] = {
    **{
        ("StreamedDenoiser", cell): _HOST
        for cell in ("values", "derivatives", "ensemble", "wrong calls", "export")
    },
    ("ShardedDenoiser", "round trips"): "it holds its mesh, of devices that JAX does not pickle",
}


def declared(name, cell):
    if (name, cell) in GAPS:
        pytest.skip(f"declared: {GAPS[name, cell]}")


@pytest.fixture(autouse=True)
def no_nans():
    jax.config.update("jax_debug_nans", True)
    yield
    jax.config.update("jax_debug_nans", False)


def batch(u, dtype):
    return jnp.stack([u, -u, 0.5 * u + 0.25]), jnp.asarray(LEVELS, dtype)


@eqx.filter_jit
def everything(D, us, levels):
    """What transformations make of a denoiser, and the values they should agree with."""
    both = jax.vmap(D)(us, levels)
    over_u = jax.vmap(D, (0, None))(us, levels[1])
    over_level = jax.vmap(D, (None, 0))(us[0], levels)
    nested = jax.vmap(jax.vmap(D, (0, None)), (None, 0))(us, levels)
    scanned = jax.lax.scan(lambda _, x: (None, D(*x)), None, (us, levels))[1]
    return {"both": both, "u": over_u, "level": over_level, "nested": nested, "scan": scanned}


@eqx.filter_jit
def derivatives(D, us, levels):
    """By the point and the noise level: forwards, backwards, and along both. `test_extremes` takes each alone."""
    one = lambda u, s: (  # noqa: E731
        jax.jacfwd(D, (0, 1))(u, s),
        jax.jacrev(jax.checkpoint(D), (0, 1))(u, s),
        jax.jvp(D, (u, s), (jnp.ones_like(u), jnp.full_like(s, 2)))[1],
    )
    return jax.vmap(one)(us, levels)


def tolerance(dtype):
    # Sums over two dozen points of the size of a few units, with weights off by some roundings of logits of the size of ten.
    return 2000 * float(jnp.finfo(dtype).eps)


def _exactly(x):
    return mp.mpf(float(x)) if np.ndim(x) == 0 else [mp.mpf(float(c)) for c in x]


def _floats(value):
    return [float(x) for x in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("name", MAKERS)
def test_values(name, dtype):
    declared(name, "values")
    D, u = made(name, dtype)
    us, levels = batch(u, dtype)
    with mp.workdps(40):
        exact = reference(name, D, dtype)
        expected = np.array(
            [[_floats(exact(_exactly(v), _exactly(s))[0]) for v in us] for s in levels]
        )
    found = everything(D, us, levels)
    assert {x.dtype for x in found.values()} == {dtype}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(dtype))  # noqa: E731
    close(found["nested"], expected)
    close(found["u"], expected[1])
    close(found["level"], expected[:, 0])
    diagonal = expected[np.arange(3), np.arange(3)]
    close(found["both"], diagonal)
    close(found["scan"], diagonal)
    close(D(u, LEVELS[1]), expected[1, 0])  # called as it is, with a Python number


@pytest.mark.parametrize("name", MAKERS)
def test_numpy_arrays_are_taken(name, dtype):
    declared(name, "values")
    D, u = made(name, dtype)
    level = np.asarray(LEVELS[1], dtype)
    given, own = D(np.asarray(u), level), D(u, jnp.asarray(level))
    np.testing.assert_allclose(given, own, rtol=0, atol=tolerance(dtype))


@pytest.mark.parametrize("name", MAKERS)
def test_derivatives_agree(name, dtype):
    declared(name, "derivatives")
    D, u = made(name, dtype)
    us, levels = batch(u, dtype)
    (forward, by_level), (reverse, by_level_reverse), along = derivatives(D, us, levels)
    atol = 10 * tolerance(dtype)
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=atol)
    both = np.asarray(forward).sum(axis=2) + 2 * np.asarray(by_level)
    np.testing.assert_allclose(along, both, rtol=0, atol=atol)
    np.testing.assert_allclose(by_level_reverse, by_level, rtol=0, atol=atol)
    assert forward.dtype == by_level.dtype == dtype


@pytest.mark.parametrize("name", MAKERS)
def test_round_trips(name, dtype, tmp_path):
    declared(name, "round trips")
    D, u = made(name, dtype)

    def value(D):
        if name == "StreamedDenoiser":
            return D.denoise(u[None], LEVELS[0])
        return D(u, LEVELS[0])

    expected = value(D)
    leaves, structure = jax.tree.flatten(D)
    copies = [
        jax.tree.unflatten(structure, leaves),
        copy.deepcopy(D),
        pickle.loads(pickle.dumps(D)),
    ]
    if name != "StreamedDenoiser":  # whose rows are no leaves
        eqx.tree_serialise_leaves(tmp_path / "D", D)
        copies.append(eqx.tree_deserialise_leaves(tmp_path / "D", D))
    for other in copies:
        np.testing.assert_array_equal(value(other), expected)


@pytest.mark.parametrize("name", MAKERS)
def test_ensembles(name, dtype):
    """A stack of two denoisers is mapped over, and gives what each gives alone."""
    declared(name, "ensemble")
    D, u = made(name, dtype)
    arrays, rest = eqx.partition(D, eqx.is_array)
    stack = eqx.combine(jax.tree.map(lambda x: jnp.stack([x, x]), arrays), rest)
    found = eqx.filter_jit(
        eqx.filter_vmap(lambda D, u, s: D(u, s), in_axes=(eqx.if_array(0), None, None))
    )(stack, u, jnp.asarray(LEVELS[0], dtype))
    expected = D(u, LEVELS[0])
    np.testing.assert_allclose(found, [expected, expected], rtol=0, atol=tolerance(dtype))


@pytest.mark.parametrize("name", MAKERS)
def test_wrong_calls(name):
    """Refused in one line where that is known; inside a transformation a level that is none gives NaN."""
    declared(name, "wrong calls")
    dtype = jnp.zeros(()).dtype
    D, u = made(name, dtype)
    for wrong in (jnp.ones(len(u) + 1), jnp.ones((2, len(u))), jnp.ones((len(u), 2))):
        with pytest.raises(ValueError, match="`u` must") as caught:
            D(wrong, 1.0)
        assert "\n" not in str(caught.value)
    for wrong in (0.0, -1.0, np.nan, np.inf, None, "a", np.ones(2)):
        with pytest.raises(ValueError, match="`sigma` must") as caught:
            D(u, wrong)
        assert "\n" not in str(caught.value)
    jax.config.update("jax_debug_nans", False)
    for wrong in (0.0, -1.0, np.nan):
        assert np.all(np.isnan(eqx.filter_jit(D)(u, jnp.asarray(wrong, dtype)))), wrong


@pytest.mark.parametrize("name", MAKERS)
def test_exports(name):
    """Without calls to the host: through `jax.export` and back."""
    declared(name, "export")
    pytest.importorskip("flatbuffers")
    dtype = jnp.zeros(()).dtype
    D, u = made(name, dtype)
    level = jnp.asarray(LEVELS[0], dtype)
    exported = jax.export.export(jax.jit(D.__call__))(u, level)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(again.call(u, level), D(u, level), rtol=0, atol=tolerance(dtype))


def test_gaps_are_few():
    cells = ("values", "derivatives", "round trips", "ensemble", "wrong calls", "export")
    assert len(GAPS) <= 0.05 * len(cells) * len(MAKERS)
    assert all(name in MAKERS for name, _ in GAPS)
