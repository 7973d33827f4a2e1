"""Endpoints that describe the model and the state of the server: models, health, version,
properties, metrics.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

import hrun
from hrun._core import samplers
from hrun.serve.admission import draining
from hrun.serve.endpoint import json_response
from hrun.serve.errors import ApiError
from hrun.serve.service import Service


def _entry(service: Service, name: str) -> dict[str, Any]:
    runtime = service.runtime
    model = runtime.model
    return {
        "id": name,
        "object": "model",
        "aliases": sorted(service.options.aliases),
        "created": service.created,
        "owned_by": "hrun",
        "root": runtime.name,
        "parent": None,
        "max_model_len": runtime.n_ctx,
        "permission": [],
        "meta": {
            "n_ctx_train": model.n_ctx_train,
            "n_embd": model.n_embd,
            "n_params": model.n_params,
            "n_vocab": runtime.n_vocab,
            "size": model.bytes,
            "architecture": model.architecture,
        },
    }


async def models(request: Request) -> Response:
    """GET /v1/models."""
    service: Service = request.app.state.service
    names = service.options.aliases or (service.name,)
    return json_response({"object": "list", "data": [_entry(service, name) for name in names]})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    service: Service = request.app.state.service
    name = request.path_params["id"]
    service.check_model(name)
    return json_response(_entry(service, name))


async def health(request: Request) -> Response:
    """GET /health: does the process live, and does the engine get on?"""
    service: Service = request.app.state.service
    if service.stalled:
        raise ApiError(503, "the engine has computed nothing for a while", code="stalled")
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /ready: are requests taken?"""
    service: Service = request.app.state.service
    if not service.ready:
        raise draining()
    return json_response({"status": "ready"})


async def version(request: Request) -> Response:
    """GET /version."""
    service: Service = request.app.state.service
    return json_response({"version": hrun.__version__, "system_fingerprint": service.fingerprint})


async def props(request: Request) -> Response:
    """GET /props: read only."""
    service: Service = request.app.state.service
    runtime = service.runtime
    sampling = {row.name: row.default for row in samplers()}
    sampling |= runtime.recommended_sampling | dict(service.options.sampling)
    seed = service.options.seed
    return json_response({
        "model": service.name,
        "model_alias": service.name,
        "model_path": runtime.model_path.name,
        "description": runtime.description,
        "build_info": f"hrun {hrun.__version__}",
        "system_fingerprint": service.fingerprint,
        "total_slots": service.admission.n_parallel,
        "max_queue": service.admission.max_queue,
        "default_generation_settings": {"n_ctx": runtime.n_ctx, "params": sampling | {"seed": -1 if seed is None else seed}},
        "kv_tokens": service.engines.n_pages * 64,
        "n_replicas": service.engines.n_replicas,
        "chat_template": service.chat_template or None,
        "tool_format": service.dialect.row.name if service.dialect.row else None,
        "reasoning": service.dialect.reasoning is not None,
        "bos_token": _token(service, runtime.tokenizer.bos_id),
        "eos_token": _token(service, runtime.tokenizer.eos_id),
        "modalities": {"vision": False, "audio": False},
        "endpoints": {"chat": bool(service.chat_template)},
    })  # fmt: skip


async def slots(request: Request) -> Response:
    """GET /slots: the sequences that are computed, in llama-server's shape, with --slots.  A slot
    here is a sequence and keeps nothing.
    """
    service: Service = request.app.state.service
    if not service.options.slots:
        raise ApiError(501, "the server was started without --slots", code="not_supported")
    n_busy = min(int(service.engines.stats()["n_running"]), service.admission.n_parallel)
    n_ctx = service.runtime.n_ctx
    return json_response([
        {"id": i, "n_ctx": n_ctx, "speculative": False, "is_processing": i < n_busy}
        for i in range(service.admission.n_parallel)
    ])  # fmt: skip


def _token(service: Service, token: int | None) -> str:
    return "" if token is None else service.runtime.tokenizer.tokens[token]


async def metrics(request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
