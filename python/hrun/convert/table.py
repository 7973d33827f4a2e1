"""The plan as a table: with rich on a terminal, as plain columns elsewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from .folder import shown
from .plan import ConversionPlan, PlannedTensor

_HEADINGS = ("tensors", "count", "shape", "from", "to", "bits/weight", "size", "")
_RIGHT = (1, 5, 6)  # columns that are numbers


@dataclass
class _Group:
    """Tensors that differ in the layer only."""

    first: PlannedTensor
    count: int = 0
    n_bytes: int = 0

    def cells(self, name: str) -> tuple[str, ...]:
        tensor = self.first.tensor
        return (
            name,
            str(self.count),
            " x ".join(map(str, reversed(tensor.shape))),
            tensor.format.upper(),
            self.first.format.name.upper(),
            f"{self.first.bits_per_weight:.4g}",
            size_text(self.n_bytes),
            self.first.reason,
        )


def size_text(n_bytes: float) -> str:
    """12.3 MB style, in powers of 1000 as disks are sold and listed."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000 or unit == "GB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.2f} {unit}"
        n_bytes /= 1000
    raise AssertionError


def summary(plan: ConversionPlan) -> str:
    return (
        f"{plan.n_values / 1e6:.2f} M weights, {size_text(plan.data_bytes)}, {plan.bits_per_weight:.3f} bits per weight "
        f"in the file, {plan.layer_bits_per_weight:.3f} without embedding and head"
    )


def rows_of(plan: ConversionPlan, every_tensor: bool = False) -> list[tuple[str, ...]]:
    """Cells of the table, tensors that differ in the layer only together unless `every_tensor`."""
    groups: dict[tuple[str, ...], _Group] = {}
    for planned in plan.tensors:
        tensor = planned.tensor
        name = shown(tensor.name if every_tensor else re.sub(r"^blk\.\d+\.", "blk.*.", tensor.name))
        key = (name, str(tensor.shape), tensor.format, planned.format.name, planned.reason)
        group = groups.setdefault(key, _Group(planned))
        group.count += 1
        group.n_bytes += planned.n_bytes
    return [group.cells(key[0]) for key, group in groups.items()]


def print_sizes(sizes: Sequence[tuple[int, float, float]], n_tensors: int, out: TextIO) -> None:
    """Prints the results that other targets would give: file sizes, bits per weight of the tensors
    with a choice, expected KL divergences.
    """
    print(
        f"other sizes (bits per weight of {n_tensors} tensors, expected KL divergence on the calibration text):",
        file=out,
    )
    for n_bytes, bits, loss in sizes:
        print(f"  {size_text(n_bytes):>10}  {bits:5.2f}  {loss:.4f}", file=out)


def print_plan(plan: ConversionPlan, out: TextIO, every_tensor: bool = False) -> None:
    rows = rows_of(plan, every_tensor)
    if out.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for i, heading in enumerate(_HEADINGS):
            table.add_column(
                heading,
                justify="right" if i in _RIGHT else "left",
                style="dim" if not heading else None,
            )
        for row in rows:
            table.add_row(*map(Text, row))
        console = Console(file=out)
        console.print(table)
        console.print(Text(summary(plan), style="bold"))
        return
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows)]
    for row in (_HEADINGS, *rows):
        cells = [
            cell.rjust(width) if i in _RIGHT else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip(), file=out)
    print(summary(plan), file=out)
