"""A GGUF file of any format that hrun reads as a Source: metadata copied, tensors decoded row by row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ModelFileError, UnsupportedModelError

from .data_file import DataFile
from .folder import shown
from .source import NATIVE_FORMATS, Entry, Source, SourceTensor

# These keys describe the coding of the source, not the model; the writer states its own.
_DROPPED = (
    "general.file_type",
    "general.quantization_version",
    "general.quantized_by",
    "general.alignment",
)
_DROPPED_PREFIXES = (
    "hrun.format.",
    "hrun.check.",
    "hrun.calibration",
    "quantize.imatrix.",
    "split.",
)


def read_gguf(path: Path) -> Source:
    """Opens and validates the file.  Raises ModelFileError, UnsupportedModelError."""
    file = _core.GGUFFile(str(path))
    metadata, types = file.metadata, file.metadata_types
    notes: list[str] = []
    if not file.tensors:
        raise ModelFileError(f"{path}: holds no tensors, only metadata")
    try:
        notes += _core.read_spec(str(path)).warnings
    except UnsupportedModelError as error:
        notes.append(f"hrun cannot run this model, only convert it: {error}")
    formats = {info.name: info for info in _core.formats()}
    paths = [path, *other_parts(path, metadata)]  # read_spec() found them all beside the first
    files = [file, *(_core.GGUFFile(str(p)) for p in paths[1:])]
    requantized = sorted(
        {
            t.format
            for f in files
            for t in f.tensors
            if not (formats[t.format].is_float or t.format in NATIVE_FORMATS)
        }
    )
    if requantized:
        notes.append(
            f"the source is already quantized ({', '.join(requantized)}); coding it again adds to its error: "
            "convert from the original where you have it"
        )
    entries = [
        Entry(key, types[key], value)
        for key, value in metadata.items()
        if key not in _DROPPED and not key.startswith(_DROPPED_PREFIXES)
    ]
    tensors = []
    for part, opened in zip(paths, files):
        data = DataFile(part, str(part))
        tensors += [_tensor(part, data, info, formats[info.format]) for info in opened.tensors]
    embedding, head = _roles(metadata.get("general.architecture"))
    names = {tensor.name for tensor in tensors}
    name = metadata.get("general.name")
    return Source(
        path=path,
        kind="GGUF file",
        name=name if isinstance(name, str) else path.stem,
        metadata=entries,
        tensors=tensors,
        embedding=embedding if embedding in names else None,
        head=head if head in names else None,
        files=paths,
        notes=notes,
    )


def other_parts(path: Path, metadata: dict[str, Any]) -> list[Path]:
    """The second file of a model in several, the third, ..."""
    count = metadata.get("split.count")
    if not isinstance(count, int) or count <= 1:
        return []
    suffix = f"-00001-of-{count:05d}.gguf"
    return [
        path.with_name(f"{path.name.removesuffix(suffix)}-{part:05d}-of-{count:05d}.gguf")
        for part in range(2, count + 1)
    ]


def _roles(architecture: Any) -> tuple[str, str]:
    """Names of the embedding and of the head; an unknown architecture is taken to use the first one's names."""
    known = _core.architectures()
    chosen = next((a for a in known if a.name == architecture), known[0])
    roles = {rule.role: rule.gguf_name for rule in chosen.tensors}
    return roles["token_embd"], roles.get("output", "output.weight")


# The small tensors that read_hf.py keeps as floats, by their names here.
_KEPT = re.compile(
    r"\.bias$|_norm\.|ffn_gate_inp|position_embd|token_types|^cls\.|altup_(?:router|predict|correct)"
    r"|shortconv\.conv\.|\.ssm_(?:alpha|beta|ba|conv1d)\.|\.ssm_[ad]$"
    r"|time_mix_(?:[wav]0|k_[ka]|r_k|ln|lerp_fused)\.|channel_mix_lerp_k\."
)
_KEPT_AS_STORED = re.compile(
    r"per_layer_model_proj|^altup_(?:unembd_)?proj|laurel_[lr]\.|time_mix_[wavg][12]\."
)


def _tensor(path: Path, data: DataFile, info: Any, format_info: Any) -> SourceTensor:
    cols, offset, n_bytes, format_name = info.shape[0], info.offset, info.n_bytes, info.format
    row_bytes = format_info.row_bytes(cols)

    def read_rows(first: int, last: int) -> npt.NDArray[np.float32]:
        blocks = data.read(offset + first * row_bytes, ((last - first) * row_bytes,), np.uint8)
        out: npt.NDArray[np.float32] = _core.decode(format_name, blocks, last - first, cols)
        return out

    as_stored = _KEPT_AS_STORED.search(str(info.name)) is not None
    kept = format_info.is_float and (as_stored or _KEPT.search(str(info.name)) is not None)
    return SourceTensor(
        info.name,
        tuple(info.shape),
        format_name,
        read_rows,
        origin=f"{path}: {shown(info.name)}",
        kept=kept,
        kept_as=format_name if as_stored and format_name in ("f16", "bf16") else "f32",
        read_bytes=lambda: data.read(offset, (n_bytes,), np.uint8),
        native=format_name in NATIVE_FORMATS,
    )
