"""RWKV 7 as flash-linear-attention stores it: shapes, ranks, and the list of tokens in place of a tokenizer.json."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun.errors import ModelFileError

from .config_object import ConfigObject
from .folder import ModelFolder, shown
from .source import Entry
from .transforms import Stored

VOCABULARY = "rwkv_vocab_v20230424.txt"
_VOCABULARY_LIMIT = 64 << 20  # bytes
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
# In the order of GGUF's tensor.
_SHIFTS = "rwkvag"
_RANKS = {
    "attention.decay_lora_rank": (0, "w_lora"),
    "attention.iclr_lora_rank": (0, "a_lora"),
    "attention.value_residual_mix_lora_rank": (1, "v_lora"),
    "attention.gate_lora_rank": (0, "g_lora"),
}


@dataclass(frozen=True)
class _Flat:
    """A tensor as a vector."""

    source: Stored
    name: str

    @property
    def shown_path(self) -> str:
        return self.source.shown_path

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(np.prod(self.source.shape, dtype=np.int64)),)

    @property
    def format(self) -> str:
        return self.source.format

    def rows(self, first: int, last: int, cols: int) -> npt.NDArray[np.float32]:
        return self.source.rows(first, last, cols)


def rwkv_part(
    architecture: Any,
    stored: dict[str, Stored],
    keys: dict[str, Entry],
    n_layers: int,
    path: object,
) -> dict[str, Stored]:
    """The tensors with vectors as vectors and mixtures by number; the ranks, which few configurations have, go to `keys`.

    Raises ModelFileError where a rank's tensor is missing.
    """
    if architecture.recurrent != "wkv":
        return stored
    out = dict(stored)
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}."
        flat = {f"attn.x_{letter}": f"attn.x_{i}" for i, letter in enumerate(_SHIFTS)}
        for name, new in {**flat, "attn.r_k": "attn.r_k", "ffn.x_k": "ffn.x_k"}.items():
            if (tensor := out.pop(prefix + name, None)) is not None:
                out[prefix + new] = _Flat(tensor, tensor.name)
        for name in ("attn.k_k", "attn.k_a"):
            if (tensor := out.get(prefix + name)) is not None:
                out[prefix + name] = _Flat(tensor, tensor.name)
    for key, (layer, name) in _RANKS.items():
        if layer >= n_layers:  # nobody reads it
            layer, name = 0, "a_lora"
        full = f"model.layers.{layer}.attn.{name}.lora.0.weight"
        if (tensor := out.get(full)) is None or len(tensor.shape) != 2:
            raise ModelFileError(f"{path}: there is no matrix '{full}'")
        keys[key] = Entry(key, "u32", tensor.shape[0])
    return out


def world_entries(folder: ModelFolder, n_vocab: int) -> tuple[list[Entry], dict[str, int]]:
    """The metadata of the list of tokens, padded to `n_vocab`, and their ids.  Raises ModelFileError."""
    path = folder.path / VOCABULARY
    names, types = ["<s>"], [_CONTROL]
    lines = folder.read_text(VOCABULARY, _VOCABULARY_LIMIT).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        token = _token(line)
        if token is None or number != int(line.split(" ", 1)[0]):
            raise ModelFileError(
                f"{path}: line {number} is '{shown(line)}', must be the number {number}, a token as Python writes it, and "
                "its length in bytes"
            )
        names.append(repr(token)[2:-1])
        types.append(_NORMAL)
    if len(names) > n_vocab:
        raise ModelFileError(f"{path}: {len(names)} tokens, 'vocab_size' is {n_vocab}")
    for number in range(len(names), n_vocab):
        names.append(f"[PAD{number}]")
        types.append(_UNUSED)
    entries = [
        Entry("tokenizer.ggml.model", "string", "rwkv"),
        Entry("tokenizer.ggml.tokens", "array<string>", list(names)),
        Entry("tokenizer.ggml.token_type", "array<i32>", list(types)),
        Entry("tokenizer.ggml.bos_token_id", "u32", 0),
        Entry("tokenizer.ggml.eos_token_id", "u32", 0),
    ]
    ids = {name: number for number, name in enumerate(names)}
    if (blank := ids.get(r"\n\n")) is not None:  # ends a turn
        entries.append(Entry("tokenizer.ggml.eot_token_id", "u32", blank))
    return entries, ids


def _token(line: str) -> bytes | None:
    """The token of a line like `34 '!' 1`; None where it is none."""
    number, _, rest = line.partition(" ")
    written, _, length = rest.rpartition(" ")
    if not (number.isdecimal() and length.isdecimal()):
        return None
    try:
        value = ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    token = value.encode() if isinstance(value, str) else value
    return token if isinstance(token, bytes) and len(token) == int(length) > 0 else None


def context_length(config: ConfigObject, fallback: int) -> int:
    """The same as llama.cpp's: no length is its limit."""
    return 1 << 20 if config.values.get("model_type") == "rwkv7" else fallback
