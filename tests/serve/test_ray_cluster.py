"""Two machines of a Ray cluster, as two raylets on this one: whatever goes or comes, clients see the same texts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import Live, until

pytest.importorskip("ray", reason="needs the extra hrun[ray]")

from test_ray import N_STREAMS, pids

from hrun.serve.cluster.ray_serve import Cluster, RayReplicas, connect
from streams import N_CTX, PATH, Client, expected, scaled_under_load

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    from ray.cluster_utils import Cluster as Machines

    cluster = Machines(initialize_head=True, head_node_args=MACHINE | {"include_dashboard": False})
    cluster.add_node(**MACHINE)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def replicas(machines: Any) -> Iterator[RayReplicas]:
    settings = {"n_ctx": N_CTX, "kv_tokens": 16 * N_CTX}
    with connect(Cluster(PATH, settings, address=machines.address, min_replicas=2, max_replicas=2, drain_seconds=5)) as started:  # fmt: skip
        yield started


@pytest.fixture(scope="module")
def server(replicas: RayReplicas) -> Iterator[Live]:
    with Live(replicas.model, engines=replicas.engines) as live:
        live.loop.call_soon_threadsafe(replicas.watch)
        yield live


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return expected(N_STREAMS)


def machines_of(pid: int, machines: Any) -> Any:
    """Returns the raylet whose replica this process is."""
    for machine in machines.list_all_nodes():
        processes = [p.process.pid for found in machine.all_processes.values() for p in found]
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if int(fields[1]) in processes:  # the parent
            return machine
    return None


def streams(server: Live) -> list[Client]:
    clients = [Client(server, i) for i in range(N_STREAMS)]
    until(lambda: all(len(client.text) > 20 for client in clients), "text in every stream")
    assert any(client.is_alive() for client in clients)
    return clients


def check(clients: list[Client], texts: list[str]) -> None:
    for client in clients:
        client.join(120)
    assert [client.end for client in clients] == ["[DONE]"] * N_STREAMS
    assert [client.text for client in clients] == texts


def test_a_replica_dies_on_one_machine(
    server: Live, replicas: RayReplicas, machines: Any, texts: list[str]
) -> None:
    until(lambda: replicas.n_replicas == 2, "two replicas")
    owners = {machines_of(pid, machines) for pid in pids()}
    assert len(owners) == 2 and None not in owners  # one on each machine
    clients = streams(server)
    os.kill(pids()[0], signal.SIGKILL)
    check(clients, texts)
    assert replicas.engines.n_moved > 0


def test_a_machine_dies_amid_streams(
    server: Live, replicas: RayReplicas, machines: Any, texts: list[str]
) -> None:
    until(lambda: replicas.n_replicas == 2, "two replicas")
    (other,) = machines.worker_nodes
    clients, n_moved = streams(server), replicas.engines.n_moved
    machines.remove_node(other, allow_graceful=False)
    check(clients, texts)
    assert replicas.engines.n_moved > n_moved
    machines.add_node(**MACHINE)
    until(lambda: replicas.n_replicas == 2, "a replica on the new machine")


def test_scaling_over_machines_loses_nothing(server: Live, replicas: RayReplicas) -> None:
    statuses = scaled_under_load(server, replicas, (1, 2, 1), until)
    assert len(statuses) > 10 and set(statuses) == {200}
