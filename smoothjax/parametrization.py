"""What a network predicts, and the denoiser that it thereby is: one meaning of each word, for the whole package."""

from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from ._checks import as_float_array, is_concrete, shown
from ._kinds import checks_kinds

Prediction = Literal["x0", "eps", "v", "velocity", "score"]
"""What a network predicts of `x_t = alpha x_0 + sigma_t z`, the noisy state that it is shown; see `to_denoised`."""

ALIASES: dict[str, Prediction] = {
    "sample": "x0",
    "x_start": "x0",
    "pred_x0": "x0",
    "epsilon": "eps",
    "noise": "eps",
    "pred_noise": "eps",
    "v_prediction": "v",
    "pred_v": "v",
    "flow_prediction": "velocity",
}
"""Names that other libraries use: diffusers, guided-diffusion, DPM-Solver, denoising-diffusion-pytorch. `"flow"` is not
among them: it is `z - x_0` to some, and `x_0 - z` to others."""


@checks_kinds
def as_prediction(value: Any, name: str = "prediction") -> Prediction:
    """The prediction that a name stands for, aliases included.

    Raises:
        ValueError: for any other.

    Example:
        >>> from smoothjax.parametrization import as_prediction
        >>> as_prediction("epsilon"), as_prediction("v_prediction"), as_prediction("x0")
        ('eps', 'v', 'x0')
    """
    found = ALIASES.get(value, value) if isinstance(value, str) else None
    for prediction in get_args(Prediction):
        if found == prediction:
            return prediction
    raise ValueError(
        f"`{name}` must be one of {get_args(Prediction)}, or an alias ({', '.join(ALIASES)}); got {shown(value)}."
    )


@checks_kinds
def affine_form(
    prediction: Prediction, sigma: Float[Array, "*s"], alpha: Real[Any, "*s"] | float = 1.0
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """`(skip, scale)` of `D = skip u + scale o`, for the output o; see `to_denoised`.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.parametrization import affine_form
        >>> [float(c) for c in affine_form("eps", jnp.array(2.0))]
        [1.0, -2.0]
    """
    prediction = as_prediction(prediction)
    sigma = _as_sigma(sigma)
    one = jnp.ones_like(sigma)
    if prediction == "x0":
        return jnp.zeros_like(sigma), one
    if prediction == "eps":
        return one, -sigma
    if prediction == "score":
        return one, alpha * sigma * sigma
    own = _data_factor(prediction, sigma)
    return own * own if prediction == "v" else own, -own * sigma


@checks_kinds
def to_denoised(
    prediction: Prediction,
    output: Float[Array, "*d"],
    u: Float[Array, "*d"],
    sigma: Float[Array, ""],
    alpha: Float[Array, ""] | float = 1.0,
) -> Float[Array, "*d"]:
    r"""The denoised point of a network's output at `u = x_t / alpha`, with `sigma = sigma_t / alpha`.

    | prediction   | the output o is the mean of         | D                           |
    |--------------|-------------------------------------|-----------------------------|
    | `"x0"`       | `x_0`                               | `o`                         |
    | `"eps"`      | `z`                                 | `u - sigma o`               |
    | `"v"`        | `a z - a sigma x_0`                 | `a^2 u - a sigma o`         |
    | `"velocity"` | `z - x_0`                           | `b u - b sigma o`           |
    | `"score"`    | `-z / sigma_t`, the score in `x_t`  | `u + alpha sigma^2 o`       |

    Here `a = 1 / sqrt(1 + sigma^2)` and `b = 1 / (1 + sigma)` are the alpha of the variance-preserving process and of flow
    matching at this noise level: what v and velocity mean depends on nothing else.

    Args:
        prediction: what the network predicts; no alias.
        output: o.
        u, sigma: the point and its noise level.
        alpha: the factor on the data in the state that the network is shown; one for networks of u itself, as those of
            `learning` and `variance` are. Only the score depends on it.

    Raises:
        ValueError: for another prediction, or what is no array of real numbers.

    Source: Ho et al. 2020 (eps); Salimans and Ho 2022 (v); Liu et al. 2023 (velocity).

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.parametrization import to_denoised
        >>> float(to_denoised("eps", jnp.array(0.5), jnp.array(1.0), jnp.array(2.0)))
        0.0
    """
    prediction = as_prediction(prediction)
    output, u = as_float_array(output, "output"), as_float_array(u, "u")
    if prediction == "x0":
        return output
    skip, scale = affine_form(prediction, sigma, alpha)
    return skip * u + scale * output


@checks_kinds
def from_denoised(
    prediction: Prediction,
    denoised: Float[Array, "*d"],
    u: Float[Array, "*d"],
    sigma: Float[Array, ""],
    alpha: Float[Array, ""] | float = 1.0,
) -> Float[Array, "*d"]:
    """What a network would have to predict for a denoised point: the inverse of `to_denoised`.

    Everything but `"x0"` divides the rounding error of the denoised point by sigma, `"score"` by `sigma^2`.

    Example:
        >>> import jax.numpy as jnp
        >>> from smoothjax.parametrization import from_denoised
        >>> float(from_denoised("eps", jnp.array(0.0), jnp.array(1.0), jnp.array(2.0)))
        0.5
    """
    prediction = as_prediction(prediction)
    denoised, u = as_float_array(denoised, "denoised"), as_float_array(u, "u")
    sigma = _as_sigma(sigma)
    if prediction == "x0":
        return denoised
    noise = (u - denoised) / sigma
    if prediction == "eps":
        return noise
    if prediction == "score":
        return -noise / (alpha * sigma)
    if prediction == "velocity":
        return noise - denoised
    return _data_factor(prediction, sigma) * (noise - sigma * denoised)


def _as_sigma(sigma: Any) -> Array:
    sigma = as_float_array(sigma, "sigma")
    if is_concrete(sigma) and np.any(np.asarray(sigma) < 0):
        raise ValueError(f"`sigma` must not be negative; got {shown(sigma)}.")
    return sigma


def _data_factor(prediction: Prediction, sigma: Array) -> Array:
    """The alpha of the process that a prediction belongs to."""
    return 1 / jnp.hypot(jnp.ones_like(sigma), sigma) if prediction == "v" else 1 / (1 + sigma)
