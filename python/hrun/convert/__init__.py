"""Conversion of models to GGUF files: read a source, plan the formats, write the file.

source = open_source(Path("Llama-3.2-1B"))
plan = make_plan(source, PlanOptions("rtq3"))
write_plan(plan, Path("model.gguf"))
"""

from __future__ import annotations

from pathlib import Path

from hrun.errors import ModelFileError, UnsupportedModelError

from .calibrate import Calibration, moment_source
from .encoding import PRESETS, Encoder, Preset
from .folder import PICKLE_SENTENCE, looks_like_pickle
from .plan import ConversionPlan, PlanOptions, encodable_formats, make_plan
from .source import Entry, Source, SourceTensor
from .table import print_plan, print_sizes, summary
from .write import check_output, write_plan

__all__ = [
    "PRESETS",
    "Calibration",
    "ConversionPlan",
    "Encoder",
    "Entry",
    "PlanOptions",
    "Preset",
    "Source",
    "SourceTensor",
    "check_output",
    "encodable_formats",
    "make_plan",
    "moment_source",
    "open_source",
    "print_plan",
    "print_sizes",
    "summary",
    "write_plan",
]


def open_source(path: Path) -> Source:
    """A Hugging Face folder or a GGUF file, told apart by what they are, not by their names.

    Raises ModelFileError, UnsupportedModelError.
    """
    if path.is_dir():
        from .read_hf import read_hf

        return read_hf(path)
    if not path.is_file():
        raise ModelFileError(
            f"{path}: {'not a file or folder' if path.exists() else 'no such file or folder'}"
        )
    with open(path, "rb") as handle:
        head = handle.read(16)
    if looks_like_pickle(head):
        raise UnsupportedModelError(f"{path}: {PICKLE_SENTENCE}")
    if head[8:10] in (b'{"', b"{ ") and head[:4] != b"GGUF":
        raise UnsupportedModelError(
            f"{path}: a safetensors file alone is not a model; give the folder with its config.json"
        )
    from .read_gguf import read_gguf

    return read_gguf(path)
