"""A model with its tokenizer, ready to generate text."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hrun import demo_model_path
from hrun._core import GGUFFile, Model, Sampler, Session
from hrun.arguments import Rule, checked, checked_bias, checked_ids, checked_sampling
from hrun.errors import (
    ArgumentError,
    Cancelled,
    ChatTemplateError,
    ContextOverflowError,
    GenerationError,
)
from hrun.lease import Lease
from hrun.stream import StopStrings, Utf8Decoder, validate_stops
from hrun.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np

    from hrun.chat_template import ChatTemplate

# Without n_ctx: the model's own context, but not the gigabytes of cache that some models' 128 Ki tokens would take.
DEFAULT_CONTEXT = 16384

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """Where the time of one generation went; seconds of wall clock, tokens counted."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the session and not evaluated again
    prompt_seconds: float  # until the first token was drawn
    generated_tokens: int
    generate_seconds: float  # from the first token to the last

    @property
    def prompt_tokens_per_second(self) -> float:
        return (self.prompt_tokens - self.cached_tokens) / max(self.prompt_seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        return max(self.generated_tokens - 1, 0) / max(self.generate_seconds, 1e-9)


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    ``tokens`` are the ids drawn, without the one that ended it; after a stop string they reach to its last token while
    ``text`` ends before it.  ``finish_reason``: "stop" (the model ended, or a stop string), "length" (max_tokens, or the
    context is full), "cancelled".  The same ``seed``, prompt and parameters give the same tokens.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int


@dataclass(frozen=True)
class Piece:
    """A step of a stream: one token and the text that has become certain with it, often none.

    The last piece has no token; it carries the rest of the text, the finish reason and the whole generation.
    """

    text: str
    token: int | None
    finish_reason: FinishReason | None = None
    generation: Generation | None = None


@dataclass(eq=False)
class _Job:
    """One generation on its way."""

    prompt: list[int]
    prompt_text: str  # shown first; empty without echo
    max_tokens: int
    sampler: Sampler
    stops: list[str]
    strip_space: bool  # drop the space that a SentencePiece model puts before its first word
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)


