"""The interface of llama-cpp-python on hrun: ``from hrun.llama_compat import Llama``.

Programs that use ``Llama`` for completions, chat, embeddings, tokens and states run with this import
in place of ``llama_cpp``; results have the same shapes.  What cannot be done as asked for is an
ArgumentError that names the argument; nothing is ignored that would change a result.
"""

from __future__ import annotations

import itertools
import json
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.chat_template import ChatTemplate
from hrun.errors import ArgumentError
from hrun.generation import Generation, Piece, TokenLogprob
from hrun.grammar import Grammar
from hrun.predictions import log_softmax
from hrun.runtime import Runtime
from hrun.tokenizer import Tokenizer

__all__ = ["Llama", "LlamaGrammar", "LlamaState"]

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# ggml's numbers of cache types; llama_cpp.GGML_TYPE_F32 ...
_CACHE_TYPES = {None: "f16", 0: "f32", 1: "f16"}
# Arguments that say how something is computed, not what; hrun decides these itself.
_HOW = frozenset(
    "split_mode main_gpu use_mmap use_mlock n_ubatch n_threads_batch logits_all embedding offload_kqv flash_attn op_offload "
    "swa_full no_perf last_n_tokens_size numa pooling_type attention_type n_parts".split()
)
# Arguments that would change results, with the value that changes nothing.
_UNCHANGED: dict[str, Any] = {
    "tensor_split": None, "kv_overrides": None, "rope_scaling_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0, "yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_orig_ctx": 0,
    "lora_base": None, "lora_scale": 1.0, "lora_path": None, "chat_handler": None, "draft_model": None, "tokenizer": None,
    "spm_infill": False, "f16_kv": True,
}  # fmt: skip
_UNCHANGED_DRAWS: dict[str, Any] = {
    "suffix": None, "tfs_z": 1.0, "typical_p": 1.0, "mirostat_mode": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1,
    "stopping_criteria": None, "logits_processor": None, "functions": None, "function_call": None,
}  # fmt: skip


def _refuse(given: Mapping[str, Any], unchanged: Mapping[str, Any], known: frozenset[str]) -> None:
    for name, value in given.items():
        if name in unchanged:
            if value is not None and value != unchanged[name]:
                raise ArgumentError(f"hrun does not have {name}={value!r}")
        elif name not in known:
            raise ArgumentError(f"unknown argument '{name}'")


