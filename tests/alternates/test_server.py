"""The client against a small server of ours, and against `transformers serve`."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from altpo_ds.alternates import server as module
from altpo_ds.alternates.prompts import Rendered
from altpo_ds.alternates.question import Request, Sample
from altpo_ds.alternates.run import generate_alternates
from altpo_ds.alternates.server import ServerBackend, served_model
from altpo_ds.config.errors import UserError
from altpo_ds.config.schema import AlternatesConfig, RunConfig
from altpo_ds.engine.distributed import World

CHAT = Rendered("Say it differently.", "chat", ("Q:",), "Be brief.")
TEXT = Rendered("Differently:", "text", ("\n",), None)


@dataclass
class Server:
    """Answers with the seed; `statuses` are the first replies' status codes."""

    statuses: list[int] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["only-one"])
    delay: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    busy: int = 0
    busiest: int = 0
    raw: bytes | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def reply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("temperature") == 0.0:
            text = "I rate it 7 of 9." if "good" in str(body) else "No idea."
        else:
            text = f"Answer {body['seed']}. Q: next"
        reason = "length" if body["seed" if "seed" in body else "max_tokens"] % 2 else "stop"
        content = {"message": {"content": text}} if "chat" in path else {"text": text}
        return {"choices": [content | {"finish_reason": reason}], "usage": {"completion_tokens": 5}}


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": name} for name in server.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.bodies.append(body | {"path": self.path})
                server.keys.add(self.headers.get("Authorization"))
                status = server.statuses.pop(0) if server.statuses else 200
                server.busy += 1
                server.busiest = max(server.busiest, server.busy)
            time.sleep(server.delay)
            with server.lock:
                server.busy -= 1
            if status != 200:
                self.answer({"error": {"message": "not\nnow"}}, status)
            else:
                self.answer(server.reply(self.path, body))

        def answer(self, reply: dict[str, Any], status: int = 200) -> None:
            data = server.raw if server.raw is not None else json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fake = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    yield fake
    http.shutdown()
    http.server_close()


def backend(server: Server, **options: Any) -> ServerBackend:
    settings = {"backend": "openai", "max_new_tokens": 30, "top_p": 0.9}
    return ServerBackend(AlternatesConfig.model_validate(settings | {"server": {"url": server.url} | options}))


def sampled(client: ServerBackend, requests: list[Request], done: tuple[int, ...] = ()) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = {}
    client.sample(requests, done, lambda answered: found.update({request.number: s for request, s in answered}))
    return found


def test_each_sample_is_a_request_with_its_seed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    found = sampled(backend(server, body={"top_k": 50}), [Request(3, 0, CHAT, (10, 11)), Request(4, 5, TEXT, (12,))])
    assert found == {
        3: [Sample("Answer 10.", 5, True), Sample("Answer 11.", 5, True)],
        4: [Sample("Answer 12. Q: next", 5, True)],
    }
    by_seed = {body["seed"]: body for body in server.bodies}
    common = {"model": "only-one", "max_tokens": 30, "temperature": 1.0, "top_p": 0.9, "top_k": 50}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it differently."}]
    assert by_seed[11] == common | {
        "seed": 11,
        "stop": ["Q:"],
        "messages": messages,
        "path": "/v1/chat/completions",
    }
    assert by_seed[12] == common | {"seed": 12, "stop": ["\n"], "prompt": "Differently:", "path": "/v1/completions"}
    assert server.keys == {"Bearer not-a-key"}


def test_an_answer_that_reached_the_limit_is_cut_off(server: Server) -> None:
    plain = Rendered("x", "chat", (), None)
    found = sampled(backend(server), [Request(0, 0, plain, (10, 11))])
    assert [sample.finished for sample in found[0]] == [True, False]


def test_no_more_requests_at_a_time_than_allowed(server: Server) -> None:
    server.delay = 0.02
    requests = [Request(number, 0, CHAT, (number, number + 100)) for number in range(12)]
    assert len(sampled(backend(server, concurrency=3), requests)) == 12
    assert server.busiest == 3


