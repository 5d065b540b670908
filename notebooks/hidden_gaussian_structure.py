# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # The hidden Gaussian structure of denoisers
#
# A network that generalises has learned a denoiser that is nearly affine, and close to the one that is optimal for a
# Gaussian with the data's mean and covariance. One that memorises has learned the posterior mean over its training set.
# Here are both references, a network on its way from one to the other, and the local denoisers that explain what a
# Gaussian does not. Data: 8 x 8 digits.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import gaussian, learning, plots

# The same notebook at a fraction of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
key = jax.random.key(0)
train, held_out = sj.datasets.digits().split(1500, seed=0)
few = train.points[:50]
levels = jnp.geomspace(0.05, 10.0, 5 if fast else 9)
D_gaussian = sj.GaussianDenoiser.fit(few)
D_empirical = sj.EmpiricalDenoiser(few)

# %% [markdown]
# ## A network between the references
#
# A residual MLP trained on 50 digits, for few steps and for many; compared at noisy held-out digits. `gaussianity_index`
# is 1 where it is the Gaussian denoiser and 0 where it is the memorising one. It says nothing where these two are nearer to
# each other than either is to the network, at high noise: hollow dots.

# %%
architecture = learning.MLPArchitecture(width=64 if fast else 384)
budgets = (30, 60) if fast else (300, 6000)
networks = {
    steps: learning.train_denoiser(few, architecture, key, num_steps=steps).model
    for steps in budgets
}
points = held_out.points[:64] if fast else held_out.points
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
between = sj.rmse_curve(D_empirical, D_gaussian, points, levels, key)
left.plot(levels, between.value, "k", label="memorising to Gaussian")
for colour, (steps, network) in zip(("tab:blue", "tab:orange"), networks.items(), strict=True):
    for reference, style, name in (
        (D_gaussian, "-", "Gaussian"),
        (D_empirical, "--", "memorising"),
    ):
        curve = sj.rmse_curve(network, reference, points, levels, key)
        left.errorbar(
            levels,
            curve.value,
            2 * curve.standard_error,
            color=colour,
            ls=style,
            lw=1,
            label=f"{steps} steps to {name}",
        )
    index = [
        sj.measures.gaussianity_index(network, D_empirical, D_gaussian, points, sigma, key)
        for sigma in levels
    ]
    right.errorbar(
        levels,
        [float(one.index.value) for one in index],
        [2 * float(one.index.standard_error) for one in index],
        color=colour,
        lw=1,
        label=f"{steps} steps",
    )
    for one, sigma in zip(index, levels, strict=True):
        face = colour if one.meaningful else "white"
        right.plot(sigma, one.index.value, "o", color=colour, mfc=face, ms=5, zorder=3)
left.set(xscale="log", yscale="log", xlabel=r"noise level $\sigma$", ylabel="RMSE a coordinate")
right.set(xscale="log", ylim=(0, 1), xlabel=r"noise level $\sigma$")
right.set_ylabel("Gaussianity index\n(0: memorising, 1: Gaussian)")
left.legend(fontsize=7)
right.legend(fontsize=8)
plots.show(figure, "between-references")

# %% [markdown]
# The share of samples that copy a training point, with its null: how often held-out digits would count as copies.

# %%
for steps, network in networks.items():
    samples = sj.sample(
        network, jax.random.key(2), 32 if fast else 200, sigma_max=20.0, sigma_min=0.002, steps=18
    )
    print(f"{steps} steps:", sj.memorization_fraction(samples, few, null=held_out.points))

# %% [markdown]
# ## Distillation, and why its weights alone prove little
#
# The best affine approximation of *any* exact posterior mean, over its own noisy data, is the Gaussian denoiser: of the
# memorising one too. Strong evidence is not that the distilled matrix is Gaussian, but that little is left over. Root mean
# squares a coordinate, at noise level 1; a distance below the noise of the fit means nothing.

