"""`selfx judge` on an evaluation folder: costs, refusals, kills, several judges side by side."""

import json
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from selfx.errors import SelfxError
from selfx.evaluation.judge import run as running
from selfx.evaluation.judge.kept import load_judged, load_ratings
from selfx.evaluation.judge.run import judge_descriptions
from selfx.evaluation.judge.work import look

DISTINCT = 17
"""Different pairs of a description that is not empty, and a true one."""


@pytest.fixture
def judge(cli, folder, endpoint):
    """A function: the folder judged by the endpoint."""
    return lambda *more: cli(
        "judge", folder, "--judge", endpoint.url, "--model", "rules", "--json", *more
    )


def by_row(summary, judge="rules"):
    (one,) = (each for each in summary["judges"] if each["judge"] == judge)
    return one, {(row["explainer"], row["control"]): row for row in one["rows"]}


def test_everybody_is_rated_and_the_evaluation_is_left_as_it_was(judge, folder, endpoint):
    """By the endpoint's rule; the figures are counted by hand."""
    before = {file: file.read_bytes() for file in folder.iterdir()}
    faults = {1: (429, b"slow down"), 2: (200, b"{not json"), 3: (503, b"")}
    endpoint.before = faults.get
    done = judge("--yes")
    assert done.code == 0, done.err
    assert before == {file: file.read_bytes() for file in before}
    assert sorted(endpoint.asked) == sorted({*endpoint.asked}), "no pair is asked about twice"
    assert len(endpoint.asked) == DISTINCT
    assert endpoint.bodies[0]["temperature"] == 0
    one, rows = by_row(json.loads(done.out))
    own = rows["runs/me", "none"]
    assert own["score"]["value"] == (1 + 0.5 + 0 + 0) / 4, "same, two words, empty, unreadable"
    assert (own["asked"], own["unread"]) == (3, 1)
    assert own["standard_error"] == pytest.approx(0.2393568)
    assert rows["gold", "none"]["score"] == {"value": 1, "low": 1, "high": 1}
    oracle = rows["selfie-oracle", "none"]
    assert oracle["score"]["value"] == (0.5 + 1 + 0 + 0.25) / 4, "the best of the candidates"
    assert (oracle["asked"], oracle["unread"]) == (9, 1)
    assert rows["runs/me", "zero"]["score"]["value"] == 0.25 / 4
    assert one["lift"]["control"] == "zero"
    assert one["lift"]["score"]["value"] == own["score"]["value"] - 0.25 / 4
    table = pq.read_table(next((folder / "judged").glob("rules-*.parquet"))).to_pylist()
    assert [row["rating"] for row in table[:4]] == [5, 3, None, None]
    assert [row["score"] for row in table[:4]] == [1, 0.5, 0, 0]


