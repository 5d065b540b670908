"""A comparison of the same data elsewhere and in other units: the same dimensionless numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj

pytest.importorskip("xarray")
SETTINGS = sj.CompareSettings(num_samples=12, num_levels=2, seed=1)


class Hidden(eqx.Module):
    """A callable that hides its moments; of one structure, so that all comparisons share their programs."""

    law: sj.GaussianDenoiser

    def __call__(self, u, sigma):
        return self.law(u, sigma)


def compared(points):
    """Numbers of a comparison of points, the first half of which are for training."""
    half = len(points) // 2
    train, held_out = (
        sj.datasets.Dataset("points", part) for part in (points[:half], points[half:])
    )
    denoisers = {
        "empirical": sj.EmpiricalDenoiser(train.points),
        # What hides its moments starts at the training mean, and its likelihood comes from the flow.
        "callable": Hidden(sj.GaussianDenoiser.fit(train.points)),
    }
    results = sj.compare(denoisers, train, held_out, settings=SETTINGS, progress=False).results
    return results, float(results.data_scale)


@pytest.fixture(scope="module")
def pair():
    """Points on the grid of float32 at 1e5 times their spread, about zero and out there, exactly the same."""
    rng = np.random.default_rng(0)
    far = (rng.standard_normal((40, 2)) * [1.0, 0.5] + 1e5).astype(np.float32)
    near = far.astype(np.float64) - 1e5
    # In the dtype of the mode: noises of another are other noises.
    dtype = jnp.result_type(float)
    near, far = near.astype(dtype), far.astype(dtype)
    return near, far, compared(near)


@pytest.mark.parametrize(("what", "factor"), [("far", 1), ("near", 1e-6), ("near", 1e6)])
def test_same_elsewhere_and_in_other_units(pair, what, factor):
    near, far, (expected, scale) = pair
    in_float64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    points = (far if what == "far" else near) * near.dtype.type(factor)
    # Far away float32 has seven bits left, with which every denoiser's output is rounded; there float64 is what one takes.
    rounded = what == "far" and not in_float64
    found, other = compared(points)
    np.testing.assert_allclose(other, scale * factor, rtol=1e-5)
    # Samples are then rounded to a hundredth of the spread: one of twelve may cross the threshold.
    one = 1.01 / SETTINGS.num_samples if rounded else 0.01
    np.testing.assert_allclose(found.memorized, expected.memorized, atol=one)
    scores, known = found.linearity_centred.values, expected.linearity_centred.values
    np.testing.assert_allclose(scores[:, 0], known[:, 0], atol=0.01)
    # At 40 spreads denoised points lie 1/40 and 1/160 from their mean; rounding by 2^-7 is .0023 in each of two. Of both
    # points compared the cosine loses half the square of .126, of few pairs up to twice that.
    np.testing.assert_allclose(scores[:, 1], known[:, 1], atol=2 * 0.126**2 if rounded else 0.01)
    # Positions of samples, in units of the spread.
    shift = 1e5 if what == "far" else 0.0
    moved = (found.samples.values - shift) / factor
    np.testing.assert_allclose(moved[1], expected.samples.values[1], atol=0.05 if rounded else 1e-3)
    # A density in other units is another number, by the logarithm of the volume.
    nats = found.log_likelihood + 2 * np.log(factor)
    np.testing.assert_allclose(nats[1:], expected.log_likelihood[1:], atol=0.1)
    if not rounded:
        np.testing.assert_allclose(found.frechet / factor**2, expected.frechet, rtol=0.01)