class Runtime:
    """A loaded model with one session.  Safe to use from several threads: calls wait for each other.

    ``model_path`` None is the demo model that comes with hrun.  ``n_ctx`` is the context in tokens: None for the model's
    own (at most 16384), 0 for the model's own whatever it is.  ``n_threads`` None: the machine's.  ``device``: "auto" (a
    GPU where there is one), "cpu", "cuda", "cuda1", ...  ``n_gpu_layers``: how many of the last layers go there, one more than
    there are for the head as well, -1 for as many as fit.  ``type_k``, ``type_v``: formats of the KV cache.  ``n_batch``: tokens per pass over the prompt; results do not
    depend on it.  ``rotation``: "activation" or "weight", how rotated formats are multiplied.  ``pre_tokenizer``: a name of
    llama.cpp's, in place of the file's ``tokenizer.ggml.pre``.  ``progress(done, total)`` is called while the model is loaded,
    a tensor at a time.

    Raises ModelFileError, UnsupportedModelError, OutOfMemoryError, DeviceError, ArgumentError.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        device: str = "auto",
        n_gpu_layers: int = -1,
        type_k: str = "f16",
        type_v: str = "f16",
        n_batch: int = 512,
        rotation: str = "activation",
        pre_tokenizer: str | None = None,
        verbose: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        given = checked(
            n_ctx=n_ctx, n_threads=n_threads, device=device, n_gpu_layers=n_gpu_layers, type_k=type_k, type_v=type_v, n_batch=n_batch,
            rotation=rotation, pre_tokenizer=pre_tokenizer, verbose=verbose,
        )  # fmt: skip
        if model_path is not None and not isinstance(model_path, (str, os.PathLike)):
            raise ArgumentError(f"model_path must be a path, got {type(model_path).__name__}")
        start = time.monotonic()
        self.model_path = Path(model_path) if model_path is not None else demo_model_path()
        metadata = GGUFFile(str(self.model_path)).metadata
        self.tokenizer = Tokenizer(metadata, str(self.model_path), pre_tokenizer)
        self._name = metadata.get("general.name")
        self._sampling = _recommended_sampling(metadata)
        self._model: Model | None = Model.load(
            str(self.model_path),
            device=device,
            n_gpu_layers=n_gpu_layers,
            n_threads=n_threads or 0,
            rotated_matmul=rotation,
            progress=progress,
        )
        trained = self._model.n_ctx_train
        context = (
            min(trained, DEFAULT_CONTEXT) if given["n_ctx"] is None else given["n_ctx"] or trained
        )
        self._session: Session | None = Session(
            self._model, context, type_k=type_k, type_v=type_v, n_batch=n_batch
        )
        self.n_ctx: int = self._session.n_ctx
        self.n_vocab: int = self._model.n_vocab
        self.n_batch = n_batch
        self._in_session: list[int] = []  # the tokens behind the session's cache
        self._lease = Lease()
        self._jobs: weakref.WeakSet[_Job] = weakref.WeakSet()
        self._template: ChatTemplate | None = None
        self._process = os.getpid()
        if verbose:
            print(
                f"{self.description}, loaded in {time.monotonic() - start:.2f} s", file=sys.stderr
            )

    # ---- what was loaded

    @property
    def model(self) -> Model:
        """The core's model.  Raises GenerationError once the Runtime is closed."""
        if self._model is None:
            raise GenerationError("the Runtime is closed")
        return self._model

    @property
    def name(self) -> str:
        """The model's name from its metadata, else its file's."""
        return self._name if isinstance(self._name, str) and self._name else self.model_path.stem

    @property
    def bits_per_weight(self) -> float:
        """Of all tensors together."""
        return 8 * self.model.bytes / max(self.model.n_params, 1)

    @property
    def description(self) -> str:
        """One line: name, size, context, device."""
        model = self.model
        return (
            f"{self.name}: {_amount(model.n_params)} parameters, {self.bits_per_weight:.2f} bits per weight, "
            f"context {self.n_ctx}, {model.description}"
        )

    @property
    def recommended_sampling(self) -> dict[str, float]:
        """The sampling parameters that the model's file recommends (general.sampling.*), by hrun's names."""
        return dict(self._sampling)

    # ---- text and tokens

    def tokenize(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids; see :meth:`Tokenizer.encode`."""
        return self.tokenizer.encode(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of token ids; see :meth:`Tokenizer.decode`."""
        return self.tokenizer.decode(checked_ids("ids", ids, self.tokenizer.n_vocab), skip_special)

    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """What follows each prefix of ``ids``: float32 [n_tokens, n_vocab], row i after ids[: i + 1].

        With ``start`` only the rows from that one on: float32 [n_tokens - start, n_vocab].  Calls that continue the ids of
        the call before evaluate what is new only.  Memory beyond the result is bounded: 128 MiB of logits.
        Raises ContextOverflowError, ArgumentError, Cancelled.
        """
        import numpy as np

        from hrun.predictions import logit_rows

        tokens = checked_ids("ids", ids, self.n_vocab)
        start = Rule(int, 0, len(tokens)).check("start", start)
        self._require_fit(tokens, "ids")
        user = _Job(tokens, "", 0, Sampler(seed=0), [], False)
        self._jobs.add(user)
        try:
            self._acquire(user)
            for at in range(self._align(tokens[: start + 1], user), start, self.n_batch):
                self._forward(tokens[at : min(at + self.n_batch, start)], "none", user)
            out = np.empty((len(tokens) - start, self.n_vocab), np.float32)
            step = min(self.n_batch, logit_rows(self.n_vocab))
            for at in range(start, len(tokens), step):
                rows = self._forward(tokens[at : at + step], "all", user)
                out[at - start : at - start + step] = rows
            return out
        finally:
            self._lease.release(user)

    # ---- generation

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[False] = ..., **options: Any
    ) -> Generation: ...
    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[True], **options: Any
    ) -> Iterator[Piece]: ...
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        ignore_eos: bool = False,
        parse_special: bool = False,
        stream: bool = False,
        echo: bool = False,
        **sampling: float,
    ) -> Generation | Iterator[Piece]:
        """Continue ``prompt`` (text, or token ids) until the model ends, a stop string, ``max_tokens`` or a full context.

        ``sampling``: temperature (0.8), top_k (40), top_p (0.95), min_p (0.05), repeat_penalty (1.0), repeat_last_n (64),
        frequency_penalty (0), presence_penalty (0), as in ``hrun._core.samplers()``.  ``seed`` None draws one, which the
        result reports.  ``logit_bias`` adds to the logits of token ids.  ``parse_special`` reads control tokens in the
        text of the prompt.  ``echo`` puts the prompt before the text.  With ``stream`` the pieces come one token at a time;
        closing or dropping the iterator stops the generation.

        Raises ArgumentError, ContextOverflowError (before any work), GenerationError.
        """
        given = checked(
            max_tokens=max_tokens,
            seed=seed,
            ignore_eos=ignore_eos,
            parse_special=parse_special,
            stream=stream,
            echo=echo,
        )
        tokenizer = self.tokenizer
        if isinstance(prompt, str):
            ids = self._with_bos(tokenizer.encode(prompt, parse_special=parse_special))
        else:
            ids = checked_ids("prompt", prompt, self.n_vocab)
        if not ids:
            if tokenizer.bos_id is None:
                raise ArgumentError("prompt is empty, and the model has no token to begin with")
            ids = [tokenizer.bos_id]
        text = (prompt if isinstance(prompt, str) else tokenizer.decode(ids)) if echo else ""
        return self._run(ids, text, given, stop, logit_bias, sampling, strip_space=False)

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: Literal[False] = ..., **options: Any
    ) -> Generation: ...
    @overload
    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: Literal[True], **options: Any
    ) -> Iterator[Piece]: ...
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        ignore_eos: bool = False,
        stream: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        **sampling: float,
    ) -> Generation | Iterator[Piece]:
        """The assistant's answer to ``messages`` ({"role": ..., "content": ...} each), through the model's own template.

        The names of control tokens inside messages are text: they cannot end a turn or begin one.  Other parameters as in
        :meth:`generate`; ``template_variables`` are passed to the template.

        Raises ChatTemplateError as well, if the file has no template, or its template refuses the messages.
        """
        given = checked(max_tokens=max_tokens, seed=seed, ignore_eos=ignore_eos, stream=stream)
        ids = self.chat_tokens(messages, template_variables)
        return self._run(
            ids, "", given, stop, logit_bias, sampling, strip_space=self.tokenizer.adds_space
        )

    def chat_tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The prompt of :meth:`chat` as token ids, with BOS where the model wants it and never twice."""
        _check_messages(messages)
        tokenizer = self.tokenizer
        if self._template is None:
            if tokenizer.chat_template is None:
                raise ChatTemplateError(
                    f"{self.model_path} has none (tokenizer.chat_template); generate() continues plain text"
                )
            from hrun.chat_template import ChatTemplate

            self._template = ChatTemplate(tokenizer.chat_template)
        guard = _unused_character(messages, tokenizer.chat_template or "")
        text = self._template.render(
            [_mapped(message, lambda s: tokenizer.guard(s, guard)) for message in messages],
            bos_token="" if tokenizer.bos_id is None else tokenizer.tokens[tokenizer.bos_id],
            eos_token="" if tokenizer.eos_id is None else tokenizer.tokens[tokenizer.eos_id],
            **(template_variables or {}),
        )
        ids = self._with_bos(tokenizer.encode_guarded(text, guard))
        if not ids:
            raise ChatTemplateError("made an empty prompt of the messages")
        return ids

    def cancel(self) -> None:
        """End what is running or waiting, from any thread: generations finish as "cancelled" within a token."""
        for job in list(self._jobs):
            job.cancelled = True
        if (session := self._session) is not None:
            session.cancel()

    def close(self) -> None:
        """Free the model.  What still runs in other threads ends with GenerationError."""
        if self._session is None:
            return
        user = object()
        model_was_forked = os.getpid() != self._process
        session, self._session = self._session, None
        if not model_was_forked:
            session.cancel()
            self._lease.acquire(user)
        self._model = None
        if self._template is not None:
            self._template.close()
        self._lease.release(user)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Runtime {self.model_path}{' closed' if self._model is None else ''}>"

    # ---- inside

    def _run(
        self,
        ids: list[int],
        prompt_text: str,
        given: Mapping[str, Any],
        stop: str | Sequence[str] | None,
        logit_bias: Mapping[int, float] | None,
        sampling: Mapping[str, float],
        strip_space: bool,
    ) -> Generation | Iterator[Piece]:
        self._require_fit(ids, "the prompt")
        bias = checked_bias(logit_bias, self.n_vocab)
        if given["ignore_eos"]:
            bias |= dict.fromkeys(self.tokenizer.end_ids, -float("inf"))
        seed = (
            given["seed"] if given["seed"] is not None else int.from_bytes(os.urandom(4), "little")
        )
        sampler = Sampler(seed=seed, logit_bias=bias or None, **checked_sampling(sampling))
        for token in ids:
            sampler.accept(token)
        limit = self.n_ctx - len(ids) + 1  # the last token drawn need not fit
        if given["max_tokens"] is not None:
            limit = min(limit, given["max_tokens"])
        job = _Job(ids, prompt_text, limit, sampler, validate_stops(stop), strip_space)
        self._jobs.add(job)
        pieces = self._pieces(job, seed)
        if given["stream"]:
            return pieces
        for piece in pieces:
            if piece.generation is not None:
                return piece.generation
        raise AssertionError("a stream ends with its generation")

    def _pieces(self, job: _Job, seed: int) -> Iterator[Piece]:
        stops = StopStrings(job.stops)
        decoder = Utf8Decoder()
        parts = [job.prompt_text]
        start = first = last = time.monotonic()
        cached = 0
        reason: FinishReason = "length"
        if job.prompt_text:
            yield Piece(job.prompt_text, None)
        try:
            while len(job.tokens) < job.max_tokens:
                try:
                    token, reused = self._next_token(job)
                except Cancelled:
                    self._session_or_closed()
                    reason = "cancelled"
                    break
                last = time.monotonic()
                if not job.tokens:
                    first, cached = last, reused
                if token in self.tokenizer.end_ids:
                    reason = "stop"
                    break
                job.tokens.append(token)
                data = (
                    b"" if self.tokenizer.is_control(token) else self.tokenizer.token_bytes(token)
                )
                if job.strip_space and data:
                    data, job.strip_space = data.removeprefix(b" "), False
                text = stops.feed(decoder.feed(data))
                parts.append(text)
                yield Piece(text, token)
                if stops.stopped:
                    reason = "stop"
                    break
        finally:
            self._lease.release(job)
        rest = stops.feed(decoder.flush())
        if stops.stopped:
            reason = "stop"
        else:
            rest += stops.flush()
        parts.append(rest)
        timings = Timings(len(job.prompt), cached, first - start, len(job.tokens), last - first)
        generation = Generation("".join(parts), job.tokens, reason, timings, seed)
        yield Piece(rest, None, reason, generation)

    def _next_token(self, job: _Job) -> tuple[int, int]:
        """Evaluates what the session lacks of the job's tokens and draws the next; also how many it did not lack."""
        undisturbed = self._acquire(job)
        try:
            tokens = (
                job.prompt + job.tokens if not (undisturbed and job.tokens) else job.tokens[-1:]
            )
            reused = 0 if undisturbed and job.tokens else self._align(tokens, job)
            pending = tokens[reused:]
            while len(pending) > self.n_batch:
                self._forward(pending[: self.n_batch], "none", job)
                pending = pending[self.n_batch :]
            if job.cancelled:
                raise Cancelled("cancelled")
            token = self._session_or_closed().next(pending, job.sampler)
            self._in_session += pending
            return token, reused
        finally:
            self._lease.pause(job)

    def _forward(self, tokens: list[int], logits: str, job: _Job) -> np.ndarray | None:
        if job.cancelled:
            raise Cancelled("cancelled")
        rows = self._session_or_closed().forward(tokens, logits=logits)
        self._in_session += tokens
        return rows

    def _align(self, tokens: list[int], job: _Job) -> int:
        """Cuts the session back to what it shares with ``tokens``, at least one token short of all; how many that is.

        Reuse changes no result: logits do not depend on how a prompt was cut into calls.
        """
        session = self._session_or_closed()
        # An interrupt may have come between the session's step and ours; the shorter of the two accounts is true.
        have = self._in_session[: session.n_past]
        most = max(min(len(have), len(tokens) - 1), 0)
        if have[:most] == tokens[:most]:
            shared = most
        else:
            shared = next(i for i in range(most) if have[i] != tokens[i])
        session.truncate(shared)
        self._in_session = have[:shared]
        return shared

    def _acquire(self, job: _Job) -> bool:
        if os.getpid() != self._process:
            raise GenerationError(
                "the Runtime was created before fork(); create it in the child, or use spawn"
            )
        undisturbed = self._lease.acquire(job)
        if self._session is None:
            self._lease.release(job)
            raise GenerationError("the Runtime is closed")
        return undisturbed

    def _session_or_closed(self) -> Session:
        if (session := self._session) is None:
            raise GenerationError("the Runtime is closed")
        return session

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_id
        if bos is None or not self.tokenizer.adds_bos or ids[:1] == [bos]:
            return ids
        return [bos, *ids]

    def _require_fit(self, ids: list[int], what: str) -> None:
        self._session_or_closed()
        if len(ids) > self.n_ctx:
            raise ContextOverflowError(
                f"{what} has {len(ids)} tokens, the context holds {self.n_ctx}; "
                "shorten it or load the model with a larger n_ctx"
            )


