"""Descriptions from elsewhere: a chat model that fails half-way, an export, the paper's archive."""

import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.descriptions.describe import Description
from selfx.features.descriptions.neuronpedia import Published, save_neuronpedia
from selfx.features.exemplars.excerpts import Evidence, Excerpt
from selfx.tasks import describing
from selfx.tasks.describers import describers
from selfx.tasks.store import load_examples
from selfx.tasks.trace import trace

NEURONS = {"directions": "neurons", "layers": "1", "context": 16, "exemplars": 6, "least": 2}


def evidence(feature):
    text = Excerpt((" a", " b"), np.array([0.0, 1.0], np.float32))
    return Evidence(feature, (text,))


@pytest.fixture
def endpoint():
    """A chat model that answers `allowed` times and then refuses."""
    seen = {"asked": 0, "allowed": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            seen["asked"] += 1
            good = seen["asked"] <= seen["allowed"]
            said = {"choices": [{"message": {"content": f"thing {seen['asked']}"}}]}
            sent = json.dumps(said).encode() if good else b"no"
            self.send_response(200 if good else 401)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen["name"] = f"describer@http://127.0.0.1:{server.server_port}/v1"
    yield seen
    server.shutdown()
    server.server_close()


def test_an_endpoint_that_fails_half_way_is_asked_only_the_rest(
    tmp_path, tiny_lm, facts_file, endpoint, monkeypatch, capsys
):
    monkeypatch.setattr(describing, "FEATURES_A_BLOCK", 4)
    texts = tmp_path / "texts.jsonl"
    lines = (json.loads(line)["prompt"] for line in facts_file.read_text().splitlines())
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    options = {"data": texts, "limit": 10, "describer": endpoint["name"], **NEURONS}
    endpoint["allowed"] = 6
    with pytest.raises(SelfxError, match="gave no answer") as caught:
        trace("feature-description", tiny_lm, tmp_path / "t", **options)
    assert "answers are kept" in caught.value.hint
    assert "questions" in capsys.readouterr().err, "the cost is told before anything is asked"
    answered = len(list((tmp_path / "t").rglob("answers/*.json")))
    assert answered == 6
    endpoint.update(asked=0, allowed=1000)
    record = trace("feature-description", tiny_lm, tmp_path / "t", **options)
    found = [e for split in ("train", "test") for e in load_examples(tmp_path / "t", split)]
    assert len(found) == sum(record["counts"].values()) >= 6
    assert all(e.answer.startswith("thing ") for e in found)
    assert {e.details["describer"] for e in found} == {"describer"}
    blocks = -(-round(10 * describing.OVERSAMPLE) // 4)
    assert endpoint["asked"] <= 4 * blocks - answered


def test_an_export_is_read_by_layer_and_number(tmp_path):
    for layer in (1, 3):
        said = (Description(f"layer {layer}", "someone"), Description("other", "someone"))
        one = Published(7, evidence(7), said)
        save_neuronpedia([one], tmp_path, model="m", source=f"{layer}-res")
    folder = tmp_path / "v1" / "m"
    many = describers(f"neuronpedia:{folder}", tmp_path)
    found = many([(3, evidence(7)), (1, evidence(7)), (2, evidence(7)), (1, evidence(8))])
    assert [each and each.text for each in found] == ["layer 3", "layer 1", None, None]
    (one,) = describers(f"neuronpedia:{folder / '3-res'}", tmp_path)([(3, evidence(7))])
    assert one.text == "layer 3"


def test_the_archive_is_read_over_all_its_splits(tmp_path):
    (tmp_path / "explanations").mkdir()
    for split, place in (("train", (3, 4)), ("test", (5, 0))):
        about = {"chosen_label": f"in {split}", "all_labels": ["other"], "all_label_scores": {}}
        path = tmp_path / "explanations" / f"{split}_explanations.pkl"
        path.write_bytes(pickle.dumps([(place, about)]))
    many = describers(f"archive:{tmp_path}", tmp_path)
    found = many([(3, evidence(4)), (5, evidence(0)), (3, evidence(0))])
    assert [each and each.text for each in found] == ["in train", "in test", None]


@pytest.mark.parametrize("name", ["", "chat", "local:", "archive:", "m@ftp://x", "@http://x/v1"])
def test_who_is_not_known_is_refused(tmp_path, name):
    with pytest.raises(SelfxError, match="describer"):
        describers(name, tmp_path)


@pytest.mark.parametrize("kind", ["neuronpedia", "archive"])
def test_a_folder_without_descriptions_is_refused(tmp_path, kind):
    with pytest.raises(SelfxError, match="no (descriptions|explanations) in"):
        describers(f"{kind}:{tmp_path}", tmp_path)
