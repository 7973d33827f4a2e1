"""Programs written for llama-cpp-python: the cases of its own tests and examples, on models of this repository."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hrun.errors import ArgumentError
from hrun.llama_compat import Llama, LlamaGrammar

PROMPT = "The quick brown fox jumps over the lazy dog. The quick brown fox"


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> Iterator[Llama]:
    with Llama(tiny_model(tied=False, n_ctx=512), n_ctx=512, verbose=False) as llama:
        yield llama


def test_tokens_of_a_vocabulary_alone(vocabulary: Callable[[str], Path]) -> None:
    llama = Llama(vocabulary("llama-spm"), vocab_only=True, verbose=False)
    tokens = llama.tokenize(b"Hello World")
    assert tokens == [1, 15043, 2787] and tokens[0] == llama.token_bos()
    assert llama.detokenize(tokens) == b"Hello World"
    assert llama.tokenize(b"Hello World", add_bos=False) == [15043, 2787]
    assert llama.detokenize([15043, 2787]) != b"Hello World"
    assert llama.tokenize(b"Hello World</s>") == [1, 15043, 2787, 829, 29879, 29958]
    assert llama.tokenize(b"Hello World</s>", special=True) == [1, 15043, 2787, 2]
    assert llama.tokenize(b"", special=True) == [llama.token_bos()]
    assert llama.detokenize([llama.token_bos()]) == b""
    with pytest.raises(ArgumentError, match="vocab_only"):
        llama("Hello")


def test_completions(llm: Llama) -> None:
    done = llm(PROMPT, max_tokens=8, stop=["Q:", "\n"], echo=True, temperature=0.0)
    assert done["object"] == "text_completion" and done["id"].startswith("cmpl-")
    choice = done["choices"][0]
    assert choice["text"].startswith(PROMPT) and choice["index"] == 0
    usage = done["usage"]
    assert usage["prompt_tokens"] == len(llm.tokenize(PROMPT.encode(), special=True))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    chunks = list(
        llm(PROMPT, max_tokens=8, stop=["Q:", "\n"], echo=True, temperature=0, stream=True)
    )
    assert "".join(c["choices"][0]["text"] for c in chunks) == choice["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks[:-1])


def test_log_probabilities_have_the_old_form(llm: Llama) -> None:
    found = llm(PROMPT, max_tokens=5, logprobs=2, temperature=0.0)["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["top_logprobs"])
    assert found["text_offset"][0] == 0 and all(v <= 0 for v in found["token_logprobs"])
    assert max(found["top_logprobs"][0].values()) == found["token_logprobs"][0]


def test_seeds_and_states(llm: Llama) -> None:
    def draw() -> str:
        return llm(PROMPT, max_tokens=12, temperature=1.0)["choices"][0]["text"]

    llm.set_seed(1337)
    state = llm.save_state()
    first, second = draw(), draw()
    llm.load_state(state)
    assert first != second and draw() == first
    assert llm(PROMPT, seed=5)["choices"] == llm(PROMPT, seed=5)["choices"]


def test_chat(llm: Llama) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    done = llm.create_chat_completion(messages, max_tokens=6, temperature=0.0)
    message = done["choices"][0]["message"]
    assert done["object"] == "chat.completion" and message["role"] == "assistant"
    chunks = list(llm.create_chat_completion(messages, max_tokens=6, temperature=0.0, stream=True))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
    assert message["content"] == "".join(
        c["choices"][0]["delta"].get("content", "") for c in chunks
    )
    details = llm.create_chat_completion(
        messages, max_tokens=3, temperature=0.0, logprobs=True, top_logprobs=2
    )["choices"][0]["logprobs"]["content"]
    assert len(details[0]["top_logprobs"]) == 2
    assert details[0]["logprob"] == details[0]["top_logprobs"][0]["logprob"]


def test_structured_output(llm: Llama) -> None:
    pytest.importorskip("llguidance")
    grammar = LlamaGrammar.from_string('root ::= "true" | "false"')
    done = llm("True or false?\n", max_tokens=20, grammar=grammar, seed=1)
    assert done["choices"][0]["text"] in ("true", "false")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    messages = [{"role": "user", "content": "Hi"}]
    done = llm.create_chat_completion(
        messages, response_format={"type": "json_object", "schema": schema}, seed=1, max_tokens=200
    )
    assert isinstance(json.loads(done["choices"][0]["message"]["content"])["ok"], bool)
    tool = {"type": "function", "function": {"name": "check", "parameters": schema}}
    chosen = {"type": "function", "function": {"name": "check"}}
    done = llm.create_chat_completion(
        messages, tools=[tool], tool_choice=chosen, seed=1, max_tokens=200
    )
    call = done["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "check" and isinstance(json.loads(call["arguments"])["ok"], bool)
    assert done["choices"][0]["finish_reason"] == "tool_calls"
    with pytest.raises(ArgumentError, match="hrun-serve"):
        llm.create_chat_completion(messages, tools=[tool])


def test_embeddings(llm: Llama) -> None:
    one = llm.create_embedding("Hello, world!")
    two = llm.create_embedding(["Hello, world!", "Goodbye, world!"])
    assert one["data"][0]["embedding"] == two["data"][0]["embedding"]
    assert len(two["data"]) == 2 and len(two["data"][1]["embedding"]) == llm.n_embd()
    assert two["usage"]["prompt_tokens"] > one["usage"]["prompt_tokens"]


def test_token_by_token(llm: Llama) -> None:
    tokens = llm.tokenize(PROMPT.encode(), special=True)
    expected = llm.create_completion(PROMPT, max_tokens=4, temperature=0.0, logprobs=0)
    llm.reset()
    drawn = list(itertools.islice(llm.generate(tokens, temp=0.0), 4))
    texts = [llm.detokenize([t]).decode("utf-8", "replace") for t in drawn]
    assert texts == expected["choices"][0]["logprobs"]["tokens"]
    assert llm.scores.shape == (llm.n_tokens, llm.n_vocab())
    state = llm.save_state()
    following = llm.sample(temp=0.0)
    llm.reset()
    llm.eval(tokens[::-1])
    llm.load_state(state)
    assert llm.n_tokens == state.n_tokens and llm.sample(temp=0.0) == following
    assert np.array_equal(llm.scores, state.scores)
    # Another prompt of which the beginning is known.
    other = [*tokens[:5], *tokens[6:]]
    again = list(itertools.islice(llm.generate(other, temp=0.0), 3))
    llm.reset()
    assert again == list(itertools.islice(llm.generate(other, temp=0.0), 3))
    rows = Llama.logits_to_logprobs(llm.scores[-1])
    assert np.exp(rows).sum() == pytest.approx(1, abs=1e-5)


def test_what_hrun_does_not_have_is_named(tiny_model: Callable[..., Path], llm: Llama) -> None:
    path = tiny_model(tied=False, n_ctx=512)
    for options in ({"lora_path": "x"}, {"rope_freq_base": 2e4}, {"chat_format": "vicuna"}):
        with pytest.raises(ArgumentError, match=next(iter(options))):
            Llama(path, **options)
    with pytest.raises(ArgumentError, match="mirostat_mode"):
        llm(PROMPT, mirostat_mode=2)
    with pytest.raises(ArgumentError, match="unknown argument 'max_tokenz'"):
        llm(PROMPT, max_tokenz=2)
    with Llama(path, use_mmap=False, n_ubatch=32, flash_attn=True, verbose=False) as same:
        assert same(PROMPT, seed=5)["choices"] == llm(PROMPT, seed=5)["choices"]


def test_settings_that_langchain_gives(tiny_model: Callable[..., Path]) -> None:
    """Its defaults are taken where they are the model's own, and refused where they would change it."""
    path = tiny_model(tied=False, n_ctx=512)
    same = {"rope_freq_base": 10000.0, "rope_freq_scale": 1.0, "n_parts": -1, "f16_kv": True}
    with Llama(path, n_ctx=64, verbose=False, **same) as llama:
        assert llama.n_ctx() == 64
    with pytest.raises(ArgumentError, match="rope_freq_base=5"):
        Llama(path, n_ctx=64, verbose=False, rope_freq_base=5.0)
    with pytest.raises(ArgumentError, match="rope_freq_scale"):
        Llama(path, n_ctx=64, verbose=False, rope_freq_scale=0.5)