def _recommended_sampling(metadata: Mapping[str, Any]) -> dict[str, float]:
    names = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
    found = {name: metadata.get(f"general.sampling.{key}") for key, name in names.items()}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _check_messages(messages: Any) -> None:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ArgumentError(
            f"messages must be a list of {{'role': ..., 'content': ...}}, got {type(messages).__name__}"
        )
    if not messages:
        raise ArgumentError("messages is empty")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ArgumentError(
                f"messages[{i}] must be a mapping with 'role' and 'content', got {type(message).__name__}"
            )
        if not isinstance(message.get("role"), str):
            raise ArgumentError(
                f"messages[{i}]['role'] must be a string, got {type(message.get('role')).__name__}"
            )
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list, tuple)):
            raise ArgumentError(
                f"messages[{i}]['content'] must be a string or a list of parts, got {type(content).__name__}"
            )


def _mapped(value: Any, change: Any, depth: int = 0) -> Any:
    """The JSON value with every string changed, keys excepted."""
    if depth > 200:
        raise ArgumentError("messages are nested more than 200 levels deep, or contain themselves")
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {k: _mapped(v, change, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(v, change, depth + 1) for v in value]
    return value


def _unused_character(messages: Any, template: str) -> str:
    """A character that occurs neither in the messages nor in the template; from those that Unicode assigns to nobody."""
    seen: set[str] = set(template)
    _mapped(list(messages), lambda text: seen.update(text))
    candidates = [*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xF0000, 0xFFFFE))]
    return next(c for c in candidates if c not in seen)


def _amount(n: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(int(n))
