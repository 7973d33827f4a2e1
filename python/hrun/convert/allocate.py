"""Decides how many bits each tensor gets.

The loss of a quantized model is close to linear in the relative error t^2 of each matrix (the linearity theorem of HIGGS).
So each tensor gets a coefficient, the KL divergence that its error alone causes on text divided by that error, and each
format an error on a sample of the tensor's rows; a dynamic programme then finds the formats of least total loss within a
budget of bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ArgumentError, ModelFileError
from hrun.outputs import write_text

from .encoding import Encoder, Preset
from .folder import parse_json_object, shown
from .loss_meter import Changed, LossMeter
from .moments import MomentSource
from .plan import ConversionPlan, PlanOptions
from .source import SourceTensor

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Floats = npt.NDArray[np.float32]
_SAMPLE_ROWS = 48
_LIMIT = 64 << 20  # bytes of a plan file
# The search that measures: cheap, and its errors are nearly those of the better ones times a common factor.
_MEASURING = Preset("measuring", 8, 1.12, 1, 0.01)


@dataclass(frozen=True)
class Choice:
    """A format that a tensor may get.

    error: relative squared error of the tensor's output in this format.
    """

    format: str
    n_bytes: int
    error: float


@dataclass(frozen=True)
class Sensitivity:
    """The loss that a tensor's error causes.

    loss_per_error: KL divergence in nats per token, per unit of relative error.
    """

    tensor: str
    n_values: int
    loss_per_error: float
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Allocation:
    """The chosen format per tensor, with what it was chosen from."""

    budget_bytes: int
    formats: dict[str, str]
    loss: float
    sensitivities: tuple[Sensitivity, ...] = ()

    @property
    def n_bytes(self) -> int:
        return sum(
            c.n_bytes
            for s in self.sensitivities
            for c in s.choices
            if c.format == self.formats[s.tensor]
        )

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.n_bytes / max(1, sum(s.n_values for s in self.sensitivities))

    def save(self, path: Path) -> None:
        write_text(path, json.dumps({"hrun.allocation": 1, **asdict(self)}, indent=1) + "\n")


def load_allocation(path: Path) -> Allocation:
    """Reads a file that save() wrote, or any JSON object with "formats": {tensor: format}.  Raises
    ModelFileError, OSError.
    """
    if path.stat().st_size > _LIMIT:
        raise ModelFileError(f"{path}: too large for a plan")
    try:
        values = parse_json_object(path.read_text(encoding="utf-8"), str(path))
        formats = values["formats"]
        if not isinstance(formats, dict) or not all(isinstance(v, str) for v in formats.values()):
            raise TypeError("'formats' must be an object of format names")
        stored = tuple(
            Sensitivity(
                s["tensor"],
                int(s["n_values"]),
                float(s["loss_per_error"]),
                tuple(
                    Choice(c["format"], int(c["n_bytes"]), float(c["error"])) for c in s["choices"]
                ),
            )
            for s in values.get("sensitivities", ())
        )
        return Allocation(
            int(values.get("budget_bytes", 0)), formats, float(values.get("loss", 0.0)), stored
        )
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{path}: not a plan of hrun-convert: {type(error).__name__}: {shown(error)}"
        ) from None


def allocate(sensitivities: Sequence[Sensitivity], budget_bytes: int) -> Allocation:
    """Formats of least total loss in at most `budget_bytes`: exact, but for sizes rounded up to 2^-16 of the budget where their
    common divisor is smaller.

    Raises ArgumentError where even the smallest formats take more.
    """
    least = sum(min(c.n_bytes for c in s.choices) for s in sensitivities)
    if least > budget_bytes:
        raise ArgumentError(
            f"the target leaves {budget_bytes} bytes for {len(sensitivities)} tensors, their smallest formats take {least}"
        )
    # Sizes above each tensor's smallest, in units, rounded up: what is found affordable is.
    unit = (
        math.gcd(
            *(
                c.n_bytes - min(d.n_bytes for d in s.choices)
                for s in sensitivities
                for c in s.choices
            )
        )
        or 1
    )
    unit *= -(-(budget_bytes - least) // (unit << 16)) or 1
    n_units = (budget_bytes - least) // unit
    loss = np.zeros(n_units + 1)
    taken = np.zeros((len(sensitivities), n_units + 1), np.int16)
    for row, item in enumerate(sensitivities):
        base = min(c.n_bytes for c in item.choices)
        best = np.full(n_units + 1, np.inf)
        for number, choice in enumerate(item.choices):
            size = -(-(choice.n_bytes - base) // unit)
            if size > n_units:
                continue
            total = np.full(n_units + 1, np.inf)
            total[size:] = loss[: n_units + 1 - size] + item.loss_per_error * choice.error
            better = total < best
            best[better] = total[better]
            taken[row, better] = number
        loss = best
    formats: dict[str, str] = {}
    left = n_units
    for row in range(len(sensitivities) - 1, -1, -1):
        item = sensitivities[row]
        choice = item.choices[taken[row, left]]
        formats[item.tensor] = choice.format
        left -= -(-(choice.n_bytes - min(c.n_bytes for c in item.choices)) // unit)
    return Allocation(budget_bytes, formats, float(loss[n_units]), tuple(sensitivities))


def sizes_and_losses(allocation: Allocation, fixed_bytes: int) -> list[tuple[int, float, float]]:
    """Sizes that can be had with what was measured: bytes, with `fixed_bytes` for what has no choice; bits per weight of the
    tensors with a choice; expected KL divergence.  From the smallest to the largest in about a dozen steps of half a bit."""
    items = allocation.sensitivities
    n_values = sum(s.n_values for s in items)
    least = sum(min(c.n_bytes for c in s.choices) for s in items)
    most = sum(max((c.n_bytes for c in s.choices if c.format != "f16"), default=0) for s in items)
    out: list[tuple[int, float, float]] = []
    for half_bits in range(2, 33):
        budget = half_bits * n_values // 16
        if least <= budget <= most + n_values // 16:
            found = allocate(items, budget)
            if not out or found.n_bytes + fixed_bytes > out[-1][0]:
                out.append((found.n_bytes + fixed_bytes, found.bits_per_weight, found.loss))
    return out


def candidates(tensor: SourceTensor, outside: bool) -> list[Any]:
    """FormatInfo of the formats that a tensor may get; `outside`: embedding or head."""
    plain = ("q6_k", "q8_0", "f16") if outside else ("q8_0", "f16")
    return [
        info
        for info in _core.formats()
        if (info.trellis or info.name in plain) and info.encodable and info.row_ok(tensor.cols)
    ]


def measured_format(infos: Sequence[Any], outside: bool) -> Any:
    """FormatInfo of the candidate by which a tensor's loss is measured: the narrowest, which is heard best; of embedding and
    head, whose loss is no longer linear in the error at 2 bits, the narrowest of at least 4."""
    usable = [info for info in infos if info.bits_per_weight >= 4] if outside else []
    return min(usable or infos, key=lambda info: info.bits_per_weight)


def measure(
    tensors: Sequence[SourceTensor],
    outside: Callable[[str], bool],
    moments: MomentSource | None,
    meter: LossMeter,
    n_threads: int,
) -> list[Sensitivity]:
    """Sensitivities of the tensors that have formats to choose from, in their order."""
    from concurrent.futures import ThreadPoolExecutor

    by_name = {t.name: t for t in tensors if candidates(t, outside(t.name))}
    encoder = Encoder(moments, _MEASURING, n_threads=n_threads)

    with ThreadPoolExecutor(max(1, n_threads)) as pool:

        def change(name: str) -> Changed:
            tensor = by_name[name]
            infos = candidates(tensor, outside(name))
            sample = _sample_rows(tensor)
            choices = []
            for info in infos:
                encoder.prepare(tensor, info)
                choices.append(
                    Choice(
                        info.name,
                        tensor.rows * info.row_bytes(tensor.cols),
                        encoder.relative_error(info, sample, name),
                    )
                )
            measured_in = measured_format(infos, outside(name))
            encoder.prepare(tensor, measured_in)
            step = max(tensor.row_step, -(-tensor.rows // 64 // tensor.row_step) * tensor.row_step)

            def coded(first: int) -> Floats:
                weights = tensor.read_rows(first, min(first + step, tensor.rows))
                blocks = encoder.encode(measured_in, weights, name)
                values: Floats = _core.decode(measured_in.name, blocks, len(weights), tensor.cols)
                return values

            pieces = _in_turn(pool, coded, range(0, tensor.rows, step), 2 * n_threads)
            return [measured_in.name, [asdict(c) for c in choices]], pieces

        measured = meter.losses(list(by_name), change)
    out = []
    for name, found in measured.items():
        measured_name, stored = found.kept
        choices = tuple(Choice(**c) for c in stored)
        error = next(c.error for c in choices if c.format == measured_name)
        loss = max(found.loss, 0.0) / max(error, 1e-12)
        out.append(Sensitivity(name, by_name[name].n_values, loss, choices))
    return out


def _in_turn(
    pool: ThreadPoolExecutor, work: Callable[[int], Floats], firsts: range, ahead: int
) -> Iterator[Floats]:
    """Yields work(first) of each, in order; at most `ahead` results wait in memory."""
    running: deque[Future[Floats]] = deque()
    for first in firsts:
        running.append(pool.submit(work, first))
        if len(running) >= ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _sample_rows(tensor: SourceTensor) -> Floats:
    """About 48 rows spread over the tensor."""
    step = tensor.row_step
    n_pieces = max(1, min(tensor.rows, _SAMPLE_ROWS) // step)
    firsts = sorted({i * (tensor.rows // step) // n_pieces * step for i in range(n_pieces)})
    return np.ascontiguousarray(
        np.concatenate(
            [tensor.read_rows(first, min(first + step, tensor.rows)) for first in firsts]
        )
    )


@dataclass(frozen=True)
class Budget:
    """The room for the tensors that are left to choose.

    open_tensors: the tensors whose format is to be chosen, in at most n_bytes together.
    fixed_bytes: the bytes of the rest of the file.
    """

    open_tensors: list[SourceTensor]
    n_bytes: int
    fixed_bytes: int


def open_tensors(
    plan: ConversionPlan, options: PlanOptions, with_outside: bool
) -> list[SourceTensor]:
    """Returns the tensors whose format a target chooses; embedding and head are among them ``with_outside``.

    Tensors whose format the user named keep it.
    """
    outside = plan.outside_layers
    named = {
        name
        for name, given in (
            (plan.source.embedding, options.embedding_format),
            (plan.source.head, options.head_format),
        )
        if given is not None and name is not None
    }
    return [
        p.tensor
        for p in plan.tensors
        if len(p.tensor.shape) > 1
        and p.tensor.name not in named
        and not p.reason.startswith("--tensor-type")
        and (with_outside or p.tensor.name not in outside)
        and bool(candidates(p.tensor, p.tensor.name in outside))
    ]


def find_budget(
    plan: ConversionPlan,
    options: PlanOptions,
    target_bpw: float | None,
    target_size: int | None,
) -> Budget:
    """Returns the choices that a target leaves open.

    target_bpw: mean bits per weight of the matrices outside embedding and head.  target_size: bytes of the whole file.
    """
    outside = plan.outside_layers
    chosen = open_tensors(plan, options, target_size is not None)
    names = {tensor.name for tensor in chosen}
    fixed_bytes, others = 0, 0
    for planned in plan.tensors:
        name = planned.tensor.name
        if name in names:
            continue
        others += planned.n_bytes + 32
        if len(planned.tensor.shape) > 1 and name not in outside:
            fixed_bytes += planned.n_bytes
    from .write import file_metadata, header_bytes

    others += header_bytes(file_metadata(plan), len(plan.tensors)) + 32 * len(chosen)
    if target_bpw is not None:
        in_layers = sum(
            p.tensor.n_values
            for p in plan.tensors
            if len(p.tensor.shape) > 1 and p.tensor.name not in outside
        )
        return Budget(chosen, int(target_bpw * in_layers / 8) - fixed_bytes, others)
    assert target_size is not None
    return Budget(chosen, target_size - others, others)


def find_allocation(
    plan: ConversionPlan,
    budget: Budget,
    moments: MomentSource | None,
    meter: LossMeter,
    n_threads: int = 0,
) -> Allocation:
    """The allocation for a budget, measured.  Raises ArgumentError where it is too small."""
    outside = plan.outside_layers
    found = measure(
        budget.open_tensors,
        outside.__contains__,
        moments,
        meter,
        n_threads or len(os.sched_getaffinity(0)),
    )
    return allocate(found, budget.n_bytes)


def allocate_again(kept: Allocation, budget: Budget, path: Path) -> Allocation:
    """Allocates for another size, from the measurements of a kept plan; `path` is for messages.
    Raises ArgumentError.
    """
    known = {s.tensor: s for s in kept.sensitivities}
    missing = [t.name for t in budget.open_tensors if t.name not in known]
    if missing:
        raise ArgumentError(
            f"{path}: nothing was measured for tensor '{shown(missing[0])}'; measure again, without --plan"
        )
    return allocate([known[t.name] for t in budget.open_tensors], budget.n_bytes)
