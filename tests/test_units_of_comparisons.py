"""A comparison of the same data elsewhere and in other units: the same dimensionless numbers."""

import numpy as np
import pytest

import smoothjax as sj

pytest.importorskip("xarray")
SETTINGS = sj.CompareSettings(num_samples=12, num_levels=2, seed=1)


def compared(points):
    """Numbers of a comparison of float32 points, the first half of which are for training."""
    half = len(points) // 2
    train, held_out = (
        sj.datasets.Dataset("points", part) for part in (points[:half], points[half:])
    )
    gaussian = sj.GaussianDenoiser.fit(train.points)
    denoisers = {
        "empirical": sj.EmpiricalDenoiser(train.points),
        # What hides its moments starts at the training mean, and its likelihood comes from the flow.
        "callable": lambda u, sigma: gaussian(u, sigma),
    }
    results = sj.compare(denoisers, train, held_out, settings=SETTINGS, progress=False).results
    return results, float(results.data_scale)


@pytest.fixture(scope="module")
def pair():
    """Points on the grid of float32 at 1e5 times their spread, about zero and out there, exactly the same."""
    rng = np.random.default_rng(0)
    far = (rng.standard_normal((40, 2)) * [1.0, 0.5] + 1e5).astype(np.float32)
    near = (far.astype(np.float64) - 1e5).astype(np.float32)
    return near, far, compared(near)


@pytest.mark.parametrize(("what", "factor"), [("far", 1), ("near", 1e-6), ("near", 1e6)])
def test_same_elsewhere_and_in_other_units(pair, what, factor):
    near, far, (expected, scale) = pair
    points = (far if what == "far" else near) * np.float32(factor)
    found, other = compared(points)
    np.testing.assert_allclose(other, scale * factor, rtol=1e-5)
    # Out there samples are rounded to a hundredth of the spread: one of twelve may cross the threshold.
    one = 1.01 / SETTINGS.num_samples if what == "far" else 0.01
    np.testing.assert_allclose(found.memorized, expected.memorized, atol=one)
    # At the lower level to 1 %. At the other, 40 spreads, denoised points lie a fortieth of the spread from their mean, of
    # which that rounding is a fifth: its square is lost from the cosine.
    scores, known = found.linearity_centred.values, expected.linearity_centred.values
    np.testing.assert_allclose(scores[:, 0], known[:, 0], atol=0.01)
    np.testing.assert_allclose(scores[:, 1], known[:, 1], atol=0.04 if what == "far" else 0.01)
    # Positions of samples, in units of the spread: rounding out there is of the size 1e5 eps = .01.
    shift = 1e5 if what == "far" else 0.0
    moved = (found.samples.values - shift) / factor
    np.testing.assert_allclose(moved[1], expected.samples.values[1], atol=0.05)
    # A density in other units is another number, by the logarithm of the volume.
    nats = found.log_likelihood + 2 * np.log(factor)
    np.testing.assert_allclose(nats[1:], expected.log_likelihood[1:], atol=0.1)
    if what == "near":
        np.testing.assert_allclose(found.frechet / factor**2, expected.frechet, rtol=0.01)
