"""Networks that predict noise, velocity or score, as denoisers and back."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import RealScalar, as_positive_integer, is_concrete
from .._kinds import checks_kinds
from ..denoisers import AbstractDenoiser, Denoiser
from ..parametrization import Prediction, as_prediction, from_denoised, to_denoised
from ..processes import EDM, AbstractProcess, FlowMatching, VariancePreserving
from ._host import HostFunction, try_once
from ._schedule import DDPMSchedule

Network = Callable[[Float[Array, " d"], Any], Float[Array, " d"]]
"""Any JAX callable `(x_t, t) -> (d,)` for one point, in the coordinates and the time of its process."""


class PredictionDenoiser(AbstractDenoiser):
    r"""A network that predicts something of `x_t = alpha x_0 + sigma_t z` at time t, as a denoiser of `u = x_t / alpha`.

    | prediction   | the output o is the mean of         | D, with sigma = sigma_t / alpha | processes           |
    |--------------|-------------------------------------|---------------------------------|---------------------|
    | `"x0"`       | `x_0`                               | `o`                             | all                 |
    | `"eps"`      | `z`                                 | `u - sigma o`                   | all                 |
    | `"v"`        | `alpha z - sigma_t x_0`             | `alpha x_t - sigma_t o`         | variance preserving |
    | `"velocity"` | `z - x_0`                           | `x_t - t o`                     | flow matching       |
    | `"score"`    | `-z / sigma_t` (the score in `x_t`) | `u + (sigma_t^2 / alpha) o`     | all                 |

    Variance preserving are `VariancePreserving` and `DDPMSchedule`. The names are those of `parametrization`, which also
    has the aliases of other libraries (`"epsilon"`, `"v_prediction"`, `"sample"`, ...). EDM's D is `"x0"` with the process
    `EDM()`, the defaults. A `HostFunction` is called once with two points, when the denoiser is built.

    Args:
        network: `(x_t, t) -> (d,)` for one point, in JAX: an Equinox module, or a `HostFunction`.
        dim: dimension d of the data.
        prediction: what it predicts.
        process: of its coordinates, which maps noise levels to its times; needed for all predictions but `"x0"`.

    Raises:
        ValueError: for a prediction that the process does not have, a prediction other than `"x0"` without a process, and a
            network that fails or returns something else than one real point.

    Source: Ho et al. 2020 (eps); Salimans and Ho 2022 (v); Liu et al. 2023 (velocity).

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> from smoothjax.interop import PredictionDenoiser
        >>> eps = lambda x, t: t * x / (1 + t**2)  # the mean of the noise for standard normal data, with sigma = t
        >>> D = PredictionDenoiser(eps, 1, prediction="eps", process=sj.EDM())
        >>> print(D(jnp.array([3.0]), 1.0))  # u / (1 + sigma^2)
        [1.5]
    """

    network: Network
    _dim: int = eqx.field(static=True)
    prediction: Prediction = eqx.field(static=True)
    process: AbstractProcess | DDPMSchedule

    @checks_kinds
    def __init__(
        self,
        network: Network,
        dim: int,
        *,
        prediction: Prediction | str = "x0",
        process: AbstractProcess | DDPMSchedule | None = None,
    ):
        self.network, self._dim = network, as_positive_integer(dim, "dim")
        self.prediction, self.process = _as_prediction(prediction, process)
        if isinstance(network, HostFunction):
            _try_at_trial_point(network, self._dim, self.process)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def is_step_function_of_sigma(self) -> bool:
        """Whether the network is told a rounded noise level, which adaptive solvers cannot follow."""
        rounded = isinstance(self.process, DDPMSchedule) and self.process.index == "nearest"
        return rounded or bool(getattr(self.network, "is_step_function_of_sigma", False))

    def __call__(self, u: Float[Array, " d"], sigma: RealScalar) -> Float[Array, " d"]:
        u, sigma = self._point(u, sigma)
        x, t = self.process.from_noise_coordinates(u, sigma)
        output = jnp.asarray(self.network(x, t))
        if output.shape != u.shape or jnp.iscomplexobj(output):
            raise ValueError(
                f"The network must return one point of shape {u.shape} in real numbers; got {output.shape} in "
                f"{output.dtype}."
            )
        output = output.astype(u.dtype)
        alpha = _alpha(self.process, sigma)
        return to_denoised(self.prediction, output, u, sigma, alpha)


@checks_kinds
def as_network(
    denoiser: Denoiser,
    prediction: Prediction | str,
    process: AbstractProcess | DDPMSchedule | None = None,
) -> Network:
    """The network `(x_t, t) -> (d,)` that a denoiser is in another parametrisation: the inverse of `PredictionDenoiser`.

    To run an exact denoiser in somebody else's sampler, or against a network where it was trained. Everything but `"x0"`
    divides the denoiser's rounding error by `sigma` (`"score"` by `sigma^2`).

    Args:
        denoiser: any callable `(u, sigma) -> (d,)`.
        prediction, process: see `PredictionDenoiser`. Times must have a positive, finite noise level.

    Raises:
        ValueError: for a prediction that the process does not have.

    Example:
        >>> import jax.numpy as jnp, smoothjax as sj
        >>> D = sj.GaussianDenoiser(jnp.zeros(1), jnp.eye(1))
        >>> network = sj.interop.as_network(D, "eps", sj.EDM())
        >>> print(network(jnp.array([3.0]), 1.0).round(5))  # the noise: (u - D) / sigma
        [1.5]
    """
    prediction, process = _as_prediction(prediction, process)

    def network(denoiser: Denoiser, process: Any, x: Array, t: Any) -> Array:
        u, sigma = process.to_noise_coordinates(x, t)
        sigma = sigma.astype(u.dtype)
        return from_denoised(prediction, denoiser(u, sigma), u, sigma, _alpha(process, sigma))

    return eqx.Partial(network, denoiser, process)


def _as_prediction(prediction: Any, process: Any) -> tuple[Prediction, Any]:
    prediction = as_prediction(prediction)
    if process is None:
        if prediction != "x0":
            raise ValueError(
                f"`process` is needed for the prediction {prediction!r}, whose coordinates and times differ from one to "
                "another; got None. Give DDPMSchedule.linear(), VariancePreserving(), EDM(), FlowMatching() or another."
            )
        process = EDM()
    owners = {"v": (VariancePreserving, DDPMSchedule), "velocity": (FlowMatching,)}
    if prediction in owners and not isinstance(process, owners[prediction]):
        needed = " or ".join(owner.__name__ for owner in owners[prediction])
        raise ValueError(
            f"`prediction` {prediction!r} is for {needed}; got {type(process).__name__}."
        )
    return prediction, process


def _alpha(process: AbstractProcess | DDPMSchedule, sigma: Array) -> Array:
    """The factor on the data at a noise level."""
    return process.from_noise_coordinates(jnp.ones_like(sigma), sigma)[0]


def _try_at_trial_point(host: HostFunction, dim: int, process: Any) -> None:
    """One call with two noisy points of standard normal data, at noise level one or the nearest that the network has."""
    dtype = np.dtype(jnp.result_type(float))
    low, high = getattr(host.function, "levels", None) or (0.0, np.inf)
    level = np.asarray(np.clip(1.0, low, high), dtype)
    u = np.random.default_rng(0).standard_normal((2, dim)) * np.hypot(1, level)
    with jax.ensure_compile_time_eval():
        alpha, t = process.from_noise_coordinates(jnp.ones((), dtype), level)
    if not is_concrete(alpha, t):
        return  # a process that is being differentiated
    x = (np.asarray(alpha) * u).astype(dtype)
    name = getattr(host.function, "argument_name", "function")
    try_once(host, name, x, np.full(2, np.asarray(t)))


@checks_kinds
def from_numpy(
    function: Callable[..., Any],
    dim: int,
    *,
    prediction: Prediction | str = "x0",
    process: AbstractProcess | DDPMSchedule | None = None,
    jvp: Callable[..., Any] | None = None,
) -> PredictionDenoiser:
    """A NumPy function of batches as a denoiser: `PredictionDenoiser(HostFunction(function, jvp), dim, ...)`.

    Args:
        function: `function(x, t)` of (batch, d) and (batch,), returning (batch, d); by default x is the noisy point u, t the
            noise level, and the result the denoised points. It is called once with two points when the denoiser is built.
        dim, prediction, process: see `PredictionDenoiser`.
        jvp: see `HostFunction`; needed for likelihoods. It is compared with a difference when it is first used.

    Raises:
        ValueError: as `PredictionDenoiser` and `HostFunction`.

    Example:
        >>> import jax, smoothjax as sj
        >>> from smoothjax.interop import from_numpy
        >>> D = from_numpy(lambda x, sigma: x / (1 + sigma[:, None] ** 2), 2)  # data N(0, 1)
        >>> sj.sample(D, jax.random.key(0), 100, steps=18).shape
        (100, 2)
        >>> D.network.calls  # one when it was built, two a step but one for the last
        HostCalls(batches=36, rows=3502, derivative_batches=0, derivative_rows=0)
    """
    network = HostFunction(function, jvp)
    return PredictionDenoiser(network, dim, prediction=prediction, process=process)
