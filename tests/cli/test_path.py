"""The whole path on a tiny model: every command, its files, its one JSON object."""

import json

import numpy as np
import pytest

from selfx.data import facts_path, questions_path
from selfx.models.decoder import forward
from selfx.tasks.store import load_examples


def one_object(done):
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1
    value = json.loads(done.out)
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def shortest(tmp_path_factory):
    """A function: a data file's shortest lines, since a tokenizer of bytes makes long texts."""

    def write(source, count):
        path = tmp_path_factory.mktemp("data") / source.name
        lines = sorted(source.read_text().splitlines(), key=len)
        path.write_text("".join(f"{line}\n" for line in lines[:count]))
        return path

    return write


def test_pull(cli, tiny_folder, tiny_lm):
    told = one_object(cli("pull", tiny_folder, "--json"))
    assert told == {"model": str(tiny_folder), "path": str(tiny_folder), "hash": tiny_lm.hash}


def test_patch(cli, tiny_folder, tiny_lm, tmp_path):
    rng = np.random.default_rng(0)
    pairs, file = [], tmp_path / "pairs.jsonl"
    for n in range(9):
        base, source = (rng.integers(6, 262, int(rng.integers(2, 12))).tolist() for _ in "ab")
        pairs.append(
            {
                "base_ids": base,
                "source_ids": source,
                "layers": [1, 2],
                "base_pos": len(base) - 1,
                "source_pos": 1,
                "value": ("per_layer", "first", "mean")[n % 3],
            }
        )
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    out = tmp_path / "outcomes.jsonl"
    told = one_object(cli("patch", "--model", tiny_folder, "--pairs", file, "--out", out, "--json"))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert told["n"] == len(lines) == 9
    assert told["changed"] == sum(line["base"] != line["patched"] for line in lines)
    for pair, line in zip(pairs, lines, strict=True):
        assert set(line) == {"base", "patched", "margin"}
        logits = forward(tiny_lm.model, np.array([pair["base_ids"]])).logits[0, -1]
        assert line["base"] == int(logits.argmax())
        assert line["margin"] >= 0


def test_from_facts_to_a_page(cli, tiny_folder, shortest, tmp_path):
    """Trace, train, evaluate, report: each reads what the one before wrote."""
    made = one_object(
        cli(
            *("trace", "activation-patching", "--target", tiny_folder, "--out", tmp_path / "trace"),
            *("--data", shortest(facts_path(), 60), "--limit", 12, "--seed", 3),
            *("--option", "chunks=2", "--json"),
        )
    )
    assert made["task"] == "activation-patching"
    assert made["counts"]["train"] + made["counts"]["test"] <= 12
    assert made["settings"]["chunks"] == 2
    record = json.loads((tmp_path / "trace" / "trace.json").read_text())
    assert record["counts"] == made["counts"]
    for split, count in made["counts"].items():
        examples = load_examples(tmp_path / "trace", split)
        assert len(examples) == count > 0
        assert {example.vector.shape for example in examples} == {(32,)}

    told = one_object(
        cli(
            *("train", "--data", tmp_path / "trace", "--explainer", tiny_folder, "--json"),
            *("--out", tmp_path / "run", "--epochs", 1, "--batch-size", 16, "--style", "plain"),
        )
    )
    assert told["run"] == str(tmp_path / "run")
    assert told["steps"] == 1
    logged = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert told["loss"] == json.loads(logged[-1])["loss"]

    told = one_object(
        cli(
            *("evaluate", "--data", tmp_path / "trace", "--explainer", tmp_path / "run"),
            *("--out", tmp_path / "scores", "--max-new-tokens", 2, "--json"),
            *("--controls", "zero", "no-layer", "no-hint", "--baselines", "untrained", "probe"),
        )
    )
    assert told == json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert told["rows"][0]["explainer"] == str(tmp_path / "run")
    assert [row["control"] for row in told["rows"][:3]] == ["none", "zero", "no-layer"]
    assert [row["explainer"] for row in told["rows"][3:]] == ["untrained", "probe"]

    done = cli(
        *("evaluate", "--data", tmp_path / "trace", "--explainer", tiny_folder),
        *("--out", tmp_path / "plain", "--max-new-tokens", 2),
        *("--controls", "zero", "--baselines", "majority", "--limit", 2),
    )
    assert done.code == 0, done.err
    table = done.out.splitlines()  # without --json, a table for people
    assert "held-out questions" in table[0]
    assert [line.split()[1] for line in table[2:5]] == ["none", "zero", "none"]

    folders = tmp_path / "scores", tmp_path / "plain"
    told = one_object(cli("report", *folders, "--out", tmp_path / "page.html", "--json"))
    assert told == {"report": str(tmp_path / "page.html")}
    page = (tmp_path / "page.html").read_text()
    for name in (tmp_path.name, "plain"):  # a folder called scores is told by the one it is in
        assert f"<h2>{name}: activation-patching" in page


