"""Replicas on Ray Serve: whatever dies, comes or goes, clients see the texts that one engine gives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Live, until

pytest.importorskip("ray", reason="needs the extra hrun[ray]")

from hrun import Runtime
from hrun.serve.cluster.ray_serve import Cluster, RayReplicas, connect
from streams import BODY, N_CTX, PATH, Client, expected, prompt, scaled_under_load

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

N_STREAMS = 20


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
    statuses = scaled_under_load(server, replicas, (1, 2, 1), until)
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