def _own_rope(metadata: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings that say what the file says: LangChain always gives a base and a scale."""
    prefix = f"{metadata.get('general.architecture')}.rope"
    out = {}
    if others.get("rope_freq_base") == metadata.get(f"{prefix}.freq_base", 10000.0):
        out["rope_freq_base"] = others.get("rope_freq_base")
    scaled = any(key.startswith(f"{prefix}.scal") for key in metadata)
    if others.get("rope_freq_scale") == 1.0 and not scaled:
        out["rope_freq_scale"] = 1.0
    return out


class LlamaGrammar:
    """A GBNF grammar, or a JSON schema as one."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        """Makes a grammar of GBNF text; its errors come with the first completion."""
        return cls({"grammar": grammar})

    @classmethod
    def from_file(cls, file: str | Path, verbose: bool = True) -> LlamaGrammar:
        """Makes a grammar of a file with GBNF text.  Raises OSError."""
        return cls.from_string(Path(file).read_text(encoding="utf-8"))

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        """Makes a grammar of the text of a JSON schema."""
        return cls({"json_schema": json_schema})


@dataclass(frozen=True)
class LlamaState:
    """The state that :meth:`Llama.load_state` goes back to."""

    input_ids: list[int]
    scores: npt.NDArray[np.float32]
    seed: int

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)


class Llama:
    """``llama_cpp.Llama``.  Attributes: ``runtime``, the :class:`hrun.Runtime` behind it (None with ``vocab_only``);
    ``metadata``, texts by key; ``model_path``."""

    def __init__(
        self,
        model_path: str | Path,
        *,
        n_gpu_layers: int = 0,
        vocab_only: bool = False,
        seed: int = 0xFFFFFFFF,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_threads: int | None = None,
        chat_format: str | None = None,
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        verbose: bool = True,
        **others: Any,
    ) -> None:
        """``n_ctx`` 0: the model's own.  Raises ArgumentError, and what :class:`hrun.Runtime` raises."""
        metadata = _core.GGUFFile(str(model_path)).metadata
        _refuse(others, _UNCHANGED | _own_rope(metadata, others), _HOW)
        if chat_format not in (None, "chatml", "chatml-function-calling"):
            raise ArgumentError(
                f"chat_format {chat_format!r}: hrun takes 'chatml', or the template of the file (None)"
            )
        self.model_path = str(model_path)
        self.chat_format = chat_format
        self.verbose = verbose
        self._seed = random.getrandbits(32) if seed in (-1, 0xFFFFFFFF) else seed
        self._template = ChatTemplate(_CHATML) if chat_format is not None else None
        self.metadata = {
            key: str(value) for key, value in metadata.items() if not isinstance(value, list)
        }
        self.runtime: Runtime | None = None
        self._session: _core.Session | None = None
        self._n_batch, self._cache = n_batch, (_cache_type(type_k), _cache_type(type_v))
        if not vocab_only:
            self.runtime = Runtime(
                model_path,
                n_ctx=n_ctx,
                n_batch=min(n_batch, n_ctx) if n_ctx else n_batch,
                n_threads=n_threads,
                n_gpu_layers=n_gpu_layers,
                device="auto" if n_gpu_layers else "cpu",
                type_k=self._cache[0],
                type_v=self._cache[1],
                verbose=verbose,
            )
        self._vocabulary = (
            self.runtime.tokenizer if self.runtime is not None else Tokenizer.from_gguf(model_path)
        )
        self.input_ids: list[int] = []
        self._scores: list[npt.NDArray[np.float32]] = []

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: Sequence[str] | None = None,
        local_dir: str | None = None,
        cache_dir: str | None = None,
        **options: Any,
    ) -> Llama:
        """Loads a file from the Hugging Face Hub; ``filename`` may have wildcards and must match
        one file.  Needs ``hrun[hub]``.
        """
        import fnmatch

        from hrun.cli.hub import library

        hub = library()
        names = [n for n in hub.list_repo_files(repo_id) if n.endswith(".gguf")]
        matching = [n for n in names if fnmatch.fnmatch(n, filename or "*")]
        if len(matching) != 1:
            raise ArgumentError(
                f"{repo_id}: {len(matching)} files match {filename!r}; there are {', '.join(names) or 'no GGUF files'}"
            )
        paths = [
            hub.hf_hub_download(repo_id, name, local_dir=local_dir, cache_dir=cache_dir)
            for name in (*matching, *(additional_files or ()))
        ]
        return cls(paths[0], **options)

    # ---- tokens

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of UTF-8 text; ``special`` reads control tokens in it."""
        ids = self._vocabulary.encode(
            text.decode("utf-8", "replace"), add_special=False, parse_special=special
        )
        bos = self._vocabulary.bos_id
        return [bos, *ids] if add_bos and self._vocabulary.adds_bos and bos is not None else ids

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The text of the ids, without control tokens unless ``special``."""
        ids = list(tokens)
        if ids and ids[0] == self._vocabulary.bos_id:
            return self._vocabulary.decode_bytes(ids, skip_special=not special)
        shown = (t for t in ids if special or not self._vocabulary.is_control(t))
        return b"".join(map(self._vocabulary.token_bytes, shown))

    def n_ctx(self) -> int:
        return self._runtime.n_ctx

    def n_embd(self) -> int:
        return self._runtime.model.n_embd

    def n_vocab(self) -> int:
        return self._vocabulary.n_vocab

    def token_bos(self) -> int:
        """-1 if the model has none."""
        return -1 if self._vocabulary.bos_id is None else self._vocabulary.bos_id

    def token_eos(self) -> int:
        """-1 if the model has none."""
        return -1 if self._vocabulary.eos_id is None else self._vocabulary.eos_id

    def token_nl(self) -> int:
        """The last token of a line break."""
        return self._vocabulary.encode("\n", add_special=False)[-1]

    # ---- completions

    def create_completion(
        self,
        prompt: str | list[int],
        *,
        max_tokens: int | None = 16,
        stream: bool = False,
        echo: bool = False,
        logprobs: int | None = None,
        model: str | None = None,
        **options: Any,
    ) -> Any:
        """An OpenAI completion, or with ``stream`` an iterator of its chunks.

        ``max_tokens`` None or below 1: what fits the context.
        """
        runtime = self._runtime
        ids = list(prompt) if not isinstance(prompt, str) else runtime.prompt_ids(prompt, True)
        draws = self._draws(options)
        room = max(runtime.n_ctx - len(ids), 1)
        limit = room if max_tokens is None or max_tokens < 1 else max_tokens
        head: dict[str, Any] = {
            "id": f"cmpl-{uuid.uuid4()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model or self.model_path,
        }
        shown = ""
        if echo:
            shown = prompt if isinstance(prompt, str) else runtime.detokenize(ids)
        if stream:
            pieces = runtime.generate(
                ids, max_tokens=limit, logprobs=logprobs, stream=True, **draws
            )
            return self._completion_chunks(head, pieces, shown, logprobs)
        done = runtime.generate(ids, max_tokens=limit, logprobs=logprobs, **draws)
        return {
            **head,
            "choices": [
                {
                    "text": shown + done.text,
                    "index": 0,
                    "logprobs": self._old_logprobs(done.logprobs, len(shown)),
                    "finish_reason": _finish(done),
                }
            ],
            "usage": _usage(done),
        }

    def __call__(self, prompt: str, **options: Any) -> Any:
        """:meth:`create_completion`."""
        return self.create_completion(prompt, **options)

    def _completion_chunks(
        self, head: dict[str, Any], pieces: Iterator[Piece], shown: str, logprobs: int | None
    ) -> Iterator[dict[str, Any]]:
        at = len(shown)
        if shown:
            yield {**head, "choices": [_choice(text=shown, logprobs=None, finish_reason=None)]}
        for piece in pieces:
            if piece.text or piece.generation is not None:
                detail = [piece.logprob] if piece.logprob is not None else None
                choice = _choice(
                    text=piece.text,
                    logprobs=self._old_logprobs(detail, at) if logprobs is not None else None,
                    finish_reason=_finish(piece.generation) if piece.generation else None,
                )
                at += len(piece.text)
                yield {**head, "choices": [choice]}

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        stream: bool = False,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        model: str | None = None,
        **options: Any,
    ) -> Any:
        """An OpenAI chat completion, or with ``stream`` an iterator of its chunks.

        ``response_format``: {"type": "json_object", "schema": optional}.  ``tools`` with a ``tool_choice`` that names a
        function makes a call of it; calls that the model may choose are a matter of ``hrun-serve``.
        """
        runtime = self._runtime
        draws = self._draws(options)
        name = _chosen_tool(tools, tool_choice)
        if name is not None:
            draws["json_schema"] = _parameters(tools or (), name)
        if response_format is not None:
            draws["json_schema"] = _schema(response_format)
        variables = {"tools": list(tools)} if tools and tool_choice != "none" else None
        prompt = runtime.chat_prompt(messages, variables, template=self._template)
        details = (top_logprobs or 0) if logprobs else None
        limit = None if max_tokens is None or max_tokens < 1 else max_tokens
        head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model or self.model_path,
        }
        if stream:
            pieces = runtime.generate(
                prompt.ids, max_tokens=limit, logprobs=details, stream=True, **draws
            )
            head["object"] = "chat.completion.chunk"
            return self._chat_chunks(head, pieces, name, logprobs)
        done = runtime.generate(prompt.ids, max_tokens=limit, logprobs=details, **draws)
        message: dict[str, Any] = {"role": "assistant", "content": done.text}
        if name is not None:
            message = {"role": "assistant", "content": None, "tool_calls": [_call(name, done.text)]}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._new_logprobs(done.logprobs) if logprobs else None,
            "finish_reason": "tool_calls" if name is not None else _finish(done),
        }
        return {**head, "choices": [choice], "usage": _usage(done)}

    def _chat_chunks(
        self, head: dict[str, Any], pieces: Iterator[Piece], name: str | None, logprobs: bool | None
    ) -> Iterator[dict[str, Any]]:
        first = {"role": "assistant"}
        yield {**head, "choices": [_choice(delta=first, logprobs=None, finish_reason=None)]}
        call = _call(name, "") if name is not None else None
        for piece in pieces:
            if piece.text:
                delta: dict[str, Any] = {"content": piece.text}
                if call is not None:
                    part = {**call["function"], "arguments": piece.text}
                    delta = {"tool_calls": [{"index": 0, **call, "function": part}]}
                detail = [piece.logprob] if logprobs and piece.logprob is not None else None
                choice = _choice(
                    delta=delta, logprobs=self._new_logprobs(detail), finish_reason=None
                )
                yield {**head, "choices": [choice]}
            if piece.generation is not None:
                end = "tool_calls" if call is not None else _finish(piece.generation)
                yield {**head, "choices": [_choice(delta={}, logprobs=None, finish_reason=end)]}

    def _draws(self, options: dict[str, Any]) -> dict[str, Any]:
        """hrun's keywords; every call draws with another seed unless it names one."""
        seed, grammar = options.pop("seed", None), options.pop("grammar", None)
        stop, bias = options.pop("stop", None), options.pop("logit_bias", None)
        out: dict[str, Any] = {"repeat_penalty": 1.0, "frequency_penalty": 0.0}
        out |= {"presence_penalty": 0.0, "temperature": 0.8, "top_k": 40, "top_p": 0.95}
        out["min_p"] = 0.05
        out |= {key: options.pop(key) for key in list(out) if key in options}
        out["top_k"] = max(int(out["top_k"]), 0)
        _refuse(options, _UNCHANGED_DRAWS, frozenset({"user"}))
        if seed is None:
            seed = random.Random(self._seed).randint(0, 2**32 - 1)
        self._seed = out["seed"] = seed
        out["stop"] = stop or None
        if bias:
            out["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
        if isinstance(grammar, LlamaGrammar):
            out |= grammar.options
        elif isinstance(grammar, (str, Grammar)):
            out["grammar"] = grammar
        elif grammar is not None:
            raise ArgumentError(f"grammar must be a LlamaGrammar, got {type(grammar).__name__}")
        return out

    def _token_text(self, token: int) -> str:
        return self._vocabulary.decode([token])

    def _old_logprobs(
        self, found: Sequence[TokenLogprob] | None, offset: int
    ) -> dict[str, Any] | None:
        """Returns log-probabilities in the form that completions have."""
        if found is None:
            return None
        texts = [self._token_text(entry.token) for entry in found]
        offsets = list(itertools.accumulate(map(len, texts), initial=offset))[:-1]
        return {
            "tokens": texts,
            "text_offset": offsets,
            "token_logprobs": [entry.logprob for entry in found],
            "top_logprobs": [
                {self._token_text(token): value for token, value in reversed(entry.top)}
                for entry in found
            ],
        }

    def _new_logprobs(self, found: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
        """Returns log-probabilities in the form that chat completions have."""
        if found is None:
            return None

        def item(token: int, logprob: float) -> dict[str, Any]:
            text = self._token_text(token)
            return {"token": text, "bytes": list(text.encode()), "logprob": logprob}

        return {
            "content": [
                {**item(e.token, e.logprob), "top_logprobs": [item(t, v) for t, v in e.top]}
                for e in found
            ],
            "refusal": None,
        }

    # ---- embeddings

    def embed(
        self, input: str | Sequence[str], normalize: bool = False, truncate: bool = True
    ) -> Any:
        """The mean of the last hidden states: a list of floats for one text, a list of lists for more."""
        runtime = self._runtime
        many = not isinstance(input, str)
        prompts = [
            runtime.prompt_ids(t, True) for t in ([input] if isinstance(input, str) else input)
        ]
        if truncate:
            prompts = [ids[: runtime.n_ctx] for ids in prompts]
        pooling: Any = runtime.model.pooling or "mean"
        rows = [
            runtime.embed(ids, pooling=pooling, normalize=normalize).tolist() for ids in prompts
        ]
        return rows if many else rows[0]

    def create_embedding(
        self, input: str | Sequence[str], model: str | None = None
    ) -> dict[str, Any]:
        """OpenAI's list of embeddings."""
        texts = [input] if isinstance(input, str) else list(input)
        n_tokens = sum(len(self._runtime.prompt_ids(text, True)) for text in texts)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": row, "index": i}
                for i, row in enumerate(self.embed(texts))
            ],
            "model": model or self.model_path,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }

    # ---- token by token

    @property
    def n_tokens(self) -> int:
        """The number of tokens that were evaluated."""
        return len(self.input_ids)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Logits after each evaluated token: float32 [n_tokens, n_vocab]."""
        return np.concatenate(self._scores) if self._scores else np.empty((0, self.n_vocab()), "f4")

    def reset(self) -> None:
        """Forgets what was evaluated."""
        self._truncate(0)

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates more tokens.  Raises ContextOverflowError."""
        session = self._own_session
        if tokens:
            rows = session.forward(list(tokens), "all")
            assert rows is not None
            self._scores.append(rows)
            self.input_ids += tokens

    def sample(
        self,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        temp: float = 0.8,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        **others: Any,
    ) -> int:
        """Draws the token that follows what was evaluated."""
        _refuse(others, _UNCHANGED_DRAWS, frozenset({"idx", "penalize_nl", "grammar"}))
        if not self._scores:
            raise ArgumentError("nothing was evaluated")
        self._seed = random.Random(self._seed).randint(0, 2**32 - 1)
        sampler = _core.Sampler(
            self._seed,
            temperature=temp, top_k=max(top_k, 0), top_p=top_p, min_p=min_p, repeat_penalty=repeat_penalty,
            frequency_penalty=frequency_penalty, presence_penalty=presence_penalty,
        )  # fmt: skip
        for token in self.input_ids[-64:]:
            sampler.accept(token)
        return int(sampler.sample_logits(self._scores[-1][-1].copy()))

    def generate(self, tokens: Sequence[int], reset: bool = True, **options: Any) -> Iterator[int]:
        """Draws one token after the other; what is sent in is evaluated instead of the drawn one."""
        if reset:
            shared = 0
            while shared < min(len(tokens) - 1, self.n_tokens) and (
                self.input_ids[shared] == tokens[shared]
            ):
                shared += 1
            self._truncate(shared)
            tokens = tokens[shared:]
        while True:
            self.eval(tokens)
            token = self.sample(**options)
            sent = yield token
            tokens = [token] if sent is None else sent

    def save_state(self) -> LlamaState:
        """Returns the evaluated tokens, their logits and the seed."""
        return LlamaState(list(self.input_ids), self.scores.copy(), self._seed)

    def load_state(self, state: LlamaState) -> None:
        """Goes back to a saved state; tokens that differ are evaluated again."""
        same = next(
            (i for i, (a, b) in enumerate(zip(self.input_ids, state.input_ids)) if a != b),
            min(self.n_tokens, state.n_tokens),
        )
        self._truncate(same)
        self.eval(state.input_ids[same:])
        self._seed = state.seed

    def set_seed(self, seed: int) -> None:
        """Sets the seed of the draws to come."""
        self._seed = seed

    @staticmethod
    def logits_to_logprobs(logits: npt.ArrayLike, axis: int = -1) -> npt.NDArray[np.float32]:
        """log softmax."""
        rows = np.moveaxis(np.asarray(logits, np.float32), axis, -1)
        flat = log_softmax(rows.reshape(-1, rows.shape[-1])).astype(np.float32)
        return np.moveaxis(flat.reshape(rows.shape), -1, axis)

    @property
    def _runtime(self) -> Runtime:
        if self.runtime is None:
            raise ArgumentError("only the vocabulary was loaded (vocab_only)")
        return self.runtime

    @property
    def _own_session(self) -> _core.Session:
        if self._session is None:
            runtime = self._runtime
            self._session = _core.Session(
                runtime.model, runtime.n_ctx, *self._cache, n_batch=runtime.n_batch
            )
        return self._session

    def _truncate(self, n: int) -> None:
        if self._session is not None:
            self._session.truncate(n)
        scores = self.scores[:n]
        self._scores = [scores] if n else []
        self.input_ids = self.input_ids[:n]

    # ---- end

    def close(self) -> None:
        """Frees the model."""
        self._session = None
        if self.runtime is not None:
            self.runtime.close()

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cache_type(given: int | str | None) -> str:
    if isinstance(given, str):
        return given
    if given not in _CACHE_TYPES:
        raise ArgumentError(f"type_k, type_v: hrun has no cache of ggml's type {given}")
    return _CACHE_TYPES[given]


