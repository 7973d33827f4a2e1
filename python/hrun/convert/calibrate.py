"""Makes a MomentSource from calibration text, saved moments or an importance matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hrun import _core
from hrun.errors import ArgumentError, UnsupportedModelError
from hrun.outputs import scratch_folder

from .auto_text import AutoText
from .loss_meter import LossMeter
from .moments import DEFAULT_TOKENS, MomentFile, MomentSource, MomentWriter, Report
from .parts import PartFile
from .plan import PlanOptions, make_plan
from .source import Source
from .text import CHUNK_TOKENS, begun, chunks_of, read_text, spread_chunks, spread_tokens
from .text_moments import TextMoments
from .write import write_plan

# The tokens of each chunk on which tensors are measured one by one.
_MEASURED_TOKENS = CHUNK_TOKENS // 4
# The format of the model on which they are measured: its error is a thousandth of the measured one's, and it computes ten times
# as fast as F32.
_MEASURED_FORMAT = "q8_0"


@dataclass(frozen=True)
class Calibration:
    """The sources that the user gave; an importance matrix excludes the others, and saved moments
    take precedence over the text.

    tokens: how many tokens of the text to use, 0 for all.  memory: bytes for moments.  save: file to write them to.
    auto: text of many kinds and the model's own, where no text is given.
    """

    text: Path | None = None
    imatrix: Path | None = None
    moments: Path | None = None
    tokens: int = DEFAULT_TOKENS
    memory: int = 4 << 30
    save: Path | None = None
    auto: AutoText | None = None

    def __post_init__(self) -> None:
        if self.imatrix is not None and (self.has_text or self.moments is not None):
            raise ArgumentError(
                "an importance matrix and calibration text or saved moments exclude each other"
            )
        if self.save is not None and (not self.has_text or self.moments is not None):
            raise ArgumentError("only moments collected from a calibration text can be saved")

    @property
    def has_text(self) -> bool:
        return self.text is not None or self.auto is not None

    @property
    def is_given(self) -> bool:
        return self.has_text or self.imatrix is not None or self.moments is not None


@contextlib.contextmanager
def float_model(source: Source, folder: Path, n_threads: int = 0) -> Iterator[Path]:
    """A GGUF of the source that hrun can run: the source's own file, or a temporary one in `folder`."""
    if source.kind == "GGUF file" and not source.basis:
        _core.read_spec(str(source.path))  # says why it cannot be run
        yield source.path
        return
    with scratch_folder(folder) as scratch:
        path = scratch / "float.gguf"
        write_plan(make_plan(source, _as_floats(source)), path, n_threads)
        yield path


def _as_floats(source: Source) -> PlanOptions:
    """Every weight in a float format that holds it."""
    # Folded scales are powers of two, but may leave fp16's range: those sources go through F32.
    formats = (
        {"f32"}
        if source.basis
        else {tensor.format for tensor in source.tensors if len(tensor.shape) > 1}
    )
    name = "f16" if formats <= {"f16"} else "bf16" if formats <= {"bf16"} else "f32"
    return PlanOptions(name, pure=True)


def float_bytes(source: Source) -> int:
    """Returns the bytes of the source as hrun runs it."""
    if source.kind == "GGUF file" and not source.basis:
        return sum(path.stat().st_size for path in source.files)
    return make_plan(source, _as_floats(source)).data_bytes


def part_file(source: Source, folder: Path, n_threads: int = 0) -> PartFile:
    """The source to be run part by part: its own file, or one in `folder`.  Raises hrun.Error, OSError."""
    if source.kind == "GGUF file" and not source.basis:
        return PartFile(source, n_threads=n_threads)
    return PartFile(source, folder / "parts.gguf", _as_floats(source), n_threads)


@contextlib.contextmanager
def shared_float_model(
    source: Source, folder: Path, n_threads: int = 0
) -> Iterator[Callable[[], Path]]:
    """A function that gives the path of float_model(), which is written at its first call."""
    with contextlib.ExitStack() as stack:
        made: list[Path] = []

        def path() -> Path:
            if not made:
                made.append(stack.enter_context(float_model(source, folder, n_threads)))
            return made[0]

        yield path


def calibration_tokens(
    calibration: Calibration, model: Path, wanted: int, text_model: Callable[[], Path] | None = None
) -> tuple[Sequence[int], int | None]:
    """About ``wanted`` tokens under the model's tokenizer, and the token that a chunk starts with.

    ``text_model`` gives a file of the model that can be run, for text of its own.  Raises hrun.Error.
    """
    from hrun.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(str(model))
    first = tokenizer.bos_id if tokenizer.adds_bos else None
    if calibration.text is not None:
        return spread_tokens(tokenizer, read_text(calibration.text), wanted), first
    assert calibration.auto is not None
    whole = text_model if text_model is not None else lambda: model
    return spread_chunks(calibration.auto.tokens(whole), wanted), first


def loss_meter(
    calibration: Calibration,
    source: Source,
    folder: Path,
    model: Callable[[], Path],
    n_threads: int = 0,
    report: Report | None = None,
    chunks: int = 8,
) -> LossMeter:
    """A LossMeter over a scratch file in `folder` and a few chunks of the calibration text.  Raises ArgumentError without one."""
    if not calibration.has_text:
        raise ArgumentError(
            "bits are allocated by measuring the model on text: give --calibrate TEXT, or auto"
        )
    options = PlanOptions(_MEASURED_FORMAT, tensor_types=[("", _MEASURED_FORMAT)])
    file = PartFile(source, folder / "measured.gguf", options, n_threads)
    tokens, first = calibration_tokens(calibration, file.path, chunks * CHUNK_TOKENS, model)
    texts = chunks_of(tokens, first) or [begun(tokens, first)]
    return LossMeter(file, [text[:_MEASURED_TOKENS] for text in texts], folder, report)


@contextlib.contextmanager
def moment_source(
    calibration: Calibration,
    source: Source,
    wanted: Sequence[str],
    folder: Path,
    model: Callable[[], Path],
    n_threads: int = 0,
    report: Report | None = None,
    keeps: bool = True,
) -> Iterator[MomentSource | None]:
    """The moments as asked for.

    ``wanted``: which tensors will be coded against them, in that order; with ``keeps`` they may be
    asked for more than once.  ``folder``: for scratch.  ``model`` gives a file of the source that
    hrun can run.  Raises hrun.Error, OSError.
    """
    if calibration.moments is not None:
        yield MomentFile(calibration.moments, source.basis)
    elif calibration.imatrix is not None:
        from .imatrix import read_imatrix

        yield read_imatrix(calibration.imatrix)
    elif calibration.has_text:
        save = None
        if calibration.save is not None:
            texts = [calibration.text] if calibration.text is not None else []
            save = MomentWriter(calibration.save, source.basis, (*source.files, *texts))
        try:
            file = part_file(source, folder, n_threads)
            tokens, first = calibration_tokens(calibration, file.path, calibration.tokens, model)
            moments = TextMoments(
                file,
                tokens,
                wanted,
                calibration.memory,
                folder,
                n_threads,
                first_token=first,
                report=report,
                keeps=keeps or save is not None,
            )
            yield moments
            if save is not None:
                moments.save(save)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(
                f"{source.path}: calibration runs the model, and hrun cannot: {error}"
            ) from None
        finally:
            if save is not None:
                save.abandon()
    else:
        yield None
