# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # How noisy targets fill gaps
#
# A denoiser is trained on noise: the target of a noisy point is one of the training points it may have come from. Two
# models trained on different draws therefore differ, most where the target is least certain, which is *between*
# training points. The flow of a trained model carries that difference along, and what models generate on average is
# spread into the gaps.
#
# Here is the mechanism on three points of a line, with models that are linear in their weights, so that everything
# about their distribution can be computed. Coordinates: `u = x / alpha`, noise level `sigma`, denoiser `D(u, sigma)`.

# %%
import os
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import plots, variance

# The same notebook at a fraction of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
key = jax.random.key(0)
points = jnp.array([[-1.0], [0.0], [1.0]])
exact = sj.EmpiricalDenoiser(points)

# %% [markdown]
# ## Where the target is noise
#
# `proxy_score_covariance` is the covariance of the score's target given the noisy point, `Cov(x_0 | u) / sigma^4`. Its
# share of the target's mean square tells where training sees signal (0) and where it sees noise (1).

# %%
u = jnp.linspace(-1.6, 1.6, 241)
levels = jnp.geomspace(0.05, 3.0, 121)


@jax.jit
def noise_share(denoiser):
    row = lambda s: jax.vmap(lambda x: variance.relative_variance(denoiser, x[None], s))(u)  # noqa: E731
    return jax.lax.map(row, levels)


figure, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
picture = ax.pcolormesh(u, levels, noise_share(exact), cmap="magma", rasterized=True)
ax.plot(points[:, 0], [levels[0]] * 3, "c^", clip_on=False)
ax.set(yscale="log", xlabel="u", ylabel=r"noise level $\sigma$")
figure.colorbar(picture, label="share of noise in the target")
plots.show(figure, "noise-of-the-target")

# %% [markdown]
# ## A law of trained models
#
# The model: products of 16 Gaussian bumps of `x` and 16 of `t`, ridge regression of the training point on P noisy
# samples, as in Figure 2 of the variance paper. `RetrainedLaw` draws models by training them. `LinearModelLaw` has the
# mean and the covariance of the weights in closed form, given the design or averaged over designs; a draw from it is
# Gaussian.

# %%
process, cutoff = sj.VariancePreserving.from_drift_rate(0.1, 20.0), 0.01
axis = variance.GaussianBumps.evenly(-1.5, 1.5, 16)
features = variance.ProductFeatures([axis], variance.GaussianBumps.evenly(cutoff, 1.0, 16), process)
times = variance.UniformTimes(process, cutoff, 1.0)
problem = variance.LinearProblem(variance.DenoisingProblem(points, times), features, ridge=0.1)


def retrained(num_train):
    return variance.RetrainedLaw(problem, num_train)


num_train = 1024
law = sj.LinearModelLaw.averaged_over_designs(
    problem, num_train, jax.random.key(1), num_designs=8 if fast else 64
)
sigma = 0.3
denoise = eqx.filter_jit(jax.vmap(lambda D, x: D(x[None], sigma)[0], in_axes=(None, 0)))
spread = eqx.filter_jit(
    jax.vmap(
        lambda law, x: jnp.sqrt(law.covariance(x[None], sigma, x[None], sigma)[0, 0]), (None, 0)
    )
)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for i in range(5):
    model = retrained(num_train).sample(jax.random.fold_in(key, i))
    left.plot(u, denoise(model, u), color="tab:cyan", lw=0.7, label="trained" if i == 0 else None)
mean, deviation = denoise(law.mean_denoiser, u), spread(law, u)
left.plot(u, denoise(exact, u), "k", label="exact posterior mean")
left.plot(u, mean, color="tab:blue", label="mean of the law")
left.fill_between(u, mean - deviation, mean + deviation, color="tab:blue", alpha=0.2)
left.set(xlabel="u", ylabel=f"D(u, {sigma})", title=f"Models trained on {num_train} samples")
left.legend(fontsize=7)


@eqx.filter_jit
def kernel_map(law):
    at = lambda x, y: sj.v_kernel(law, (x[None], sigma), (y[None], sigma))[0, 0]  # noqa: E731
    return jax.vmap(lambda x: jax.vmap(lambda y: at(x, y))(u))(u)


kernel = kernel_map(law)
inside = jnp.abs(u) < 1.2  # beyond, bumps end and models scatter more
limit = float(jnp.max(jnp.abs(kernel[inside][:, inside])))
picture = right.pcolormesh(u, u, kernel, cmap="RdBu_r", vmin=-limit, vmax=limit, rasterized=True)
right.set(
    xlabel="u", ylabel="u'", title=rf"V-kernel at $\sigma = \sigma' = {sigma}$", aspect="equal"
)
figure.colorbar(picture)
plots.show(figure, "law-of-models")

# %% [markdown]
# The models scatter where the target is noise. The kernel is what survives of the target's covariance after the
# features have filtered it: errors at nearby places go together, over about a bump's width.
#
# ## What they generate
#
# The same starts for every model: the difference between models is all that is random. One model collapses onto a few
# places, not all of them training points; the average over models is spread.

