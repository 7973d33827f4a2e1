"""The options that generations accept, for type checkers and editors: a wrong name or type is found
before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from hrun.grammar import Grammar


class Sampling(TypedDict, total=False):
    """The parameters that decide how tokens are drawn; names, defaults and ranges are those of
    ``hrun._core.samplers()``.
    """

    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    top_k: int
    top_p: float
    min_p: float
    temperature: float


class Options(Sampling, total=False):
    """Keywords of every generation."""

    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool
    logprobs: int | None
    json_schema: Any
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | Grammar | None


class GenerateOptions(Options, total=False):
    """Keywords of :meth:`Runtime.generate`, without ``stream``."""

    parse_special: bool
    echo: bool


class ChatOptions(Options, total=False):
    """Keywords of :meth:`Runtime.chat`, without ``stream``."""

    template_variables: Mapping[str, Any] | None
