"""Decides which format each tensor gets.

The rules, first match wins:
  1. one-dimensional tensors (norms, biases, tables), biases of experts, routers and learned positions are F32; larger tensors of
     the kind keep the 16 bits that they have;
  2. `tensor_types`: the first pattern that is found in the tensor's name;
  3. `embedding_format`, `head_format`;
  4. `allocation`: formats chosen tensor by tensor for a target size;
  5. a mix such as q4_k_m gives every tensor a format by its role and layer (mixes.py), unless `pure`;
  6. without `pure`, embedding and head of a model below 6 bits get the guard format: Q6_K where it can be written, else Q8_0.
     Measured on the demo checkpoint, layers in RTQ3, tied embedding (15 % of the weights) in F16 / Q8_0 / Q6_K / Q5_K / Q4_K /
     RTQ3: KL divergence 0.0268 / 0.0269 / 0.0270 / 0.0277 / 0.0310 / 0.0424 at 4.99 / 3.88 / 3.59 / 3.43 / 3.29 / 3.07 bits per
     weight of the file;
  7. a tensor in the format in which the model was trained (MXFP4) keeps its blocks in a file of that width or more, floats
     excepted: they are exact, and smaller;
  8. the format of the file.
A format that cannot hold the tensor's rows is replaced by the smallest one that can and is at least as wide, of several by the
one that codes Gaussian weights best (IQ4_NL, not Q4_0: SmolLM2 in Q3_K, whose rows of 576 do not fit); one that is only
taken over from the source, by Q8_0 in other tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from hrun import _core
from hrun.errors import ArgumentError

from .folder import shown
from .mixes import MIXES, Mix, mixed_formats
from .source import NATIVE_FORMATS, Source, SourceTensor

_GUARD_FORMATS = ("q6_k", "q8_0")
_GUARD_BELOW_BITS = 6.0
_BESIDE_NATIVE = "q8_0"


@dataclass(frozen=True)
class PlanOptions:
    """format: name of the file's format, or of a mix.  tensor_types: (regular expression, format name) pairs.  allocation: formats of
    single tensors by name (allocate.py)."""

    format: str
    tensor_types: Sequence[tuple[str, str]] = ()
    embedding_format: str | None = None
    head_format: str | None = None
    pure: bool = False
    allocation: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedTensor:
    """reason: why the format is not the file's, "" where it is."""

    tensor: SourceTensor
    format: Any  # FormatInfo
    n_bytes: int
    reason: str = ""

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.n_bytes / self.tensor.n_values