def test_nobody_is_asked_before_the_cost_is_agreed_to(judge, endpoint, monkeypatch):
    told = json.loads(judge("--dry-run", "--prices", 1, 2).out)
    assert (told["requests"], told["kept"], told["tokens_written"]) == (DISTINCT, 0, 10 * DISTINCT)
    words = sum(len(body["messages"][0]["content"]) for body in endpoint.bodies)
    assert words == 0
    refused = judge()
    assert refused.code == 2
    assert f"{DISTINCT} questions, 0 of them answered" in refused.err
    assert "--yes" in refused.err
    for answer, code in (("n\n", 2), ("", 2), ("y\n", 0)):
        stdin = SimpleNamespace(isatty=lambda: True, readline=lambda answer=answer: answer)
        monkeypatch.setattr(sys, "stdin", stdin)
        assert endpoint.asked == []
        assert judge().code == code
    letters = sum(len(body["messages"][0]["content"]) for body in endpoint.bodies)
    assert told["tokens_read"] == -(-letters // 4)
    assert told["dollars"] == pytest.approx((told["tokens_read"] + 20 * DISTINCT) / 1e6)


def test_after_an_endpoint_died_only_the_rest_is_asked(judge, folder, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint.before = lambda n: None if n <= 6 else (401, b"no key")
    dead = judge("--yes")
    assert dead.code == 2
    assert "HTTP 401" in dead.err
    assert "Authorization" not in endpoint.headers[0]
    assert not (folder / "judged.json").exists()
    endpoint.before = lambda n: None
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    assert json.loads(judge("--dry-run").out)["kept"] == 6
    done = judge("--yes")
    assert done.code == 0
    assert endpoint.headers[-1]["Authorization"] == "Bearer sk-secret-123"
    assert len(endpoint.asked) == len({*endpoint.asked}) == DISTINCT
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert not any(b"sk-secret-123" in file.read_bytes() for file in files)
    assert "sk-secret-123" not in done.out + done.err
    again = judge()
    assert (again.code, again.out) == (0, done.out), "finished: no consent is needed"
    assert len(endpoint.asked) == DISTINCT


def test_a_reply_without_text_is_one_that_cannot_be_read(judge, endpoint):
    silence = json.dumps({"choices": [{"message": {"content": None}}]}).encode()
    endpoint.before = lambda n: (200, silence)
    done = judge("--yes")
    one, rows = by_row(json.loads(done.out))
    assert len(endpoint.bodies) == DISTINCT
    assert rows["gold", "none"]["unread"] == 4
    assert all(row["score"]["value"] == 0 for row in one["rows"])


def test_judges_stand_side_by_side_and_their_agreement_is_told(judge, cli, folder, evaluate_anew):
    assert load_judged(folder) is None
    judge("--yes")
    shown = cli("judge", folder, "--judge", "similarity")
    assert shown.code == 0, shown.err
    assert "rules (4)" in shown.out
    assert "similarity (4)" in shown.out
    assert "could not be read" in shown.out
    summary = load_judged(folder)
    assert [each["judge"] for each in summary["judges"]] == ["rules", "similarity"]
    everybody, own = summary["agreement"]
    rules, alike = (each.rows for each in load_ratings(folder))
    both = [(a["rating"], b["rating"]) for a, b in zip(rules, alike, strict=True)]
    both = [pair for pair in both if None not in pair]
    assert everybody["n"] == len(both) == 14, "neither the empty one nor the unreadable one"
    assert everybody["spearman"]["value"] == pytest.approx(spearmanr(both).statistic)
    assert own["n"] == 2
    assert json.loads((folder / "judged.json").read_text()) == summary
    evaluate_anew({("runs/me", "none"): ["other"] * 4})
    assert load_judged(folder) is None, "what was judged is no longer there"


def test_fewer_features_are_among_the_more(folder):
    few, more = ({item.id for item in look(folder, n, seed=3).items} for n in (2, 3))
    assert len(few) == 2
    assert few < more
    assert look(folder, 2).digest == look(folder).digest


class Stub:
    name, about, seen = "stub", {"kind": "stub"}, ()

    def __init__(self, fails_at=0):
        self.seen, self.fails_at = [], fails_at

    def cost(self, pairs):
        return None

    def __call__(self, pairs, report=None):
        if len(self.seen) == self.fails_at > 0:
            raise KeyboardInterrupt
        self.seen += pairs
        return [3.0 for _ in pairs]


def test_a_judge_that_runs_here_goes_on_after_a_kill(folder, monkeypatch):
    monkeypatch.setattr(running, "BLOCK", 4)
    work, killed, later = look(folder), Stub(fails_at=8), Stub()
    with pytest.raises(KeyboardInterrupt):
        judge_descriptions(work, killed)
    summary = judge_descriptions(work, later)
    assert killed.seen + later.seen == work.pairs
    assert len(killed.seen) == 8
    assert {file.name.split("-")[0] for file in (folder / "judged").iterdir()} == {"stub"}
    assert judge_descriptions(work, Stub(fails_at=1)) == summary, "nobody is asked once it is done"


def test_what_cannot_be_judged_is_refused(cli, folder, evaluate_anew):
    assert "an endpoint, and the name" in cli("judge", folder, "--judge", "http://h/v1").err
    assert "--model" in cli("judge", folder, "--judge", "similarity", "--model", "m").err
    assert cli("judge", folder / "no", "--judge", "similarity").code == 2
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(SelfxError, match="cannot be read"):
        look(folder)
    evaluate_anew()
    (folder / "candidates.json").write_text("[]")
    with pytest.raises(SelfxError, match="candidates.json"):
        look(folder)
    evaluate_anew(task="input-ablation")
    refused = cli("judge", folder, "--judge", "similarity")
    assert refused.code == 2
    assert "says exactly" in refused.err
