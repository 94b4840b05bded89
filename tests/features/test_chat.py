"""Chat models over HTTP: kept, retried, priced beforehand; nothing that comes back is trusted."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from selfx.errors import SelfxError
from selfx.features.descriptions.asked import (
    LONGEST,
    ChatDescriber,
    ChatWriter,
    first_line,
)
from selfx.features.descriptions.chat import Endpoint, LocalChat, user
from selfx.features.exemplars.excerpts import Evidence, Excerpt

KEY = "sk-secret-123"


class Server:
    """A server on this machine that answers as it is told; `seen` is what it was asked."""

    def __init__(self):
        self.seen, self.script, self.headers = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append(json.loads(body))
                outer.headers.append(dict(self.headers))
                step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                status, sent, headers = step(outer.seen[-1]) if callable(step) else step
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *arguments):
                pass

        self.inner = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.inner.server_port}/v1"
        threading.Thread(target=self.inner.serve_forever, daemon=True).start()


def says(text, **headers):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode(), headers


def fails(status, sent=b"no", **headers):
    return status, sent, headers


@pytest.fixture
def server():
    made = Server()
    yield made
    made.inner.shutdown()
    made.inner.server_close()


@pytest.fixture
def endpoint(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.told = []

    def make(**more):
        given = {"wait": 0.001, "timeout": 5.0, "workers": 1, "announce": server.told.append}
        return Endpoint(server.url, "tester", tmp_path / "answers", **(given | more))

    return make


def test_it_asks_as_the_protocol_says_and_keeps_the_answer(server, endpoint, tmp_path):
    server.script = [lambda body: says(body["messages"][0]["content"].upper())]
    asked = [user("one"), user("two"), user("one")]
    assert endpoint(workers=3)(asked) == ["ONE", "TWO", "ONE"]
    assert server.seen[0]["model"] == "tester"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    before = len(server.seen)
    assert endpoint()(asked) == ["ONE", "TWO", "ONE"]
    assert len(server.seen) == before, "what is on disk is not asked again"
    kept = "".join(path.read_text() for path in (tmp_path / "answers").iterdir())
    assert "two" in kept
    assert KEY not in kept


def test_the_cost_is_told_before_anything_is_asked(server, endpoint):
    server.script = [says("x")]
    chat = endpoint(prices=(1.0, 2.0), max_tokens=100)
    asked = [user("a" * 400), user("b" * 400)]
    cost = chat.cost(asked)
    assert (cost.asked, cost.kept, cost.read, cost.written) == (2, 0, 200, 200)
    assert cost.dollars == pytest.approx(200 * 1e-6 + 200 * 2e-6)
    assert server.seen == []
    chat(asked[:1])
    assert "1 questions, 0 of them answered already" in server.told[0]
    assert chat.cost(asked).kept == 1
    chat(asked[:1])
    assert len(server.told) == 1, "nothing to pay, nothing to say"


@pytest.mark.parametrize("first", [fails(429), fails(503), (200, b"not json", {}), says("  ")])
def test_what_may_pass_is_tried_again(server, endpoint, first):
    server.script = [first, says("at last")]
    assert endpoint()([user("hello")]) == ["at last"]
    assert len(server.seen) == 2


def test_it_waits_as_long_as_the_server_asks(server, endpoint):
    server.script = [fails(429, b"", **{"Retry-After": "0"}), says("ok")]
    assert endpoint(wait=1000.0)([user("hello")]) == ["ok"]


def test_half_way_failure_keeps_finished_work(server, endpoint):
    server.script = [says("first"), says("second"), fails(500)]
    asked = [user(str(n)) for n in range(4)]
    with pytest.raises(SelfxError, match="HTTP 500") as caught:
        endpoint(tries=2)(asked)
    assert "2 of 4 answers are kept" in caught.value.hint
    server.script = [says("later")]
    assert endpoint()(asked) == ["first", "second", "later", "later"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (fails(401, f"bad key {KEY}\x1b[31m".encode()), "HTTP 401 bad key"),
        ((200, b"[]", {}), "without choices"),
        ((200, b'{"choices": []}', {}), "without choices"),
        ((200, b'{"choices": [{"message": {"content": 7}}]}', {}), "without text"),
        ((200, b'{"choices": [{"message": {"content": null}}]}', {}), "without text"),
        ((200, b"[" * 100_000, {}), "not JSON"),
        ((200, b" " * (5 << 20), {}), "more than"),
        ((302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}), "HTTP 302"),
    ],
)
def test_a_useless_answer_is_a_clear_error(server, endpoint, answer, why):
    server.script = [answer]
    with pytest.raises(SelfxError, match=why) as caught:
        endpoint(tries=2)([user("hello")])
    assert KEY not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_nobody_there_and_other_schemes_are_clear_errors(server, endpoint, tmp_path):
    quiet = {"wait": 0.001, "announce": lambda text: None}
    nobody = Endpoint("http://127.0.0.1:9/v1", "m", tmp_path, tries=2, **quiet)
    with pytest.raises(SelfxError, match="gave no answer"):
        nobody([user("hello")])
    with pytest.raises(SelfxError, match="no http address"):
        Endpoint("file:///etc", "m", tmp_path, **quiet)([user("hello")])


def test_a_damaged_answer_on_disk_is_asked_again(server, endpoint, tmp_path):
    server.script = [says("good")]
    endpoint()([user("hello")])
    (path,) = (tmp_path / "answers").iterdir()
    path.write_text("{")
    assert endpoint()([user("hello")]) == ["good"]
    assert len(server.seen) == 2


def fixed(*answers):
    """A chat model that gives these answers in turn, and remembers what it was asked."""

    class Chat:
        name = "fixed"
        seen = ()

        def __call__(self, conversations):
            self.seen = [each[0]["content"] for each in conversations]
            return list(answers[: len(conversations)])

    return Chat()


def evidence():
    on = Excerpt((" the", " big", " cat"), np.array([0, 1.0, 4.0], np.float32), "top")
    off = Excerpt((" no", " dogs"), np.zeros(2, np.float32), "random")
    return Evidence(3, (on, off), promoted=("meow",))


def test_the_describer_shows_marked_texts_and_takes_one_clean_line():
    chat = fixed('\n "cats,\x07 and kittens"\nBecause ...')
    found = ChatDescriber(chat)(evidence())
    assert (found.text, found.by) == ("cats, and kittens", "fixed")
    (asked,) = chat.seen
    assert "the <<big>>(2) <<cat>>(10)" in asked
    assert "- no dogs" in asked
    assert "'meow'" in asked


@pytest.mark.parametrize(
    ("answer", "kept"),
    [("", ""), ("\n\n--\n", ""), ("x" * 9999, "x" * LONGEST), ('"a" or "b"',) * 2],
)
def test_any_answer_becomes_one_bounded_line(answer, kept):
    assert first_line(answer) == kept


def test_written_texts_are_lines_without_numbers():
    got = ChatWriter(fixed("1. A cat sat.\n\n- Two cats.\nThree.\nFour."))(["cats"], 3)
    assert got == [["A cat sat.", "Two cats.", "Three."]]


def test_a_model_that_runs_here_answers_the_same_alone_and_in_a_batch(tiny_lm):
    chat = LocalChat(tiny_lm, max_new_tokens=4, batch_size=2)
    asked = [user("hi"), user("something"), user("hi")]
    answers = chat(asked)
    assert answers[0] == answers[2]
    assert answers[1] == chat(asked[1:2])[0]
    with pytest.raises(SelfxError, match="tokens of question and answer"):
        chat([user("x" * 600)])
