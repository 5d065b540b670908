"""What a network predicts: one meaning of each word, in every part that reads networks."""

import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smoothjax as sj
from smoothjax import interop, learning, variance
from smoothjax.parametrization import (
    ALIASES,
    Prediction,
    affine_form,
    as_prediction,
    from_denoised,
    to_denoised,
)

PREDICTIONS = typing.get_args(Prediction)
OUTPUT, U, SIGMA = np.array([0.5, -2.0]), np.array([1.0, 0.3]), 2.0


class Constant(eqx.Module):
    """A network that returns the same whatever it is shown, with a trivial kernel and features."""

    def __call__(self, *_):
        return jnp.asarray(OUTPUT)


def readers(prediction):
    """Denoisers of the constant network, from every part of the package that reads networks."""
    yield learning.NetworkDenoiser(Constant(), 2, prediction=prediction)
    yield variance.OutputDenoiser(Constant(), 2, prediction=prediction)
    yield variance.LinearDenoiser(
        lambda u, s: jnp.ones(1), jnp.asarray(OUTPUT)[:, None], prediction
    )
    law = variance.LinearModelLaw(
        lambda u, s: jnp.ones(1), jnp.asarray(OUTPUT)[:, None], jnp.zeros((2, 1, 1)), prediction
    )
    yield law.mean_denoiser
    yield variance.KernelDenoiser(
        lambda u, s, v, t: jnp.ones(()), jnp.zeros((1, 2)), jnp.ones(1), OUTPUT[None], prediction
    )
    process = {"v": sj.VariancePreserving(), "velocity": sj.FlowMatching()}
    yield interop.PredictionDenoiser(
        Constant(),
        2,
        prediction=prediction,
        process=process.get(as_prediction(prediction), sj.EDM()),
    )


@pytest.mark.parametrize("prediction", [*PREDICTIONS, *ALIASES])
def test_every_part_reads_a_network_alike(prediction, x64):
    s, o, u = SIGMA, OUTPUT, U
    expected = {
        "x0": o,
        "eps": u - s * o,
        "score": u + s**2 * o,
        "v": u / (1 + s**2) - s / np.sqrt(1 + s**2) * o,
        "velocity": (u - s * o) / (1 + s),
    }[as_prediction(prediction)]
    for D in readers(prediction):
        np.testing.assert_allclose(D(jnp.asarray(u), s), expected, rtol=1e-12, err_msg=str(D))


def test_one_number_of_the_noise(x64):
    """A network that returns .5 at u = 1, sigma = 2 says that all of u is noise."""
    for D in readers("eps"):
        assert float(D(jnp.asarray(U), SIGMA)[0]) == 0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_from_the_definitions(prediction, x64):
    """What is predicted, of a known point and noise, gives the point; and the inverse gives what is predicted."""
    x0, z = np.array([0.7, -1.3]), np.array([0.4, 2.0])
    t, process = 0.3, sj.FlowMatching() if prediction == "velocity" else sj.VariancePreserving()
    sigma = float(process.noise_level(t))
    alpha = 1 / (1 + sigma) if prediction == "velocity" else 1 / np.sqrt(1 + sigma**2)
    told = {
        "x0": x0,
        "eps": z,
        "score": -z / (alpha * sigma),
        "v": alpha * z - alpha * sigma * x0,
        "velocity": z - x0,
    }[prediction]
    u, level = jnp.asarray(x0 + sigma * z), jnp.asarray(sigma)
    denoised = to_denoised(prediction, jnp.asarray(told), u, level, jnp.asarray(alpha))
    np.testing.assert_allclose(denoised, x0, rtol=1e-12)
    back = from_denoised(prediction, jnp.asarray(x0), u, level, jnp.asarray(alpha))
    np.testing.assert_allclose(back, told, rtol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_training_sets_follow(prediction, x64):
    """A target times the root of its weight is what the prediction of the training point is, times that root."""
    levels = variance.LogUniformLevels(0.3, 3.0)
    problem = variance.DenoisingProblem(
        np.array([[-1.0, 0], [0, 2]]), levels, prediction=prediction
    )
    x, u, sigma = problem.draw(jax.random.key(0), 5)
    for one in zip(x, u, sigma, strict=True):
        root = problem.root_weight(*one[1:])
        told = from_denoised(prediction, *one)
        np.testing.assert_allclose(problem.target(*one), root * told, rtol=1e-11)
        np.testing.assert_allclose(root, affine_form(prediction, one[2])[1] / one[2])


@pytest.mark.parametrize("prediction", ["flow", "EPS", None, 3, "x0-unweighted", ["eps"]])
def test_other_words_are_refused(prediction):
    points = np.array([[-1.0], [1.0]])
    levels = variance.LogUniformLevels(0.1, 1.0)
    makers = (
        lambda: learning.NetworkDenoiser(Constant(), 1, prediction=prediction),
        lambda: variance.OutputDenoiser(Constant(), 1, prediction=prediction),
        lambda: variance.LinearDenoiser(Constant(), jnp.ones((1, 1)), prediction),
        lambda: variance.DenoisingProblem(points, levels, prediction=prediction),
        lambda: interop.PredictionDenoiser(Constant(), 1, prediction=prediction),
        lambda: sj.NoiseUnconditionedDenoiser(points, np.ones(1), prediction=prediction),
        lambda: sj.smoothing.effective_penalty(0.1, 0.1, prediction),
    )
    for make in makers:
        with pytest.raises(ValueError, match=r"`prediction` must be .*x0.*; got "):
            make()
