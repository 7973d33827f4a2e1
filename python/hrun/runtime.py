"""A model with its tokenizer, ready to generate text."""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from hrun._core import (
    Encoder,
    Engine,
    Model,
    RequestHandle,
    end_calls,
    kv_format,
    read_spec,
    require_running,
)
from hrun.arguments import Rule, checked, checked_bias, checked_ids, checked_sampling
from hrun.cache_memory import bytes_per_token
from hrun.demo import demo_model_path
from hrun.errors import (
    ArgumentError,
    Cancelled,
    ContextOverflowError,
    GenerationError,
    UnsupportedModelError,
)
from hrun.generation import Answer, Generation, Job, Piece, Timings, TokenLogprob, logprob_of
from hrun.grammar import Grammar, grammar_of
from hrun.prompts import Prompt, Prompts
from hrun.stream import validate_stops

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from hrun.masks import Masks
    from hrun.options import ChatOptions, GenerateOptions
    from hrun.wakeup import Wakeup

__all__ = ["Generation", "Piece", "Runtime", "Timings", "TokenLogprob"]

# Without n_ctx: the model's own context, but not the gigabytes of cache that some models' 128 Ki tokens would take.
DEFAULT_CONTEXT = 16384

# Without stop strings nobody looks at tokens before the end, so none has to be read before more are drawn.
_ALL_UNREAD = 2**31 - 1

Messages = Sequence[Mapping[str, Any]]

_open: weakref.WeakSet[Runtime] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    end_calls()  # first, so that threads that wait for an engine end without a word
    for runtime in list(_open):
        runtime.close()


