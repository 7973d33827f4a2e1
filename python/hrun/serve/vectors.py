"""Embeddings and the order of documents."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from hrun.embeddings import compared, normalized, pair_ids, scores_pairs
from hrun.runtime import Runtime
from hrun.serve.drawing import check_extra, overflow
from hrun.serve.endpoint import body_of, json_response, key_of
from hrun.serve.errors import ApiError, bad
from hrun.serve.schemas import EmbeddingsRequest, RerankRequest, parsed, several
from hrun.serve.service import Service
from hrun.serve.sse import unless_gone


def pooling_of(service: Service) -> str:
    """Returns the way in which the model's hidden states become one, by its file; the server's flag
    takes precedence.

    Raises ApiError 501 for a model that says nothing or wants what hrun does not have.
    """
    if service.options.embeddings_pooling is not None:
        return service.options.embeddings_pooling
    kind = service.runtime.model.pooling
    if kind in ("mean", "cls", "last"):
        return kind
    said = "its file names no pooling" if kind is None else f"its pooling type is '{kind}'"
    raise ApiError(
        501,
        f"'{service.name}' is no model for embeddings: {said} (--pooling mean, cls or last embeds with it all the same)",
        code="not_supported",
    )


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings.

    ``dimensions``: the first so many numbers, of length 1 again, as models are trained for it (Kusupati and others, Matryoshka
    Representation Learning, 2022); a GGUF file does not say whether its model is one.
    """
    service: Service = request.app.state.service
    body = parsed(EmbeddingsRequest, await body_of(request))
    model = service.check_model(body.model)
    check_extra(service, body)
    pooling = pooling_of(service)
    texts = several(body.input)
    if not texts or any(text in ("", []) for text in texts):
        raise bad("input is empty, or holds an empty text", param="input")
    n_embd = service.runtime.model.n_embd
    if body.dimensions is not None and body.dimensions > n_embd:
        raise bad(f"dimensions is {body.dimensions}, the model has {n_embd}", param="dimensions")
    rows, n_tokens = await _embedded(request, service, texts, pooling)
    if body.dimensions is not None and body.dimensions < n_embd:
        rows = [normalized(row[..., : body.dimensions]) for row in rows]
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": i, "embedding": _encoded(row, body.encoding_format)}
        for i, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})


def _encoded(row: np.ndarray, encoding: str | None) -> Any:
    if encoding == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(v) for v in row]


async def _embedded(
    request: Request, service: Service, texts: list[Any], pooling: str
) -> tuple[list[np.ndarray], int]:
    """Returns unit vectors, and the number of tokens that they took."""
    _check_number(service, texts, "input")
    runtime = service.runtime
    with service.admission.enter(len(texts), key_of(request)):

        def encode() -> list[list[int]]:
            return [runtime.embedding_ids(text) for text in texts]

        prompts = await unless_gone(request, service.in_thread(encode))
        for ids in prompts:
            if len(ids) > runtime.n_ctx:
                raise overflow(
                    f"a text has {len(ids)} tokens, the context holds {runtime.n_ctx}",
                    len(ids),
                    runtime.n_ctx,
                    "input",
                )
        key = key_of(request)
        work = service.engines.embed(prompts, pooling, client=key, salt=service.salt(key, None))
        rows = await unless_gone(request, work)
    return [normalized(row) for row in rows], sum(map(len, prompts))


async def rerank(request: Request) -> Response:
    """POST /v1/rerank: documents by the scores of a model that compares texts, else by how near their embeddings are."""
    service: Service = request.app.state.service
    body = parsed(RerankRequest, await body_of(request))
    model = service.check_model(body.model)
    check_extra(service, body)
    texts = [_text(i, document) for i, document in enumerate(body.documents)]
    if scores_pairs(service.runtime.model):
        scores, n_tokens = await _compared(request, service, body.query, texts)
    else:
        pooling = pooling_of(service)
        (query, *rows), n_tokens = await _embedded(request, service, [body.query, *texts], pooling)
        scores = [float(query @ row) for row in rows]
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: body.top_n]
    results: list[dict[str, Any]] = []
    for i in order:
        result: dict[str, Any] = {"index": i, "relevance_score": scores[i]}
        if body.return_documents:
            result["document"] = {"text": texts[i]}
        results.append(result)
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return json_response({"object": "list", "model": model, "results": results, "usage": usage})


async def _compared(
    request: Request, service: Service, query: str, texts: list[str]
) -> tuple[list[float], int]:
    """Returns the model's scores for the query with each text, and the number of tokens that they
    took.
    """
    _check_number(service, texts, "documents")
    runtime = service.runtime
    if not isinstance(runtime, Runtime):
        raise ApiError(501, "replicas do not compare texts", code="not_supported")
    with service.admission.enter(len(texts), key_of(request)):

        def compare() -> tuple[list[float], int]:
            pairs = [pair_ids(runtime, query, text) for text in texts]
            for n in (len(ids) for ids, _ in pairs):
                if n > runtime.n_ctx:
                    raise overflow(
                        f"a query and a text have {n} tokens, the context holds {runtime.n_ctx}",
                        n,
                        runtime.n_ctx,
                        "documents",
                    )
            return compared(runtime, pairs).tolist(), sum(len(ids) for ids, _ in pairs)

        return await unless_gone(request, service.in_thread(compare))


def _check_number(service: Service, texts: list[Any], param: str) -> None:
    limit = service.options.max_prompts
    if len(texts) > limit:
        raise bad(f"{len(texts)} texts, the server takes {limit}", param=param)


def _text(i: int, document: Any) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str) or not text:
        raise bad(f"documents[{i}] must be a text that is not empty", param=f"documents[{i}]")
    return text
