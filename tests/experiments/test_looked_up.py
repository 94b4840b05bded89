"""What can be looked up of a trace, beside an evaluation of the same questions."""

import dataclasses
import json

import pytest

from experiments import looked_up, states
from selfx.errors import SelfxError
from selfx.evaluation.run import Evaluation, evaluate
from selfx.explainer.answer import untrained
from selfx.explainer.training import Training
from selfx.weights.load import load


def test_the_figures_are_those_of_an_evaluation(tmp_path):
    config = states.placed(dataclasses.replace(states.TINY, work=tmp_path))
    lm = load(config.model)
    data = states.traced(config, lm)
    found = looked_up.main(looked_up.Config(data, tmp_path / "keep"))
    assert json.loads((tmp_path / "keep" / "looked-up.json").read_text()) == found
    assert {"probe", "shifted-scores", "nearest-vector", "majority"} < set(found["scores"])
    few = Evaluation(
        controls=("none",), baselines=tuple(found["scores"]), max_new_tokens=1, confidence=False
    )
    scores = evaluate(untrained(lm, Training(style="plain")), data, tmp_path / "scores", few)
    rows = {row["explainer"]: row["metrics"] for row in scores["rows"]}
    for name, metrics in found["scores"].items():
        assert {k: v["value"] for k, v in rows[name].items()} == pytest.approx(
            {k: v["value"] for k, v in metrics.items()}
        )


def test_other_kinds_of_answers_are_refused(tmp_path):
    (tmp_path / "trace.json").write_text(json.dumps({"task": "activation-reading"}))
    with pytest.raises(SelfxError, match="a trace of activation-reading"):
        looked_up.main(looked_up.Config(tmp_path))
