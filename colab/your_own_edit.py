# %% [markdown]
# # Your own edit, and your own task
#
# An edit is any pytree with `__call__(self, x, at)`. It sees a site's activation `x` `[b, t, ...]`,
# the layer and the positions, and returns the activation that the rest of the model shall see.
# Nothing is registered, nothing in selfx knows of it, and it runs under every transform of JAX. At
# the end, its effects become questions that an explainer is trained on.

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
# The model (10 seconds).

# %%
from pathlib import Path
from tempfile import mkdtemp

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from flax import struct

import selfx
from selfx.files import write_json
from selfx.tasks.schema import PATCHING, SCHEMAS
from selfx.tasks.store import write_shards

lm = selfx.load(os.environ.get("SELFX_MODEL", "smollm2-135m-instruct"))

# %% [markdown]
# Eight lines: scale what a layer's attention writes, from some position on.


# %%
@struct.dataclass
class Scale:
    factor: jax.Array
    layer: jax.Array
    first: jax.Array

    def __call__(self, x, at):
        here = (at.layer == self.layer) & (at.position >= self.first)
        return jnp.where(here[..., None], self.factor * x, x)


# %% [markdown]
# A run with it and a run without, of one text a device (10 seconds).

# %%
n = jax.device_count()
text = lm.tokenizer("The capital of France is", return_tensors="np").input_ids
tokens = jnp.tile(text, (n, 1))


def logits(model, tokens, factor, layer=1):
    edit = Scale(factor, jnp.int32(layer), jnp.int32(2))
    return selfx.forward(model, tokens, edits={"attn_out_post": (edit,)}).logits[:, -1]


run = jax.jit(logits)
plain, halved = run(lm.model, tokens, 1.0), run(lm.model, tokens, 0.5)
print("largest change of a logit:", float(jnp.abs(plain - halved).max()))

# %% [markdown]
# Under `vmap`: eight factors in one program. Another layer or factor compiles
# nothing new (10 seconds).

# %%
factors = jnp.linspace(0, 2, 8)
sweep = jax.jit(jax.vmap(logits, in_axes=(None, None, 0)))(lm.model, tokens, factors)

# %% [markdown]
# Under `grad`: how the likeliest token's logit would answer to a little more of that attention (10
# seconds).

# %%
best = int(plain[0].argmax())


def likeliest(factor, model):  # the model is an argument: in a closure it would be a constant
    return logits(model, tokens, factor)[0, best]


slope = jax.jit(jax.grad(likeliest))(1.0, lm.model)
print(f"d logit({lm.tokenizer.decode([best])!r}) / d factor = {float(slope):.3f}")

# %% [markdown]
# Under `pmap`, a text and a factor a device; and sharded, the weights of one model spread over all
# (20 seconds).

# %%
spread = jax.pmap(logits, in_axes=(None, 0, 0))(lm.model, tokens[:, None], jnp.full(n, 0.5))
mesh = selfx.make_mesh(data=1, model=n)
sharded = run(selfx.shard(lm.model, mesh), tokens, 0.5)

# %% [markdown]
# All of them computed the same.

# %%
for name, got in {"pmap": spread[:, 0], "sharded": sharded}.items():
    print(name, "differs by", float(jnp.abs(got - halved).max()))

# %% [markdown]
# ## Your own task
#
# What the edit does becomes questions: scaling the last token's attention by a factor adds a vector
# there, `(factor - 1) * attention`, and either the next token changes or it does not. Rows with the
# published columns of activation patching are all that training asks for; held-out countries are
# the test split (960 experiments, 30 seconds).

# %%
SMALL = "SELFX_MODEL" in os.environ
names = "France Italy Spain Japan Egypt Peru Kenya China India Cuba Chad Iran Nepal Togo Chile Iraq"
countries = names.split()[-4:] if SMALL else names.split()
texts = [f"The capital of {country} is" for country in countries]
padded = lm.tokenizer(texts, return_tensors="np", padding=True, padding_side="left")
ids, mask = jnp.asarray(padded.input_ids), jnp.asarray(padded.attention_mask, bool)
end = mask.sum(1, keepdims=True) - 1


@jax.jit
def outcomes(model, factors, layers):
    """The written attention `[l, b, d]`, and the next token of each experiment `[n, b]`."""

    def once(factor, layer):
        edit = Scale(factor, layer, end)
        out = selfx.forward(model, ids, mask=mask, edits={"attn_out_post": (edit,)})
        return out.logits[:, -1].argmax(-1)

    seen = selfx.forward(model, ids, mask=mask, capture=("attn_out_post",))
    return seen.captures["attn_out_post"][:, :, -1], jax.lax.map(
        lambda pair: once(*pair), (factors, layers)
    )


layers = np.tile(np.arange(lm.config.n_layers), 2)
factors = np.repeat([0.0, 4.0], lm.config.n_layers)
written, after = outcomes(lm.model, jnp.float32(factors), jnp.int32(layers))
_, before = outcomes(lm.model, jnp.ones(1), jnp.zeros(1, jnp.int32))
shown = {int(i): lm.tokenizer.decode([int(i)]) for i in np.unique([*np.ravel(after), *before[0]])}
print(f"{float((after != before).mean()):.0%} of {after.size} experiments change the next token")

# %% [markdown]
# A row for each experiment, those left out whose next token cannot be quoted (a second).


# %%
def example(number, row):
    old, new = shown[int(before[0, row])], shown[int(after[number, row])]
    layer, vector = int(layers[number]), (factors[number] - 1) * written[layers[number], row]
    pieces = [lm.tokenizer.decode([int(i)]) for i in ids[row][np.asarray(mask[row])]]
    return {
        "layer": [layer],
        "input_tokens": pieces,
        "original_continuation": [old],
        "ablated_continuation": [new],
        "is_different": old.strip() != new.strip(),
        "patch_position": {
            "intervention_vector": np.asarray(vector, np.float32),
            "orig_pos": len(pieces) - 1,
            "orig_text_token": pieces[-1],
        },
        "token_type": "last",
        "id": f"{countries[row]}-{layer}-{factors[number]}",
        "group": countries[row],
        "cell": f"last × {layer}",
        "split": "test" if row >= len(countries) * 3 // 4 else "train",
    }


rows = [example(number, row) for number in range(len(layers)) for row in range(len(countries))]
rows = [row for row in rows if SMALL or row["ablated_continuation"][0].strip().isalnum()]
parts = {split: [row for row in rows if row["split"] == split] for split in ("train", "test")}
trace = Path(os.environ.get("SELFX_WORK", "") or mkdtemp()) / "scaled-attention"
trace.mkdir(parents=True, exist_ok=True)
tables = {split: [pa.Table.from_pylist(part, SCHEMAS[PATCHING])] for split, part in parts.items()}
write_shards(trace, SCHEMAS[PATCHING], tables)
counts = {split: len(part) for split, part in parts.items()}
told = {"task": PATCHING, "target": lm.name, "target_hash": lm.hash, "counts": counts}
write_json(trace / "trace.json", told)
print(counts, "rows in", trace.name)

# %% [markdown]
# Read back as any trace is; `selfx train --data FOLDER …` and `selfx evaluate --data FOLDER …` take
# it from here, with every control (on two cores 5 minutes; left out here).

# %%
question = selfx.load_examples(trace, "train")[0]
print(question.question)
print(question.answer)
