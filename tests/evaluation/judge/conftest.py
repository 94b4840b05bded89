"""An endpoint on this machine that rates by a rule, and a folder with descriptions to rate."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

KEY = "sk-never-written-anywhere"
PAIR = re.compile(r"Predicted: (.*)\nExpected: (.*)\n\nReturn a number")


def rule(predicted, expected):
    """What the endpoint says: 5 for the same words, else one more for each word in common."""
    if predicted == "garble":
        return "It depends."
    if predicted == expected:
        return "Rating: 5/5"
    return f" {1 + min(len({*predicted.split()} & {*expected.split()}), 3)}\n"


def says(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


class Endpoint:
    """`asked`: the pairs that it was asked about; `before(n)`: what to say first of all instead,
    `(status, bytes)`, to the nth request, or None."""

    def __init__(self):
        self.asked, self.headers, self.bodies, self.before = [], [], [], lambda n: None
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    early = outer.before(len(outer.bodies))
                pair = PAIR.search(body["messages"][-1]["content"]).groups()
                outer.asked += [] if early else [pair]
                status, sent = early or says(rule(*pair))
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *arguments):
                pass

        self.inner = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.inner.server_port}/v1"
        threading.Thread(target=self.inner.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = Endpoint()
    yield made
    made.inner.shutdown()
    made.inner.server_close()


TRUE = ["big red fish", "sea salt", "old stone hut", "verbs of motion"]
SAID = {
    ("runs/me", "none"): ["big red fish", "salt of the sea", "", "garble"],
    ("runs/me", "zero"): ["a fish", "a fish", "a fish", "a fish"],
    ("gold", "none"): TRUE,
    ("selfie-oracle", "none"): ["x", "y", "z", "verbs"],
}
OTHERS = [["a red fish", "y"], ["sea salt", "q"], ["z"], ["garble"]]


@pytest.fixture
def folder(tmp_path):
    """An evaluation of four features."""
    made = tmp_path / "scores"
    write_folder(made, SAID)
    return made


def write_folder(path, said, task="feature-description"):
    path.mkdir(exist_ok=True)
    names = [{"explainer": explainer, "control": control} for explainer, control in said]
    lift = {"explainer": "runs/me", "control": "zero"}
    scores = {"task": task, "target": "t", "n": 4, "rows": names, "lift": lift}
    (path / "scores.json").write_text(json.dumps(scores))
    rows = [
        {"id": f"f{i}", **name, "group": f"g{i // 2}", "answer": TRUE[i], "prediction": texts[i]}
        for name, texts in zip(names, said.values(), strict=True)
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path / "predictions.parquet")
    texts = {f"f{i}": [said["selfie-oracle", "none"][i], *OTHERS[i]] for i in range(4)}
    oracle = {"explainer": "selfie-oracle", "control": "none", "texts": texts}
    (path / "candidates.json").write_text(json.dumps({"rows": [oracle]}))


@pytest.fixture
def evaluate_anew(folder):
    """A function: the folder as an evaluation of other answers, or another task, leaves it."""
    return lambda said=SAID, **more: write_folder(folder, {**SAID, **said}, **more)