def test_hints(cli, tiny_folder, shortest, tmp_path):
    """The other task, from its trace to its scores."""
    made = one_object(
        cli(
            *("trace", "input-ablation", "--target", tiny_folder, "--out", tmp_path / "hints"),
            *("--data", shortest(questions_path(), 24), "--limit", 6, "--json"),
            *("--option", "answering=letters", "max_tokens=512"),
        )
    )
    assert made["task"] == "input-ablation"
    scores = one_object(
        cli(
            *("evaluate", "--data", tmp_path / "hints", "--explainer", tiny_folder, "--json"),
            *("--out", tmp_path / "scores", "--max-new-tokens", 1, "--batch-size", 1),
            *("--limit", 1, "--baselines", "majority"),
        )
    )
    controls = [row["control"] for row in scores["rows"]]
    assert controls == ["none", "no-hint", "no-question", "none"]


@pytest.mark.slow
def test_quickstart_describes_features(tiny_folder, tmp_path, monkeypatch):
    """The lesson that trains a dictionary first, over little text."""
    import dataclasses

    from selfx import quickstart as q
    from selfx.tasks import trace as tasks

    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "the {n} seas are blue"}}\n' for n in range(40)))
    monkeypatch.setattr(q, "text_path", lambda: text)
    task = dataclasses.replace(tasks.TASKS["feature-description"], own_data=lambda: text)
    monkeypatch.setitem(tasks.TASKS, "feature-description", task)
    (lesson,) = (lesson for lesson in q.LESSONS if lesson.dictionary)
    small = dataclasses.replace(
        lesson.dictionary, layers=(1,), widths=(24,), ks=(4,), tokens=512, batch_size=64, rows=4
    )
    lesson = dataclasses.replace(
        lesson,
        limit=12,
        training=dataclasses.replace(lesson.training, epochs=1),
        evaluation=dataclasses.replace(lesson.evaluation, max_new_tokens=2, limit=2),
        dictionary=small,
    )
    result = q.quickstart(tmp_path / "out", model=str(tiny_folder), lessons=(lesson,))
    rows = {row["explainer"]: row for row in result["scores"]["feature-description"]["rows"]}
    assert {"gold", "nearest-cosine", "selfie", "logit-lens"} <= set(rows)
    assert rows["gold"]["metrics"]["exact_match"]["value"] == 1
    assert "Fires" in (tmp_path / "out" / "report.html").read_text()


def test_quickstart_in_small(tiny_folder, tmp_path):
    """What `selfx quickstart` runs, on the tiny model; called again it does nothing twice."""
    import dataclasses

    from selfx.quickstart import LESSONS, quickstart

    lesson = dataclasses.replace(
        LESSONS[0],
        limit=8,
        training=dataclasses.replace(LESSONS[0].training, epochs=1),
        evaluation=dataclasses.replace(LESSONS[0].evaluation, max_new_tokens=2, limit=2),
    )
    result = quickstart(tmp_path, model=str(tiny_folder), lessons=(lesson,))
    assert (tmp_path / "report.html").exists()
    assert list(result["scores"]) == ["activation-patching"]
    adapter = tmp_path / "activation-patching" / "run" / "adapter" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    again = quickstart(tmp_path, model=str(tiny_folder), lessons=(lesson,))
    assert again["scores"] == result["scores"]
    assert adapter.read_bytes() == before
