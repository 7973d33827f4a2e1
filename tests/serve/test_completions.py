"""/v1/completions: echo, log-probabilities, prompts of token ids, n and best_of; and the endpoints without a draw."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from live import Live

PATH = "/v1/completions"


def test_a_completion_is_the_librarys(live: Live) -> None:
    body = {"prompt": "the sea", "max_tokens": 12, "seed": 3, "temperature": 1.2}
    answer = live.post(PATH, body).ok()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    want = live.runtime.generate("the sea", max_tokens=12, seed=3, temperature=1.2)
    assert answer["choices"][0]["text"] == want.text
    chunks = live.events(PATH, body | {"stream": True, "stream_options": {"include_usage": True}})
    assert "".join(c["choices"][0]["text"] for c in chunks[:-2]) == want.text
    assert chunks[-2]["choices"] == [] and chunks[-2]["usage"]["completion_tokens"] == 12


def test_four_shapes_of_prompts(live: Live) -> None:
    ids = live.runtime.prompt_ids("the sea")
    for prompt in ("the sea", ids, ["the sea"], [ids], ["the sea", "the sea"], [ids, ids]):
        answer = live.post(PATH, {"prompt": prompt, "max_tokens": 4, "seed": 1}).ok()
        n = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
        assert [c["index"] for c in answer["choices"]] == list(range(n))
        assert len({c["text"] for c in answer["choices"]}) == 1
        assert answer["usage"]["prompt_tokens"] == n * len(ids)
    texts = live.post(PATH, {"prompt": ["the sea", "a dog"], "n": 2, "max_tokens": 4, "seed": 1})
    alone = live.post(PATH, {"prompt": "a dog", "n": 2, "max_tokens": 4, "seed": 1})
    assert [c["text"] for c in texts.ok()["choices"][2:]] == [
        c["text"] for c in alone.ok()["choices"]
    ]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_echo_gives_the_prompts_logprobs_as_evaluation_harnesses_read_them(
    live: Live, max_tokens: int
) -> None:
    ids = live.runtime.prompt_ids("the sea and the land")
    body = {"prompt": [ids, ids[:-1]], "max_tokens": max_tokens, "temperature": 0, "seed": 1}
    answer = live.post(PATH, body | {"echo": True, "logprobs": 1}).ok()
    for prompt, choice in zip(body["prompt"], answer["choices"]):
        logprobs = choice["logprobs"]
        scores = live.runtime.score(prompt, top_logprobs=1)
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        n = len(prompt)
        assert logprobs["token_logprobs"][1:n] == [s.logprob for s in scores]
        assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == n + max_tokens
        for i, score in enumerate(scores, 1):
            best = max(logprobs["top_logprobs"][i].values())
            assert (logprobs["token_logprobs"][i] == best) == (score.token == score.top[0][0])
        text = live.runtime.tokenizer.decode(prompt)
        assert choice["text"].startswith(text)
        assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
        greedy = live.runtime.generate(prompt, max_tokens=max_tokens, temperature=0)
        assert choice["text"] == text + greedy.text


def test_best_of_takes_the_likeliest(live: Live) -> None:
    body = {"prompt": "the", "max_tokens": 6, "seed": 9, "temperature": 1.5, "logprobs": 0}
    drawn = live.post(PATH, body | {"n": 5}).ok()["choices"]
    means = [
        sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]) for c in drawn
    ]
    order = sorted(range(5), key=lambda i: -means[i])
    best = live.post(PATH, body | {"n": 2, "best_of": 5}).ok()["choices"]
    assert [c["text"] for c in best] == [drawn[i]["text"] for i in order[:2]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[1], [10**6]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"] * 1000}, "prompt"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 5000}, "logprobs"),
    ],
)
def test_bad_fields_are_named(live: Live, fields: dict, param: str) -> None:
    reply = live.post(PATH, {"prompt": "a"} | fields)
    reply.refused(400)
    assert reply.json["error"]["param"].startswith(param)


def test_tokens_there_and_back(live: Live) -> None:
    text = "größer <|im_end|> 🙂"
    ids = live.post("/tokenize", {"content": text, "parse_special": False}).ok()["tokens"]
    assert ids == live.runtime.tokenize(text)
    assert live.post("/detokenize", {"tokens": ids}).ok()["content"] == text
    pieces = live.post("/tokenize", {"content": "🙂", "with_pieces": True}).ok()["tokens"]
    data = b"".join(
        p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces
    )
    assert data == "🙂".encode()
    live.post("/detokenize", {"tokens": [10**9]}).refused(400)
    live.post("/tokenize", {}).refused(400)
    info = live.get("/tokenizer_info").ok()
    assert info["vocab_size"] == live.runtime.n_vocab and info["eos_token"]


def test_what_is_served(live: Live) -> None:
    models = live.get("/v1/models").ok()
    assert models["object"] == "list"
    (entry,) = models["data"]
    assert entry["id"] == "tiny" and entry["max_model_len"] == live.runtime.n_ctx
    assert live.get("/v1/models/tiny").ok() == entry
    live.get("/v1/models/other").refused(404, "model_not_found")
    assert live.get("/health").ok() == {"status": "ok"}
    assert live.get("/ready").ok() == {"status": "ready"}
    props = live.get("/props").ok()
    assert props["default_generation_settings"]["n_ctx"] == live.runtime.n_ctx
    assert "/" not in props["model_path"]
    assert live.get("/version").ok()["system_fingerprint"] == props["system_fingerprint"]
    live.get("/nowhere").refused(404)
    live.get("/v1/completions").refused(405)


def test_metrics_count(live: Live) -> None:
    before = live.metric("hrun:generation_tokens_total")
    live.post(PATH, {"prompt": "a", "max_tokens": 7, "ignore_eos": True}).ok()
    assert live.metric("hrun:generation_tokens_total") == before + 7
    text = live.get("/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f"\nhrun:{name} " in text
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert f"hrun:{name}_bucket" in text
    assert 'hrun:request_success_total{finished_reason="length"}' in text


def test_embeddings_are_the_librarys(live: Live) -> None:
    texts = ["the sea", "a dog"]
    want = live.runtime.embed(texts)
    answer = live.post("/v1/embeddings", {"input": texts, "model": "tiny"}).ok()
    assert [d["index"] for d in answer["data"]] == [0, 1]
    got = np.array([d["embedding"] for d in answer["data"]], np.float32)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    coded = live.post("/v1/embeddings", {"input": texts, "encoding_format": "base64"}).ok()
    rows = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in coded["data"]]
    np.testing.assert_array_equal(np.stack(rows), got)
    ids = live.runtime.prompt_ids("the sea")
    one = live.post("/v1/embeddings", {"input": ids}).ok()["data"]
    assert len(one) == 1 and one[0]["embedding"] == answer["data"][0]["embedding"]
    for wrong in ("", [], ["a", ""]):
        live.post("/v1/embeddings", {"input": wrong}).refused(400)
    live.post("/v1/embeddings", {"input": "a", "dimensions": 10**6}).refused(400)
    long = live.post("/v1/embeddings", {"input": [5] * (live.runtime.n_ctx + 1)})
    long.refused(400, "context_length_exceeded")


def test_rerank_orders_documents(live: Live) -> None:
    body = {"query": "the sea", "documents": ["a dog", "the sea", {"text": "land"}], "top_n": 2}
    results = live.post("/v1/rerank", body | {"return_documents": True}).ok()["results"]
    assert len(results) == 2 and results[0]["index"] == 1
    assert results[0]["document"] == {"text": "the sea"}
    assert math.isclose(results[0]["relevance_score"], 1, rel_tol=1e-5)
    live.post("/v1/rerank", {"query": "a", "documents": []}).refused(400)
    live.post("/v1/rerank", {"query": "a", "documents": [3]}).refused(400)


def test_half_a_character_becomes_a_mark(live: Live) -> None:
    """Programs that cut UTF-16 send such texts; echoed they must be UTF-8 again."""
    body = b'{"prompt": "a\\ud83d", "echo": true, "max_tokens": 1, "seed": 1}'
    assert live.post("/v1/completions", body).ok()["choices"][0]["text"].startswith("a\ufffd")
