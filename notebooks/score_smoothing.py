# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Why a smoothed score interpolates
#
# The exact score of a training set sends every sample to a training point. A score that bends a little less than the exact
# one leaves mass *between* the points, and none off the set they lie on. Here is the mechanism for two points, what it
# costs, what makes a network choose it, and what it does in the plane.
#
# Coordinates: noise level `sigma` (the papers' `t` is `sigma^2`), denoiser `D(u, sigma)`, score `(D - u) / sigma^2`.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import learning, plots, smoothing

# The same notebook at a tenth of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
key = jax.random.key(0)

# %% [markdown]
# ## Two points
#
# `PiecewiseLinearDenoiser` keeps a plateau of half width `kappa sigma` around each point and is straight between plateaus:
# smaller `kappa` smooths more. Its flow is known in closed form. What starts on a plateau ends on its point; what starts
# between two plateaus, `kappa` standard deviations and more from a point towards the other, is stretched over the gap.

# %%
points, sigma = jnp.array([-1.0, 1.0]), 0.02**0.5
kappas = (0.2, 0.5, 1.0)
u = jnp.linspace(-1.5, 1.5, 601)


@jax.jit
def scaled_score(denoiser):
    return sigma * jax.vmap(lambda x: sj.score(denoiser, x[None], sigma)[0])(u)


exact = sj.EmpiricalDenoiser(points[:, None])
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
left.plot(u, scaled_score(exact), "k", label="exact")
right.plot(u, smoothing.PiecewiseLinearLaw(points, np.inf, sigma).cdf(u), "k", label="exact")
starts = jnp.linspace(-1.4, 1.4, 29)
levels = np.linspace(sigma, 0, 41)
for kappa in kappas:
    law = smoothing.PiecewiseLinearLaw(points, kappa, sigma)
    label = rf"$\kappa$ = {kappa}, interpolated {law.interpolated_mass():.2f}"
    left.plot(u, scaled_score(sj.PiecewiseLinearDenoiser(points, kappa)))
    right.plot(u, law.cdf(u), label=label)
paths = [sj.piecewise_linear_flow(points, 0.5, starts, sigma, level) for level in levels]
middle.plot(np.stack(paths), levels, lw=0.8, color="C1")
left.set(title=r"$\sigma$ score", xlabel="u")
middle.set(title=r"flow, $\kappa$ = 0.5", xlabel="u", ylabel="noise level")
right.set(title="distribution function of what is generated", xlabel="u")
right.legend(fontsize=7)
plots.show(figure, "two-points")

# %% [markdown]
# The same law from the generic tools: draw starts from the exact law at `sigma`, integrate, compare.

# %%
num = 500 if fast else 5000
pick, noise = jax.random.split(key)
u0 = points[jax.random.randint(pick, (num,), 0, 2)] + sigma * jax.random.normal(noise, (num,))
D = sj.PiecewiseLinearDenoiser(points, 0.5)
ends = jax.jit(jax.vmap(lambda x: sj.flow(D, x[None], sigma, 0.0)[0]))(u0)
between = float(jnp.mean(jnp.abs(ends) < 1 - 1e-3))
expected = float(smoothing.PiecewiseLinearLaw(points, 0.5, sigma).interpolated_mass())
print(f"between the points: {between:.3f} of samples, {expected:.3f} by the closed form")
assert abs(between - expected) < 4 * (expected * (1 - expected) / num) ** 0.5 + 1e-3

# %% [markdown]
# ## What it costs, what it buys
#
# Smoothing costs denoising loss `L` (against the exact score) and buys a lower non-smoothness `R`, the total variation of
# the score's slope. `kappa_for_loss` spends a given loss best. How close is that to the least `R` that *any* score reaches
# at the same loss? `smoothjax experiment optimality` solves the convex problem; the ratio stays below `1 + 8 sqrt(loss)`,
# and tends to `1 / (1 - sqrt(loss))` as the noise vanishes, so that at a fixed loss the plateau construction is a
# near-minimiser and not the minimiser.

# %%
for loss in (0.1, 0.03, 0.01):
    kappa = smoothing.kappa_for_loss(points, loss, sigma)
    R = smoothing.piecewise_linear_non_smoothness(points, kappa, sigma)
    R_exact = 2 / sigma**4  # of the exact score of two points with half gap one
    print(f"loss {loss}: kappa {float(kappa[0]):.3f}, R {R:.1f}, exact score {R_exact:.0f}")

