"""The numbers of xIELU, which a folder has as tensors and a GGUF file as arrays of its metadata."""

from __future__ import annotations

from typing import Any

from hrun.errors import ModelFileError

from .source import Entry
from .transforms import Stored

_NUMBERS = ("alpha_p", "alpha_n", "beta", "eps")


def xielu_part(
    architecture: Any, stored: dict[str, Stored], n_layers: int, path: object
) -> tuple[dict[str, Stored], list[Entry]]:
    """Takes them out of the tensors.  Returns the others and the metadata."""
    if architecture.nonlinearity != "xielu":
        return stored, []
    left, entries = dict(stored), list[Entry]()
    for number in _NUMBERS:
        values = []
        for layer in range(n_layers):
            name = f"model.layers.{layer}.mlp.act_fn.{number}"
            tensor = left.pop(name, None)
            if tensor is None or tensor.shape not in ((), (1,)):
                raise ModelFileError(f"{path}: there is no number '{name}'")
            values.append(float(tensor.rows(0, 1, 1)[0, 0]))
        entries.append(Entry(f"xielu.{number}", "array<f32>", values))
    return left, entries
