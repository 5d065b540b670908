"""Two samplers of trained models: as the variance paper's figures were made, and converged."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ...denoisers import Denoiser
from ...flows import flow
from ...processes import AbstractProcess, VariancePreserving
from ...variance import flow_of_models

SAMPLERS = ("published", "converged")
# Evenly spaced times of the published figures, and the nodes of their tables.
PUBLISHED_STEPS, TABLE_NODES = 30, np.linspace(-1.5, 1.5, 200)
# Fifth-order steps, uniform in log t: fewer than one endpoint in a hundred moves by more than 1e-3 if they are doubled.
CONVERGED_STEPS = 120


def paper_process() -> VariancePreserving:
    """The forward process of the variance paper's figures."""
    return VariancePreserving.from_drift_rate(0.1, 20.0)


def stratified_normal(num: int) -> Float[Array, "num 1"]:
    """The standard normal law's quantiles: starts of flows on a line."""
    return jax.scipy.stats.norm.ppf((jnp.arange(num, dtype=float) + 0.5) / num)[:, None]


def converged_levels(process: AbstractProcess, cutoff: float) -> Float[Array, " m"]:
    """The noise levels of converged flows, from time 1 to `cutoff`."""
    return process.noise_level(jnp.geomspace(1.0, cutoff, CONVERGED_STEPS + 1))


@eqx.filter_jit
def tabulated_flow(
    denoiser: Denoiser,
    process: AbstractProcess,
    starts: Float[Array, "num d"],
    times: Float[Array, " m"],
    nodes: Float[Array, " n"],
) -> Float[Array, "num d"]:
    """Euler steps of `dx/dt = drift - g^2 s / 2`, the denoiser looked up at the next node above, clipped at the grid's ends.

    It is a discretisation to compare with, not a solver: with a perfect denoiser 30 steps misplace some per cent of the
    samples, and looking up above shifts every sample by half a spacing.

    Args:
        denoiser: of `(u, sigma)`.
        process: relates x and t to u and sigma.
        starts: x at `times[0]`, shape (num, d).
        times: decreasing.
        nodes: of each coordinate of x, evenly spaced and increasing; the table has n^d entries.

    Returns:
        x at `times[-1]`, shape (num, d).

    Source: Vastola, ICLR 2025, Figures 2 and 3.
    """
    dim, num = starts.shape[1], nodes.shape[0]
    places = jnp.stack(jnp.meshgrid(*[nodes] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    spacing = (nodes[-1] - nodes[0]) / (num - 1)
    strides = num ** jnp.arange(dim - 1, -1, -1, dtype=jnp.int32)

    def step(x: Array, pair: Any) -> tuple[Array, None]:
        t, dt = pair
        alpha, sigma = process.alpha(t), process.noise_level(t)
        table = jax.vmap(lambda place: denoiser(place / alpha, sigma))(places)
        node = jnp.clip(jnp.ceil((x - nodes[0]) / spacing), 0, num - 1).astype(jnp.int32)
        # The clip keeps it in bounds; checking again would take as long as the look-up.
        found = table.at[node @ strides].get(mode="promise_in_bounds")
        score = (alpha * found - x) / process.sigma(t) ** 2
        return x + dt * (process.drift(x, t) - 0.5 * process.diffusion(t) ** 2 * score), None

    steps = (times[:-1], jnp.diff(times))
    return jax.lax.scan(step, starts, steps)[0]


def published_samples(
    denoiser: Denoiser, process: AbstractProcess, starts: Float[Array, "num d"], cutoff: Any
) -> Float[Array, "num d"]:
    """`tabulated_flow` in the setting of the figures, from time 1 to `cutoff`."""
    times = jnp.linspace(1.0, cutoff, PUBLISHED_STEPS + 1)
    return tabulated_flow(denoiser, process, starts, times, jnp.asarray(TABLE_NODES))


@eqx.filter_jit
def published_samples_of_models(
    law: Any,
    process: AbstractProcess,
    train: PRNGKeyArray,
    draw: PRNGKeyArray,
    cutoff: Float[Array, ""],
    dim: int,
    num_models: int,
    num_samples: int,
) -> Float[Array, "models num d"]:
    """The same of the models that `flow_of_models` trains from `train`, from independent starts."""

    def one(i: Array) -> Array:
        model = law.sample(jax.random.fold_in(train, i))
        noise = jax.random.normal(jax.random.fold_in(draw, i), (num_samples, dim))
        return published_samples(model, process, process.sigma(1.0) * noise, cutoff)

    return jax.lax.map(one, jnp.arange(num_models))


def converged_samples(
    denoiser: Denoiser, process: AbstractProcess, noise: Float[Array, "num d"], cutoff: float
) -> Float[Array, "num d"]:
    """x at time `cutoff` by the probability flow, from standard normal numbers at time 1."""
    levels = converged_levels(process, cutoff)
    solve = lambda u: flow(  # noqa: E731
        denoiser, u, levels[0], levels[-1], levels=levels, solver=diffrax.Tsit5()
    )
    # The figures start at N(0, sigma_t^2) in x, and read the end off in x.
    return process.alpha(cutoff) * eqx.filter_jit(jax.vmap(solve))(levels[0] * noise)


def converged_samples_of_models(
    law: Any,
    process: AbstractProcess,
    train: PRNGKeyArray,
    noise: Float[Array, "num d"],
    cutoff: float,
    num_models: int,
) -> Float[Array, "models num d"]:
    """The same of many models, from common starts."""
    levels = converged_levels(process, cutoff)
    ends = flow_of_models(
        law,
        train,
        levels[0] * noise,
        levels[0],
        levels[-1],
        num_models=num_models,
        levels=levels,
        solver=diffrax.Tsit5(),
    )
    return process.alpha(cutoff) * ends