def test_what_is_done_is_not_asked_again(server: Server) -> None:
    requests = [Request(number, 0, CHAT, (number,)) for number in range(4)]
    assert sorted(sampled(backend(server), requests, done=(0, 2))) == [1, 3]
    assert sorted(body["seed"] for body in server.bodies) == [1, 3]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    server.statuses = [status, status]
    assert sampled(backend(server, retries=2), [Request(0, 0, CHAT, (8,))])[0][0].text == "Answer 8."
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("statuses", "tries", "expected"),
    [([503] * 9, 3, "it answers 503"), ([401], 1, "it answers 401"), ([422], 1, "it answers 422")],
)
def test_a_refusal_is_one_clear_line(server: Server, statuses: list[int], tries: int, expected: str) -> None:
    server.statuses = statuses
    with pytest.raises(UserError) as error:
        sampled(backend(server, retries=2), [Request(0, 0, CHAT, (8,))])
    assert re.match(rf"alternates.server.url = {server.url}: {expected}: .*continues from here$", str(error.value))
    assert len(server.bodies) == tries


def test_a_server_that_is_away_or_too_slow(server: Server) -> None:
    server.delay = 0.3
    with pytest.raises(UserError, match="no answer \\(ReadTimeout"):
        sampled(backend(server, timeout=0.05, retries=1), [Request(0, 0, CHAT, (8,))])
    assert len(server.bodies) == 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match="no answer \\(ConnectError"):
        served_model(AlternatesConfig.model_validate({"server": {"url": server.url, "retries": 1}}).server)


@pytest.mark.parametrize("raw", [b"<html>", b"[1]", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_a_reply_that_is_none(server: Server, raw: bytes) -> None:
    client = backend(server)
    server.raw = raw
    with pytest.raises(UserError, match=r"its reply (is no JSON|has no answer)"):
        sampled(client, [Request(0, 0, CHAT, (8,))])


def test_the_model_must_be_known(server: Server) -> None:
    server.models = ["one", "two"]
    with pytest.raises(UserError, match=r"it serves one, two; set alternates\.server\.model"):
        backend(server)
    assert backend(server, model="two").model == "two"


def test_ratings_are_the_first_digit(server: Server) -> None:
    prompts = [Rendered(text, "chat", (), None) for text in ("a good one", "another")]
    assert backend(server).rate(prompts) == [7.0, 0.0]


def test_a_start_after_a_failure_asks_only_for_the_rest(
    world: World, run: Callable[..., RunConfig], server: Server
) -> None:
    options = {"url": server.url, "retries": 0, "concurrency": 1, "model": "m"}
    config = run(rows=9, backend="openai", server=options, min_rouge=0, max_rouge=1, attempts=1, batch_size=8)
    server.statuses = [200] * 10 + [500]
    with pytest.raises(UserError, match="it answers 500"):
        generate_alternates(config)
    answered = {body["seed"] for body in server.bodies[:9]}  # three questions, three samples each
    server.bodies.clear()
    summary = generate_alternates(config)
    assert not answered & {body["seed"] for body in server.bodies}
    assert len(server.bodies) == 9 * 3 - 9
    assert summary.drawn == 27
    row = json.loads(Path(summary.file).read_text().splitlines()[0])
    assert (row["meta"]["model"], row["meta"]["backend"]) == ("server:m", "openai")
    assert "log_probs" not in row["meta"]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["chat", "few_shot"])
def test_a_real_server(world: World, run: Callable[..., RunConfig], serve: tuple[str, str], prompt: str) -> None:
    url, model = serve
    config = run(
        rows=3,
        backend="openai",
        prompt=prompt,
        count=2,
        attempts=2,
        max_new_tokens=40,
        min_rouge=0,
        server={"url": url, "model": model, "concurrency": 2, "timeout": 300},
    )
    summary = generate_alternates(config)
    assert summary.questions == 3
    assert summary.drawn >= 6
    assert summary.tokens >= summary.drawn
    assert summary.alternates + sum(summary.rejected.values()) == summary.drawn
    texts = [t for row in map(json.loads, Path(summary.file).read_text().splitlines()) for t in row["alternates"]]
    assert len(set(texts)) == len(texts) > 0
