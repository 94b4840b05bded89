"""The command that has an evaluation's descriptions judged."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from selfx.cli.arguments import positive
from selfx.errors import SelfxError

if TYPE_CHECKING:
    from selfx.features.descriptions.chat import Cost


@dataclasses.dataclass(frozen=True)
class Judge:
    """Have a judge rate an evaluation's descriptions from 1 to 5, beside other judges.

    A judge is asked about everybody's descriptions, controls and baselines too; scores are from 0
    (a rating of 1) to 1 (one of 5). An endpoint's cost is told first, and without --yes asked about
    or, where nobody can be asked, refused. Its answers are kept: after a kill only the rest is
    asked. judged.json holds the scores of all judges so far and how far they agree; scores.json
    stays as it is. Verdicts and words need no judge.

    For example:
      selfx judge scores/features --judge similarity
      selfx judge scores/features --judge smollm2-135m-instruct
      selfx judge scores/features --judge https://api.openai.com/v1 --model gpt-4.1-mini \
--prices 0.4 1.6 --dry-run
      selfx judge scores/features --judge http://localhost:8000/v1 --model gemma-3-27b-it --yes
    """

    folder: Annotated[Path, tyro.conf.Positional]
    """An evaluation folder of descriptions."""
    _: dataclasses.KW_ONLY
    judge: Annotated[str, tyro.conf.arg(metavar="URL|MODEL|RUN|similarity")]
    """An OpenAI-compatible endpoint, without /chat/completions; a model or run to be asked here; or
    similarity, the cosine of wordings."""
    model: str = ""
    """An endpoint's name for the model."""
    yes: bool = False
    """Ask the endpoint, whatever it costs."""
    dry_run: bool = False
    """Say what asking would cost, and ask nobody."""
    limit: int = 0
    """Judge this many features, drawn by seed; 0 judges all."""
    greedy: bool = False
    """Read what a model here writes, instead of its expectation over the ratings."""
    prices: tuple[float, float] | None = None
    """Dollars a million tokens, read and written."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable with the endpoint's key."""
    cache: Path | None = None
    """The folder of the endpoint's answers; by default one inside the evaluation's."""
    max_tokens: int = 10
    """Where a reply is cut; models that think before they answer need more."""
    batch_size: int = 8
    """Questions at once of a model here."""
    seed: int = 0
    """Of the draw and the bootstrap."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> Any:
        """All judges' scores and agreement, or the cost."""
        from selfx.evaluation.judge.kept import is_judged
        from selfx.evaluation.judge.named import Asking, load_judge
        from selfx.evaluation.judge.run import judge_descriptions
        from selfx.evaluation.judge.shown import Judged
        from selfx.evaluation.judge.work import look
        from selfx.progress import progress

        positive(max_tokens=self.max_tokens, batch_size=self.batch_size)
        if self.limit < 0:
            raise SelfxError(f"--limit {self.limit}", expected="0 or more")
        work = look(self.folder, self.limit, self.seed)
        settings = dataclasses.asdict(self)
        asking = Asking(**{name: settings[name] for name in _SHARED})
        judge = load_judge(self.judge, work, asking)
        if self.dry_run:
            return {"judge": judge.name, **_costs(judge.cost(work.pairs), len(work.pairs))}
        if not self.yes and not is_judged(work, judge):
            _consent(judge.name, judge.cost(work.pairs))
        with progress("judging") as report:
            return Judged(judge_descriptions(work, judge, seed=self.seed, report=report))


_SHARED = (
    "model",
    "cache",
    "key_variable",
    "prices",
    "max_tokens",
    "greedy",
    "batch_size",
)


def _consent(name: str, cost: Cost | None) -> None:
    """Raises SelfxError unless somebody agrees to what is left to be paid for."""
    if cost is None or cost.kept == cost.asked:
        return
    told = f"{name}: {cost.text}"
    if not sys.stdin.isatty():
        raise SelfxError(told, expected="somebody to agree to that", hint="--yes")
    print(f"{told}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SelfxError("nobody was asked", hint="--limit for fewer features")


def _costs(cost: Cost | None, pairs: int) -> dict[str, Any]:
    """What a judge would take, by name."""
    if cost is None:
        return {"pairs": pairs, "cost": "nothing, it runs here"}
    price = {} if cost.dollars is None else {"dollars": cost.dollars}
    return {
        "requests": cost.asked - cost.kept,
        "kept": cost.kept,
        "tokens_read": cost.read,
        "tokens_written": cost.written,
        **price,
    }
