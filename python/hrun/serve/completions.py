"""POST /v1/completions: plain text goes on, with echo, log-probabilities and prompts of token ids."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hrun.generation import TokenLogprob
from hrun.grammar import Grammar
from hrun.serve.answers import Answers
from hrun.serve.choice import Choice
from hrun.serve.drawing import asks_of, check_extra, max_tokens_of, room_for, stops_of
from hrun.serve.endpoint import body_of, json_response, key_of, stream_response
from hrun.serve.errors import bad
from hrun.serve.ids import new_id
from hrun.serve.logprobs import CompletionLogprobs
from hrun.serve.schemas import CompletionRequest, parsed, several
from hrun.serve.service import Service
from hrun.serve.sse import DONE, frame, unless_gone
from hrun.serve.structured import grammar_asked, ready

DEFAULT_TOKENS = 16  # OpenAI's
MAX_LOGPROBS = 100


async def completions(request: Request) -> Response:
    """Continues prompts, as a whole or as a stream."""
    service: Service = request.app.state.service
    body = parsed(CompletionRequest, await body_of(request))
    model = service.check_model(body.model)
    check_extra(service, body)
    texts = _prompts(service, body)
    _check(service, body)
    n_draws = max(body.n or 1, body.best_of or 1)
    with service.admission.enter(len(texts) * n_draws, key_of(request)) as ticket:
        prompts = await unless_gone(request, service.in_thread(_encoded, service, body, texts))
        grammar = await unless_gone(request, service.in_thread(_grammar, service, body))
        writer = _Writer(service, body, model, prompts, n_draws, key_of(request), grammar)
        await unless_gone(request, writer.score())
        writer.begin()
        if body.stream:
            return stream_response(service, request, writer.stream(), ticket, writer.close)
        try:
            await unless_gone(request, writer.run())
        finally:
            writer.close()
        return json_response(writer.whole())


def _prompts(service: Service, body: CompletionRequest) -> list[str] | list[list[int]]:
    prompts = several(body.prompt)
    if not prompts:
        raise bad("prompt is an empty list", param="prompt")
    if len(prompts) > service.options.max_prompts:
        raise bad(
            f"{len(prompts)} prompts, the server takes {service.options.max_prompts}",
            param="prompt",
        )
    return list(prompts)


def _check(service: Service, body: CompletionRequest) -> None:
    if body.stream_options is not None and not body.stream:
        raise bad("stream_options is for streams", param="stream_options")
    if body.suffix:
        raise bad("suffix is not supported", param="suffix", code="unsupported")
    n, best_of = body.n or 1, body.best_of
    if max(n, best_of or 1) > service.options.max_choices:
        raise bad(f"n and best_of are at most {service.options.max_choices}", param="n")
    if best_of is not None and best_of < n:
        raise bad(f"best_of is {best_of}, must be at least n, which is {n}", param="best_of")
    if best_of is not None and best_of > n and body.stream:
        raise bad("best_of chooses among whole answers and cannot be streamed", param="best_of")
    if n_logprobs(body) > MAX_LOGPROBS:
        raise bad(f"logprobs is {body.logprobs}, at most {MAX_LOGPROBS}", param="logprobs")
    if max_tokens_of(body) == 0 and not body.echo:
        raise bad("max_tokens is 0, which makes sense with echo only", param="max_tokens")


def n_logprobs(body: CompletionRequest) -> int:
    """Returns the number of likeliest tokens that are wanted; -1: no log-probabilities."""
    if body.logprobs is None or body.logprobs is False:
        return -1
    if body.logprobs is True:
        return 0
    if body.logprobs < 0:
        raise bad(f"logprobs is {body.logprobs}, must not be negative", param="logprobs")
    return body.logprobs


def _encoded(service: Service, body: CompletionRequest, prompts: list[Any]) -> list[list[int]]:
    """Token ids of each prompt; for a thread."""
    runtime = service.runtime
    out = []
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            for token in prompt:
                if not 0 <= token < runtime.n_vocab:
                    where = f"prompt[{i}]" if len(prompts) > 1 else "prompt"
                    raise bad(
                        f"{where}: token id {token} is outside the vocabulary of {runtime.n_vocab}",
                        param="prompt",
                    )
        ids = runtime.prompt_ids(prompt, body.parse_special)
        asked = max_tokens_of(body)
        limit = DEFAULT_TOKENS if asked is None else asked
        room_for(service, len(ids), limit, asked is None, param="prompt")
        out.append(ids)
    return out


def _grammar(service: Service, body: CompletionRequest) -> Grammar | None:
    """Returns the grammar that binds the text.  Call it in a thread."""
    return ready(service, "response_format", grammar_asked(service, body))


class _Writer:
    """The work and the response, in OpenAI's shapes."""

    def __init__(
        self,
        service: Service,
        body: CompletionRequest,
        model: str,
        prompts: list[list[int]],
        n_draws: int,
        key: str,
        grammar: Grammar | None,
    ) -> None:
        self._grammar = grammar
        self._service = service
        self._body = body
        self._prompts = prompts
        self._n = body.n or 1
        self._n_draws = n_draws
        self._key = key
        self._n_top = n_logprobs(body)
        self._scores: list[list[TokenLogprob]] = [[] for _ in prompts]
        self._answers: Answers | None = None
        self._head: dict[str, Any] = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": service.fingerprint,
        }

    async def score(self) -> None:
        """Log-probabilities of the prompts, where they are to be echoed."""
        if not self._body.echo or self._n_top < 0:
            return
        salt = self._service.salt(self._key, self._body.cache_salt)
        self._scores = await self._service.engines.score(
            self._prompts, self._n_top, client=self._key, salt=salt
        )

    def begin(self) -> None:
        """Asks the engine."""
        body = self._body
        max_tokens = max_tokens_of(body)
        if max_tokens == 0:
            return
        n_top = 0 if self._n_draws > self._n and self._n_top < 0 else self._n_top
        stops = stops_of(self._service, body)
        asks = asks_of(
            self._service,
            body,
            self._prompts,
            n=self._n_draws,
            key=self._key,
            max_tokens=DEFAULT_TOKENS if max_tokens is None else max_tokens,
            top_logprobs=n_top,
            clamp=max_tokens is None,
            grammar=self._grammar,
        )
        choices = [
            Choice(
                self._service.runtime.tokenizer,
                stops=stops,
                include_stop=body.include_stop_str_in_output,
                show_control=not body.skip_special_tokens,
            )
            for _ in asks
        ]
        self._answers = Answers(self._service, asks, choices)

    async def run(self) -> None:
        """Runs all answers to their end."""
        if self._answers is not None:
            await self._answers.run()

    def close(self) -> None:
        """Frees the engine."""
        if self._answers is not None:
            self._answers.close()

    def whole(self) -> dict[str, Any]:
        """All at once."""
        choices: list[dict[str, Any]] = []
        for i, ids in enumerate(self._prompts):
            for choice in self._best(i):
                text, logprobs = self._echo(i), self._logprobs()
                out: dict[str, Any] = {"index": len(choices), "text": text}
                pieces = self._echoed(i, logprobs)
                if choice is not None:
                    out["text"] += choice.text()
                    pieces = _joined(pieces, self._piece(logprobs, choice.logprobs))
                out["logprobs"] = pieces
                out["finish_reason"] = "length" if choice is None else choice.finish_reason
                if choice is not None and choice.stop_string is not None:
                    out["stop_reason"] = choice.stop_string
                if self._body.return_token_ids:
                    out["prompt_token_ids"] = ids
                    out["token_ids"] = choice.tokens if choice is not None else []
                choices.append(out)
        tail: dict[str, Any] = {"usage": self._usage()}
        if self._answers is not None:
            tail["timings"] = self._answers.timings()
        return self._head | {"choices": choices} | tail

    def _best(self, prompt: int) -> list[Choice | None]:
        """The n choices of a prompt to show; None stands for one that draws nothing."""
        if self._answers is None:
            return [None] * self._n
        mine = self._answers.choices[prompt * self._n_draws : (prompt + 1) * self._n_draws]
        if self._n_draws > self._n:
            mine = sorted(mine, key=_mean_logprob, reverse=True)  # stable: of equals the first
        return list(mine[: self._n])

    async def stream(self) -> AsyncIterator[str]:
        """Yields the answer as it comes.  The choices of prompt p are numbered p * n and upward."""
        body, options = self._body, self._body.stream_options
        with_usage = options is not None and options.include_usage
        continuous = options is not None and options.continuous_usage_stats

        def chunk(index: int, text: str, logprobs: Any, choice: Choice | None, ended: bool) -> str:
            out: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs}
            out["finish_reason"] = None
            if ended:
                out["finish_reason"] = "length" if choice is None else choice.finish_reason
                if choice is not None and choice.stop_string is not None:
                    out["stop_reason"] = choice.stop_string
            whole = self._head | {"choices": [out]}
            if with_usage or continuous:
                whole["usage"] = self._usage() if continuous else None
            if ended and self._answers is not None:
                whole["timings"] = self._answers.timings()
            return frame(whole)

        logprobs = [self._logprobs() for _ in range(len(self._prompts) * self._n)]
        waiting: list[list[TokenLogprob]] = [[] for _ in logprobs]
        if body.echo:
            for index in range(len(logprobs)):
                echoed = self._echoed(index // self._n, logprobs[index])
                yield chunk(
                    index, self._echo(index // self._n), echoed, None, self._answers is None
                )
        if self._answers is not None:
            async for index, delta in self._answers.deltas():
                choice = self._answers.choices[index]
                ended = choice.finish_reason is not None
                waiting[index] += delta.logprobs
                text = "".join(event.text for event in delta.events)
                if not text and not ended:
                    continue
                pieces, waiting[index] = self._piece(logprobs[index], waiting[index]), []
                yield chunk(index, text, pieces, choice, ended)
        if with_usage:
            yield frame(self._head | {"choices": [], "usage": self._usage()})
        yield DONE

    def _logprobs(self) -> CompletionLogprobs:
        return CompletionLogprobs(
            self._service.runtime.tokenizer, self._body.return_tokens_as_token_ids
        )

    def _piece(self, logprobs: CompletionLogprobs, entries: list[TokenLogprob]) -> Any:
        if self._n_top < 0:
            return None
        return logprobs.piece(entries, n_top=self._n_top)

    def _echoed(self, prompt: int, logprobs: CompletionLogprobs) -> Any:
        """Returns the log-probabilities of the prompt's tokens."""
        if self._n_top < 0 or not self._body.echo:
            return None
        first = self._prompts[prompt][0]
        return logprobs.piece(self._scores[prompt], first=first, n_top=self._n_top)

    def _echo(self, prompt: int) -> str:
        if not self._body.echo:
            return ""
        given: Any = self._body.prompt
        if isinstance(given, str):
            return given
        if isinstance(given[0], str):
            return str(given[prompt])
        return self._service.runtime.tokenizer.decode(self._prompts[prompt])

    def _usage(self) -> dict[str, Any]:
        if self._answers is not None:
            return self._answers.usage()
        n = sum(map(len, self._prompts))
        return {"prompt_tokens": n, "completion_tokens": 0, "total_tokens": n}


def _mean_logprob(choice: Choice) -> float:
    values = [entry.logprob for entry in choice.logprobs]
    return sum(values) / len(values) if values else -math.inf


def _joined(one: Any, two: Any) -> Any:
    """Two pieces of log-probabilities as one."""
    if one is None or two is None:
        return one or two
    join: Callable[[str], Any] = lambda key: (
        None if one[key] is None or two[key] is None else one[key] + two[key]
    )
    return {key: join(key) for key in one}