def _choice(**fields: Any) -> dict[str, Any]:
    return {"index": 0, **fields}


def _finish(done: Generation) -> str:
    return "length" if done.finish_reason == "length" else "stop"


def _usage(done: Generation) -> dict[str, int]:
    asked, drawn = done.timings.prompt_tokens, len(done.tokens)
    return {
        "prompt_tokens": asked,
        "completion_tokens": drawn,
        "total_tokens": asked + drawn,
    }


def _schema(response_format: Mapping[str, Any]) -> Any:
    if response_format.get("type") == "json_object":
        return response_format.get("schema", True)
    if response_format.get("type") == "text":
        return None
    raise ArgumentError(
        f"response_format: expected type 'json_object' or 'text', got {response_format.get('type')!r}"
    )


def _chosen_tool(tools: Sequence[Mapping[str, Any]] | None, choice: Any) -> str | None:
    """The function that must be called.  Raises ArgumentError where the model would have to choose."""
    if not tools or choice == "none":
        return None
    if isinstance(choice, Mapping):
        return str(choice.get("function", {}).get("name"))
    raise ArgumentError(
        "tools without a tool_choice that names a function: hrun-serve reads calls that a model chooses itself"
    )


def _parameters(tools: Sequence[Mapping[str, Any]], name: str) -> str:
    for tool in tools:
        function = tool.get("function", {})
        if function.get("name") == name:
            return json.dumps(function.get("parameters") or {"type": "object"})
    raise ArgumentError(f"tool_choice names '{name}', which is no tool")


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
