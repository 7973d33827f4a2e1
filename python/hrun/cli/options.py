"""The flags that several commands have: each is defined here once, with its names, its help and its type.

:func:`add_flags` gives them to a parser; help texts, completion in shells and the documentation read the parsers.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hrun
from hrun._core import devices, kv_formats

# Defaults that flags and Runtime share.
BATCH_SIZE = 512
CACHE_TYPE = "f16"


def whole_number(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """An argparse type for integers in a range."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{number} is not between {low} and {high}")
        return number

    return convert


def file_size(text: str) -> int:
    """Bytes from 512M, 4G, 1.5GB; at least 1 MB."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    n_bytes = float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()) if match else 0
    if n_bytes < 1 << 20:
        raise argparse.ArgumentTypeError(
            f"expected a size of at least 1M, as 800M or 4G, found '{text}'"
        )
    return int(n_bytes)


class ListDevices(argparse.Action):
    """``--list-devices``: one line per device on stdout, why there is no GPU on stderr."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print and exit."""
        found, reason = devices()
        print("Available devices:")
        for d in found:
            sizes = f"{d.total_bytes >> 20} MiB, {d.free_bytes >> 20} MiB free"
            print(f"  {d.name}: {d.description} ({sizes})")
        if reason:
            print(f"no GPU: {reason}", file=sys.stderr)
        parser.exit(0)


def _cache_type(what: str) -> dict[str, Any]:
    kinds = ", ".join(kv_formats())
    text = f"format of the {what} in the cache: {kinds} (default {CACHE_TYPE})"
    return {"default": CACHE_TYPE, "metavar": "TYPE", "help": text}


# Name -> the flag's spellings, and what argparse is told.
FLAGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "model": (("-m", "--model"), {
        "metavar": "FILE", "help": "the GGUF file; default: the demo model that comes with hrun"}),
    "hf_repo": (("-hf", "--hf-repo"), {
        "metavar": "USER/MODEL[:QUANT]", "help": "download the model from Hugging Face (needs huggingface_hub)"}),
    "threads": (("-t", "--threads"), {
        "type": whole_number(-1, 4096), "default": 0, "metavar": "N", "help": "CPU threads (default: the machine's)"}),
    "batch_size": (("-b", "--batch-size"), {
        "type": whole_number(1, 1 << 16), "default": BATCH_SIZE, "metavar": "N",
        "help": f"tokens per pass over the prompt; changes no result (default {BATCH_SIZE})"}),
    "cache_type_k": (("-ctk", "--cache-type-k"), _cache_type("keys")),
    "cache_type_v": (("-ctv", "--cache-type-v"), _cache_type("values")),
    "device": (("-dev", "--device"), {
        "default": "auto", "metavar": "NAME", "help": "auto, cpu, cuda, cuda1, ..., or several: cuda0,cuda1 (--list-devices)"}),
    "list_devices": (("--list-devices",), {
        "action": ListDevices, "help": "print the devices of this machine and stop"}),
    "gpu_layers": (("-ngl", "--gpu-layers", "--n-gpu-layers"), {
        "type": whole_number(-1, 1 << 20), "default": -1, "metavar": "N",
        "help": "layers that go to the GPU, one more than the model has for its head as well (default: what fits)"}),
    "rotation": (("--rotation",), {
        "default": "activation", "metavar": "WAY",
        "help": "how rotated formats are multiplied: activation (default) or weight"}),
    "pre_tokenizer": (("--pre-tokenizer",), {
        "metavar": "NAME", "help": "how text is cut, by llama.cpp's names, in place of what the file says"}),
    "chat_template_file": (("--chat-template-file",), {
        "metavar": "FILE", "help": "a chat template (Jinja) from a file, in place of the model's"}),
    "calibrate": (("--calibrate",), {
        "metavar": "TEXT", "type": Path,
        "help": "run the model over this text and round against what it sees; auto: over text of many kinds and the model's own "
        "answers, the default for RTQ formats; none: do not"}),
    "preset": (("--preset",), {
        "choices": ("fast", "normal", "best"),
        "help": "fast: no calibration; normal, best: calibrated search; normal for formats without calibration: exact search "
        "(default: normal for RTQ formats and with calibration, else fast)"}),
    "dry_run": (("--dry-run",), {
        "action": "store_true", "help": "print the table of tensors and sizes, write nothing"}),
    "ctx_size": (("-c", "--ctx-size"), {
        "type": whole_number(0), "metavar": "N",
        "help": "context in tokens; 0: the model's (default: the model's, at most 16384)"}),
    "pooling": (("--pooling",), {
        "choices": ("none", "mean", "cls", "last", "rank"),
        "help": "how the vectors of a text's tokens become one (default: what the model's file says)"}),
    "predict": (("-n", "--predict", "--n-predict"), {
        "type": whole_number(-2), "default": -1, "metavar": "N",
        "help": "tokens to generate; -1 (default) or -2: until the model ends or the context is full"}),
    "seed": (("-s", "--seed"), {
        "type": whole_number(-1, 2**64 - 1), "default": -1, "metavar": "N", "help": "-1 (default): a new one each time"}),
    "verbose": (("-v", "--verbose"), {"action": "store_true", "help": "what is loaded, on stderr"}),
    "version": (("--version",), {"action": "version", "version": f"hrun {hrun.__version__}", "help": "print the version and stop"}),
}  # fmt: skip

# The flags that every command that runs a model has, in the order of its help.
MODEL_FLAGS = (
    "model", "threads", "batch_size", "cache_type_k", "cache_type_v", "device", "list_devices", "gpu_layers", "rotation",
    "pre_tokenizer",
)  # fmt: skip


def add_flags(parser: Any, *names: str, **changes: Any) -> None:
    """Give a parser, or a group of one, these flags of :data:`FLAGS`; ``changes`` is what differs in this command."""
    for name in names:
        spellings, settings = FLAGS[name]
        parser.add_argument(*spellings, **{**settings, **changes})
