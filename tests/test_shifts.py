"""Data far from the origin: every denoiser of shifted data is the shifted denoiser, to the rounding of the shift."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import MAKERS

import smoothjax as sj
from smoothjax import denoisers

RNG = np.random.default_rng(0)
POINTS = RNG.integers(-8, 9, (12, 12)).astype(float)  # 12 images of 3 x 4 pixels
U = POINTS[:3] + RNG.integers(-3, 4, (3, 12))
LINE = np.array([-7.0, -3.0, 2.0, 8.0])
IMAGE = (-1, 3, 4, 1)
MEMBERS = np.arange(12) // 4


def _mesh():
    return jax.sharding.Mesh(jax.devices()[:1], ("data",))


def _on_line(x):
    return x[:4, :1]


def _along(x):
    # A line through the shift: x[1] - x[0] is its direction.
    return sj.LineDenoiser(
        sj.PiecewiseLinearDenoiser(jnp.asarray(LINE, x.dtype), 0.5), x[1] - x[0], x[0]
    )


# Those of the zoo, and here with parameters that integers and shifts of theirs hold exactly.
BUILDERS = MAKERS | {
    "ShardedDenoiser": lambda x: sj.ShardedDenoiser(x, _mesh()),
    "StreamedDenoiser": lambda x: sj.StreamedDenoiser(np.asarray(x)),
    "MixtureDenoiser": lambda x: sj.MixtureDenoiser.fit(x, MEMBERS),
    "TemperedDenoiser": lambda x: sj.TemperedDenoiser(x, 2.0),
    "BoxSmoothedDenoiser": lambda x: sj.BoxSmoothedDenoiser(_on_line(x), 1.0),
    "GaussianSmoothedDenoiser": lambda x: sj.GaussianSmoothedDenoiser(x, 1.0, 4, jax.random.key(0)),
    "GaussianSmoothedLineDenoiser": lambda x: sj.GaussianSmoothedLineDenoiser(x[:4, 0], 1.0),
    "PiecewiseLinearDenoiser": lambda x: sj.PiecewiseLinearDenoiser(x[:4, 0], 0.5),
    "NoiseUnconditionedDenoiser": lambda x: sj.NoiseUnconditionedDenoiser(x, jnp.array([1.0, 4.0])),
    "LineDenoiser": _along,
    "RescaledDenoiser": lambda x: sj.RescaledDenoiser(
        sj.EmpiricalDenoiser((x - x[:1]) / 4), x[0], 4.0
    ),
    "GuidedDenoiser": lambda x: sj.GuidedDenoiser(
        sj.GaussianDenoiser.fit(x), sj.EmpiricalDenoiser(x), 1.5
    ),
    "ScheduledDenoiser": lambda x: sj.ScheduledDenoiser(
        [sj.EmpiricalDenoiser(x), sj.GaussianDenoiser.fit(x)], jnp.array([2.0])
    ),
    "SwitchedDenoiser": lambda x: sj.SwitchedDenoiser(
        sj.EmpiricalDenoiser(x), sj.GaussianDenoiser.fit(x), 4.0
    ),
    "LocalDenoiser": lambda x: sj.LocalDenoiser(x.reshape(IMAGE), 3),
    "EquivariantLocalDenoiser": lambda x: sj.EquivariantLocalDenoiser(x.reshape(IMAGE), 3),
    "PatchCompositeDenoiser": lambda x: sj.PatchCompositeDenoiser(x.reshape(IMAGE), 3),
    "WienerMaskDenoiser": lambda x: sj.WienerMaskDenoiser(x.reshape(IMAGE)),
}


def test_every_denoiser_is_here():
    public = {name for name in vars(denoisers) if name.endswith("Denoiser")}
    assert public - {"Denoiser", "AbstractDenoiser", "AbstractPosteriorDenoiser"} == set(BUILDERS)


# One program for a denoiser and what it is compared with.
value = eqx.filter_jit(lambda D, u, sigma: D(u, sigma))


@pytest.mark.parametrize("name", BUILDERS)
def test_shifts(dtype, name):
    # Points, queries and what they are shifted by are integers, which both dtypes hold exactly, also summed.
    eps = float(jnp.finfo(dtype).eps)
    shift = 2.0 ** round(np.log2(3e-3 / eps))  # about 1e4 in float32, 1e13 in float64
    build = BUILDERS[name]
    centred, moved = (build(jnp.asarray(POINTS + c, dtype)) for c in (0.0, shift))
    of = (lambda D, u, sigma: D(u, sigma)) if name == "StreamedDenoiser" else value
    for sigma in np.asarray([1.0, 3.0], dtype):
        for u in U[:, : centred.dim]:
            expected = of(centred, np.asarray(u, dtype), sigma)
            found = np.asarray(of(moved, np.asarray(u + shift, dtype), sigma)) - shift
            # Each number of the size of the shift that is formed is rounded by half an eps of it: the mean of the points,
            # the centred query, the result, and in a mixture each component's.
            np.testing.assert_allclose(found, expected, atol=4 * eps * shift)