@dataclass(frozen=True)
class ConversionPlan:
    """mix: what chose the formats of single tensors, if anything did; then ``format`` is that of most."""

    source: Source
    format: Any  # FormatInfo
    tensors: list[PlannedTensor] = field(default_factory=list)
    mix: Mix | None = None

    @property
    def data_bytes(self) -> int:
        return sum(planned.n_bytes for planned in self.tensors)

    @property
    def n_values(self) -> int:
        return sum(planned.tensor.n_values for planned in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """The bits per weight of all tensors."""
        return 8.0 * self.data_bytes / max(1, self.n_values)

    @property
    def outside_layers(self) -> frozenset[str]:
        """The names of the embedding and the head, where the source has them."""
        both = (self.source.embedding, self.source.head)
        return frozenset(name for name in both if name is not None)

    @property
    def layer_bits_per_weight(self) -> float:
        """The bits per weight of all tensors but the embedding and the head."""
        outside = self.outside_layers
        layers = [p for p in self.tensors if p.tensor.name not in outside]
        return 8.0 * sum(p.n_bytes for p in layers) / max(1, sum(p.tensor.n_values for p in layers))

    def formats_used(self) -> list[Any]:
        """FormatInfo of every format in the file, in registry order."""
        names = {planned.format.name for planned in self.tensors}
        return [info for info in _core.formats() if info.name in names]


def encodable_formats() -> list[str]:
    """Names of the formats that can be written, in registry order."""
    return [info.name for info in _core.formats() if info.encodable]


def type_names() -> list[str]:
    """Returns the possible types of a file: the formats that can be written, and mixes of them."""
    return [*encodable_formats(), *MIXES]


def find_type(name: str) -> str:
    """The name of a format or of a mix, given in any case.  Raises ArgumentError."""
    low = name.lower()
    return low if low in MIXES else str(find_format(low).name)


def find_format(name: str, source: Source | None = None) -> Any:
    """FormatInfo of a format, by name in any case, that is encoded or, of a source's tensors, taken over; source None: of any.

    Raises ArgumentError."""
    for info in _core.formats():
        if info.name == name.lower():
            taken_over = info.name in NATIVE_FORMATS and (
                source is None or any(t.native for t in source.tensors)
            )
            if info.encodable or taken_over:
                return info
            why = (
                f"is only taken over from a source that has it, which {source.path} has not"
                if source and info.name in NATIVE_FORMATS
                else "can be read but not written"
            )
            raise ArgumentError(
                f"format '{name}' {why}; written are {', '.join(encodable_formats())}"
            )
    raise ArgumentError(
        f"unknown format '{shown(name)}'; written are {', '.join(encodable_formats())}"
    )


def make_plan(source: Source, options: PlanOptions) -> ConversionPlan:
    """Chooses every tensor's format.  Raises ArgumentError (unknown format, bad or unmatched pattern)."""
    mix = MIXES.get(options.format.lower())
    wanted = find_format(mix.format if mix is not None else options.format, source)
    mixed = mixed_formats(source, mix) if mix is not None and not options.pure else {}
    patterns = [
        (_compiled(pattern), find_format(name, source)) for pattern, name in options.tensor_types
    ]
    guard = _guard_format(wanted)
    by_role = {}
    if source.embedding is not None and options.embedding_format is not None:
        by_role[source.embedding] = find_format(options.embedding_format)
    if options.head_format is not None:
        # A tied head is the embedding: asking for a format of the head means that tensor, unless it was named itself.
        name = source.head if source.head is not None else source.embedding
        if name is not None:
            by_role.setdefault(name, find_format(options.head_format))
    matched: set[int] = set()
    planned = []
    for tensor in source.tensors:
        chosen, reason = wanted, ""
        if len(tensor.shape) == 1 or tensor.kept:
            why = "one-dimensional" if len(tensor.shape) == 1 else "small and sensitive"
            kept_as = find_format("f32" if wanted.name == "f32" else tensor.kept_as)
            planned.append(_fitted(tensor, kept_as, "" if wanted.name == "f32" else why))
            continue
        index = next(
            (i for i, (pattern, _) in enumerate(patterns) if pattern.search(tensor.name)), None
        )
        for i, (pattern, _) in enumerate(patterns):
            if pattern.search(tensor.name):
                matched.add(i)
        if index is not None:
            chosen, reason = patterns[index][1], f"--tensor-type {patterns[index][0].pattern}"
        elif tensor.name in by_role:
            chosen, reason = by_role[tensor.name], "asked for"
        elif tensor.name in options.allocation:
            chosen, reason = find_format(options.allocation[tensor.name]), "allocated"
        elif (
            not options.pure
            and mix is None
            and guard is not None
            and tensor.name in (source.embedding, source.head)
        ):
            chosen, reason = (
                guard,
                "head"
                if tensor.name == source.head
                else "embedding"
                if source.head
                else "embedding and head",
            )
        elif (
            tensor.native
            and not wanted.is_float
            and wanted.bits_per_weight >= _bits_per_weight(tensor.format)
        ):
            chosen = find_format(tensor.format)
            reason = "" if chosen.name == wanted.name else "as the model was trained"
        elif mix is not None and tensor.name in mixed:
            chosen = find_format(mixed[tensor.name])
            reason = "" if chosen.name == wanted.name else mix.name
        planned.append(_fitted(tensor, chosen, reason))
    for i, (pattern, _) in enumerate(patterns):
        if i not in matched:
            raise ArgumentError(
                f"--tensor-type {pattern.pattern}: matches no tensor with more than one dimension"
            )
    return ConversionPlan(source, wanted, planned, mix)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ArgumentError(
            f"--tensor-type {shown(pattern)}: not a regular expression: {error}"
        ) from None


def _bits_per_weight(name: str) -> float:
    return next(float(info.bits_per_weight) for info in _core.formats() if info.name == name)


def _guard_format(wanted: Any) -> Any | None:
    """The format of embedding and head, None where the file's own will do."""
    if wanted.is_float or wanted.bits_per_weight >= _GUARD_BELOW_BITS:
        return None
    by_name = {info.name: info for info in _core.formats() if info.encodable}
    return next((by_name[name] for name in _GUARD_FORMATS if name in by_name), None)


@cache
def _gaussian_error(name: str) -> float:
    """Returns the squared error on Gaussian weights; it tells which of two formats of the same
    width is better.
    """
    rows = np.random.default_rng(1).standard_normal((8, 1024)).astype(np.float32)
    data = _core.encode(name, rows)
    return float(np.square(_core.decode(name, data, *rows.shape) - rows).sum())


def _fitted(tensor: SourceTensor, wanted: Any, reason: str) -> PlannedTensor:
    """The tensor in `wanted`, or in the narrowest format that is at least as wide and can hold its rows.

    A plain format is not replaced by a rotated one: the file must stay readable by others.
    """
    chosen = wanted
    if not wanted.encodable and not (tensor.native and tensor.format == wanted.name):
        wanted = chosen = find_format(_BESIDE_NATIVE)
        reason = reason or "not so in the source"
    if not wanted.row_ok(tensor.cols):
        fitting = [
            info
            for info in _core.formats()
            if info.encodable
            and info.row_ok(tensor.cols)
            and info.bits_per_weight >= wanted.bits_per_weight
            and (wanted.rotated or not info.rotated)
        ]
        least = min(info.bits_per_weight for info in fitting)
        equals = [info for info in fitting if info.bits_per_weight == least]
        chosen = (
            min(equals, key=lambda info: _gaussian_error(info.name))
            if len(equals) > 1
            else equals[0]
        )
        reason = f"rows of {tensor.cols} do not fit {wanted.name.upper()}"
    return PlannedTensor(tensor, chosen, tensor.rows * chosen.row_bytes(tensor.cols), reason)
