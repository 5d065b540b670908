# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # A whole sweep in one call
#
# How wide should a training set's kernel density estimate be, by noise level and by number of training points? That is a
# grid of four axes: sizes of the training set, widths, noise levels and seeds. A denoiser is a tree of arrays and takes
# one point, so that every axis is a `jax.vmap`, and the grid is one compiled program. Here is how, with the compilations
# counted.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import plots

# The same notebook at a fraction of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
train, held_out = sj.datasets.digits().split(1500, seed=0)
sizes = (50, 200) if fast else (50, 100, 200, 400, 800, 1500)
widths = jnp.geomspace(0.05, 2.0, 4 if fast else 16)
levels = jnp.array([0.1, 0.3, 1.0, 3.0])
keys = jax.random.split(jax.random.key(0), 2 if fast else 4)
fresh = held_out.points[: 16 if fast else 64]

# %% [markdown]
# JAX tells whoever listens how often XLA compiles.

# %%
compilations = []


def count(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        compilations.append(duration)


jax.monitoring.register_event_duration_secs_listener(count)


def compiled_by(function, *arguments):
    """The result, and how many programs were compiled for it."""
    before = len(compilations)
    result = jax.block_until_ready(function(*arguments))
    return result, len(compilations) - before


# %% [markdown]
# ## One number
#
# The loss of one denoiser at one noise level, with one seed: the mean over held-out points of `|D(x + sigma z) - x|^2`, a
# coordinate. Everything that varies is an argument; nothing is closed over but the held-out points.


# %%
def loss(base, width, sigma, key):
    denoiser = sj.WidenedDenoiser(base, width)
    noisy = fresh + sigma * jax.random.normal(key, fresh.shape)
    denoised = jax.vmap(lambda u: denoiser(u, sigma))(noisy)
    return jnp.mean((denoised - fresh) ** 2)


# %% [markdown]
# ## Training sets of all sizes in one shape
#
# A program is compiled for shapes, and a training set of another size is another shape. `padded_to` fills up to one size
# with points of weight zero: the denoiser is the same, to rounding. First without it, then with it, on the smallest sizes
# and one width, noise level and seed:

# %%
one = jax.jit(loss)
alone = [sj.EmpiricalDenoiser(train.points[:n]) for n in sizes]
padded = [sj.EmpiricalDenoiser(*sj.padded_to(train.points[:n], max(sizes))) for n in sizes]
some = (widths[2], levels[1], keys[0])
counts = {}
for name, denoisers in {"as they are": alone, "padded": padded}.items():
    found = [compiled_by(one, denoiser, *some) for denoiser in denoisers]
    counts[name] = sum(number for _, number in found)
    print(f"{name:>12}: {counts[name]} programs, losses", *(f"{value:.5f}" for value, _ in found))
assert counts == {"as they are": len(sizes), "padded": 1}

# %% [markdown]
# ## All four axes
#
# Denoisers of one shape stack: their leaves are arrays with one more axis. `jax.vmap` over widths, levels and seeds makes
# one batch of all queries, which is one matrix product with the training points; over the sizes `jax.lax.map` goes in
# turn, as memory asks: a batch holds queries x points numbers.

# %%
stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *padded)


@jax.jit
def sweep(stacked, widths, levels, keys):
    over = jax.vmap(loss, (None, None, None, 0))
    over = jax.vmap(over, (None, None, 0, None))
    over = jax.vmap(over, (None, 0, None, None))
    return jax.lax.map(lambda base: over(base, widths, levels, keys), stacked)


losses, number = compiled_by(sweep, stacked, widths, levels, keys)
again, none = compiled_by(sweep, stacked, 1.1 * widths, 0.9 * levels, keys[::-1])
print(f"{losses.size} losses of shape {losses.shape}: {number} program; other values: {none} more")
assert (number, none) == (1, 0)

# %% [markdown]
# That it is the same number as before is one line:

# %%
np.testing.assert_allclose(losses[:, 2, 1, 0], [one(base, *some) for base in padded], rtol=1e-4)

# %%
mean, error = losses.mean(-1), losses.std(-1, ddof=1) / len(keys) ** 0.5
colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
figure, axes = plt.subplots(1, len(levels), figsize=(11, 3), layout="constrained")
for k, (ax, sigma) in enumerate(zip(axes, levels, strict=True)):
    for n, colour, values, errors in zip(
        sizes, colours, mean[:, :, k], error[:, :, k], strict=True
    ):
        ax.errorbar(widths, values, 2 * errors, color=colour, lw=1.2, label=f"{n} points")
        best = int(jnp.argmin(values))
        ax.plot(widths[best], values[best], "o", color=colour, ms=5)
    ax.set(xscale="log", yscale="log", title=rf"$\sigma$ = {float(sigma):.1f}", xlabel="width")
axes[0].set_ylabel("loss at held-out digits, a coordinate")
axes[0].legend(fontsize=7, frameon=False)
plots.show(figure, "loss-by-width")

# %% [markdown]
# Dots are the best widths: narrower with more points, slowly. Where the noise is low, the right width takes away most of the
# loss of the exact score, at the left; at high noise no width helps, as the posterior mean is of many points by itself.
#
# ## Flows too
#
# `flow` is a function as well. From the same noises, for every width and size: the share of ends that copy a training point
# (nearer than a third of the distance to the next), in one compiled call (the steps of the solver are two small programs
# beside it, made once).

# %%
noises = 80.0 * sj.initial_noise(jax.random.key(1), 8 if fast else 64, train.dim)


@jax.jit
def copied(stacked, widths):
    def share(base, width):
        denoiser = sj.WidenedDenoiser(base, width)
        ends = jax.vmap(
            lambda u: sj.flow(denoiser, u, 80.0, 0.02, solver=sj.ExponentialMultistep(), steps=24)
        )(noises)
        squares = jnp.sum((ends[:, None] - base.data[None]) ** 2, axis=-1)
        # Points that only fill up are no second neighbours.
        near = jnp.sort(jnp.where(base.weights[None] > 0, squares, jnp.inf), axis=1)
        return jnp.mean(near[:, 0] < near[:, 1] / 9)

    return jax.lax.map(lambda base: jax.vmap(share, (None, 0))(base, widths), stacked)


shares, number = compiled_by(copied, stacked, widths)
_, none = compiled_by(copied, stacked, 1.1 * widths)
print(f"{shares.size} x {len(noises)} flows: {number} programs, other widths: {none} more")
assert none == 0
figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for n, colour, values in zip(sizes, colours, shares, strict=True):
    ax.plot(widths, values, ".-", color=colour, label=f"{n} points")
ax.set(xscale="log", xlabel="width", ylabel="share of samples that are copies", ylim=(-0.03, 1.03))
ax.legend(fontsize=7, frameon=False)
plots.show(figure, "copies-by-width")

# %% [markdown]
# ## When not
#
# - A grid whose batch does not fit: `jax.lax.map(..., batch_size=)` over one axis, or `chunk_size=` of the denoiser.
# - Networks of one architecture stack in the same way; of several, each is a program of its own.
# - `jax.jit` around a whole sweep compiles for longer than around one of its cells. Where a grid of few cells is run once,
#   a loop in Python over a compiled cell, with `padded_to`, is as fast.
