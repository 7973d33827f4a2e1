"""Starts replicas on Ray Serve, on this machine or in a cluster, and sends requests to them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hrun.errors import GenerationError
from hrun.serve.cluster.model import Facts, RemoteModel
from hrun.serve.cluster.remote import Lost, RemoteEngines
from hrun.serve.cluster.replica import Batch, Replica

APP = "hrun"
_DEPLOYMENT = "Replica"
_NAMESPACE = "hrun"
_OBJECT_STORE_BYTES = 100 << 20  # messages are small
_LOAD_SECONDS = 600.0
_WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Cluster:
    """The settings that Ray is asked to serve with."""

    model_path: Path
    settings: dict[str, Any] = field(default_factory=dict)  # the Runtime's
    address: str | None = (
        None  # a cluster's address; None: a cluster on this machine, which ends with the server
    )
    app: str = APP
    min_replicas: int = 1
    max_replicas: int = 1
    target_requests: int = 32  # under way at a replica, above which another one is started
    scale_down_seconds: float = 600.0  # a replica's cache is worth something
    n_threads: int = 1  # of each replica
    n_gpus: float = 0.0  # of each replica
    stall_seconds: float = 120.0
    drain_seconds: float = 30.0


class RayReplicas:
    """A :class:`~hrun.serve.cluster.remote.Caller` on a deployment of Ray Serve."""

    def __init__(self, cluster: Cluster) -> None:
        """Starts the replicas, or joins those that another front has started.  Waits until one has loaded the model.

        Raises GenerationError, ArgumentError.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
        os.environ.setdefault("RAY_DISABLE_DOCKER_CPU_WARNING", "1")
        import ray
        from ray import serve

        self.cluster = cluster
        self.n_replicas = 0
        self.owns = False  # the app ends with this process
        self._watcher: asyncio.Task[None] | None = None
        _quiet()
        with _ray_errors("Ray cannot be started"):
            if cluster.address is None:
                ray.init(
                    num_cpus=max(cluster.n_threads, 1) * cluster.max_replicas,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **_COMMON,
                )
            else:
                ray.init(address=cluster.address, **_COMMON)
        try:
            with _ray_errors("the replicas cannot be started"):
                self.owns = cluster.app not in serve.status().applications if self._runs() else True
                if self.owns:
                    serve.start(proxy_location="Disabled", logging_config=_LOGGING)
                    serve.run(
                        _deployment(cluster), name=cluster.app, route_prefix=None, blocking=False
                    )
                handle = serve.get_deployment_handle(_DEPLOYMENT, cluster.app)
                self._handle = handle
                self.facts: Facts = handle.facts.remote().result(timeout_s=_LOAD_SECONDS)
            self._look()
            pre_tokenizer = cluster.settings.get("pre_tokenizer")
            self.model = RemoteModel(cluster.model_path, self.facts, pre_tokenizer)
            self.engines = RemoteEngines(self, self.model, self.facts)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _runs() -> bool:
        """Does Ray Serve run already?"""
        import ray
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

        try:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        except ValueError:
            return False
        return True

    def scale(self, min_replicas: int, max_replicas: int) -> None:
        """Changes the number of replicas; sequences on a replica that goes are moved or finish."""
        from dataclasses import replace

        from ray import serve

        self.cluster = replace(self.cluster, min_replicas=min_replicas, max_replicas=max_replicas)
        serve.run(
            _deployment(self.cluster), name=self.cluster.app, route_prefix=None, blocking=False
        )

    # ---- requests

    async def generate(self, ask: Any, keys: Sequence[bytes]) -> AsyncIterator[Batch]:
        """A sequence."""
        response = self._handle.options(stream=True).generate.remote(ask, keys=list(keys))
        ended = False
        try:
            with _lost():
                async for batch in response:
                    yield batch
            ended = True
        finally:
            if not ended:
                response.cancel()

    async def call(self, method: str, *args: Any, keys: Sequence[bytes]) -> Any:
        """The result of another method."""
        response = self._handle.options(method_name=method).remote(*args, keys=list(keys))
        try:
            with _lost():
                return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    # ---- watching

    def watch(self) -> None:
        """Keeps ``n_replicas`` true, from now on."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        from ray import serve

        try:
            app = serve.status().applications.get(self.cluster.app)
        except Exception:  # the cluster's head is away: replicas go on
            return
        deployment = app.deployments.get(_DEPLOYMENT) if app is not None else None
        states = deployment.replica_states if deployment is not None else {}
        self.n_replicas = sum(n for state, n in states.items() if str(state).endswith("RUNNING"))

    def close(self) -> None:
        """Ends what this process has started."""
        import ray
        from ray import serve

        if self._watcher is not None:
            self._watcher.cancel()
        if self.owns and self.cluster.address is not None:
            try:
                serve.delete(self.cluster.app)
            except Exception as error:  # the cluster is gone, and the app with it
                print(f"hrun-serve: {error}", file=sys.stderr)
        ray.shutdown()  # this ends a cluster of our own


@contextmanager
def connect(cluster: Cluster) -> Iterator[RayReplicas]:
    """Replicas that run.  Raises GenerationError, ModelFileError, ArgumentError."""
    replicas = RayReplicas(cluster)
    try:
        yield replicas
    finally:
        replicas.close()


_COMMON: dict[str, Any] = {
    "namespace": _NAMESPACE,
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "configure_logging": True,
    "ignore_reinit_error": False,
}
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


def _deployment(cluster: Cluster) -> Any:
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    low, high = cluster.min_replicas, cluster.max_replicas
    scaling: dict[str, Any] = {"num_replicas": low}
    if high > low:
        scaling = {
            "autoscaling_config": {
                "min_replicas": low,
                "max_replicas": high,
                "target_ongoing_requests": cluster.target_requests,
                "upscale_delay_s": 5.0,
                "downscale_delay_s": cluster.scale_down_seconds,
            }
        }
    deployment = serve.deployment(
        name=_DEPLOYMENT,
        max_ongoing_requests=10_000,  # the engine has a queue of its own, and the front a bound
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=cluster.drain_seconds,
        health_check_period_s=5.0,
        ray_actor_options={"num_cpus": max(cluster.n_threads, 1), "num_gpus": cluster.n_gpus},
        request_router_config=RequestRouterConfig(
            request_router_class="hrun.serve.cluster.router:PrefixRouter"
        ),
        **scaling,
    )(Replica)
    settings = cluster.settings | {"n_threads": cluster.n_threads}
    return deployment.bind(str(cluster.model_path), settings, cluster.stall_seconds)


def _quiet() -> None:
    """Ray's own words go to its log files."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _ray_errors(what: str) -> Iterator[None]:
    """Shows every error that Ray raises as one line."""
    import ray

    try:
        yield
    except (ray.exceptions.RayError, RuntimeError, ConnectionError, TimeoutError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise GenerationError(f"{what}: {lines[-1] if lines else type(error).__name__}") from None


@contextmanager
def _lost() -> Iterator[None]:
    """Translates the death of a replica or its machine, in whichever way Ray reports it."""
    from ray.exceptions import RayActorError, RaySystemError, RayTaskError, WorkerCrashedError
    from ray.serve.exceptions import (
        DeploymentUnavailableError,
        ReplicaUnavailableError,
        RequestCancelledError,
    )

    gone = (
        RayActorError,
        RaySystemError,
        WorkerCrashedError,
        DeploymentUnavailableError,
        ReplicaUnavailableError,
        RequestCancelledError,
    )
    try:
        yield
    except gone as error:
        raise Lost(str(error)) from None
    except RayTaskError as error:
        raise GenerationError(f"a replica failed: {str(error).splitlines()[-1]}") from error