# %%
for name, D in {
    "memorising": D_empirical,
    **{f"{s} steps": n for s, n in networks.items()},
}.items():
    fit = learning.distill_linear(D, few, 1.0, jax.random.key(3), num_noises=4 if fast else 40)
    left_over = float(fit.nonlinear_residual.value) ** 0.5
    mismatch = float(fit.linear_mismatch.value) ** 0.5
    print(
        f"{name:>12}: R^2 {float(fit.r_squared.value):.3f}, nonlinear residual {left_over:.3f}, "
        f"distance of its affine part from the Gaussian {mismatch:.3f} (noise {float(fit.fit_noise) ** 0.5:.3f})"
    )

# %% [markdown]
# The memorising denoiser's affine part is the Gaussian denoiser, as far as the fit can tell, although it is far from affine.
# The network trained briefly is the other way around: nearly affine, and not quite the Gaussian yet.
#
# ## What finitely many points do to a Gaussian fit
#
# A Gaussian fitted to N points is, on average, the population's denoiser at a larger noise level. Two fits to disjoint
# halves differ by a known amount: the baseline for two networks trained on disjoint halves.

# %%
population = sj.GaussianDenoiser.fit(sj.datasets.digits().points)
numbers = np.array([20, 50, 100, 200, 500, 750])
half = jax.random.permutation(key, train.points)
measured, predicted, effective = [], [], []
for number in numbers:
    first, second = (sj.GaussianDenoiser.fit(half[i * number : (i + 1) * number]) for i in (0, 1))
    measured.append(float(sj.denoiser_rmse(first, second, held_out.points, 0.5, key).value))
    predicted.append(float(gaussian.independent_fits_rmse(population.variances, 0.5, int(number))))
    effective.append(float(gaussian.effective_noise_level(population.variances, 0.5, int(number))))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.loglog(numbers, measured, "o", label="two fits to disjoint sets")
left.loglog(numbers, predicted, "k", lw=1, label="predicted for Gaussian data")
left.set(xlabel="training points N of each", ylabel=r"RMSE a coordinate, $\sigma$ = 0.5")
left.set_yticks([0.05, 0.1, 0.2, 0.3], ["0.05", "0.1", "0.2", "0.3"])
left.legend(fontsize=8)
right.semilogx(numbers, effective, "k")
right.axhline(0.5, color="0.7", lw=0.8)
right.set(xlabel="training points N", ylabel=r"effective noise level at $\sigma$ = 0.5")
for ax in (left, right):
    ax.set_xticks(numbers, [str(number) for number in numbers])
    ax.minorticks_off()
plots.show(figure, "finitely-many-points")

# %% [markdown]
# ## Denoisers that see a window
#
# Networks of convolutions see patches, and mix patches of different images. From the same noises: what each analytic
# denoiser generates.

# %%
images = train.points[: 100 if fast else 1500].reshape(-1, 8, 8)
flat = images.reshape(-1, 64)
denoisers = {
    "memorising": sj.EmpiricalDenoiser(flat),
    "Gaussian": sj.GaussianDenoiser.fit(flat),
    "local, 3 x 3": sj.LocalDenoiser(images, 3),
    "equivariant, 3 x 3": sj.EquivariantLocalDenoiser(images, 3),
    "crops, 4 x 4": sj.PatchCompositeDenoiser(images, 4),
    "Wiener mask": sj.WienerMaskDenoiser(images),
}
count = 4 if fast else 12
figure, axes = plt.subplots(
    len(denoisers), count, figsize=(0.8 * count + 1, 5), layout="constrained"
)
for row, (name, D) in zip(axes, denoisers.items(), strict=True):
    samples = sj.sample(D, jax.random.key(4), count, sigma_max=80.0, sigma_min=0.02, steps=12)
    for ax, sample in zip(row, samples, strict=True):
        ax.imshow(sample.reshape(8, 8), cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=(), yticks=())
    row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
plots.show(figure, "windows")

# %% [markdown]
# ## Further
#
# `smoothjax experiment memorization`, `emergence` and `strong-generalization` measure the passage from copying to
# generalising against the number of points, the width and the training time, and between networks trained on disjoint
# halves; `explain-network` says which of these denoisers explains a trained network, at each noise level.
