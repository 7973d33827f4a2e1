"""The server's limits: which clients may ask, and how much; and its treatment of clients that
leave, lag behind or come at the end.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hrun import Runtime
from hrun.serve import main
from live import Live, ScriptedEngine, text_of, until

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
Scripted = tuple[Live, ScriptedEngine]


# ---- access


def test_keys(serve_path: Path) -> None:
    with Live(Runtime(serve_path, n_threads=1), api_keys=("secret", "other")) as live:
        reply = live.chat(max_tokens=1)
        reply.refused(401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
        live.post(CHAT, HELLO, Authorization="Bearer wrong").refused(401)
        live.post(CHAT, HELLO, Authorization="Bearer ").refused(401)
        live.post(CHAT, HELLO | {"max_tokens": 1}, Authorization="Bearer secret").ok()
        live.post(CHAT, HELLO | {"max_tokens": 1}, **{"X-Api-Key": "other"}).ok()
        live.get("/v1/models").refused(401)
        live.get("/metrics").refused(401)
        for path in ("/health", "/ready"):
            live.get(path).ok()


def test_keys_do_not_share_cached_prompts(serve_path: Path) -> None:
    runtime = Runtime(serve_path, n_threads=1)
    body = {"prompt": "the sea and the land " * 8, "max_tokens": 1}

    def cached(live: Live, key: str) -> int:
        answer = live.post("/v1/completions", body, Authorization=f"Bearer {key}").ok()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    with Live(runtime, api_keys=("one", "two")) as live:
        assert cached(live, "one") == 0 and cached(live, "one") > 0
        assert cached(live, "two") == 0 and cached(live, "two") > 0


def test_other_sites_pages_may_not_ask(live: Live) -> None:
    for origin in ("https://example.org", "null", "http://localhost:1"):
        reply = live.post(CHAT, HELLO, Origin=origin)
        reply.refused(403, "origin_not_allowed")
        assert "access-control-allow-origin" not in reply.headers
    own = f"http://127.0.0.1:{live.port}"
    live.post(CHAT, HELLO | {"max_tokens": 1}, Origin=own).ok()
    live.get("/health", Host="evil.example:80").refused(403, "host_not_allowed")
    live.get("/health", Host="localhost").ok()
    live.get("/health", Host="[::1]:80").ok()


def test_cors_for_those_that_are_named(serve_path: Path) -> None:
    origin = "https://example.org"
    with Live(Runtime(serve_path, n_threads=1), cors_origins=(origin,), api_keys=("k",)) as live:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        reply = live.ask("OPTIONS", CHAT, headers=asked)
        assert reply.status == 200 and reply.headers["access-control-allow-origin"] == origin
        reply = live.post(CHAT, HELLO, Origin=origin)
        assert reply.status == 401 and reply.headers["access-control-allow-origin"] == origin
        live.post(CHAT, HELLO, Origin="https://other.org").refused(403)
        reply = live.ask("OPTIONS", CHAT, headers=asked | {"Origin": "https://other.org"})
        assert reply.status == 200 and "access-control-allow-origin" not in reply.headers


def test_localhost_is_this_machine_at_any_port(serve_path: Path) -> None:
    with Live(Runtime(serve_path, n_threads=1), cors_origins=("localhost",)) as live:
        for origin in ("http://localhost", "http://127.0.0.1:3000", "http://[::1]:8080"):
            live.post(CHAT, HELLO | {"max_tokens": 1}, Origin=origin).ok()
        for origin in ("http://notlocalhost", "http://localhost.evil.com", "http://evil.com", "x"):
            live.post(CHAT, HELLO, Origin=origin).refused(403, "origin_not_allowed")


def test_slots_are_told_where_that_was_asked_for(serve_path: Path, live: Live) -> None:
    live.get("/slots").refused(501)
    with Live(Runtime(serve_path, n_threads=1), n_parallel=3, slots=True) as other:
        slots = other.get("/slots").ok()
        assert [slot["id"] for slot in slots] == [0, 1, 2]
        assert not any(slot["is_processing"] for slot in slots)


# ---- bodies


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[1]", 400), (b"3", 400), (b'{"messages": NaN}', 400),
        (b"\xff\xfe", 400), (b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", 400),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400), (b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 1}', 200),
        (b'{"messages": [{"role": "user", "content": "a\\u0000b"}], "max_tokens": 1}', 200),
        (b'{"messages": [{"role": "user", "content": "a"}], "user": "\\ud800", "cache_salt": "\\uDFFF", "max_tokens": 1}', 200),
        (b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": 1}}', 400),
    ],
)  # fmt: skip
def test_bodies(live: Live, body: bytes, status: int) -> None:
    assert live.post(CHAT, body).status == status
    assert live.get("/health").ok()


def test_content_types(live: Live) -> None:
    live.post(CHAT, HELLO, **{"Content-Type": "text/plain"}).refused(415)
    body = HELLO | {"max_tokens": 1}
    live.post(CHAT, body, **{"Content-Type": "application/json; charset=utf-8"}).ok()


def test_a_body_that_is_too_large(serve_path: Path) -> None:
    with Live(Runtime(serve_path, n_threads=1), max_body_bytes=1000) as live:
        live.post(CHAT, b" " * 2000).refused(413)


def test_a_body_that_never_ends(serve_path: Path) -> None:
    with Live(Runtime(serve_path, n_threads=1), body_seconds=0.05) as live:
        with socket.create_connection(("127.0.0.1", live.port)) as sock:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{"
            sock.sendall(head.encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 408")


def test_an_error_names_no_folder(live: Live) -> None:
    from hrun.serve.errors import sanitized

    assert sanitized("/home/me/models/a.gguf: bad at 0xdeadbeef01") == "a.gguf: bad at 0x..."


def test_request_ids(live: Live) -> None:
    assert live.get("/health", **{"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert live.get("/health", **{"X-Request-Id": "a b"}).headers["x-request-id"].startswith("req_")


# ---- room


def test_a_prompt_that_can_never_fit_is_refused_at_once(live: Live) -> None:
    message = live.chat(messages=[{"role": "user", "content": "x" * 2000}]).refused(
        400, "context_length_exceeded"
    )
    assert str(live.runtime.n_ctx) in message
    live.chat(max_tokens=100000).refused(400, "context_length_exceeded")


def test_a_full_queue_refuses_with_a_time(serve_path: Path) -> None:
    runtime = Runtime(serve_path, n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: "abc")
    engine.free = False
    with Live(runtime, n_parallel=2, max_queue=1) as live:
        streams = [live.open_stream(CHAT, HELLO | {"stream": True}) for _ in range(3)]
        opened = [stream.__enter__() for stream in streams]
        reply = live.chat()
        reply.refused(429, "queue_full")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
        live.chat(n=4).refused(400)
        assert live.get("/health").ok()
        assert live.metric("hrun:admission_rejections_total") == 1
        engine.free = True
        engine.step()
        assert [text_of(list(stream)) for stream in opened] == ["abc"] * 3
        live.chat().ok()
        live.idle()


def test_a_key_has_its_share(serve_path: Path) -> None:
    runtime = Runtime(serve_path, n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: "abc")
    engine.free = False
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    with Live(runtime, api_keys=("one", "two"), max_per_key=1) as live:
        with live.open_stream(CHAT, HELLO | {"stream": True}, **one) as stream:
            live.post(CHAT, HELLO, **one).refused(429, "rate_limit_exceeded")
            engine.free = True
            live.post(CHAT, HELLO, **two).ok()
            engine.step()
            list(stream)


def test_a_request_has_its_time(serve_path: Path) -> None:
    runtime = Runtime(serve_path, n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: "abc")
    engine.free = False
    with Live(runtime, request_seconds=0.05) as live:
        reply = live.chat()
        reply.refused(408, "timeout")
        assert reply.headers["x-should-retry"] == "false"
        chunks = live.events(CHAT, HELLO | {"stream": True})
        assert chunks[-1] == "[DONE]" and chunks[-2]["error"]["code"] == "timeout"
        live.idle()


# ---- clients that leave


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_sequence(scripted: Scripted, stream: bool) -> None:
    live, engine = scripted
    engine.free = False
    connection = live.connect()
    connection.request(
        "POST", CHAT, json.dumps(HELLO | {"stream": stream}), {"Content-Type": "application/json"}
    )
    until(lambda: engine.handles, "a sequence")
    connection.close()
    until(lambda: engine.handles[0].cancelled, "the cancellation")
    live.idle()
    assert live.metric("hrun:client_disconnects_total") == 1


def test_a_storm_of_clients_that_leave_frees_everything(live: Live) -> None:
    live.runtime.engine.clear_cache()
    data = json.dumps(HELLO | {"max_tokens": 400, "ignore_eos": True, "stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data
    for n in range(40):
        with socket.create_connection(("127.0.0.1", live.port)) as sock:
            sock.sendall(whole[: len(whole) - n % 5 * 10])  # some before the body has ended
            if n % 15 == 0:
                sock.recv(200)
    live.idle()
    live.chat(max_tokens=2).ok()


def test_a_client_that_does_not_read_costs_no_memory(serve_path: Path) -> None:
    """Its sequence rests; after write_seconds it is gone."""
    runtime = Runtime(serve_path, n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: [65] * 300_000)
    runtime.n_ctx = 10**7
    with Live(runtime, write_seconds=0.3) as live:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", live.port))
            data = json.dumps(HELLO | {"stream": True}).encode()
            sock.sendall(
                b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % (CHAT.encode(), len(data)) + data
            )
            until(lambda: engine.handles, "a sequence")
            until(lambda: engine.handles[0].cancelled, "the end of patience")
            assert engine.handles[0].at < 10**5
        until(lambda: not live.service.flights)


def test_pings_while_nothing_comes(scripted: Scripted) -> None:
    live, engine = scripted
    engine.free = False
    with live.open_stream(CHAT, HELLO | {"stream": True}) as stream:
        for line in iter(stream.response.readline, b""):
            if line == b": ping\n":
                break
        engine.free = True
        engine.step()
        assert list(stream)[-1] == "[DONE]"


# ---- the end


def test_draining_finishes_what_runs_and_refuses_what_is_new(scripted: Scripted) -> None:
    live, engine = scripted
    engine.free = False
    with live.open_stream(CHAT, HELLO | {"stream": True}) as stream:
        until(lambda: engine.handles)
        live.drain()
        until(lambda: live.service.admission.draining)
        live.get("/ready").refused(503, "draining")
        reply = live.chat()
        reply.refused(503, "draining")
        assert reply.headers["retry-after"]
        live.get("/health").ok()
        engine.free = True
        engine.step()
        assert text_of(list(stream)) == "Hello, world."
    until(lambda: live.server.should_exit)


def test_answers_that_take_too_long_end_with_an_error(serve_path: Path) -> None:
    runtime = Runtime(serve_path, n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: "abc")
    engine.free = False
    with Live(runtime, drain_seconds=0.05) as live:
        with live.open_stream(CHAT, HELLO | {"stream": True}) as stream:
            until(lambda: engine.handles)
            live.drain()
            chunks = list(stream)
            assert chunks[-1] == "[DONE]" and chunks[-2]["error"]["code"] == "draining"


@pytest.fixture
def command(serve_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the command; its address is the first line's last word."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "hrun.serve", "-m", str(serve_path), "-t", "1", "--port", "0", *flags],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_says_where_and_ends_by_a_signal(command: Callable, number, code) -> None:
    process = command()
    line = process.stderr.readline()
    assert line.startswith("hrun-serve: ") and "http://127.0.0.1:" in line
    port = int(line.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    process.send_signal(number)
    assert process.wait(60) == code
    assert process.stderr.read() == ""


def test_flags_that_make_no_sense(serve_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, word in (
        (["--host", "0.0.0.0"], "--api-key"),
        (["--chat-template-kwargs", "[1]"], "object"),
        (["--timeout", "nan"], "--timeout"),
        (["--reasoning-field", "thoughts"], "--reasoning-field"),
        (["--tool-format", "telepathy"], "hermes"),
    ):
        assert main(["-m", str(serve_path), "--port", "0", *flags]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hrun-serve: ") and word in line
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["-m", str(serve_path), "--port", port]) == 1
        assert "cannot listen" in capsys.readouterr().err


def test_one_byte_at_a_time(live: Live) -> None:
    data = json.dumps(HELLO | {"max_tokens": 1}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data
    with socket.create_connection(("127.0.0.1", live.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(whole)):
            sock.sendall(whole[i : i + 1])
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_health_answers_while_a_long_prompt_is_read(live: Live) -> None:
    done = threading.Event()

    def load() -> None:
        live.post("/v1/completions", {"prompt": [7] * 500, "max_tokens": 10, "echo": True, "logprobs": 1})  # fmt: skip
        done.set()

    thread = threading.Thread(target=load)
    thread.start()
    while not done.is_set():
        assert live.get("/health").ok()
    thread.join()
