# %% [markdown]
# # A model explains itself
#
# The whole path, small: experiments on a model become questions with true answers, the same model
# learns to answer them from its own activations, and is examined on texts that it never saw, with
# its vector and without. Sizes here are small; times are estimates for two CPU cores.
# `selfx quickstart` is the same with more examples and two more tasks.

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
# The model is both what is studied and who explains it (10 seconds). `SMALL` is for the tests.

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt

import selfx
from selfx.evaluation.explained import explain
from selfx.evaluation.run import Evaluation
from selfx.evaluation.table import score_table
from selfx.tasks.now.request import Request

MODEL = os.environ.get("SELFX_MODEL", "smollm2-135m-instruct")
SMALL = "SELFX_MODEL" in os.environ
lm = selfx.load(MODEL)
work = Path(os.environ.get("SELFX_WORK", "") or mkdtemp())

# %% [markdown]
# ## Ground truth
#
# A vector is taken from somewhere in a text. What does it hold: which token was there, which comes
# next? The model's own run tells (a minute for 1,500 questions). Nothing in the question's text
# gives the answer away, so what is answered right was read from the vector.

# %%
made = selfx.trace(
    "activation-reading", lm, work / "trace", limit=24 if SMALL else 1500, ask="here,next"
)
print(made["counts"])
example = selfx.load_examples(work / "trace", "test")[0]
print(example.question, "->", example.answer)

# %% [markdown]
# ## Training
#
# A LoRA of rank 16; the vector is added to the residual after its own layer. About 6 minutes for
# 70 steps of 16 questions. Called again it goes on where it stopped.

# %%
training = selfx.Training(
    epochs=0.1 if SMALL else 1.0,
    batch_size=4 if SMALL else 16,
    style="plain",
    injection="add",
    evaluate_every=20,
    held_out=0.1,
    optimization=selfx.Optimization(1e-3, "linear", 5),
)
fitted = selfx.fit(lm, [work / "trace"], work / "run", training, log_every=5)
print(f"{fitted.steps} steps, loss {fitted.loss:.2f}, lift while training: {fitted.lift}")

# %% [markdown]
# ## Evidence
#
# Held-out texts, asked with the vector, with zeros, with another example's and with a rotated one
# (2 minutes). One looks at the lift: what is lost without the vector. A model that guesses from the
# question alone has none.

# %%
settings = Evaluation(
    controls=("none", "zero", "shuffled", "rotated")[: 2 if SMALL else 4],
    baselines=("majority",),
    limit=6 if SMALL else 100,
    max_new_tokens=4 if SMALL else 8,
)
explainer = selfx.load_explainer(work / "run", lm)
scores = selfx.evaluate(explainer, work / "trace", work / "scores", settings)
print(score_table(scores))

# %% [markdown]
# The same as a picture: a dot is a score, the bar its 95 % interval. If the first bar stands clear
# of the others, the explainer reads its activations.

# %%
names = [f"{Path(row['explainer']).name} · {row['control']}" for row in scores["rows"]]
found = [row["metrics"][scores["headline"]] for row in scores["rows"]]
figure, axes = plt.subplots(figsize=(7, 0.6 + 0.4 * len(names)), layout="constrained")
for place, score in enumerate(found):
    own = place == 0
    axes.plot([score["low"], score["high"]], [place] * 2, color="C0" if own else "grey")
    axes.plot(score["value"], place, "o", color="C0" if own else "grey", mfc=None if own else "w")
axes.set_yticks(range(len(names)), names)
axes.invert_yaxis()
axes.set_xlabel("exact match")
axes.set_xlim(-0.02, 1.02)
plt.show()
plt.close(figure)
print("report to open in a browser:", work / "scores" / "report.html")

# %% [markdown]
# ## Ask it something
#
# Any text, any token, any layer; `verify=True` runs the experiment and says whether the answer was
# right (20 seconds).
# The same on a command line: `selfx explain --explainer RUN --text … --verify`.

# %%
text = "The Eiffel Tower is in the city of"
layers = (1,) if SMALL else (2, 12, 24)
request = Request(text=text, at="-1" if SMALL else "Tower", layer=layers, ask=("here", "next"))
answers = explain(work / "run", [request], verify=True, max_new_tokens=8, target=MODEL)
print(answers)
