"""Ray Serve's choice of a replica: the one that has the prompt's beginning in its cache, unless it has too much to do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from hrun.serve.cluster.prefixes import PrefixMap


class PrefixRouter(RequestRouter):  # type: ignore[misc]
    """Requests carry the keys of their prompt's pages as the argument ``keys``."""

    def initialize_state(self, imbalance: int = 8) -> None:
        """Initializes the router; Ray calls this once."""
        self._map: PrefixMap[ReplicaID] = PrefixMap(imbalance=imbalance)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each: a full one is passed over."""
        replicas = {replica.replica_id: replica for replica in candidate_replicas}
        ids = list(replicas)
        random.shuffle(ids)
        loads = {i: self.replica_queue_len_cache.get(i) or 0 for i in ids}
        order = self._map.ranked(_keys(pending_request), loads) if loads else []
        return [[replicas[i]] for i in order]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Its cache has the prompt from now on."""
        self._map.sent(_keys(pending_request), replica_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Its cache is gone."""
        super().on_replica_actor_died(replica_id)
        self._map.forget(replica_id)


def _keys(request: PendingRequest | None) -> Sequence[bytes]:
    return request.kwargs.get("keys", ()) if request is not None else ()
