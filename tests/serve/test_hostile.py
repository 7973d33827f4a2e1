"""Whatever a field holds, the answer is one for the client: no endpoint says 500 or 503."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra hrun[serve]")

from hrun.serve.messages import MessagesRequest
from hrun.serve.ollama import OllamaChat, OllamaGenerate
from hrun.serve.responses import ResponsesRequest
from hrun.serve.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    RerankRequest,
    TokenizeRequest,
)
from live import Live

HELLO = [{"role": "user", "content": "Hello"}]
ENDPOINTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "/v1/chat/completions": (ChatRequest, {"messages": HELLO, "max_tokens": 1}),
    "/v1/completions": (CompletionRequest, {"prompt": "a", "max_tokens": 1}),
    "/v1/embeddings": (EmbeddingsRequest, {"input": "a"}),
    "/v1/rerank": (RerankRequest, {"query": "a", "documents": ["a"]}),
    "/v1/responses": (ResponsesRequest, {"input": "a", "max_output_tokens": 1}),
    "/v1/messages": (MessagesRequest, {"messages": HELLO, "max_tokens": 1}),
    "/v1/messages/count_tokens": (MessagesRequest, {"messages": HELLO}),
    "/api/chat": (OllamaChat, {"messages": HELLO, "options": {"num_predict": 1}}),
    "/api/generate": (OllamaGenerate, {"prompt": "a", "options": {"num_predict": 1}}),
    "/tokenize": (TokenizeRequest, {"content": "a"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [5]}),
    "/apply-template": (ChatRequest, {"messages": HELLO}),
}
DEEP: Any = 1
for _ in range(90):
    DEEP = {"a": [DEEP]}
VALUES: list[Any] = [
    True, False, 0, -1, 3, 10**9, -(2**63), 10**30, 0.5, -0.5, 1e308, "", "a", "\0", "\ud800", "auto", "x" * 5000, [], [[]], [None], [0], [-1],
    [10**30], ["\udfff", ""], [{}], [[0], ["a"]], {}, {"type": "x"}, {"type": "function", "function": {"name": []}}, {"": None}, {"a": 10**30},
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, {"$ref": "#/nowhere"}, [{"role": "tool", "content": [{}]}],
    [{"type": "function", "function": {"name": "a", "parameters": {"type": 7, "properties": [1]}}}], [{"role": "user", "content": DEEP}], DEEP,
]  # fmt: skip


def fields_of(kind: Any) -> list[str]:
    return [*kind.model_fields, "stray"]


QUICK = ("/v1/completions", "/tokenize")  # all requests take one way


@pytest.mark.parametrize(
    "path", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in ENDPOINTS]
)
def test_no_field_is_the_servers_fault(live: Live, path: str) -> None:
    kind, base = ENDPOINTS[path]
    draw = random.Random(path)
    faults = []
    for name in fields_of(kind):
        for value in draw.sample(VALUES, 12):
            if name == "stream" and value is True:
                continue
            reply = live.post(path, base | {name: value})
            if reply.status >= 500 and reply.status != 501:
                faults.append((name, str(value)[:80], reply.status, reply.text[:200]))
    assert faults == []
    assert live.get("/health").ok()
    live.idle()
