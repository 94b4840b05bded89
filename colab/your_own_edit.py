# %% [markdown]
# # Your own edit
#
# An edit is any pytree with `__call__(self, x, at)`. It sees a site's activation `x` `[b, t, ...]`,
# the layer and the positions, and returns the activation that the rest of the model shall see.
# Nothing is registered, nothing in selfx knows of it, and it runs under every transform of JAX.

# %%
import os

import jax
import jax.numpy as jnp
from flax import struct

import selfx

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
# A run with it and a run without, of one text a device.

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
# Under `vmap`: eight factors in one program. Another layer or factor compiles nothing new.

# %%
factors = jnp.linspace(0, 2, 8)
sweep = jax.jit(jax.vmap(logits, in_axes=(None, None, 0)))(lm.model, tokens, factors)

# %% [markdown]
# Under `grad`: how the likeliest token's logit would answer to a little more of that attention.

# %%
best = int(plain[0].argmax())
slope = jax.jit(jax.grad(lambda factor: logits(lm.model, tokens, factor)[0, best]))(1.0)
print(f"d logit({lm.tokenizer.decode([best])!r}) / d factor = {float(slope):.3f}")

# %% [markdown]
# Under `pmap`, a text and a factor a device; and sharded, the weights of one model spread over all.

# %%
spread = jax.pmap(logits, in_axes=(None, 0, 0))(lm.model, tokens[:, None], jnp.full(n, 0.5))
mesh = selfx.make_mesh(data=1, model=n)
sharded = run(selfx.shard(lm.model, mesh), tokens, 0.5)

# %% [markdown]
# All of them computed the same.

# %%
for name, got in {"pmap": spread[:, 0], "sharded": sharded}.items():
    print(name, "differs by", float(jnp.abs(got - halved).max()))
