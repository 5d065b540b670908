# ---
# jupyter:
#   jupytext:
#     formats: notebooks///py:percent,docs/notebooks///ipynb
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Which mechanism explains a network?
#
# Two networks of one architecture, trained on many and on few 8 x 8 digits. Of each is asked, at every noise level: which
# analytic denoiser of its training set is it, at which strength, how sure is that, or is it none of them?

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import smoothjax as sj
from smoothjax import learning, plots

# The same notebook at a fraction of its size, for checking that it runs.
fast = bool(os.environ.get("SMOOTHJAX_FAST"))
many, held_out = sj.datasets.digits().split(1500, seed=0)
few, _ = many.split(60, seed=1)
architecture = learning.MLPArchitecture(width=64 if fast else 384)
networks = {
    len(train): learning.train_denoiser(
        train.points, architecture, jax.random.key(0), num_steps=60 if fast else 6000
    ).model
    for train in (many, few)
}

# %% [markdown]
# A network of yours in PyTorch takes this place by one line, `sj.interop.from_torch(module.eval(), (8, 8, 1), ...)`; one of
# diffusers by `sj.interop.from_diffusers(unet, scheduler)`. Any callable `(u, sigma) -> (d,)` will do.

# %%
settings = sj.ExplainSettings(
    levels=(0.1, 0.5, 2.0) if fast else (),
    candidates=("empirical", "gaussian")
    if fast
    else ("empirical", "gaussian", "mixture", "smoothed", "local"),
    num_samples=4 if fast else 32,
)
found = {
    len(train): sj.explain(networks[len(train)], train, held_out, settings) for train in (many, few)
}
for num, one in found.items():
    print(f"\nTrained on {num} digits:\n{one}")

# %% [markdown]
# The map: distance from the network over the network's own error, and what cannot be told from the nearest. A cross is
# where the nearest candidate is no explanation.

# %%
plots.show(found[len(many)].figures()["map"], "map-of-many")

# %%
plots.show(found[len(few)].figures()["map"], "map-of-few")

# %% [markdown]
# What is memorised shows in the loss: a network of few points is better at them than at others, by as much as a model
# would be that holds this share of them.

# %%
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for num, one in found.items():
    share, error = one.dataset.memorized_share, one.dataset.memorized_share_se
    ax.errorbar(one.dataset.sigma, share, 2 * error, marker="o", label=f"{num} digits")
ax.set(xscale="log", xlabel="noise level", ylabel="memorised share of the training points")
ax.axhline(0, color="0.7", lw=0.8)
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plots.show(figure, "memorised-share")

# %% [markdown]
# And in what is generated: the same noises through both networks, over the training images that the samples are nearest to.

# %%
for num, one in found.items():
    at = one.dataset.sel(model="network")
    print(f"{num} digits: {float(at.memorized):.0%} of the samples are copies")
plots.show(found[len(few)].figures()["samples"], "samples-of-few")

# %% [markdown]
# The candidate that was fitted is a denoiser like any other: here its samples at new noises.

# %%
verdicts = found[len(many)].verdicts
chosen = next((v.best for v in verdicts if v.best is not None), "gaussian")
fitted = found[len(many)].denoisers[chosen]
new = sj.sample(
    fitted, jax.random.key(7), 8, steps=8 if fast else 18, mean=many.points.mean(axis=0)
)
print(chosen, np.asarray(new).shape)
