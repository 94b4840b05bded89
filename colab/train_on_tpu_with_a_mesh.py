# %% [markdown]
# # Train on a TPU, with a mesh
#
# One program for one device and for many: weights are loaded straight to where they will live, and
# what runs on them is the same `selfx.forward`, `selfx.fit` and `selfx.evaluate`. Here the mesh has
# whatever devices there are: 8 on a Colab or Kaggle TPU, 1 on a GPU or CPU; 8 CPU devices to try it
# with nothing at hand (`XLA_FLAGS=--xla_force_host_platform_device_count=8`). It has been run
# on such CPU devices only; times are estimates for two cores.
#
# **On Colab**: Runtime → Change runtime type → TPU. Then change two lines below, marked *TPU*.

# %% [markdown]
# Installs selfx where it is not, on a TPU runtime also `jax[tpu]` (a minute or two); `SELFX_SOURCE`
# names a folder or a git address to take it from.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("selfx") is None:
    source = os.environ.get("SELFX_SOURCE", "selfx[notebooks]")
    tpu = ["jax[tpu]"] if "TPU_NAME" in os.environ or os.path.exists("/dev/accel0") else []
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *tpu], check=True)

# %% [markdown]
# ## The mesh
#
# Two axes: `model` splits every weight, `data` splits the batch. A model that fits on one device is
# best split over data alone; one that does not is split over `model` first (a second).

# %%
from pathlib import Path
from tempfile import mkdtemp

import jax
import jax.numpy as jnp
import numpy as np

import selfx

MODEL = os.environ.get("SELFX_MODEL", "smollm2-135m-instruct")  # TPU: a hub id, such as a 3B's
DTYPE = "float32"  # TPU: "bfloat16"; what is trained stays in float32
SMALL = "SELFX_MODEL" in os.environ
devices = jax.device_count()
mesh = selfx.make_mesh(data=max(1, devices // 2), model=2 if devices > 1 else 1)
print(f"{devices} × {jax.devices()[0].device_kind}, as {dict(mesh.shape)}")

# %% [markdown]
# ## Weights, straight to their devices
#
# No device and no host ever holds a split weight whole. The table says what each holds: the kinds
# of rules in `selfx.sharding.RULES`, which are patterns over names (10 seconds).

# %%
lm = selfx.load(MODEL, dtype=DTYPE, mesh=mesh)
for name in ("q", "o", "down"):
    weight = getattr(lm.model.blocks, name).w[...]
    here = weight.addressable_shards[0].data.shape
    print(f"blocks.{name}.w {weight.shape}: {here} a device, {weight.sharding.spec}")
jax.debug.visualize_array_sharding(lm.model.blocks.q.w[...][0])

# %% [markdown]
# The same numbers come out as on one device: nothing but rounding differs (20 seconds).

# %%
tokens = jnp.asarray(lm.tokenizer("The capital of France is", return_tensors="np").input_ids)
tokens = jnp.tile(tokens, (max(1, devices), 1))
run = jax.jit(lambda model, tokens: selfx.forward(model, tokens).logits[:, -1])
spread = run(lm.model, selfx.shard_batch(tokens, mesh))
alone = selfx.load(MODEL, dtype=DTYPE)
plain = run(alone.model, tokens[:1])
print("sharded differs by", float(jnp.abs(np.asarray(spread) - np.asarray(plain)).max()))
del alone

# %% [markdown]
# ## The same trainer
#
# Ground truth and training know nothing of the mesh: the weights carry it, and the compiler does
# the rest. A step of 16 questions takes 4 seconds on two CPU cores (40 steps: 3 minutes); the
# first step compiles for half a minute. Stop it whenever you like, it goes on from its checkpoint,
# on another mesh too.

# %%
work = Path(os.environ.get("SELFX_WORK", "") or mkdtemp())
selfx.trace("activation-reading", lm, work / "trace", limit=16 if SMALL else 800, ask="here")
training = selfx.Training(
    epochs=0.1 if SMALL else 1.0,
    batch_size=4 if SMALL else 16,
    style="plain",
    injection="add",
    held_out=0.0,
    optimization=selfx.Optimization(1e-3, "linear", 5),
)
fitted = selfx.fit(lm, [work / "trace"], work / "run", training)
print(f"{fitted.steps} steps in {fitted.seconds:.0f} s, loss {fitted.loss:.2f}")

# %% [markdown]
# ## What it learned
#
# Its answers to held-out questions, with its vectors and with zeros in their place (a minute). One
# sees right words in the second column only if the vectors are read.

# %%
explainer = selfx.load_explainer(work / "run", lm)
test = selfx.load_examples(work / "trace", "test")[:4]
vectors = np.stack([example.vectors for example in test])
said = {
    name: selfx.answer(explainer, test, given, max_new_tokens=4)
    for name, given in {"vector": vectors, "zeros": np.zeros_like(vectors)}.items()
}
print(f"{'truth':>14} {'with its vector':>20} {'with zeros':>20}")
for example, own, none in zip(test, said["vector"], said["zeros"], strict=True):
    print(f"{example.answer:>14.14} {own:>20.20} {none:>20.20}")
