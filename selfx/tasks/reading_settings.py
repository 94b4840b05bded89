"""The settings of a trace of questions whose answer only the vector holds."""

from __future__ import annotations

import dataclasses

from selfx.errors import SelfxError
from selfx.models.config import Config
from selfx.models.sites import find
from selfx.tasks.reading_questions import ASKS
from selfx.tasks.split import TEST_SHARE, check_share


@dataclasses.dataclass(frozen=True)
class Reading:
    """The settings of a trace of activation reading.

    Attributes:
      ask: which kinds of `selfx.tasks.reading_questions.ASKS`, with commas between.
      site: where vectors are read, in the layers and as wide as the residual stream.
      layers: after which layers, such as `6,14,22`; "" takes every second one, the last included.
      vectors: how many vectors an example has: of its layer and of those right before it.
      length: tokens of a text that the target reads.
      shown: words of an excerpt that a question shows.
      most: the share of one kind's questions that may have the same answer (of `which` any may).
      test_share: the share of documents held out.
      batch_size: texts read at once.
    """

    ask: str = ",".join(ASKS)
    site: str = "resid_post"
    layers: str = ""
    vectors: int = 1
    length: int = 32
    shown: int = 8
    most: float = 0.02
    test_share: float = TEST_SHARE
    batch_size: int = 32

    def check(self, config: Config) -> None:
        """Raises SelfxError for settings that no trace of such a model can have."""
        site = find(self.site, config)
        if site.axes != "d" or not site.layered:
            raise SelfxError(
                f"site {self.site!r}", expected="a site in the layers of the residual's width"
            )
        for name, low in (("vectors", 1), ("length", 8), ("shown", 2), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise SelfxError(f"{name}={getattr(self, name)}", expected=f"at least {low}")
        if self.length > config.max_positions:
            raise SelfxError(
                f"length={self.length}", expected=f"at most {config.max_positions}, what it reads"
            )
        if not 0 < self.most <= 1:
            raise SelfxError(f"most={self.most}", expected="a share above 0, at most 1")
        check_share(self.test_share)
        self.chosen_asks()
        self.chosen_layers(config.n_layers)

    def chosen_asks(self) -> tuple[str, ...]:
        """The kinds of questions meant.

        Raises:
          SelfxError: one that there is not, or one twice.
        """
        parts = tuple(part.strip() for part in self.ask.split(","))
        if not set(parts) <= set(ASKS) or len(set(parts)) < len(parts):
            raise SelfxError(
                f"ask={self.ask!r}", expected=f"some of {','.join(ASKS)} with commas, each once"
            )
        return parts

    def chosen_layers(self, count: int) -> tuple[int, ...]:
        """The layers meant, each the last of an example's, of a model that has `count`.

        Raises:
          SelfxError: layers that it does not have, without enough before them, or no numbers.
        """
        first = self.vectors - 1
        if not self.layers and first < count:
            return tuple(range(count - 1, first - 1, -2))[::-1]
        parts = [part.strip() for part in self.layers.split(",")]
        good = all(part.isdecimal() and first <= int(part) < count for part in parts)
        if not good or len(set(parts)) < len(parts):
            raise SelfxError(
                f"layers={self.layers!r} with vectors={self.vectors}",
                expected=f"numbers from {first} to {count - 1} with commas between, each once",
            )
        return tuple(map(int, parts))
