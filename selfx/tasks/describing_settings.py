"""The settings of a trace of feature descriptions."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

from selfx.errors import SelfxError
from selfx.tasks import directions as D
from selfx.tasks.describers import BUILT_IN
from selfx.tasks.split import TEST_SHARE, check_share

About = Literal["inputs", "both"]


@dataclasses.dataclass(frozen=True)
class Describing:
    """The settings of a trace of feature descriptions.

    Attributes:
      directions: what is described: one of `selfx.tasks.directions.KINDS`.
      dictionary: for `latents`: an SAE, or a run of `selfx sae train`.
      layers: for the others: which layers, such as `6,14,22`; "" takes three.
      facts: for `differences`: a file of facts; "" takes those that come with selfx.
      describer: who puts the truth in words, as `selfx.tasks.describers` names it.
      about: `inputs`, what excites a direction, or `both`, and which tokens it promotes: a
        describer of `inputs` is not shown the latter.
      context: tokens a window.
      exemplars: windows of each kind for a direction: half to describe it from, half to score on.
      least: windows in which a direction must be on.
      alike: the cosine from which two directions count as one, and are held out together.
      test_share: the share of directions held out.
      batch_size: windows read at once.
    """

    directions: D.Kind = "latents"
    dictionary: str = ""
    layers: str = ""
    facts: str = ""
    describer: str = BUILT_IN
    about: About = "inputs"
    context: int = 64
    exemplars: int = 20
    least: int = 8
    alike: float = 0.9
    test_share: float = TEST_SHARE
    batch_size: int = 16

    def check(self) -> None:
        """Raises SelfxError for settings that no trace can have."""
        if self.directions not in D.KINDS:
            raise SelfxError(
                f"directions {self.directions!r}", expected=f"one of {', '.join(D.KINDS)}"
            )
        if self.about not in get_args(About):
            raise SelfxError(f"about {self.about!r}", expected=" or ".join(get_args(About)))
        if not 0 < self.alike <= 1:
            raise SelfxError(f"alike={self.alike}", expected="a cosine above 0, at most 1")
        for name, low in (("context", 8), ("exemplars", 4), ("least", 1), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise SelfxError(f"{name}={getattr(self, name)}", expected=f"at least {low}")
        check_share(self.test_share)

    def chosen_layers(self, count: int) -> tuple[int, ...]:
        """The layers meant, of a model that has `count`.

        Raises:
          SelfxError: layers that it does not have, or no numbers.
        """
        if not self.layers:
            return tuple(sorted({count // 4, count // 2, 3 * count // 4}))
        parts = [part.strip() for part in self.layers.split(",")]
        good = all(part.isdecimal() and int(part) < count for part in parts)
        if not good or len(set(parts)) < len(parts):
            raise SelfxError(
                f"layers={self.layers!r}",
                expected=f"numbers from 0 to {count - 1} with commas between, each once",
            )
        return tuple(map(int, parts))