# %%
num_models, num_starts = (6, 51) if fast else (60, 401)
quantiles = jax.scipy.stats.norm.ppf((jnp.arange(num_starts) + 0.5) / num_starts)
high, low = process.noise_level(1.0), process.noise_level(cutoff)
sizes = (64, 1024) if fast else (64, 256, 1024)
edges = np.linspace(-1.6, 1.6, 129)
figure, axes = plt.subplots(1, len(sizes), figsize=(4 * len(sizes), 3), layout="constrained")
for ax, size in zip(axes, sizes, strict=True):
    ends = variance.flow_of_models(
        retrained(size), key, high * quantiles[:, None], high, low, num_models=num_models, rtol=1e-4
    )
    x = np.asarray(process.alpha(cutoff) * ends[..., 0])
    gap = np.mean((np.abs(x) > 0.25) & (np.abs(x) < 0.75), axis=1)
    error = gap.std(ddof=1) / np.sqrt(num_models)
    for single in x[:3]:
        ax.hist(single, edges, density=True, histtype="step", color="tab:cyan", lw=0.6)
    ax.hist(x.ravel(), edges, density=True, color="tab:blue", alpha=0.7)
    ax.set(ylim=(0, 5), xlabel="x", title=f"P = {size}: gap mass {gap.mean():.3f} ± {error:.3f}")
axes[0].set_ylabel("density")
plots.show(figure, "what-models-generate")

# %% [markdown]
# The exact flow leaves less than 0.0001 of its mass in the gaps. (The published figure shows more at large P than this:
# 30 Euler steps put 0.067 there with the *exact* score. `smoothjax experiment gap-filling` separates the two.)
#
# ## The path integral to second order
#
# For each start, `semiclassical` carries the mean flow, its response to every random direction of the weights, and the
# second-order shift of the mean. Where the shift is not small against the spread (`chi > 0.3`), the trajectory passes
# near the boundary between two basins, the endpoint has several modes, and no second-order law describes it. A small shift
# is no proof: it vanishes on the boundary itself, and does not see rare models that end elsewhere. `endpoint_moments`
# draws models, and takes what the expansion knows of the same draws off their noise.

# %%
starts = high * jnp.linspace(-1.5, 1.5, 13 if fast else 61)[:, None]
large = 16_384
wide = sj.LinearModelLaw.large_sample(
    problem, large, jax.random.key(2), num_nodes=2048 if fast else 16_384
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of starts near a boundary, which are the point here
    found = eqx.filter_jit(jax.vmap(lambda s: sj.semiclassical(wide, s, high, low, rtol=1e-4)))(
        starts
    )
num_models = 8 if fast else 100
ends = variance.flow_of_models(wide, key, starts, high, low, num_models=num_models, rtol=1e-4)[
    ..., 0
]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
x = np.asarray(starts[:, 0] / high)
left.plot(x, found.mean_flow[:, 0], "k", label="flow of the mean model")
left.errorbar(
    x, ends.mean(0), ends.std(0, ddof=1), fmt=".", color="tab:orange", label="drawn models", lw=0.8
)
left.set(xlabel="start, standard deviations", ylabel="endpoint", title=f"P = {large}")
left.legend(fontsize=7)
deviation = jax.vmap(lambda one: jnp.sqrt(one.covariance[0, 0]))(found)
small = np.asarray(jax.vmap(lambda one: one.chi[0] <= 0.3)(found))
right.plot(x, ends.std(0, ddof=1), ".", color="tab:orange", label="drawn models")
right.plot(
    x[small],
    deviation[small],
    "o",
    mfc="none",
    color="tab:blue",
    label=r"second order, $\chi \leq 0.3$",
)
right.plot(x[~small], deviation[~small], "x", color="tab:gray", label=r"second order, $\chi > 0.3$")
right.set(yscale="log", xlabel="start, standard deviations", ylabel="sd of the endpoint")
right.legend(fontsize=7)
plots.show(figure, "second-order")

# %% [markdown]
# ## Noise without memory
#
# The naive estimator takes a fresh target at every step: its kernel is white, and the flow a stochastic process whose
# noise has the posterior's covariance. It blurs boundaries between basins, but hardly leaves mass in between: the noise
# vanishes as soon as one point is certain.

# %%
num = 200 if fast else 2000
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for kappa in (1e-4, 1e-3, 1e-2):
    naive = sj.NaiveLaw(exact, variance.NaiveStrength(process, kappa))
    first, second = jax.random.split(key)
    begin = high * jax.random.normal(first, (num, 1))
    run = eqx.filter_jit(jax.vmap(lambda k, s, naive=naive: naive.flow(k, s, high, low, steps=200)))
    ends = run(jax.random.split(second, num), begin)
    ax.hist(
        np.asarray(ends[:, 0]), edges, density=True, histtype="step", label=rf"$\kappa$ = {kappa}"
    )
ax.set(xlabel="u", ylabel="density", title="Naive estimator")
ax.legend()
plots.show(figure, "naive-estimator")

# %% [markdown]
# ## Further
#
# Each of these prints labelled results and saves a figure (`smoothjax experiment NAME --out DIR`):
#
# - `target-noise`, `gap-filling`, `gap-geometry`: the variance paper's Figures 1, 2 and 3, the latter two by the published
#   steps and converged;
# - `law-accuracy`: every route to the law against retrained models, with the Monte Carlo floor;
# - `gaussian-closure`, `network-closure`: are trained models Gaussian?
# - `target-ablation`: the same inputs with exact targets: how much of the filling is due to noise in the targets;
# - `gap-emptying`: where variance takes mass out of a gap;
# - `tangent-kernel-networks`: small ReLU networks against their infinitely wide limit.
