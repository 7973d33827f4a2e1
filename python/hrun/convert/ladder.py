"""Several types of one model, measured side by side: the table, the plot and the model card that go with the files."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from hrun import _core
from hrun.outputs import write_text
from hrun.tokenizer import Tokenizer

from .auto_text import bundled_text
from .compare import TextReader, read_and_compare
from .folder import shown
from .parts import PartFile
from .read_gguf import read_gguf
from .source import Source
from .text import chunks_of, read_text


@dataclass(frozen=True)
class Rung:
    """A file and how far it is from the source.  perplexity: of the source and the file; divergence: mean, in nats."""

    type: str
    file: str
    bytes: int
    bits_per_weight: float
    perplexity: tuple[float, float]
    divergence: float
    divergence_error: float
    same_top: float


def text_chunks(model: Path, text: Path | None, limit: int) -> list[list[int]]:
    """Returns the text on which the files are measured: the given one, else passages that ship with
    hrun and that no calibration reads.

    Raises ArgumentError, OSError.
    """
    tokenizer = Tokenizer.from_gguf(str(model))
    if text is not None:
        tokens: Sequence[int] = tokenizer.encode(
            read_text(text).decode("utf-8", "replace"), add_special=False
        )
    else:
        tokens = bundled_text(tokenizer, held_out=True)
    chunks = chunks_of(tokens, tokenizer.bos_id if tokenizer.adds_bos else None)
    return chunks[:limit] if limit > 0 else chunks


def measure(
    reference: TextReader,
    kind: str,
    path: Path,
    chunks: Sequence[Sequence[int]],
    folder: Path,
    n_threads: int = 0,
    report: Callable[[int, int, str], None] | None = None,
) -> Rung:
    """Measures a file against the source, ``reference``, which has read the chunks.

    ``folder``: for scratch.  Raises hrun.Error, OSError.
    """
    own = PartFile(read_gguf(path), n_threads=n_threads)
    found = read_and_compare(reference, own, chunks, folder, report, f"measure {kind}")
    values = found.divergence
    error = float(values.std() / math.sqrt(max(1, len(values) - 1)))
    size = path.stat().st_size
    file = _core.GGUFFile(str(path))
    weights = sum(math.prod(t.shape) for t in file.tensors)
    return Rung(
        kind, path.name, size, 8 * sum(t.n_bytes for t in file.tensors) / weights,
        found.perplexity, float(values.mean()), error, found.same_top,
    )  # fmt: skip


CARD_FILES = ("README.md", "ladder.svg", "ladder.json")


def write_card(
    folder: Path, source: Source, rungs: Sequence[Rung], measured_on: str, commands: Sequence[str]
) -> None:
    """README.md (a model card), ladder.svg and ladder.json in the folder."""
    rungs = sorted(rungs, key=lambda rung: rung.bytes)
    write_text(folder / "ladder.json", json.dumps([asdict(r) for r in rungs], indent=1) + "\n")
    write_text(folder / "ladder.svg", plot(rungs))
    write_text(folder / "README.md", card(source, rungs, measured_on, commands))


def card(source: Source, rungs: Sequence[Rung], measured_on: str, commands: Sequence[str]) -> str:
    """Markdown with the front matter that Hugging Face reads."""
    known: dict[str, Any] = {entry.key: entry.value for entry in source.metadata}
    front = ["---", "library_name: hrun", "pipeline_tag: text-generation"]
    base = str(known.get("general.base_model.0.repo_url", "")).removeprefix(
        "https://huggingface.co/"
    )
    if base:
        front.append(f"base_model: {json.dumps(base)}")
    if isinstance(known.get("general.license"), str):
        front.append(f"license: {json.dumps(known['general.license'])}")
    front += ["tags: [gguf, quantized]", "---", ""]
    rotated = {info.name for info in _core.formats() if info.rotated}
    ours = [r for r in rungs if r.type in rotated]
    lines = [*front, f"# {shown(source.name)} in few bits", ""]
    if ours:
        lines += [
            f"**{', '.join(r.type.upper() for r in ours)} files run in hrun only**; "
            "the others in every program that reads GGUF.",
            "",
        ]
    lines += [
        "| file | size | bits per weight | KL divergence | same first choice | perplexity |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for r in rungs:
        lines.append(
            f"| [{r.file}]({r.file}) | {r.bytes / 1e6:.1f} MB | {r.bits_per_weight:.2f} | "
            f"{r.divergence:.4f} ± {r.divergence_error:.4f} | {100 * r.same_top:.1f} % | {r.perplexity[1]:.3f} |"
        )
    before = rungs[0].perplexity[0] if rungs else math.nan
    lines += [
        "",
        f"Measured against the source (perplexity {before:.3f}) on {measured_on}; hrun {_core.__version__}.",
        "",
        "![KL divergence against size](ladder.svg)",
        "",
        "Made by:",
        "",
        *(f"    {command}" for command in commands),
        "",
    ]
    return "\n".join(lines)


def plot(rungs: Sequence[Rung]) -> str:
    """KL divergence (logarithmic) against the size of the file, as SVG."""
    width, height, left, bottom, top = 560, 320, 64, 44, 20
    sizes = [r.bytes / 1e6 for r in rungs]
    losses = [max(r.divergence, 1e-6) for r in rungs]
    low, high = min(sizes) * 0.9, max(sizes) * 1.1
    floor = 10 ** math.floor(math.log10(min(losses)))
    ceiling = 10 ** math.ceil(math.log10(max(losses)) + 1e-9)
    ceiling = max(ceiling, floor * 10)

    def x(size: float) -> float:
        return left + (size - low) / (high - low) * (width - left - 90)

    def y(loss: float) -> float:
        share = math.log(loss / floor) / math.log(ceiling / floor)
        return height - bottom - share * (height - bottom - top)

    body = []
    for power in np.arange(round(math.log10(floor)), round(math.log10(ceiling)) + 1):
        at = y(10.0**power)
        body.append(
            f'<line x1="{left}" y1="{at:.1f}" x2="{width - 16}" y2="{at:.1f}" stroke="#d1d5db"/>'
        )
        body.append(
            f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
        )
    for rung, size, loss in zip(rungs, sizes, losses):
        body.append(f'<circle cx="{x(size):.1f}" cy="{y(loss):.1f}" r="4" fill="#0f766e"/>')
        body.append(
            f'<text x="{x(size) + 8:.1f}" y="{y(loss) - 6:.1f}">{escape(rung.type.upper())}</text>'
        )
    middle = (left + width) / 2
    body.append(
        f'<text x="{middle}" y="{height - 8}" text-anchor="middle">MB, KL divergence upwards</text>'
    )
    for size in (min(sizes), max(sizes)):
        body.append(
            f'<text x="{x(size):.1f}" y="{height - 26}" text-anchor="middle">{size:.0f}</text>'
        )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
    return "\n".join(
        [head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *body, "</svg>\n"]
    )


def command_line(words: Sequence[object]) -> str:
    """Returns the command line as a user would type it."""
    return " ".join(shlex.quote(str(word)) for word in words)
