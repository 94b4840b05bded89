"""What an experiment is judged by: a function from a run's last logits to a number for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from selfx.errors import SelfxError
from selfx.models.tap import Array

Metric = Callable[[jax.Array], jax.Array]
"""`[b]` for the float32 logits `[b, v]` after each row's last token."""


@struct.dataclass
class LogitDifference:
    """The logit of a token less that of another, in each row.

    Attributes:
      answer: int32 `[b]` or scalar.
      other: likewise, or None for 0.
    """

    answer: Array
    other: Array | None = None

    def __call__(self, logits: jax.Array) -> jax.Array:
        """`[b]` for logits `[b, v]`."""
        score = _pick(logits, self.answer)
        return score if self.other is None else score - _pick(logits, self.other)


def logit_difference(answer: Any, other: Any = None) -> LogitDifference:
    """A metric: the logit of `answer` less that of `other`, each a token or int `[b]`.

    A pytree: other tokens do not compile anew. A function of your own does so once for each
    function object, so define it once.
    """
    less = None if other is None else jnp.asarray(other, jnp.int32)
    return LogitDifference(jnp.asarray(answer, jnp.int32), less)


def as_tree(metric: Metric) -> Metric:
    """The metric as a pytree, so that it can be an argument of a compiled function."""
    return jax.tree_util.Partial(metric) if jax.tree_util.all_leaves([metric]) else metric


def check_metric(metric: Metric, rows: int, vocabulary: int) -> None:
    """Raises SelfxError where the metric does not give a number a row."""
    if not callable(metric):
        raise SelfxError(
            f"a {type(metric).__name__} as the metric",
            expected="a function from logits [b, v] to [b], such as selfx.logit_difference(5, 7)",
        )
    ids = jax.tree.leaves(metric) if isinstance(metric, LogitDifference) else []
    known = [np.asarray(x) for x in ids if not isinstance(x, jax.core.Tracer)]
    wrong = [n for x in known for n in (x.min(), x.max()) if not 0 <= n < vocabulary]
    if wrong or any(x.shape not in ((), (rows,)) for x in ids):
        got = f"token {wrong[0]}" if wrong else f"tokens of shapes {[list(x.shape) for x in ids]}"
        raise SelfxError(
            f"{got} in the metric", expected=f"1 or {rows} ids from 0 to {vocabulary - 1}"
        )
    shape = jax.eval_shape(metric, jax.ShapeDtypeStruct((rows, vocabulary), jnp.float32))
    if getattr(shape, "shape", None) != (rows,):
        raise SelfxError(
            f"a metric that gives {getattr(shape, 'shape', shape)} for logits of {rows} rows",
            expected=f"a number for each row, [{rows}]",
        )


def _pick(logits: jax.Array, ids: Array) -> jax.Array:
    ids = jnp.broadcast_to(ids, logits.shape[:-1])
    return jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