# %% [markdown]
# ## What makes a network do it
#
# For a two-layer ReLU network half the squared weights is, at its optimum, `R` of what it computes. A penalty `lambda` on
# the weights *in the loss* therefore implies a strength: `G(kappa) = lambda`, with `G` the first tail moment of a normal
# variable. All penalties and seeds train in one compiled call.

# %%
penalties = jnp.array([1e-3, 3e-3, 1e-2])
run = learning.train_on_line(
    points, sigma, penalties, key, num_seeds=2, num_steps=300 if fast else 6000, width=256
)
figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
ax.plot(u, scaled_score(exact), "k", lw=1, label="exact")
for i, penalty in enumerate(penalties):
    model = jax.tree.map(lambda x: x[i, 0] if isinstance(x, jax.Array) else x, run.model)  # noqa: B023
    kappa = float(smoothing.effective_kappa(model.denoise, points, sigma)[0])
    predicted = float(smoothing.kappa_for_penalty(points, penalty)[0])
    label = rf"$\lambda$ = {penalty:g}: $\kappa$ = {kappa:.2f}, predicted {predicted:.2f}"
    ax.plot(u, scaled_score(model), label=label)
ax.set(xlabel="u", ylabel=r"$\sigma$ score")
ax.legend(fontsize=7)
plots.show(figure, "weight-penalties")

# %% [markdown]
# ## In the plane: along the data, and off it
#
# Put four points on a line in the plane. Normal to the line every one of these denoisers projects. Along the line the exact
# score collapses on the points just as fast, while the smoothed one keeps a spread. Stopping the exact flow early also
# spreads, but as far off the line as along it.

# %%
along = sj.datasets.segment(4).points[:, 0]
levels = jnp.geomspace(sigma, 0.01, 30).at[0].set(sigma)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for kappa, label in ((None, "exact"), (0.5, r"$\kappa$ = 0.5"), (1.0, r"$\kappa$ = 1")):
    spread = smoothing.line_spread(along, kappa, levels[0], levels)
    left.loglog(levels, spread.tangent, label=f"along, {label}")
left.loglog(levels, spread.normal, "k:", label="normal, all of them")
left.set(xlabel="noise level", ylabel="spread (squared data units)")
left.legend(fontsize=7)

plane = sj.LineDenoiser(sj.PiecewiseLinearDenoiser(along, 0.5), jnp.array([1.0, 0.5]))
data = along[:, None] * plane.direction
count = 200 if fast else 1000
start = data[jax.random.randint(pick, (count,), 0, 4)]
start = start + sigma * jax.random.normal(noise, start.shape)
stop = 0.09
carry = jax.jit(jax.vmap(lambda D, x, s: sj.flow(D, x, sigma, s), (None, 0, None)))
right.plot(*carry(sj.EmpiricalDenoiser(data), start, stop).T, ".", ms=2, label="exact, stopped")
right.plot(*carry(plane, start, 1e-3).T, ".", ms=2, label="smoothed")
right.plot(*data.T, "k+", ms=9)
right.set(aspect="equal")
right.legend(fontsize=7)
plots.show(figure, "line-in-plane")

# %% [markdown]
# ## Not every smoothing interpolates
#
# A constant temperature only relabels time: it memorises as exactly. Averaging over a *constant* number of fixed Gaussian
# perturbations ends on barycentres of training points, a finite set. What interpolates is smoothing over a width that
# shrinks with the noise, which is what a penalty on `sigma * score` makes a network do.

# %%
tempered = sj.TemperedDenoiser(points[:, None], 4.0)
perturbed = sj.GaussianSmoothedDenoiser(points[:, None], 0.7, 8, key)
to_zero = jax.jit(jax.vmap(lambda D, x: sj.flow(D, x[None], 2.0, 0.0)[0], (None, 0)))
grid = jnp.linspace(-3, 3, 61)
print("tempered ends at", np.unique(np.round(to_zero(tempered, grid), 3)))
print("perturbed ends at", np.unique(np.round(to_zero(perturbed, grid), 3)))
