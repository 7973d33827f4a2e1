"""A Hugging Face folder (config.json, safetensors, tokenizer.json) as a Source.

Which tensors a model has, what they are called on both sides and how they change comes from the architecture
descriptions of the core.  Nothing in the folder is executed: no pickles, no remote code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun._core import ModelFileError, UnsupportedModelError

from .folder import PICKLE_SENTENCE, ModelFolder, json_type, shown
from .hf_config import HFConfig, read_config
from .hf_tokenizer import read_tokenizer
from .safetensors_file import SafetensorsFile, StoredTensor
from .source import Entry, Source, SourceTensor

_CONFIG_LIMIT = 64 << 20  # bytes
_INDEX_LIMIT = 256 << 20

Floats = npt.NDArray[np.float32]

# Tensors that old checkpoints carry although they follow from the configuration.
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$")


def read_hf(path: Path) -> Source:
    """Opens and validates everything but the weights' values.  Raises ModelFileError, UnsupportedModelError."""
    folder = ModelFolder(path)
    if not folder.has("config.json"):
        raise ModelFileError(f"{path}: not a model folder: config.json is missing")
    values = folder.read_json("config.json", _CONFIG_LIMIT)
    config_path = str(path / "config.json")
    architecture = _architecture(values, config_path)
    config = read_config(config_path, values)
    stored, files = _stored_tensors(folder)
    vocabulary = read_tokenizer(folder, config.n_vocab, values)
    notes = list(vocabulary.notes)
    tensors = _tensors(architecture, config, stored, path, notes)
    roles = {rule.role: rule.gguf_name for rule in architecture.tensors}
    present = {tensor.name for tensor in tensors}
    name = _model_name(path)
    metadata = [
        Entry("general.architecture", "string", architecture.name),
        Entry("general.type", "string", "model"),
        Entry("general.name", "string", name),
        Entry("general.size_label", "string", size_label(sum(tensor.n_values for tensor in tensors))),
        *config.metadata(architecture.name),
        *vocabulary.entries,
    ]
    return Source(
        path=path, kind="Hugging Face folder", name=name, metadata=metadata, tensors=tensors,
        embedding=roles.get("token_embd"), head=roles.get("output") if roles.get("output") in present else None,
        files=[*files, *(p for n in folder.names() if (p := path / n).is_file())], notes=notes)


