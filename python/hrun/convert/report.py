"""The data of a conversion report: what rotation does to weights and inputs, what coding costs, and how the model fares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrun import _core
from hrun.errors import ArgumentError
from hrun.outputs import scratch_folder, write_text

from .allocate import Allocation
from .calibrate import part_file
from .compare import TextReader, read_and_compare
from .encoding import Encoder
from .moments import MomentSource, Report
from .parts import PartFile
from .plan import ConversionPlan
from .read_gguf import read_gguf
from .report_data import Comparison, Floats, ReportData, Spread, TensorFigures
from .report_page import page
from .source import Source, SourceTensor
from .text import CHUNK_TOKENS, chunks_of, first_tokens, read_text

_SAMPLE_ROWS = 64


def rotated(rows: Floats) -> Floats:
    """Rows [n, cols] in the rotated basis; columns beyond the last multiple of 256 are left out."""
    cols = rows.shape[1] // 256 * 256
    values = (rows[:, :cols] * _core.rotation_signs(rows.shape[1])[:cols]).reshape(-1, 256)
    half = 1
    while half < 256:
        pairs = values.reshape(len(values), -1, 2, half)
        values = np.stack(
            [pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2
        ).reshape(len(values), 256)
        half *= 2
    return np.asarray(values / np.float32(16), np.float32)


def _pair(rows: Floats, spreads: tuple[Spread, Spread]) -> tuple[float, float]:
    cols = rows.shape[1] // 256 * 256
    if cols == 0 or len(rows) == 0:
        return 0.0, 0.0
    return spreads[0].add(rows[:, :cols].reshape(-1, 256)), spreads[1].add(rotated(rows))


def _some_rows(tensor: SourceTensor) -> Floats:
    step = tensor.row_step
    n = max(1, min(tensor.rows, _SAMPLE_ROWS) // step)
    firsts = sorted({i * (tensor.rows // step) // n * step for i in range(n)})
    return np.concatenate(
        [tensor.read_rows(first, min(first + step, tensor.rows)) for first in firsts]
    )


def collect(
    plan: ConversionPlan,
    output: Path,
    encoder: Encoder,
    moments: MomentSource | None,
    allocation: Allocation | None,
    report: Report | None = None,
) -> ReportData:
    data = ReportData(
        plan.source.name,
        str(output),
        output.stat().st_size,
        plan.bits_per_weight,
        plan.layer_bits_per_weight,
        moments is not None,
    )
    losses = {
        s.tensor: s.loss_per_error * c.error
        for s in (allocation.sensitivities if allocation else ())
        for c in s.choices
        if allocation and c.format == allocation.formats[s.tensor]
    }
    matrices = [p for p in plan.tensors if len(p.tensor.shape) > 1]
    seen: dict[tuple[str, ...], tuple[float, float]] = {}
    for number, planned in enumerate(matrices):
        tensor = planned.tensor
        if report is not None:
            report(number, len(matrices), f"report {tensor.name}")
        found = moments.of(tensor.name) if moments is not None else None
        inputs = None
        if found is not None and found.sample is not None and len(found.sample):
            if found.tensors not in seen:
                seen[found.tensors] = _pair(found.sample, data.inputs)
            inputs = seen[found.tensors]
        data.tensors.append(
            TensorFigures(
                tensor.name,
                tensor.shape,
                planned.format.name,
                planned.bits_per_weight,
                planned.n_bytes,
                _pair(_some_rows(tensor), data.weights),
                inputs,
                encoder.errors.get(tensor.name),
                losses.get(tensor.name),
            )
        )
    return data


def compare(
    source: Source,
    model: Path,
    text: Path,
    folder: Path,
    n_threads: int = 0,
    max_chunks: int = 16,
    report: Report | None = None,
) -> Comparison:
    """The source and its file on the first chunks of the text; the second half of each chunk counts, as in hrun-perplexity.

    ``folder``: for scratch.  Raises hrun.Error, OSError.
    """
    from hrun.tokenizer import Tokenizer

    with scratch_folder(folder) as scratch:
        file = part_file(source, scratch, n_threads)
        tokenizer = Tokenizer.from_gguf(str(file.path))
        tokens = first_tokens(tokenizer, read_text(text), max_chunks * CHUNK_TOKENS)
        first = tokenizer.bos_id if tokenizer.adds_bos else None
        chunks = chunks_of(tokens[: max_chunks * CHUNK_TOKENS], first)
        if not chunks:
            raise ArgumentError(
                f"{text} has {len(tokens)} tokens; the report compares models on chunks of {CHUNK_TOKENS}"
            )
        what = f"report {text.name}"
        reference = TextReader(file, chunks, scratch, report, what)
        own = PartFile(read_gguf(model), n_threads=n_threads)
        found = read_and_compare(reference, own, chunks, scratch, report, what)
    return Comparison(text.name, found.n_tokens, found.perplexity, found.divergence, found.same_top)


def write_report(
    path: Path,
    plan: ConversionPlan,
    output: Path,
    encoder: Encoder,
    moments: MomentSource | None,
    allocation: Allocation | None,
    folder: Path,
    text: Path | None,
    n_threads: int = 0,
    report: Report | None = None,
) -> None:
    """One self-contained HTML page.  ``folder``: for scratch.  Raises hrun.Error, OSError."""
    data = collect(plan, output, encoder, moments, allocation, report)
    if text is not None:
        data.comparison = compare(plan.source, output, text, folder, n_threads, report=report)
    write_text(path, page(data))
