"""One table of the arguments that the Python interface accepts; every violation is an ArgumentError
that names the field.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from hrun._core import samplers
from hrun.errors import ArgumentError, printable


@dataclass(frozen=True)
class Rule:
    """A type, its range (inclusive) and whether None may stand for "not given"."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    optional: bool = False

    def check(self, name: str, value: Any) -> Any:
        """The value as a plain int, float, bool or str."""
        if value is None and self.optional:
            return None
        if self.kind in (bool, str):
            if not isinstance(value, self.kind):
                raise ArgumentError(f"{name} must be {_WORDS[self.kind]}, got {_shown(value)}")
            return value
        try:
            if isinstance(value, (bool, str, bytes)):
                raise TypeError
            number = operator.index(value) if self.kind is int else float(value)
        except (TypeError, ValueError, OverflowError):
            raise ArgumentError(
                f"{name} must be {_WORDS[self.kind]}, got {_shown(value)}"
            ) from None
        if not self.low <= number <= self.high:
            raise ArgumentError(
                f"{name} is {_shown(value)}, must be between {self.low:g} and {self.high:g}"
            )
        return number


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
_I32 = 2**31 - 1

RULES: dict[str, Rule] = {
    "n_ctx": Rule(int, 0, _I32, optional=True),
    "n_threads": Rule(int, 0, 4096, optional=True),
    "n_batch": Rule(int, 1, 1 << 16),
    "kv_tokens": Rule(int, 0, _I32, optional=True),
    "n_parallel": Rule(int, 1, 1 << 16),
    "logprobs": Rule(int, 0, 1 << 20, optional=True),
    "device": Rule(str),
    "n_gpu_layers": Rule(int, -1, _I32),
    "type_k": Rule(str),
    "type_v": Rule(str),
    "rotation": Rule(str),
    "pre_tokenizer": Rule(str, optional=True),
    "verbose": Rule(bool),
    "max_tokens": Rule(int, 0, _I32, optional=True),
    "seed": Rule(int, 0, 2**64 - 1, optional=True),
    "ignore_eos": Rule(bool),
    "parse_special": Rule(bool),
    "stream": Rule(bool),
    "echo": Rule(bool),
}
# The sampling parameters come from the C++ registry, with their ranges and defaults.
SAMPLING: dict[str, Rule] = {
    row.name: Rule(int if row.type == "int" else float, row.min, row.max) for row in samplers()
}


def checked(**values: Any) -> dict[str, Any]:
    """The values, each checked by the rule of its name."""
    return {name: RULES[name].check(name, value) for name, value in values.items()}


# Names that other libraries use -> names that hrun uses.
_OTHER_NAMES = {
    "max_new_tokens": "max_tokens", "max_length": "max_tokens", "num_predict": "max_tokens", "n_predict": "max_tokens",
    "temp": "temperature", "stop_sequences": "stop", "stop_strings": "stop",
    "repetition_penalty": "repeat_penalty", "random_seed": "seed",
    "top_logprobs": "logprobs", "chat_template_kwargs": "template_variables",
}  # fmt: skip
_KEYWORDS = (
    "max_tokens", "stop", "seed", "logit_bias", "ignore_eos", "logprobs", "parse_special", "echo", "stream", "template_variables",
    "json_schema", "regex", "choice", "grammar",
)  # fmt: skip


def checked_sampling(values: Mapping[str, Any]) -> dict[str, float]:
    """Sampling parameters; an unknown name is a TypeError, as for any function."""
    for name in values:
        if name not in SAMPLING:
            known = [*_KEYWORDS, *SAMPLING]
            near = (
                [_OTHER_NAMES[name]] if name in _OTHER_NAMES else get_close_matches(name, known, 1)
            )
            meant = f"did you mean {near[0]}? " if near else ""
            raise TypeError(
                f"unknown parameter {printable(name)!r}; {meant}parameters are {', '.join(known)}"
            )
    return {name: SAMPLING[name].check(name, value) for name, value in values.items()}


def checked_bias(bias: Any, n_vocab: int) -> dict[int, float]:
    """logit_bias as {token id: bias}; minus infinity forbids a token."""
    if bias is None:
        return {}
    if not isinstance(bias, Mapping):
        raise ArgumentError(f"logit_bias must map token ids to numbers, got {_shown(bias)}")
    out = {}
    for token, value in bias.items():
        number = Rule(float, -math.inf, 1e9).check(f"logit_bias[{_shown(token)}]", value)
        out[Rule(int, 0, n_vocab - 1).check("a token id in logit_bias", token)] = number
    return out


def checked_ids(name: str, ids: Any, n_vocab: int) -> list[int]:
    """A list of token ids, each inside the vocabulary."""
    if isinstance(ids, (str, bytes, Mapping)) or not (
        isinstance(ids, Sequence) or hasattr(ids, "__array__")
    ):
        raise ArgumentError(f"{name} must be a list of token ids, got {_shown(ids)}")
    rule = Rule(int, 0, n_vocab - 1)
    return [rule.check(f"{name}[{i}]", token) for i, token in enumerate(ids)]


def _shown(value: Any) -> str:
    if isinstance(value, (int, float, str, bytes)) and not isinstance(value, bool):
        try:
            return printable(repr(value), 60)
        except ValueError:  # an integer with too many digits to print
            return "an enormous integer"
    return repr(value) if value is None or isinstance(value, bool) else type(value).__name__
