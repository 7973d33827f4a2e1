"""Servers of models that give vectors and scores of texts, and no text."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hrun import Runtime, embeddings
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from live import Live
from tiny_encoders import TEXT, write_plain_bert


def served(folder: Path, classes: int) -> Iterator[Live]:
    out = folder / "model.gguf"
    source = open_source(write_plain_bert(folder / "hf", classes=classes))
    write_plan(make_plan(source, PlanOptions("f32")), out)
    with Live(Runtime(out, n_threads=1)) as server:
        yield server


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from served(tmp_path_factory.mktemp("encoder"), 0)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    yield from served(tmp_path_factory.mktemp("reranker"), 1)


def test_embeddings_are_the_librarys(encoder: Live) -> None:
    want = encoder.runtime.embed(TEXT)
    answer = encoder.post("/v1/embeddings", {"input": TEXT}).ok()
    got = np.array([d["embedding"] for d in answer["data"]], np.float32)
    assert np.array_equal(got, want)
    n_tokens = sum(len(encoder.runtime.embedding_ids(text)) for text in TEXT)
    assert answer["usage"]["prompt_tokens"] == n_tokens
    one = encoder.post("/v1/embeddings", {"input": TEXT[1]}).ok()["data"][0]["embedding"]
    assert one == answer["data"][1]["embedding"]


def test_fewer_dimensions_are_the_first_ones(encoder: Live) -> None:
    rt = encoder.runtime
    want = embeddings.normalized(rt.embed(TEXT)[:, :5])
    for n, expected in ((5, want), (rt.model.n_embd, rt.embed(TEXT))):
        answer = encoder.post("/v1/embeddings", {"input": TEXT, "dimensions": n}).ok()
        got = np.array([d["embedding"] for d in answer["data"]], np.float32)
        assert np.array_equal(got, expected)
    body = {"input": TEXT[0], "dimensions": 5, "encoding_format": "base64"}
    data = encoder.post("/v1/embeddings", body).ok()["data"][0]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(data), "<f4"), want[0])
    for n in (0, rt.model.n_embd + 1):
        encoder.post("/v1/embeddings", {"input": "a", "dimensions": n}).refused(400)


def test_rerank_by_vectors_and_by_scores(encoder: Live, reranker: Live) -> None:
    body = {"query": TEXT[0], "documents": TEXT[1:]}
    vectors = encoder.runtime.embed(TEXT)
    near = encoder.post("/v1/rerank", body).ok()["results"]
    assert [r["index"] for r in near] == np.argsort(-(vectors[1:] @ vectors[0])).tolist()
    scores = reranker.runtime.rerank(TEXT[0], TEXT[1:])
    answer = reranker.post("/v1/rerank", body | {"top_n": 3}).ok()
    assert [r["index"] for r in answer["results"]] == np.argsort(-scores)[:3].tolist()
    assert [r["relevance_score"] for r in answer["results"]] == sorted(scores.tolist())[::-1][:3]
    pairs = [reranker.runtime.tokenizer.encode_pair(TEXT[0], text)[0] for text in TEXT[1:]]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, pairs))


def test_what_is_refused(encoder: Live, reranker: Live) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/completions", {"prompt": [5, 6], "echo": True, "max_tokens": 0, "logprobs": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        reply = encoder.post(path, body)
        assert reply.status in (400, 501), reply.text
    assert "encoder" in encoder.post("/v1/completions", {"prompt": "a"}).refused(501)
    assert "rank" in reranker.post("/v1/embeddings", {"input": "a"}).refused(501)
    long = "a " * 200
    for reply in (
        encoder.post("/v1/embeddings", {"input": long}),
        reranker.post("/v1/rerank", {"query": "a", "documents": [long]}),
    ):
        assert "128" in reply.refused(400, "context_length_exceeded")


def test_the_rest_of_the_server_stands(encoder: Live) -> None:
    for path in ("/health", "/metrics", "/v1/models", "/props"):
        assert encoder.get(path).status == 200, path
    tokens = encoder.post("/tokenize", {"content": TEXT[0], "add_special": True}).ok()["tokens"]
    assert tokens == encoder.runtime.embedding_ids(TEXT[0])
