"""The command that asks an explainer one question now."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from selfx.cli.arguments import Task
from selfx.errors import SelfxError

Text = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]
Place = Annotated[str | None, tyro.conf.arg(metavar="TOKEN")]


@dataclasses.dataclass(frozen=True)
class Explain:
    """Ask a run one question now; --verify runs the real intervention and says if it was right.

    What is asked follows from what is given, and from what the run was trained on:

      a residual       --text --at --layer           what the target has there
      a patch          the same, and --source-text --source-at: their residual put there
      a saved vector   --vector --layer
      a feature        --feature
      a hint           --question --choices --hint, or --text with the hinted prompt; --layers where
                       the target's states before its answer are to be shown
      a trace's        --example
      several          --file, in one batch

    A place is a token by its letters (Tower; Tower:2 is the second), or by its number, from the end
    if negative. Beside the answer stand its probability, all its tokens and its end together, and
    what is left of it where the vector is zeros: that much was in the question. The exit code is 0
    whether it was right or wrong.

    For example:
      selfx explain --explainer runs/reading --text "The Eiffel Tower is in" --at Tower --layer 12 \
--verify
      selfx explain --explainer runs/patching --text "The Eiffel Tower is in" --at Tower \
--source-text "The Colosseum is in" --source-at -2 --layers 8-15 --verify
      selfx explain --explainer runs/hints --question "Two and two?" --choices 3 4 5 6 --hint B
      selfx explain --explainer runs/features --feature runs/sae/sae/layer14-n4608-k32:17 --verify
      selfx explain --explainer runs/features --vector steer.npy --layer 14
      selfx explain --explainer runs/patching --example traces/patching --verify
      selfx explain --explainer runs/patching --file questions.jsonl --json
    """

    explainer: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """A finished run."""
    text: Text = None
    """What the target reads."""
    at: Place = None
    """A place in it."""
    layer: tuple[int, ...] = ()
    """After which layer; several are a question each."""
    layers: Annotated[str | None, tyro.conf.arg(metavar="A-B")] = None
    """Layers of one question together, such as 8-15 or 3,5: what a patch writes to, at their mean;
    one vector of each for other questions."""
    ask: tuple[Literal["here", "next", "lens", "before"], ...] = ()
    """Of a residual or vector: the token there, the target's next, what its head reads, the words
    before; none given is all."""
    source_text: Text = None
    """For a patch: the text that the residual is from."""
    source_at: Place = None
    """A place in it."""
    question: Text = None
    """A question with four choices."""
    choices: tuple[str, ...] = ()
    """These four."""
    hint: Literal["A", "B", "C", "D"] | None = None
    """The letter hinted at."""
    feature: Annotated[str | None, tyro.conf.arg(metavar="SAE:INDEX")] = None
    """A dictionary, and the number of one of its latents."""
    vector: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """.npy, or .safetensors, with :NAME after it if it holds several."""
    example: Annotated[str | None, tyro.conf.arg(metavar="TRACE")] = None
    """A trace folder, with :ID after it or for the first question of its test split."""
    file: Annotated[Path | None, tyro.conf.arg(metavar="FILE.jsonl")] = None
    """Lines of JSON with these names as keys, layers from a list too; answered in one batch."""
    task: Task | None = None
    """The kind of question, where the run knows several or none that fits."""
    verify: bool = False
    """Find out what really happens."""
    target: str = ""
    """Where the run's target is, if not where it was."""
    trace: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """A trace of the run's; its letters' calibration says what is answered with a hint, which who
    is shown states is told, and verifies hints. Without it, a new one is measured."""
    max_new_tokens: int = 0
    """Where an answer is cut; 0 takes 40, and 80 where it is a description."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> Any:
        """The answers, and what really happened."""
        from selfx.evaluation.explained import explain
        from selfx.progress import progress
        from selfx.tasks.now.request import KEYS, read_requests, request_of

        given = {name: getattr(self, name) for name in KEYS}
        given = {name: value for name, value in given.items() if value not in (None, ())}
        if self.file is not None:
            _check_alone(given)
            requests = read_requests(self.file)
        else:
            requests = [request_of(given)]
        with progress("explaining") as report:
            return explain(
                self.explainer,
                requests,
                verify=self.verify,
                target=self.target,
                trace=self.trace,
                max_new_tokens=self.max_new_tokens,
                report=report,
            )


def _check_alone(given: dict[str, Any]) -> None:
    if given:
        name = next(iter(given)).replace("_", "-")
        raise SelfxError(f"--file with --{name}", expected="one of them", hint="put it in the file")
