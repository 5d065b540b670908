# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # What would a diffusion model trained on these points generate?
#
# Three answers for one training set, from the functions themselves: the denoiser that learned its target perfectly, the one
# that knows only the mean and covariance, and one in between. Everything is a function of arrays, so grids are `vmap`s.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import plots

# The same notebook at a tenth of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
key = jax.random.key(0)

# %% [markdown]
# ## Two points, where everything is known
#
# The posterior mean of `{-1, 1}` at noise level sigma is `tanh(u / sigma^2)`, and the probability flow takes a start to the
# sign of its coordinate. The flow of a Gaussian with the same mean and variance only rescales.

# %%
points = sj.datasets.two_points().points
memorizer, gaussian = sj.EmpiricalDenoiser(points), sj.GaussianDenoiser.fit(points)
starts = jnp.linspace(-3, 3, 61)[:, None]
levels = jnp.geomspace(2.0, 0.01, 100)


@jax.jit
def paths(denoiser):
    def path(u):
        solution = sj.flow_solution(denoiser, u, levels[0], levels[-1], dense=True, max_steps=256)
        return jax.vmap(solution.evaluate)(levels[1:-1])

    return jax.vmap(path)(starts)


figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, name, denoiser in zip(axes, ("memorizer", "Gaussian"), (memorizer, gaussian), strict=True):
    ax.plot(levels[1:-1], paths(denoiser)[:, :, 0].T, lw=0.7, color="C0")
    ax.plot([levels[-1]] * 2, [-1, 1], "ko")
    ax.set(xscale="log", xlabel="noise level", title=name)
    ax.invert_xaxis()
axes[0].set_ylabel("state $u$")
plots.show(figure, "flows-of-two-points")

# %% [markdown]
# The replayed set, in numbers: every sample of the memoriser is one of the two points.

# %%
samples = sj.sample(memorizer, key, 1000)
np.testing.assert_allclose(np.abs(samples), 1, atol=1e-5)
print("fraction at +1:", float((samples > 0).mean()))

# %% [markdown]
# ## Digits: where do the denoisers differ?
#
# Far above the data's scale all denoisers agree (with a rate: the difference falls as `sigma^-2`). Far below it the
# memoriser is a nearest-neighbour look-up, and one noisy point sees one training point.

# %%
train, held_out = sj.datasets.digits().split(1500, seed=0)
memorizer, gaussian = sj.EmpiricalDenoiser(train.points), sj.GaussianDenoiser.fit(train.points)
classes = sj.MixtureDenoiser.fit(train.points, train.labels, rank=32)
levels = jnp.geomspace(0.02, 40.0, 6 if fast else 16)
fresh = held_out.points[: 40 if fast else None]

gap = sj.rmse_curve(memorizer, gaussian, fresh, levels, key)
gap_classes = sj.rmse_curve(memorizer, classes, fresh, levels, key)


@jax.jit
def neighbours(memorizer, sigma):
    noisy = fresh + sigma * sj.initial_noise(key, len(fresh), fresh.shape[1])
    return jnp.mean(jax.vmap(lambda u: sj.effective_neighbours(memorizer, u, sigma))(noisy))


seen = jnp.stack([neighbours(memorizer, sigma) for sigma in levels])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.errorbar(levels, gap.value, 2 * gap.standard_error, label="memoriser – Gaussian")
left.errorbar(
    levels, gap_classes.value, 2 * gap_classes.standard_error, label="memoriser – mixture"
)
left.plot(
    levels,
    gap.value[-1] * (levels / levels[-1]) ** -2.0,
    "k:",
    lw=1,
    label=r"$\propto \sigma^{-2}$",
)
left.set(
    xscale="log", yscale="log", ylim=(1e-4, 1), xlabel="noise level", ylabel="RMSE a coordinate"
)
left.legend(frameon=False)
right.plot(levels, seen, ".-")
right.set(xscale="log", yscale="log", xlabel="noise level", ylabel="effective neighbours")
plots.show(figure, "where-denoisers-differ")

# %% [markdown]
# ## Samples from the same noises
#
# `sample` folds its key by the index of the sample, so that number 3 starts from the same noise for every denoiser.

# %%
count = 8
rows = {"memoriser": memorizer, "Gaussian": gaussian, "mixture": classes}
figure, axes = plt.subplots(3, count, figsize=(8, 3.2), layout="constrained")
for row, (name, denoiser) in zip(axes, rows.items(), strict=True):
    images = sj.sample(denoiser, key, count)
    fraction = sj.memorization_fraction(images, train.points, null=held_out.points)
    print(f"{name:>10}: {fraction}")
    for ax, image in zip(row, images, strict=True):
        ax.imshow(image.reshape(train.image_shape)[..., 0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plots.show(figure, "samples")

# %% [markdown]
# ## A density for held-out points
#
# The probability flow is a normalising flow. For these denoisers the density is known in closed form, so that the flow
# can be checked against it, and the change of the law at the largest noise level is reported beside the value.

# %%
floor = 0.1
noisy = held_out.points[0] + floor * jax.random.normal(key, (train.dim,))
solution = sj.likelihood_solution(classes, noisy, sigma_min=floor)
exact = classes.log_density(noisy, floor)
print(
    f"flow {solution.value:.3f}, exact {exact:.3f} nats; terminal mismatch {solution.terminal_mismatch:.1e}"
)
np.testing.assert_allclose(solution.value, exact, atol=0.05)
