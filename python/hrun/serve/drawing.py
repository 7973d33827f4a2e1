"""Turns the fields of a request into the ask for the engine."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from hrun.arguments import SAMPLING, checked_sampling
from hrun.errors import ArgumentError, printable
from hrun.grammar import Grammar
from hrun.serve.errors import ApiError, bad
from hrun.serve.flight import Ask
from hrun.serve.schemas import Body, Drawing
from hrun.serve.service import Service
from hrun.stream import validate_stops

# Fields that change nothing here and that clients send all the same.
NO_EFFECT = frozenset((
    "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "verbosity", "prediction", "cache_prompt", "id_slot", "request_id",
    "spaces_between_special_tokens", "n_keep", "return_progress", "moderation",
))  # fmt: skip
# Fields that would change the answer, and cannot be honoured: refused unless they say nothing.
REFUSED = {
    "audio": "hrun reads and writes text only",
    "web_search_options": "hrun does not search the web",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "min_tokens": "use logit_bias, or ignore_eos with max_tokens",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias",
    "prompt_logprobs": "use echo with logprobs of /v1/completions",
    "guided_json": "use response_format",
    "guided_regex": "use structured_outputs",
    "guided_choice": "use structured_outputs",
    "guided_grammar": "use structured_outputs",
    "truncate_prompt_tokens": "shorten the prompt",
    "images": "hrun reads text only",
    "lora": "no adapters are loaded",
    "use_beam_search": "hrun draws tokens",
}
_ALIASES = {"repetition_penalty": "repeat_penalty"}
_SAYS_NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {}, "none", "auto")


def check_extra(service: Service, body: Body) -> None:
    """Fields that no schema has: refused where they would matter, else noted."""
    for name, value in (body.model_extra or {}).items():
        if name in REFUSED and value not in _SAYS_NOTHING:
            raise bad(f"{name} is not supported: {REFUSED[name]}", param=name, code="unsupported")
        if name == "modalities" and value not in (None, ["text"]):
            raise bad("modalities other than text are not supported", param=name)
        if name in NO_EFFECT or name in REFUSED or name == "modalities" or name in SAMPLING:
            continue
        if service.options.strict_params:
            raise bad(f"unknown field '{printable(name)}'", param=name, code="unknown_parameter")
        service.note_once(f"the field '{printable(name)}' of a request is not known; ignored")


def sampling_of(service: Service, body: Drawing) -> dict[str, float]:
    """The request's sampling, over the server's, over the model's."""
    merged = service.runtime.recommended_sampling | dict(service.options.sampling)
    fields = {**body.model_dump(include=set(SAMPLING) | set(_ALIASES)), **(body.model_extra or {})}
    for field, value in fields.items():
        name = _ALIASES.get(field, field)
        if value is None or name not in SAMPLING:
            continue
        try:
            merged.update(checked_sampling({name: value}))
        except ArgumentError as error:
            raise bad(str(error), param=field) from None
    return merged


def seed_of(service: Service, body: Drawing) -> int:
    """The request's, the server's, or a new one."""
    seed = body.seed if body.seed is not None else service.options.seed
    if seed is None or seed == -1:
        return int.from_bytes(os.urandom(4), "little")
    if not -(2**63) <= seed < 2**64:
        raise bad(f"seed is {str(seed)[:40]}, must have 64 bits at most", param="seed")
    return seed % 2**64


def stops_of(service: Service, body: Drawing) -> list[str]:
    """The stop strings."""
    try:
        stops = validate_stops(body.stop)
    except ArgumentError as error:
        raise bad(str(error), param="stop") from None
    if len(stops) > service.options.max_stops:
        raise bad(
            f"{len(stops)} stop strings, the server takes {service.options.max_stops}", param="stop"
        )
    return stops


def max_tokens_of(body: Drawing) -> int | None:
    """The first limit that the request names; -1 is none."""
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        value = getattr(body, name, None)
        if value is not None and value != -1:
            if value < 0:
                raise bad(f"{name} is {value}, must not be negative", param=name)
            return int(value)
    return None


def bias_of(service: Service, body: Drawing) -> dict[int, float]:
    """logit_bias by token ids, and end tokens forbidden by ignore_eos."""
    bias: dict[int, float] = {}
    n_vocab = service.runtime.n_vocab
    for key, value in (body.logit_bias or {}).items():
        if not key.strip().isascii() or not key.strip().isdigit() or int(key[:12]) >= n_vocab:
            raise bad(
                f"logit_bias: '{printable(key, 40)}' is no token id of the {n_vocab} that there are",
                param="logit_bias",
            )
        if not math.isfinite(value) or not -100 <= value <= 100:
            raise bad(f"logit_bias: {value} is not between -100 and 100", param=f"logit_bias.{key}")
        bias[int(key)] = float(value)
    if body.ignore_eos:
        bias |= dict.fromkeys(service.runtime.tokenizer.end_ids, -math.inf)
    return bias


def room_for(
    service: Service, n_prompt: int, asked: int | None, clamp: bool = False, param: str = "messages"
) -> int:
    """Returns the number of tokens that may be drawn.  Raises ApiError where prompt and answer
    cannot fit.
    """
    n_ctx = service.runtime.n_ctx
    room = n_ctx - n_prompt + 1  # the last token drawn need not fit
    if room < 1:
        raise overflow(
            f"the prompt has {n_prompt} tokens, the context holds {n_ctx}", n_prompt, n_ctx, param
        )
    if asked is None:
        return min(room, service.options.default_max_tokens or room)
    if asked > room and not clamp:
        raise overflow(
            f"the prompt has {n_prompt} tokens and {asked} are asked for, the context holds {n_ctx}",
            n_prompt,
            n_ctx,
            param,
        )
    return min(asked, room)


def overflow(message: str, n_prompt: int, n_ctx: int, param: str) -> ApiError:
    """Returns the error for a prompt that is too long, now and ever; ``param`` is the field that
    holds the prompt.
    """
    error = bad(message, param=param, code="context_length_exceeded")
    error.extra = {"n_prompt_tokens": n_prompt, "n_ctx": n_ctx}
    return error


def end_tokens_of(service: Service, body: Drawing) -> frozenset[int]:
    """The model's end tokens and the request's."""
    own = frozenset(body.stop_token_ids or ())
    for token in own:
        if not 0 <= token < service.runtime.n_vocab:
            raise bad(f"stop_token_ids: {token} is outside the vocabulary", param="stop_token_ids")
    return own | service.runtime.tokenizer.end_ids


def asks_of(
    service: Service,
    body: Drawing,
    prompts: Sequence[list[int]],
    *,
    n: int,
    key: str,
    max_tokens: int | None,
    top_logprobs: int = -1,
    clamp: bool = False,
    grammar: Grammar | None = None,
) -> list[Ask]:
    """``n`` sequences of each prompt; choice i draws with seed + i, so the first is that of n=1."""
    sampling = sampling_of(service, body)
    seed = seed_of(service, body)
    bias = bias_of(service, body)
    ends = end_tokens_of(service, body)
    return [
        Ask(
            ids=ids,
            max_tokens=room_for(service, len(ids), max_tokens, clamp),
            seed=(seed + i) % 2**64,
            sampling=sampling,
            logit_bias=bias,
            end_tokens=ends,
            top_logprobs=top_logprobs,
            client=f"{key}/{body.user or ''}",
            salt=service.salt(key, body.cache_salt),
            priority=body.priority,
            grammar=grammar,
        )
        for ids in prompts
        for i in range(n)
    ]
