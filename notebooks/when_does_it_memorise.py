# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # When does it memorise?
#
# At which noise level does the exact score of a training set commit: to the gross structure, to a class, to one point? And
# does a network that was trained on the same points?

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import learning, plots, regimes

# The same notebook at a fraction of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
many, held_out = sj.datasets.digits().split(1500, seed=0)
few, _ = many.split(60, seed=1)
found = sj.experiments.memorization_regimes(
    num_train=200 if fast else 1500, num_draws=32 if fast else 256, num_turns=8 if fast else 64
)

# %% [markdown]
# Information about the clean digit rises as noise falls. That of the training set stops at log N; that against the other
# points does not, and where it passes log N the odds of the noised point are even: collapse. Half of the class is known at
# more noise, and near speciation, where noise is as wide as the widest direction of the data.

# %%
plots.show(plots.plot_experiment("regimes", found), "regimes")
print(
    f"collapse at {float(found.collapse):.2f} ± {float(found.collapse_se):.2f}, of a Gaussian with this covariance at "
    f"{float(found.collapse_gaussian):.2f}; speciation at {float(found.speciation):.2f}, half the class at "
    f"{float(found.class_level):.2f}"
)

# %% [markdown]
# The digits that are memorised first are isolated ones; those in a crowd last.

# %%
levels = np.asarray(regimes.collapse_levels_of_points(many, jax.random.key(0), num_noises=4))
order = np.argsort(-levels)
figure, axes = plt.subplots(2, 8, figsize=(9, 2.8))
for row, chosen in enumerate((order[:8], order[-8:])):
    for ax, k in zip(axes[row], chosen, strict=True):
        ax.imshow(np.asarray(many.points[k]).reshape(8, 8), cmap="gray")
        ax.set_title(f"{levels[k]:.2f}", fontsize=8)
        ax.set_axis_off()
figure.suptitle("Level of even odds: largest above, smallest below", fontsize=10)
plots.show(figure, "first-and-last-memorised")

# %% [markdown]
# Two networks of one architecture, on many and on few digits. Each is tested at the digits that it was trained on, beside
# digits that it has not seen: does it see a lower dimension there, and does a noised training digit come back to itself?

# %%
architecture = learning.MLPArchitecture(width=64 if fast else 384)
level = float(found.collapse) / 2
turns = np.geomspace(level, 6 * level, 3 if fast else 6)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for train, colour in ((many, "C0"), (few, "C1")):
    network = learning.train_denoiser(
        train.points, architecture, jax.random.key(0), num_steps=60 if fast else 6000
    ).model
    num = min(len(train), 20 if fast else 200)
    test = regimes.dimension_test(network, train.points[:num], held_out.points[:num], level)
    print(
        f"trained on {len(train)}: share of training digits with a lower dimension {test.test.share_below}, "
        f"p-value {float(test.test.p_value):.2g}"
    )
    bins = np.linspace(0, 64, 33)
    left.hist(
        test.train,
        bins=bins,
        color=colour,
        alpha=0.6,
        density=True,
        label=f"{len(train)}, training",
    )
    left.hist(
        test.held_out,
        bins=bins,
        color=colour,
        histtype="step",
        density=True,
        label=f"{len(train)}, held out",
    )
    turn = regimes.u_turn(network, train, turns, jax.random.key(1), num_draws=8 if fast else 64)
    right.plot(turns, turn.same_point, "o-", color=colour, label=f"trained on {len(train)}")
    right.fill_between(turns, *np.asarray(turn.same_point_interval).T, color=colour, alpha=0.2)
left.set(xlabel=f"dimension at noise level {level:.2f}", ylabel="density")
right.set(
    xscale="log", xlabel="noise level of the U-turn", ylabel="share that comes back", ylim=(0, 1.05)
)
left.legend(fontsize=7, frameon=False)
right.legend(fontsize=7, frameon=False)
plots.show(figure, "memorised-by-networks")