class Runtime(Prompts):
    """A loaded model and an engine that runs it.  Safe, and faster, from several threads: what they ask for is computed together.

    ``model_path`` None is the demo model that comes with hrun.  ``n_ctx`` is the context in tokens: None for the model's
    own (at most 16384), 0 for the model's own whatever it is.  ``n_threads`` None: the machine's.  ``device``: "auto" (a
    GPU where there is one), "cpu", "cuda", "cuda1", ..., or several: "cuda0,cuda1".  ``n_gpu_layers``: how many of the last layers go there, one more than
    there are for the head as well, -1 for as many as fit.  ``type_k``, ``type_v``: formats of the KV cache.  ``n_batch``: tokens per pass over the prompt; results do not
    depend on it.  ``kv_tokens``: positions that the cache has room for, of all generations together (None: ``n_ctx``).
    ``n_parallel``: generations that are computed together at most; others wait.
     ``rotation``: "activation" or "weight", how rotated formats are multiplied.  ``pre_tokenizer``: a name of
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
        kv_tokens: int | None = None,
        n_parallel: int = 64,
        rotation: str = "activation",
        pre_tokenizer: str | None = None,
        verbose: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        given = checked(
            n_ctx=n_ctx, n_threads=n_threads, device=device, n_gpu_layers=n_gpu_layers, type_k=type_k, type_v=type_v, n_batch=n_batch,
            kv_tokens=kv_tokens, n_parallel=n_parallel, rotation=rotation, pre_tokenizer=pre_tokenizer, verbose=verbose,
        )  # fmt: skip
        if model_path is not None and not isinstance(model_path, (str, os.PathLike)):
            raise ArgumentError(f"model_path must be a path, got {type(model_path).__name__}")
        start = time.monotonic()
        super().__init__(
            Path(model_path) if model_path is not None else demo_model_path(), pre_tokenizer
        )
        self._model: Model | None = Model.load(
            str(self.model_path),
            device=device,
            n_gpu_layers=n_gpu_layers,
            n_threads=n_threads or 0,
            rotated_matmul=rotation,
            progress=progress,
        )
        trained = self._model.n_ctx_train
        context = context_of(given["n_ctx"], trained)
        self._encoder: Encoder | None = None
        self._engine: Engine | None = None
        if self._model.is_encoder:
            self._encoder = Encoder(self._model, context, n_batch=n_batch)
        else:
            self._engine = Engine(
                self._model,
                context,
                n_batch=n_batch,
                kv_tokens=max(given["kv_tokens"] or 0, context),
                type_k=type_k,
                type_v=type_v,
                max_running=n_parallel,
            )
        self.cache_formats = (type_k, type_v)
        self.rotation = rotation
        self.n_ctx: int = (self._encoder or self._engine).n_ctx  # type: ignore[union-attr]
        self.n_vocab: int = self._model.n_vocab
        self.n_batch = n_batch
        self._era = object()  # cancel() begins another
        self._masks: Masks | None = None
        self._masks_lock = threading.Lock()
        self._process = os.getpid()
        self._wakeups: dict[int, Wakeup] = {}  # by event loop
        _open.add(self)
        if verbose:
            print(
                f"{self.description}, loaded in {time.monotonic() - start:.2f} s", file=sys.stderr
            )
            self._print_notes(max(given["kv_tokens"] or 0, self.n_ctx), type_k, type_v)

    def _print_notes(self, n_positions: int, type_k: str, type_v: str) -> None:
        if self._engine is not None:
            per_token = bytes_per_token(read_spec(str(self.model_path)).params, type_k, type_v)
            print(
                f"KV cache: {n_positions} tokens, {kv_format(type_k)}/{kv_format(type_v)}, "
                f"{per_token * n_positions / 2**20:.1f} MiB ({per_token} bytes per token)",
                file=sys.stderr,
            )
        for warning in self.model.warnings:
            print(f"note: {warning}", file=sys.stderr)

    # ---- what was loaded

    @property
    def model(self) -> Model:
        """The core's model.  Raises GenerationError once the Runtime is closed."""
        if self._model is None:
            require_running()  # at exit the thread ends without a word
            raise GenerationError("the Runtime is closed")
        return self._model

    @property
    def engine(self) -> Engine:
        """The engine that runs the model.  Raises GenerationError once the Runtime is closed."""
        return self._engine_or_closed()

    def stats(self) -> dict[str, Any]:
        """The engine's counters; all are 0 of an encoder, which has no engine."""
        if self._encoder is not None:
            return defaultdict(int)
        return self._engine_or_closed().stats()

    @property
    def masks(self) -> Masks:
        """Grammars that requests of the engine are bound to.  Raises GrammarError without llguidance."""
        engine = self._engine_or_closed()
        with self._masks_lock:
            if self._masks is None:
                from hrun.masks import Masks

                self._masks = Masks(engine, self.tokenizer, self.n_vocab)
            return self._masks

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

    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray:
        """What follows each prefix of ``ids``: float32 [n_tokens, n_vocab], row i after ids[: i + 1].

        With ``start`` only the rows from that one on: float32 [n_tokens - start, n_vocab].  Calls that continue the ids of
        the call before evaluate what is new only.  Memory beyond the result is bounded: 128 MiB of logits.
        Raises ContextOverflowError, ArgumentError, Cancelled.
        """
        import numpy as np

        tokens = checked_ids("ids", ids, self.n_vocab)
        start = Rule(int, 0, len(tokens)).check("start", start)
        self._require_fit(tokens, "ids")
        if start == len(tokens):
            return np.empty((0, self.n_vocab), np.float32)
        handle = self._whole(tokens, kind="logits", first_row=start)
        return handle.values.reshape(-1, self.n_vocab)

    def score(self, text: Prompt, *, top_logprobs: int = 0) -> list[TokenLogprob]:
        """The log-probability of each token of ``text`` (text, or token ids) given those before it, from the second one on.

        Text begins with BOS where the model wants it, so that its first word has one as well.
        Raises ContextOverflowError, ArgumentError, Cancelled.
        """
        tokens = self.prompt_ids(text, False)
        top_logprobs = Rule(int, 0, self.n_vocab).check("top_logprobs", top_logprobs)
        self._require_fit(tokens, "the text")
        handle = self._whole(tokens, kind="score", top_logprobs=top_logprobs)
        return [
            TokenLogprob(token, logprob, top)
            for token, (logprob, top) in zip(tokens[1:], handle.scores)
        ]

    def embed(
        self,
        texts: Prompt | Sequence[str],
        *,
        pooling: Literal["none", "mean", "cls", "last", "rank"] | None = None,
        normalize: bool | int = True,
    ) -> np.ndarray:
        """Embeddings: float32 [n_texts, n_embd]; [n_embd] of one text.

        Texts begin and end with the special tokens that the model wants.  ``pooling``: the mean of the states after the
        last norm, the first token's ("cls") or the last token's; None: what the file says, else the last token's, of an
        encoder the mean.  "none": each token's, one text alone, [n_tokens, n_embd].  "rank": scores, [n_texts, n_classes], not
        normalised.  ``normalize``: to length 1; a number as in :func:`hrun.embeddings.normalized`.
        Raises ContextOverflowError, ArgumentError, UnsupportedModelError, Cancelled.
        """
        from hrun import embeddings

        one = not _is_many(texts)
        prompts = [self.embedding_ids(t) for t in _listed(texts)]
        how = pooling or self.pooling
        if how == "none" and not one:
            whose = "" if pooling else ", the model file's own,"
            raise ArgumentError(
                f"pooling 'none'{whose} gives the vectors of one text, not of a list"
            )
        rows = embeddings.embed(self, prompts, how)
        if how != "rank":
            rows = [embeddings.normalized(row, normalize) for row in rows]
        if how == "none":
            return rows[0]
        return rows[0][0] if one else embeddings.stacked(rows)

    def rerank(self, query: str, documents: Sequence[str]) -> np.ndarray:
        """How well each document answers the query, by a model that compares texts: float32 [n_documents].

        Raises ContextOverflowError, ArgumentError, Cancelled, UnsupportedModelError where the model is none.
        """
        from hrun import embeddings

        return embeddings.rerank(self, query, documents)

    @property
    def pooling(self) -> str:
        """How :meth:`embed` makes one vector of a text's where nothing else is asked."""
        return self.model.pooling or ("mean" if self.model.is_encoder else "last")

    def text_states(
        self, prompts: Sequence[Sequence[int]], pooling: str, seconds: Sequence[int] = ()
    ) -> list[np.ndarray]:
        """Of each text's tokens the states after the last norm, pooled: float32 [1, n_embd], with "none" [n_tokens, n_embd].

        ``seconds``: where the second of two texts begins, for encoders.  Raises ContextOverflowError, Cancelled.
        """
        self._require_open()
        for ids in prompts:
            self._require_fit(ids, "the text")
        if (encoder := self._encoder) is not None:
            return list(encoder.encode([list(ids) for ids in prompts], pooling, list(seconds)))
        engine = self._engine_or_closed()
        era = self._era
        handles = [engine.submit(list(p), kind="embed", pooling=pooling) for p in prompts]
        n_embd = self.model.n_embd
        return [self._finished(h, era).values.reshape(-1, n_embd) for h in handles]

    # ---- generation

    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        prompt: Prompt,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> Generation: ...
    @overload
    def generate(
        self, prompt: Prompt, *, stream: Literal[True], **options: Unpack[GenerateOptions]
    ) -> Iterator[Piece]: ...
    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        prompt: Sequence[str] | Sequence[Sequence[int]],
        *,
        stream: Literal[False] = ...,
        **options: Unpack[GenerateOptions],
    ) -> list[Generation]: ...
    @overload
    def generate(
        self, prompt: Prompt, *, stream: bool, **options: Unpack[GenerateOptions]
    ) -> Generation | Iterator[Piece]: ...
    def generate(
        self,
        prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        ignore_eos: bool = False,
        parse_special: bool = False,
        stream: bool = False,
        echo: bool = False,
        logprobs: int | None = None,
        json_schema: Any = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        grammar: str | Grammar | None = None,
        **sampling: float,
    ) -> Generation | list[Generation] | Iterator[Piece]:
        """Continue ``prompt`` (text, or token ids) until the model ends, a stop string, ``max_tokens`` or a full context.

        A list of prompts gives a list of generations, which are computed together; each has the result that it would
        have alone with the same seed.

        ``sampling``: temperature (0.8), top_k (40), top_p (0.95), min_p (0.05), repeat_penalty (1.0), repeat_last_n (64),
        frequency_penalty (0), presence_penalty (0), as in ``hrun._core.samplers()``.  ``seed`` None draws one, which the
        result reports.  ``logit_bias`` adds to the logits of token ids.  ``parse_special`` reads control tokens in the
        text of the prompt.  ``echo`` puts the prompt before the text.  ``logprobs`` n: each token's log-probability and
        the n likeliest.  With ``stream`` the pieces come one token at a time; closing or dropping the iterator stops the
        generation.

        ``json_schema`` (a dict, its text, True for any JSON, or a pydantic model), ``regex``, ``choice`` (texts) or
        ``grammar`` (GBNF or llguidance's Lark) binds the text: it ends where that can end, and only then.  Needs the
        extra ``hrun[grammar]``.

        Raises ArgumentError, ContextOverflowError, GrammarError (before any work), GenerationError.
        """
        given = checked(
            max_tokens=max_tokens,
            seed=seed,
            ignore_eos=ignore_eos,
            parse_special=parse_special,
            stream=stream,
            echo=echo,
            logprobs=logprobs,
        )
        bound = grammar_of(json_schema, regex, choice, grammar)
        many = _is_many(prompt)
        if many and stream:
            raise ArgumentError("stream gives the pieces of one prompt, not of a list")
        jobs = [
            self._generate_job(p, given, stop, logit_bias, sampling, bound) for p in _listed(prompt)
        ]
        return self._run_all(jobs) if many else self._run(jobs[0], stream)

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """:meth:`generate` for asyncio: awaits the generation; cancelling the task ends it."""
        return await _generation_of(self.astream(prompt, **options))

    async def achat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Generation:
        """:meth:`chat` for asyncio."""
        template_variables = options.pop("template_variables", None)
        ids = await asyncio.to_thread(self.chat_tokens, messages, template_variables)
        job = self._async_job(ids, dict(options), strip_space=self.tokenizer.adds_space)
        return await _generation_of(self._apieces(job))

    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncIterator[Piece]:
        """The pieces of :meth:`generate` for asyncio; closing the iterator, or cancelling its task, ends the generation."""
        return self._apieces(self._async_job(prompt, dict(options)))

    @overload
    def chat(
        self,
        messages: Messages,
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> Generation: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Iterator[Piece]: ...
    @overload
    def chat(
        self,
        messages: Sequence[Messages],
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatOptions],
    ) -> list[Generation]: ...
    @overload
    def chat(
        self, messages: Messages, *, stream: bool, **options: Unpack[ChatOptions]
    ) -> Generation | Iterator[Piece]: ...
    def chat(
        self,
        messages: Messages | Sequence[Messages],
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        ignore_eos: bool = False,
        stream: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        logprobs: int | None = None,
        json_schema: Any = None,
        regex: str | None = None,
        choice: Sequence[str] | None = None,
        grammar: str | Grammar | None = None,
        **sampling: float,
    ) -> Generation | list[Generation] | Iterator[Piece]:
        """The assistant's answer to ``messages`` ({"role": ..., "content": ...} each), through the model's own template.

        The names of control tokens inside messages are text: they cannot end a turn or begin one.  A list of
        conversations gives a list of answers.  Other parameters as in :meth:`generate`; ``template_variables`` are
        passed to the template.

        Raises ChatTemplateError as well, if the file has no template, or its template refuses the messages.
        """
        given = checked(
            max_tokens=max_tokens,
            seed=seed,
            ignore_eos=ignore_eos,
            stream=stream,
            logprobs=logprobs,
        )
        bound = grammar_of(json_schema, regex, choice, grammar)
        many = (
            isinstance(messages, Sequence)
            and not isinstance(messages, (str, bytes))
            and len(messages) > 0
            and all(isinstance(m, (list, tuple)) for m in messages)
        )
        if many and stream:
            raise ArgumentError("stream gives the pieces of one conversation, not of a list")
        conversations: Any = messages if many else [messages]
        jobs = [
            self._job(
                self.chat_tokens(m, template_variables),
                "",
                given,
                stop,
                logit_bias,
                sampling,
                bound,
                self.tokenizer.adds_space,
            )
            for m in conversations
        ]
        return self._run_all(jobs) if many else self._run(jobs[0], stream)

    def cancel(self) -> None:
        """End what is running or waiting, from any thread: generations finish as "cancelled" within a token."""
        self._era = object()  # one assignment: nothing that threads could see half done
        if (engine := self._engine) is not None:
            engine.cancel_all()
        if (encoder := self._encoder) is not None:
            encoder.cancel()

    def close(self) -> None:
        """Free the model.  What still runs in other threads ends with GenerationError."""
        engine, self._engine = self._engine, None
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.cancel()
            self._model = None
        if engine is None:
            return
        self._model = None
        if os.getpid() == self._process:
            engine.close()
            if self._masks is not None:
                self._masks.join()
        for wakeup in list(self._wakeups.values()):
            wakeup.close()
        super().close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Runtime {self.model_path}{' closed' if self._model is None else ''}>"

    # ---- inside

    def _generate_job(
        self,
        prompt: Prompt,
        given: Mapping[str, Any],
        stop: str | Sequence[str] | None,
        logit_bias: Mapping[int, float] | None,
        sampling: Mapping[str, float],
        grammar: Grammar | None,
    ) -> Job:
        ids = self.prompt_ids(prompt, given["parse_special"])
        text = ""
        if given["echo"]:
            text = prompt if isinstance(prompt, str) else self.tokenizer.decode(ids)
        return self._job(ids, text, given, stop, logit_bias, sampling, grammar, strip_space=False)

    def _async_job(self, prompt: Prompt, options: dict[str, Any], strip_space: bool = False) -> Job:
        stop, logit_bias = options.pop("stop", None), options.pop("logit_bias", None)
        names = ("max_tokens", "seed", "ignore_eos", "parse_special", "echo", "logprobs")
        usual = {"ignore_eos": False, "parse_special": False, "echo": False}
        given = checked(**{name: options.pop(name, usual.get(name)) for name in names})
        bound = grammar_of(
            **{k: options.pop(k, None) for k in ("json_schema", "regex", "choice", "grammar")}
        )
        job = self._generate_job(prompt, given, stop, logit_bias, options, bound)
        job.strip_space = strip_space and bound is None
        return job

    def _job(
        self,
        ids: list[int],
        prompt_text: str,
        given: Mapping[str, Any],
        stop: str | Sequence[str] | None,
        logit_bias: Mapping[int, float] | None,
        sampling: Mapping[str, float],
        grammar: Grammar | None,
        strip_space: bool,
    ) -> Job:
        self._require_fit(ids, "the prompt")
        bias = checked_bias(logit_bias, self.n_vocab)
        if given["ignore_eos"]:
            bias |= dict.fromkeys(self.tokenizer.end_ids, -float("inf"))
        seed = (
            given["seed"] if given["seed"] is not None else int.from_bytes(os.urandom(4), "little")
        )
        limit = self.n_ctx - len(ids) + 1  # the last token drawn need not fit
        if given["max_tokens"] is not None:
            limit = min(limit, given["max_tokens"])
        return Job(
            prompt=ids,
            prompt_text=prompt_text,
            max_tokens=limit,
            seed=seed,
            sampling=checked_sampling(sampling),
            logit_bias=bias,
            stops=validate_stops(stop),
            strip_space=strip_space and grammar is None,
            logprobs=given["logprobs"],
            grammar=grammar,
            era=self._era,
        )

    def _submit(self, job: Job, max_unread: int) -> RequestHandle:
        return self.submit_bound(
            job.grammar,
            job.prompt,
            max_tokens=job.max_tokens,
            seed=job.seed,
            sampling=job.sampling,
            logit_bias=list(job.logit_bias.items()),
            end_tokens=list(self.tokenizer.end_ids),
            top_logprobs=-1 if job.logprobs is None else job.logprobs,
            max_unread=max_unread,
        )

    def submit_bound(
        self, grammar: Grammar | None, prompt: list[int], **options: Any
    ) -> RequestHandle:
        """The engine's ``submit``, bound to a grammar where there is one.

        With ``n_drawn`` the grammar has read the last tokens of the prompt, as the sampler has drawn them.
        """
        engine = self._engine_or_closed()
        if grammar is None:
            return engine.submit(prompt, **options)
        masks = self.masks
        n_drawn = options.get("n_drawn", 0)
        constraint = masks.bind(grammar, prompt[len(prompt) - n_drawn :])
        try:
            return engine.submit(prompt, constraint=constraint, **options)
        except BaseException:
            masks.drop(constraint)
            raise

    def _run(self, job: Job, stream: bool) -> Generation | Iterator[Piece]:
        return self._pieces(job) if stream else self._run_all([job])[0]

    def _run_all(self, jobs: list[Job]) -> list[Generation]:
        """Generations that are computed together."""
        engine = self._engine_or_closed()
        answers = [Answer(job, self.tokenizer) for job in jobs]
        handles: list[RequestHandle | None] = []
        done = []
        try:
            for job in jobs:
                unread = _ALL_UNREAD if not job.stops else 8
                handles.append(self._submit(job, unread) if job.max_tokens > 0 else None)
            for job, answer, handle in zip(jobs, answers, handles):
                *_, last = self._read(job, answer, handle, whole=not job.stops)
                assert last.generation is not None
                done.append(last.generation)
            return done
        finally:
            for handle in handles:
                if handle is not None and not handle.finished:
                    engine.cancel(handle)

    def _pieces(self, job: Job) -> Iterator[Piece]:
        if job.prompt_text:
            yield Piece(job.prompt_text, None)
        answer = Answer(job, self.tokenizer)
        engine = self._engine_or_closed()
        handle = None
        if job.max_tokens > 0 and job.era is self._era:
            handle = self._submit(job, 8)
        try:
            yield from self._read(job, answer, handle, whole=False)
        finally:
            if handle is not None and not handle.finished:
                engine.cancel(handle)

    def _read(
        self, job: Job, answer: Answer, handle: RequestHandle | None, whole: bool
    ) -> Iterator[Piece]:
        """The pieces as they come; with ``whole`` after the end."""
        if handle is None:
            yield self._nothing(job, answer)
            return
        finish = None
        while finish is None:
            drawn, finish = self._engine_or_closed().take(handle, all=whole)
            for piece in self._consume(job, answer, handle, drawn, finish):
                yield piece
                if piece.generation is not None:
                    return

    def _nothing(self, job: Job, answer: Answer) -> Piece:
        """The last piece of a job that asked nothing of the engine."""
        return answer.finish("length" if job.era is self._era else "cancelled", None)

    def _consume(
        self,
        job: Job,
        answer: Answer,
        handle: RequestHandle,
        drawn: list[Any],
        finish: str | None,
    ) -> Iterator[Piece]:
        """The pieces of what was taken, the last one included where that is known."""
        for token, logprob, top in drawn:
            if job.era is not self._era:
                break
            yield answer.feed(token, logprob_of(token, logprob, top))
            if answer.stopped:
                yield answer.finish("stop", handle)
                return
        if job.era is not self._era or finish == "cancelled":
            self._engine_or_closed()
            yield answer.finish("cancelled", handle)
        elif finish is not None:
            yield answer.finish("stop" if finish == "stop" else "length", handle)

    async def _apieces(self, job: Job) -> AsyncIterator[Piece]:
        from hrun.wakeup import wakeup_of

        if job.prompt_text:
            yield Piece(job.prompt_text, None)
        answer = Answer(job, self.tokenizer)
        if job.max_tokens == 0 or job.era is not self._era:
            yield self._nothing(job, answer)
            return
        engine = self._engine_or_closed()
        wakeup = wakeup_of(engine, self._wakeups)
        handle = self._submit(job, 8)
        try:
            finish = None
            while finish is None:
                waiting = wakeup.next_step()
                drawn, finish = self._engine_or_closed().take(handle, 0.0)
                if not drawn and finish is None:
                    await waiting
                    continue
                # A model that is as fast as its reader must not keep the loop from others.
                await asyncio.sleep(0)
                for piece in self._consume(job, answer, handle, drawn, finish):
                    yield piece
                    if piece.generation is not None:
                        return
        finally:
            if not handle.finished:
                engine.cancel(handle)

    def _whole(self, tokens: list[int], **options: Any) -> RequestHandle:
        """A finished request that draws nothing."""
        era = self._era
        return self._finished(self._engine_or_closed().submit(tokens, **options), era)

    def _finished(self, handle: RequestHandle, era: object) -> RequestHandle:
        engine = self._engine_or_closed()
        try:
            _, finish = engine.take(handle, all=True)
        finally:
            if not handle.finished:
                engine.cancel(handle)
        if finish == "cancelled" or era is not self._era:
            self._engine_or_closed()
            raise Cancelled("cancelled")
        return handle

    def _require_own_process(self) -> None:
        if os.getpid() != self._process:
            raise GenerationError(
                "the Runtime was created before fork(); create it in the child, or use spawn"
            )

    def _engine_or_closed(self) -> Engine:
        self._require_own_process()
        if self._encoder is not None:
            raise UnsupportedModelError(
                f"{self.model_path}: '{self.model.architecture}' is an encoder: it gives embeddings and no text "
                "(Runtime.embed, hrun-embed)"
            )
        if (engine := self._engine) is None:
            require_running()  # at exit the thread ends without a word
            raise GenerationError("the Runtime is closed")
        return engine

    def _require_open(self) -> None:
        if self._encoder is None:
            self._engine_or_closed()
        else:
            self._require_own_process()

    def _require_fit(self, ids: Sequence[int], what: str) -> None:
        self._require_open()
        if len(ids) > self.n_ctx:
            raise ContextOverflowError(
                f"{what} has {len(ids)} tokens, the context holds {self.n_ctx}; "
                "shorten it or load the model with a larger n_ctx"
            )


async def _generation_of(pieces: AsyncIterator[Piece]) -> Generation:
    last: Piece | None = None
    async for piece in pieces:
        last = piece
    assert last is not None and last.generation is not None
    return last.generation


def _listed(prompt: Any) -> list[Prompt]:
    """One prompt, or a list of them, as a list."""
    return list(prompt) if _is_many(prompt) else [prompt]


def _is_many(prompt: Any) -> bool:
    """Is this a list of prompts, not one of text or token ids?"""
    return (
        isinstance(prompt, (list, tuple))
        and len(prompt) > 0
        and all(isinstance(p, (str, list, tuple)) for p in prompt)
    )


def context_of(n_ctx: int | None, trained: int) -> int:
    """The context that ``n_ctx`` asks for, of a model that was trained for so many tokens."""
    return min(trained, DEFAULT_CONTEXT) if n_ctx is None else n_ctx or trained


def _amount(n: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(int(n))
