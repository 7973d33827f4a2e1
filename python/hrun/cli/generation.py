"""Turns the flags of a generation into options, and a generation into the text that a terminal
shows.
"""

from __future__ import annotations

import argparse
from typing import Any

import hrun
from hrun.cli.common import chosen_sampling


def generation_options(runtime: hrun.Runtime, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that the flags give to :meth:`Runtime.generate`."""
    given: dict[str, Any] = {
        "max_tokens": options.predict if options.predict >= 0 else None,
        "seed": options.seed if options.seed >= 0 else None,
        "logit_bias": options.logit_bias,
        "ignore_eos": options.ignore_eos,
        "stop": options.reverse_prompt,
        "grammar": options.bound,
    }
    return given | runtime.recommended_sampling | chosen_sampling(options)


def timings_line(generation: hrun.Generation) -> str:
    """Speeds in tokens per second, and the seed that would repeat the generation."""
    t = generation.timings
    kept = f", {t.cached_tokens} kept" if t.cached_tokens else ""
    return (
        f"[{t.generated_tokens} tokens, {t.tokens_per_second:.1f} t/s | prompt {t.prompt_tokens} tokens{kept}, "
        f"{t.prompt_tokens_per_second:.1f} t/s | {generation.finish_reason} | seed {generation.seed}]"
    )


def shown(text: str) -> str:
    """Text of a model for a terminal: without the control characters that could command it."""
    return "".join(
        c if c.isprintable() or c in "\n\t" or ord(c) >= 0xA0 else "\ufffd" for c in text
    )
