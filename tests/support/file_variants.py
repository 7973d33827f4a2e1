"""The same models in files of other layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hrun import _core

LATENT = ("attention.key_length_mla", "attention.value_length_mla")


def with_joined_latent(path: Path, out: Path, joined_format: str = "f32", cut: int = 0) -> None:
    """A deepseek2 file of 2024: attn_kv_b in place of attn_k_b and attn_v_b, the sizes of heads as of any attention.

    cut: rows left out, for a damaged file.
    """
    file = _core.GGUFFile(str(path))
    heads = file.metadata["deepseek2.attention.head_count"]
    k, v = (file.metadata[f"deepseek2.{key}"] for key in LATENT)
    changed: dict[str, Any] = {
        "attention.key_length": k,
        "attention.value_length": v,
        "attention.head_count_kv": heads,
    }
    writer = _core.GGUFWriter(str(out))
    for key, value in file.metadata.items():
        name = key.removeprefix("deepseek2.")
        if name not in LATENT:
            writer.add(key, file.metadata_types[key], changed.get(name, value))
    tensors = {t.name: t for t in file.tensors}
    made = []
    for name, t in tensors.items():
        if "attn_v_b" in name:
            continue
        if "attn_k_b" not in name:
            made.append((name, list(t.shape), t.format, t.data))
            continue
        keys = (
            t.data.view(np.float32).reshape(heads, t.shape[1], t.shape[0]).swapaxes(1, 2)
        )  # [head, nope, latent]
        other = tensors[name.replace("attn_k_b", "attn_v_b")]
        values = other.data.view(np.float32).reshape(
            heads, other.shape[1], other.shape[0]
        )  # [head, value, latent]
        joined = np.concatenate([keys, values], axis=1).reshape(-1, other.shape[0])
        joined = np.ascontiguousarray(joined[: len(joined) - cut])
        made.append(
            (
                name.replace("attn_k_b", "attn_kv_b"),
                list(joined.shape[::-1]),
                joined_format,
                _core.encode(joined_format, joined, None),
            )
        )
    for name, shape, kind, _ in made:
        writer.add_tensor(name, shape, kind)
    for name, _, _, data in made:
        writer.write_tensor(name, np.asarray(data).view(np.uint8).reshape(-1))
    writer.finish()


def experts_together(path: Path, out: Path) -> None:
    """The same model with the gates and values of its experts in one tensor."""
    file = _core.GGUFFile(str(path))
    tensors = {t.name: t for t in file.tensors}
    made = []
    for t in file.tensors:
        if "ffn_up_exps" in t.name:
            continue
        data, shape, written = np.asarray(t.data).view(np.float32), list(t.shape), t.name
        if "ffn_gate_exps" in t.name:
            cols, rows, experts = shape
            up = np.asarray(tensors[t.name.replace("gate", "up")].data).view(np.float32)
            both = [part.reshape(experts, rows, cols) for part in (data, up)]
            data, shape = np.concatenate(both, axis=1), [cols, 2 * rows, experts]
            written = t.name.replace("ffn_gate_exps", "ffn_gate_up_exps")
        made.append((written, shape, np.ascontiguousarray(data)))
    with _core.GGUFWriter(str(out)) as writer:
        for key, value in file.metadata.items():
            writer.add(key, file.metadata_types[key], value)
        for written, shape, _ in made:
            writer.add_tensor(written, shape, "f32")
        for written, _, data in made:
            writer.write_tensor(written, data.view(np.uint8).reshape(-1))
        writer.finish()
