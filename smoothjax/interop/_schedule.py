"""The noise levels of discrete variance-preserving models, from betas or from a scheduler of diffusers."""

from collections.abc import Mapping
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Real

from .._checks import (
    RealScalar,
    as_float_array,
    as_host_floats,
    as_positive_integer,
    require_positive,
)
from .._kinds import checks_kinds

IndexRule = Literal["nearest", "interpolated"]


class DDPMSchedule(eqx.Module):
    """The noise levels of a discrete variance-preserving model: `alpha_k^2 = prod_{j <= k} (1 - beta_j)`, k = 0, 1, ...

    Stands in for a process where a network is told the index k. A noise level between those of the schedule has no index
    of its own. The input is scaled for the true noise level in any case, `x = u / sqrt(1 + sigma^2)`; for the index the
    rule is, as in k-diffusion's wrappers:

    - `"interpolated"`: the real number that is linear in `log sigma` between the indices; a noise level that is one of the
      schedule's but for rounding has its integer;
    - `"nearest"`: the integer whose noise level is nearest in `log sigma`, for networks that look their index up. The
      denoiser is then a step function of sigma, which adaptive solvers refuse and which has no derivative by sigma.

    Noise levels beyond the ends get the index of the end. A last beta of one (zero terminal signal-to-noise ratio) has an
    infinite noise level, which no finite one reaches: the indices then end at the one before.

    Args:
        betas: shape (steps,), each in (0, 1), the last in (0, 1]; or a scheduler of diffusers, or its configuration, see
            `from_diffusers`.
        index: the rule.

    Raises:
        ValueError: for other betas, another rule, or a scheduler without betas.

    Source: Ho et al. 2020 (the schedule); Karras et al. 2022, appendix C.3; Lin et al. 2024 (zero terminal ratio).

    Example:
        >>> from smoothjax.interop import DDPMSchedule
        >>> schedule = DDPMSchedule.linear()
        >>> round(float(schedule.time(1.0)), 1)
        258.1
        >>> int(DDPMSchedule.linear(index="nearest").time(1.0))
        258
    """

    log_levels: Float[Array, " steps"]
    """Logarithms of the finite noise levels."""
    index: IndexRule = eqx.field(static=True)
    ends_infinite: bool = eqx.field(static=True)
    """Whether one more index follows, with an infinite noise level."""

    @checks_kinds
    def __init__(self, betas: Float[ArrayLike, " steps"] | Any, index: IndexRule = "interpolated"):
        if isinstance(betas, Mapping) or hasattr(betas, "config"):
            betas = _betas_of_scheduler(betas)
        values = as_host_floats(betas, "betas", np.float64)
        good = values.ndim == 1 and values.size >= 2 and bool(np.all((values > 0) & (values <= 1)))
        if not good or np.any(values[:-1] == 1) or np.sum(values < 1) < 2:
            raise ValueError(
                f"`betas` must be at least two numbers in (0, 1), after which one may be 1; got shape {values.shape}, "
                f"from {np.min(values, initial=np.inf):g} to {np.max(values, initial=-np.inf):g}."
            )
        if index not in ("nearest", "interpolated"):
            raise ValueError(f"`index` must be 'nearest' or 'interpolated'; got {index!r}.")
        self.index, self.ends_infinite = index, bool(values[-1] == 1)
        # In float64 whatever JAX's mode is: sigma^2 = 1 / prod (1 - beta) - 1 cancels at the first steps.
        finite = values[:-1] if self.ends_infinite else values
        log_levels = 0.5 * np.log(np.expm1(-np.cumsum(np.log1p(-finite))))
        self.log_levels = jnp.asarray(log_levels, jnp.result_type(float))

    @classmethod
    @checks_kinds
    def linear(
        cls,
        num_steps: int = 1000,
        beta_min: float = 1e-4,
        beta_max: float = 0.02,
        index: IndexRule = "interpolated",
    ) -> "DDPMSchedule":
        """Evenly spaced betas; the defaults are those of Ho et al.

        Example:
            >>> from smoothjax.interop import DDPMSchedule
            >>> schedule = DDPMSchedule.linear(2, beta_min=0.5, beta_max=0.5)
            >>> print(schedule.noise_level(0).round(5))  # sqrt(beta / (1 - beta))
            1.0
        """
        for name, beta in (("beta_min", beta_min), ("beta_max", beta_max)):
            if not 0 < beta <= 1:
                raise ValueError(f"`{name}` must lie in (0, 1]; got {beta}.")
        return cls(
            np.linspace(beta_min, beta_max, as_positive_integer(num_steps, "num_steps")), index
        )

    @classmethod
    @checks_kinds
    def from_diffusers(cls, scheduler: Any, index: IndexRule = "interpolated") -> "DDPMSchedule":
        """The noise levels of a scheduler of diffusers: its `betas`, or those that its configuration describes.

        Args:
            scheduler: `DDPMScheduler`, `DDIMScheduler` or another with betas; or its `.config`, a dictionary with the
                schedules `"linear"`, `"scaled_linear"`, `"squaredcos_cap_v2"`, `"sigmoid"` or `trained_betas`, and
                `rescale_betas_zero_snr`.
            index: the rule.

        Raises:
            ValueError: for a scheduler without betas.

        Source: diffusers (von Platen et al. 2022), `scheduling_ddpm.py`; Lin et al. 2024, algorithm 1 (rescaling).

        Example:
            >>> from smoothjax.interop import DDPMSchedule
            >>> config = {"beta_schedule": "linear", "num_train_timesteps": 2, "beta_start": 0.5, "beta_end": 0.5}
            >>> print(DDPMSchedule.from_diffusers(config).noise_level(1).round(5))  # sqrt(1 / (1 / 4) - 1)
            1.73205
        """
        return cls(_betas_of_scheduler(scheduler), index)

    def noise_level(self, t: Real[ArrayLike, ""]) -> Float[Array, ""]:
        """The noise level of an index, interpolated as its logarithm."""
        t = as_float_array(t, "t")
        indices = jnp.arange(self.log_levels.shape[0], dtype=t.dtype)
        level = jnp.exp(jnp.interp(t, indices, self.log_levels.astype(t.dtype)))
        return jnp.where(t > indices[-1], jnp.inf, level) if self.ends_infinite else level

    def time(self, noise_level: RealScalar) -> Real[Array, ""]:
        """The index of a noise level by the rule: int32 if nearest, else of the level's dtype."""
        level = require_positive(noise_level, "noise_level")
        log_levels, log_level = self.log_levels.astype(level.dtype), jnp.log(level)
        if self.index == "interpolated":
            indices = jnp.arange(log_levels.shape[0], dtype=level.dtype)
            index = jnp.interp(log_level, log_levels, indices)
            # What differs from a level of the schedule by rounding alone is that level: networks were trained at integers.
            whole = jnp.round(index)
            nearest = log_levels[whole.astype(jnp.int32)]
            rounding = 8 * jnp.finfo(level.dtype).eps * (1 + jnp.abs(nearest))
            is_whole = jnp.abs(log_level - nearest) <= rounding
            return index + lax.stop_gradient(jnp.where(is_whole, whole - index, 0))
        return _nearest((log_levels[:-1] + log_levels[1:]) / 2, log_level)

    def to_noise_coordinates(
        self, x: Float[ArrayLike, " d"], t: Real[ArrayLike, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """`(x / alpha, sigma)` of a state at an index."""
        x = as_float_array(x, "x")
        level = self.noise_level(as_float_array(t, "t").astype(x.dtype))
        return x * jnp.hypot(1, level), level

    def from_noise_coordinates(
        self, u: Float[ArrayLike, " d"], noise_level: RealScalar
    ) -> tuple[Float[Array, " d"], Real[Array, ""]]:
        """`(alpha u, index)`: alpha is that of the noise level, the index by the rule."""
        level = require_positive(noise_level, "noise_level")
        return as_float_array(u, "u") / jnp.hypot(1, level), self.time(level)


@jax.custom_jvp
def _nearest(boundaries: Array, log_level: Array) -> Array:
    return jnp.searchsorted(boundaries, log_level).astype(jnp.int32)


def _nearest_jvp(primals: Any, tangents: Any) -> tuple[Array, Any]:
    if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
        raise ValueError(
            "A denoiser with `index='nearest'` is a step function of sigma and has no derivative by sigma; "
            "give its DDPMSchedule index='interpolated'."
        )
    index = _nearest(*primals)
    return index, np.zeros(index.shape, jax.dtypes.float0)


_nearest.defjvp(_nearest_jvp, symbolic_zeros=True)


def _betas_of_scheduler(scheduler: Any) -> np.ndarray:
    """The betas of a scheduler, as it computed them, or of its configuration, in float64."""
    betas = getattr(scheduler, "betas", None)
    if betas is not None and not isinstance(scheduler, Mapping):
        return np.asarray(betas, np.float64)
    config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", None)
    own = config if isinstance(config, Mapping) else {}
    if own.get("trained_betas") is not None:
        betas = np.asarray(own["trained_betas"], np.float64)
    elif "beta_schedule" in own:
        betas = _scheduled_betas(own)
    else:
        raise ValueError(
            "`scheduler` must have betas, as DDPMScheduler has, or be its configuration with a `beta_schedule`; got "
            f"{type(scheduler).__name__}. Give from_torch the process: EDM() or FlowMatching() for schedulers of those."
        )
    return _rescaled_to_zero_ratio(betas) if own.get("rescale_betas_zero_snr") else betas


def _scheduled_betas(config: Mapping[str, Any]) -> np.ndarray:
    num = as_positive_integer(config.get("num_train_timesteps", 1000), "num_train_timesteps")
    low, high = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config["beta_schedule"]
    if schedule == "linear":
        return np.linspace(low, high, num)
    if schedule == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, num) ** 2
    if schedule == "sigmoid":
        return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, num)))
    if schedule == "squaredcos_cap_v2":
        product = np.cos((np.arange(num + 1) / num + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - product[1:] / product[:-1], 0.999)
    raise ValueError(
        "`beta_schedule` must be 'linear', 'scaled_linear', 'squaredcos_cap_v2' or 'sigmoid'; "
        f"got {schedule!r}. Give DDPMSchedule the betas themselves."
    )


def _rescaled_to_zero_ratio(betas: np.ndarray) -> np.ndarray:
    """Betas whose `alpha_k` are shifted and scaled so that the last is zero and the first unchanged."""
    alphas = np.sqrt(np.cumprod(1 - betas))
    alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    squares = alphas**2
    return 1 - np.append(squares[0], squares[1:] / squares[:-1])