def size_label(n_values: int) -> str:
    """Parameters as GGUF files state them: 14M, 1.2B, 70B."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if n_values >= scale:
            number = n_values / scale
            return f"{number:.0f}{unit}" if number >= 9.95 or unit == "M" else f"{number:.1f}{unit}".replace(".0", "")
    return f"{max(1, round(n_values / 1e3))}K"


def _model_name(path: Path) -> str:
    """The folder's name; for a snapshot of the Hugging Face cache, the model's."""
    resolved = path.resolve()
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent.name.split("--")[-1]
    return resolved.name or "model"


def _architecture(values: dict[str, Any], path: str) -> Any:
    classes = values.get("architectures")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ModelFileError(f"{path}: 'architectures' must be an array of class names, found {json_type(classes)}")
    for architecture in _core.architectures():
        if classes[0] in architecture.hf_classes:
            return architecture
    known = ", ".join(name for architecture in _core.architectures() for name in architecture.hf_classes)
    raise UnsupportedModelError(f"{path}: architecture '{shown(classes[0])}' is not supported; supported are {known}")


Stored = dict[str, tuple[SafetensorsFile, StoredTensor]]


def _stored_tensors(folder: ModelFolder) -> tuple[Stored, list[Path]]:
    """Every tensor of the folder with the file that holds it."""
    if folder.has("model.safetensors.index.json"):
        return _sharded(folder, "model.safetensors.index.json")
    if folder.has("model.safetensors"):
        path = folder.file("model.safetensors")
        file = SafetensorsFile(path, str(folder.path / "model.safetensors"))
        return {name: (file, tensor) for name, tensor in file.tensors.items()}, [path]
    if pickles := folder.pickles():
        raise UnsupportedModelError(f"{folder.path / pickles[0]}: {PICKLE_SENTENCE}")
    raise ModelFileError(f"{folder.path}: no weights: neither model.safetensors nor model.safetensors.index.json")


def _sharded(folder: ModelFolder, index_name: str) -> tuple[Stored, list[Path]]:
    index = folder.read_json(index_name, _INDEX_LIMIT)
    path = folder.path / index_name
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{path}: 'weight_map' must be an object with one entry per tensor, found {json_type(weight_map)}")
    shards: dict[str, SafetensorsFile] = {}
    stored: Stored = {}
    paths = []
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or shard not in shards:
            resolved = folder.file(shard, named_by=index_name)
            if shard.lower().endswith((".bin", ".pt", ".pth")):
                raise UnsupportedModelError(f"{folder.path / shard}: {PICKLE_SENTENCE}")
            shards[shard] = SafetensorsFile(resolved, str(folder.path / shard))
            paths.append(resolved)
        if tensor not in shards[shard].tensors:
            raise ModelFileError(f"{path}: tensor '{shown(tensor)}' is not in '{shown(shard)}' as 'weight_map' says")
        stored[tensor] = (shards[shard], shards[shard].tensors[tensor])
    for shard, file in shards.items():
        for tensor in file.tensors:
            if weight_map.get(tensor) != shard:
                raise ModelFileError(f"{folder.path / shard}: tensor '{shown(tensor)}' is not listed for this file in {index_name}")
    return stored, paths


def _tensors(architecture: Any, config: HFConfig, stored: Stored, path: Path, notes: list[str]) -> list[SourceTensor]:
    """The tensors of the description, in its order, each checked for its shape; unknown ones are refused."""
    out: list[SourceTensor] = []
    used: set[str] = set()
    sizes = config.sizes()

    def add(rule: Any, layer: int | None) -> None:
        gguf_name = rule.gguf_name.replace("{}", str(layer))
        if not rule.hf_name:
            if rule.role == "rope_freqs" and config.rope.factors is not None:
                out.append(_computed(gguf_name, config.rope.factors))
            return
        hf_name = rule.hf_name.replace("{}", str(layer))
        if rule.role == "output" and config.tied:
            if hf_name in stored:
                used.add(hf_name)
                notes.append(f"'{hf_name}' left out: the head is tied to the embedding ('tie_word_embeddings')")
            return
        if not (rule.required or _asked_for(rule.role, config)):
            return  # if the file has it all the same, it is refused below
        if hf_name not in stored:
            raise ModelFileError(f"{path}: tensor '{hf_name}' is missing")
        used.add(hf_name)
        out.append(_stored(rule, gguf_name, stored[hf_name], sizes, config))

    for rule in architecture.tensors:
        if not rule.per_layer:
            add(rule, None)
    for layer in range(config.n_layers):
        for rule in architecture.tensors:
            if rule.per_layer:
                add(rule, layer)
    left = [name for name in stored if name not in used and not _DERIVED.search(name)]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise UnsupportedModelError(f"{stored[left[0]][0].shown_path}: tensor '{shown(left[0])}'{more} has no place in the "
                                    f"architecture '{architecture.name}' with {config.n_layers} layers")
    return out


def _asked_for(role: str, config: HFConfig) -> bool:
    """Does the configuration ask for this tensor, which the architecture leaves open?"""
    if role.endswith("_bias"):
        return config.attention_bias if role.startswith("attn_") else config.mlp_bias
    return role == "output" and not config.tied


def _computed(name: str, values: Floats) -> SourceTensor:
    return SourceTensor(name, (values.size,), "f32", lambda first, last: values.reshape(1, -1)[first:last],
                        origin="computed from config.json")


def _stored(rule: Any, gguf_name: str, where: tuple[SafetensorsFile, StoredTensor], sizes: dict[str, int],
            config: HFConfig) -> SourceTensor:
    file, tensor = where
    rows, cols = sizes[rule.rows], sizes[rule.cols]
    expected = (cols,) if rule.rows == "one" else (rows, cols)
    if tensor.shape != expected:
        raise ModelFileError(f"{file.shown_path}: tensor '{shown(tensor.name)}' has shape {list(tensor.shape)}, "
                             f"config.json asks for {list(expected)}")
    format_name = file.format_of(tensor)
    make = _TRANSFORMS.get(rule.transform)
    if make is None:
        raise UnsupportedModelError(f"tensor '{shown(tensor.name)}': unknown transform '{rule.transform}' in the architecture description")
    shape = tuple(reversed(expected))
    read, step = make(partial(file.read_rows, tensor), rows, cols, config.head_dim)
    return SourceTensor(gguf_name, shape, format_name, read, row_step=step, origin=f"{file.shown_path}: {shown(tensor.name)}")


# A transform turns read(first, last, cols) of the stored tensor into RowReader and row step of the written one.
Read = Callable[[int, int, int], Floats]
Made = tuple[Callable[[int, int], Floats], int]


def _as_is(read: Read, rows: int, cols: int, head_dim: int) -> Made:
    return (lambda first, last: read(first, last, cols)), 1


def _interleave_heads(read: Read, rows: int, cols: int, head_dim: int) -> Made:
    """Rows of a head from pairs (i, i + d/2), as Hugging Face rotates them, to (2i, 2i + 1), as GGUF's llama does."""
    half = head_dim // 2

    if rows == 1:  # a bias: one row of heads * head_dim values
        return (lambda first, last: np.ascontiguousarray(
            read(first, last, cols).reshape(-1, 2, half).swapaxes(1, 2)).reshape(last - first, cols)), 1
    return (lambda first, last: np.ascontiguousarray(
        read(first, last, cols).reshape(-1, 2, half, cols).swapaxes(1, 2)).reshape(last - first, cols)), head_dim


_TRANSFORMS: dict[str, Callable[[Read, int, int, int], Made]] = {
    "none": _as_is,
    "interleave_q_heads": _interleave_heads,
    "interleave_k_heads": _interleave_heads,
}
