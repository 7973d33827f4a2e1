"""Replicas on Ray Serve: whatever dies, comes or goes, clients see the texts that one engine gives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import Live, until

pytest.importorskip("ray", reason="needs the extra hrun[ray]")

from hrun import Runtime, demo_model_path
from hrun.serve.cluster.ray_serve import Cluster, RayReplicas, connect

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

N_STREAMS = 20
N_CTX = 1024
PATH = demo_model_path()  # large enough to be caught at work
BODY: dict[str, Any] = {"max_tokens": 600, "ignore_eos": True, "temperature": 1.0, "stream": True}


@pytest.fixture(scope="module")
def replicas() -> Iterator[RayReplicas]:
    settings = {"n_ctx": N_CTX, "kv_tokens": 16 * N_CTX}
    cluster = Cluster(PATH, settings, min_replicas=2, max_replicas=2, drain_seconds=5)
    with connect(cluster) as started:
        yield started


@pytest.fixture(scope="module")
def server(replicas: RayReplicas) -> Iterator[Live]:
    with Live(replicas.model, engines=replicas.engines) as live:
        live.loop.call_soon_threadsafe(replicas.watch)
        until(lambda: replicas.n_replicas == 2, "two replicas")
        yield live


def prompt(i: int) -> list[int]:
    return [i + 300] * (5 + 7 * i)


def pids() -> list[int]:
    """Processes of replicas."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ServeReplica:hrun" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def expected(n: int) -> list[str]:
    with Runtime(PATH, n_ctx=N_CTX, kv_tokens=16 * N_CTX, n_threads=1) as runtime:
        with Live(runtime, keep=True) as live:
            clients = [Client(live, i) for i in range(n)]
            for client in clients:
                client.join()
            return [client.text for client in clients]


class Client(threading.Thread):
    def __init__(self, live: Live, i: int, **body: Any) -> None:
        super().__init__(daemon=True)
        self.live, self.body = live, BODY | {"prompt": prompt(i), "seed": i} | body
        self.text = ""
        self.end: Any = None
        self.start()

    def run(self) -> None:
        with self.live.open_stream("/v1/completions", self.body) as stream:
            assert stream.response.status == 200, stream.response.read()
            for event in stream:
                if event == "[DONE]":
                    self.end = event
                elif "error" in event:
                    self.end = event
                    return
                else:
                    self.text += event["choices"][0]["text"]


def test_a_replica_dies_amid_streams(server: Live, replicas: RayReplicas) -> None:
    texts = expected(N_STREAMS)
    clients = [Client(server, i) for i in range(N_STREAMS)]
    until(lambda: all(len(client.text) > 20 for client in clients), "text in every stream")
    victim = pids()[0]
    assert any(client.is_alive() for client in clients)
    os.kill(victim, signal.SIGKILL)
    for client in clients:
        client.join(120)
    assert [client.end for client in clients] == ["[DONE]"] * N_STREAMS
    assert [client.text for client in clients] == texts
    assert replicas.engines.n_moved > 0


def test_a_grammars_text_goes_on_elsewhere(server: Live, replicas: RayReplicas) -> None:
    pytest.importorskip("llguidance", reason="needs the extra hrun[grammar]")
    until(lambda: replicas.n_replicas == 2, "two replicas")
    body = {"structured_outputs": {"regex": "([a-c]{3} ){120}"}, "ignore_eos": False}
    whole = Client(server, 4, **body)
    whole.join(60)
    n_moved = replicas.engines.n_moved
    clients = [Client(server, 4, **body) for _ in range(8)]
    until(lambda: any(len(client.text) > 10 for client in clients))
    os.kill(pids()[0], signal.SIGKILL)
    for client in clients:
        client.join(60)
    assert {client.text for client in clients} == {whole.text} and len(whole.text) == 480
    assert replicas.engines.n_moved > n_moved


def test_scaling_up_and_down_loses_nothing(server: Live, replicas: RayReplicas) -> None:
    statuses: list[int] = []
    ends = threading.Event()

    def ask(i: int) -> None:
        while not ends.is_set():
            body = BODY | {"prompt": prompt(i), "seed": i, "stream": False, "max_tokens": 100}
            statuses.append(server.post("/v1/completions", body).status)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in (1, 2, 1):
            replicas.scale(n, n)
            until(lambda n=n: replicas.n_replicas == n, f"{n} replicas")
            time.sleep(1.0)
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 10 and set(statuses) == {200}


def test_scores_and_embeddings(server: Live) -> None:
    body = {"prompt": prompt(3), "max_tokens": 0, "echo": True, "logprobs": 2}
    with Live(Runtime(PATH, n_ctx=N_CTX, n_threads=1)) as live:
        one = live.post("/v1/completions", body).ok()
    assert server.post("/v1/completions", body).ok()["choices"] == one["choices"]


def test_a_client_that_leaves_frees_the_sequence(server: Live, replicas: RayReplicas) -> None:
    def running() -> int:
        return replicas.engines.stats()["n_running"]

    with server.open_stream("/v1/completions", BODY | {"prompt": [5]}) as stream:
        next(iter(stream))
    until(lambda: not server.service.flights and running() == 0, "an idle front")
    # The replica says so with the next answer.
    server.post("/v1/completions", {"prompt": [5], "max_tokens": 1}).ok()
    assert all(s["n_running"] <= 1 for s in replicas.engines.replicas.values())


def test_errors_of_a_replica_are_the_clients(server: Live) -> None:
    server.post("/v1/completions", {"prompt": [1] * N_CTX, "max_tokens": 9}).refused(
        400, "context_length_exceeded"
    )
    reply = server.post("/v1/completions", {"prompt": [1], "structured_outputs": {"regex": "("}})
    reply.refused(400, "unsupported_grammar")
