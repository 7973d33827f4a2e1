"""hrun-convert: a Hugging Face folder or a GGUF file to a GGUF file of a given format.

Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong usage, 3 written but outside --strict's bound, 130 Ctrl-C,
143 terminated.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hrun import _core
from hrun.cli.common import Terminated, unwinding_on_termination
from hrun.cli.options import add_flags, file_size
from hrun.errors import ArgumentError, Error

if TYPE_CHECKING:
    from hrun.convert import Calibration, ConversionPlan, Preset, Source
    from hrun.convert.auto_text import AutoText
    from hrun.convert.check_result import Check


def make_parser() -> argparse.ArgumentParser:
    """All flags."""
    from hrun.convert.plan import type_names
    from hrun.convert.source import NATIVE_FORMATS

    names = type_names()
    parser = argparse.ArgumentParser(
        prog="hrun-convert",
        allow_abbrev=False,
        description="Convert a Hugging Face folder (safetensors) or a GGUF file to a GGUF file.",
        epilog="An existing output file is replaced in one step when the new one is complete; until then, and after an error or "
        "Ctrl-C, it stays as it was.",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="Hugging Face folder, or a GGUF file of any format that hrun reads",
    )
    parser.add_argument(
        "-o",
        "--output",
        "--outfile",
        metavar="OUT",
        type=Path,
        help="file to write (default: the source's name and the type, in the current folder)",
    )
    parser.add_argument(
        "--type",
        "--outtype",
        metavar="TYPE",
        dest="format",
        type=_type_name,
        help=f"format of the weights: {', '.join(names)} (those of the form q4_k_m give sensitive tensors more bits, as "
        f"llama-quantize does); of weights that the source has "
        f"in it, {', '.join(NATIVE_FORMATS)} (needed unless there is a target or a plan)",
    )
    parser.add_argument(
        "--tensor-type",
        metavar="REGEX=TYPE",
        action="append",
        default=[],
        type=_tensor_type,
        help="format of the tensors in whose name REGEX is found; may be repeated, the first match wins",
    )
    parser.add_argument(
        "--token-embedding-type",
        metavar="TYPE",
        type=_format_name,
        help="format of the token embedding",
    )
    parser.add_argument(
        "--output-tensor-type", metavar="TYPE", type=_format_name, help="format of the output head"
    )
    parser.add_argument("--pure", action="store_true", help="embedding and head in TYPE too")
    parser.add_argument(
        "--model-name", metavar="NAME", help="name of the model in the file (default: the source's)"
    )
    add_flags(parser, "threads", type=_thread_count, help="encoding threads (default: all)")
    group = parser.add_argument_group(
        "calibration", "Rounding that minimises the error of what the weights compute on text."
    )
    add = group.add_argument
    add_flags(group, "calibrate")
    add(
        "--calibrate-tokens",
        metavar="N",
        type=_token_count,
        default=65536,
        help="tokens of it to use, spread over the text, 0 for all (default 65536)",
    )
    add(
        "--imatrix",
        metavar="FILE",
        type=Path,
        help="use an importance matrix of llama-imatrix instead (helps the plain formats; far weaker than text for RTQ)",
    )
    add("--moments", metavar="FILE", type=Path, help="use what --save-moments wrote instead")
    add("--save-moments", metavar="FILE", type=Path, help="keep what --calibrate collected")
    add_flags(group, "preset")
    add(
        "--fold",
        choices=("auto", "always", "never"),
        default="auto",
        help="even out the scales of channels between norms and matrices, and between matrices, before coding: the function of the "
        "model stays (default auto: with --calibrate or --moments, where they are uneven)",
    )
    add(
        "--kv-stats",
        action="store_true",
        help="store the mean of keys and their balance, as the calibration text has them, for coded KV caches (-ctk rtq4), which "
        "else take both from the first 64 positions of a sequence",
    )
    add(
        "--memory",
        metavar="SIZE",
        type=file_size,
        help="memory for the moments of a layer and their factors, as 800M or 4G (default 4G); less means that the text passes through a "
        "layer more often, or block-diagonal moments. A model that fits may also be run whole, to write calibration text and to answer in the check",
    )
    add = parser.add_argument_group(
        "check", "The finished file beside its source, on text that no calibration saw."
    ).add_argument
    add(
        "--check",
        action=argparse.BooleanOptionalAction,
        help="measure the KL divergence and compare greedy answers; the result is printed and stored in the file (default: where "
        "the source is calibrated, or has at most 4 GiB as floats)",
    )
    add(
        "--strict",
        metavar="KLD",
        nargs="?",
        type=_bound,
        const=math.nan,
        help="exit with 3 where the mean KL divergence is above KLD (0.15), or could not be measured",
    )
    add = parser.add_argument_group(
        "allocation", "Formats tensor by tensor, for the least loss at a size; needs --calibrate."
    ).add_argument
    add(
        "--target-bpw",
        metavar="BITS",
        type=_bits,
        help="mean bits per weight of the matrices outside embedding and head",
    )
    add(
        "--target-size",
        metavar="SIZE",
        type=file_size,
        help="size of the whole file, embedding and head included, as 800M or 4G",
    )
    add(
        "--save-plan",
        metavar="FILE",
        type=Path,
        help="keep the allocation and what was measured for it, as JSON",
    )
    add(
        "--plan",
        metavar="FILE",
        type=Path,
        help="use an allocation that was kept; with a target, allocate anew from what was measured for it",
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        help="write a page (HTML) with plots of weights, inputs, errors and the allocation",
    )
    parser.add_argument(
        "--report-text",
        metavar="TEXT",
        type=Path,
        help="text on which the report compares the models (default: that of --calibrate)",
    )
    add_flags(parser, "dry_run")
    add_flags(parser, "verbose", help="list every tensor; show where an error came from")
    add_flags(parser, "version")
    return parser


def _type_name(text: str) -> str:
    from hrun.convert.plan import find_type

    try:
        return find_type(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _format_name(text: str) -> str:
    from hrun.convert.plan import find_format

    try:
        return str(find_format(text).name)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tensor_type(text: str) -> tuple[str, str]:
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise argparse.ArgumentTypeError(f"expected REGEX=TYPE, found '{text}'")
    return pattern, _format_name(name)


def _thread_count(text: str) -> int:
    try:
        n = int(text)
    except ValueError:
        n = -1
    if not 0 <= n <= 1024:
        raise argparse.ArgumentTypeError(f"expected 0 to 1024, found '{text}'")
    return n


def _bound(text: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        bound = -1.0
    if not 0.0 <= bound < math.inf:
        raise argparse.ArgumentTypeError(f"expected a KL divergence in nats, found '{text}'")
    return bound


def _bits(text: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        bits = 0.0
    if not 1.0 <= bits <= 32.0:
        raise argparse.ArgumentTypeError(f"expected 1 to 32 bits per weight, found '{text}'")
    return bits


def _token_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise argparse.ArgumentTypeError(f"expected a number of tokens, found '{text}'")
    return int(text)


def default_output(source: Path, name: str, format_name: str) -> Path:
    """NAME-TYPE.gguf in the current folder; a format at the end of a GGUF source's name is replaced."""
    if source.is_dir():
        stem = name.replace("/", "-").replace("\0", "")
    else:
        stem = (
            source.name[: -len(".gguf")] if source.name.lower().endswith(".gguf") else source.name
        )
        from hrun.convert.mixes import MIXES

        for name in (*MIXES, *(info.name for info in _core.formats())):
            suffix = f"-{name}"
            if stem.lower().endswith(suffix) and len(stem) > len(suffix):
                stem = stem[: -len(suffix)]
                break
    return Path(f"{stem}-{format_name.upper()}.gguf")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A progress bar with the time left on stderr's terminal; nothing elsewhere."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    from hrun.convert.folder import shown

    columns = (
        TextColumn("{task.fields[tensor]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("encode", total=None, tensor="")
        stage = ""

        def report(done: int, total: int, what: str) -> None:
            nonlocal stage
            now = (
                what
                if what.startswith("calibrate")
                else what.split()[0]
                if what.startswith(("measure", "report"))
                else "encode"
            )
            if now != stage:  # times of one stage say nothing about the next
                stage = now
                bar.reset(task, total=total)
            bar.update(task, completed=done, total=total, tensor=shown(what, 40))

        yield report


def _note(text: str) -> None:
    print(f"hrun-convert: {text}", file=sys.stderr)


_AUTO, _NONE = Path("auto"), Path("none")  # of --calibrate
_UNASKED_CHECK = 4 << 30  # bytes of a source, as floats, that is read for a check nobody asked for
_MEMORY = 4 << 30  # for moments


def _calibrates_itself(arguments: argparse.Namespace, has_trellis: bool) -> bool:
    """Is text made where no calibration is given?"""
    if arguments.calibrate is not None:
        return bool(arguments.calibrate == _AUTO)
    given = arguments.imatrix is not None or arguments.moments is not None
    return has_trellis and not given and arguments.preset != "fast"


def _calibration(
    arguments: argparse.Namespace, auto: AutoText | None
) -> tuple[Calibration, Preset | None]:
    """Returns the texts or files to calibrate with, and the way to search; the preset is None
    without calibration.  Raises ArgumentError.
    """
    from hrun.convert import PRESETS, Calibration

    given = Calibration(
        arguments.calibrate if arguments.calibrate not in (_AUTO, _NONE) else None,
        arguments.imatrix,
        arguments.moments,
        arguments.calibrate_tokens,
        arguments.memory or _MEMORY,
        arguments.save_moments,
        auto,
    )
    preset = arguments.preset or ("normal" if given.is_given else "fast")
    if preset == "fast" and given.is_given:
        raise ArgumentError(
            "--preset fast does not calibrate; leave out the calibration, or choose normal or best"
        )
    if preset == "best" and not given.is_given:
        raise ArgumentError(
            f"--preset {preset} needs --calibrate TEXT, --imatrix FILE or --moments FILE"
        )
    return given, PRESETS[preset] if preset != "fast" else None


def _makes_text(
    arguments: argparse.Namespace,
    auto: AutoText,
    model: Callable[[], Path],
    source: Source,
    work: Path,
    room: int,
    progress: Callable[[int, int, str], None] | None,
) -> bool:
    """Makes the calibration text; ``room``: bytes of a model that may be run whole for it.

    Returns False, after a warning, where the model cannot be run and nobody asked for calibration.
    Raises hrun.Error.
    """
    from hrun.convert.calibrate import float_bytes, part_file
    from hrun.convert.quick_copy import ITSELF, write_copy, writer_type

    writer = writer_type(source, float_bytes(source), room)

    def path() -> Path:
        if writer is None:
            return part_file(source, work).path
        if writer == ITSELF:
            return model()
        return write_copy(source, writer, work, arguments.threads, progress)

    try:
        tokens = auto.tokens(path, progress, work / "tokens", bundled_only=writer is None)
    except Error as error:
        if arguments.calibrate is not None or arguments.preset is not None:
            raise
        _note(f"warning: hrun cannot run this model, so it is coded without calibration: {error}")
        return False
    finally:
        (work / "writer.gguf").unlink(missing_ok=True)
    _note(
        f"calibrating on {len(tokens)} tokens of text of many kinds, {auto.n_own} of them the model's own answers"
        + (f", drawn from it in {writer.upper()}" if writer not in (ITSELF, None) else "")
    )
    if writer is None:
        _note(
            "note: the model does not write text for it, as running it would take more memory than "
            "converting it does (--memory allows more)"
        )
    return True


def _job(arguments: argparse.Namespace, source: Source, tensors: Sequence[str]) -> str:
    """Describes the settings that must be the same where a killed process's work is continued: all
    but those that decide where output goes and how fast.
    """
    free = ("output", "threads", "verbose", "check", "strict", "report", "report_text", "save_plan")
    chosen = {k: str(v) for k, v in vars(arguments).items() if k not in free}
    files = [arguments.calibrate] if arguments.calibrate not in (None, _AUTO, _NONE) else []
    states = [(path, path.stat()) for path in (*source.files, *files)]
    return json.dumps(
        {
            "hrun": getattr(_core, "__version__", ""),
            "chosen": chosen,
            "basis": source.basis,
            "files": [[str(path), s.st_size, s.st_mtime_ns] for path, s in states],
            "tensors": list(tensors),
        }
    )


def _checks(arguments: argparse.Namespace, plan: ConversionPlan, has_model: bool) -> bool:
    if arguments.check is not None:
        return bool(arguments.check)
    if arguments.strict is not None:
        return True
    coded = any(not p.format.is_float for p in plan.tensors)
    return coded and (has_model or 2 * plan.n_values <= _UNASKED_CHECK)


def _verdict(arguments: argparse.Namespace, found: Check | None) -> int:
    """The exit code, after what there is to say."""
    from hrun.convert.check_result import VISIBLE

    if found is not None:
        _note(found.line())
        if found.exceeds(VISIBLE):
            _note(
                "warning: this file answers visibly worse than its source; more bits (--target-bpw, or a wider --type), "
                "--preset best or calibration on your own kind of text help"
            )
    if arguments.strict is None:
        return 0
    bound = VISIBLE if math.isnan(arguments.strict) else arguments.strict
    if found is not None and not found.exceeds(bound):
        return 0
    _note(
        "error: could not be checked (--strict)"
        if found is None
        else f"error: the mean KL divergence {found.mean_divergence:.4f} is above {bound:g} (--strict)"
    )
    return 3


def run(arguments: argparse.Namespace) -> int:
    """The conversion itself; the exit code.  Raises hrun.Error and OSError."""
    from hrun.convert import (
        Encoder,
        PlanOptions,
        check_output,
        make_plan,
        open_source,
        print_plan,
        print_sizes,
        write_plan,
    )
    from hrun.convert.allocate import (
        allocate_again,
        find_allocation,
        find_budget,
        load_allocation,
        open_tensors,
        sizes_and_losses,
    )
    from hrun.convert.auto_text import AutoText
    from hrun.convert.calibrate import (
        calibration_tokens,
        loss_meter,
        moment_source,
        part_file,
        shared_float_model,
    )
    from hrun.convert.fold import UNEVEN, fold_channels
    from hrun.convert.folder import shown
    from hrun.convert.key_tables import TOKENS, with_key_tables
    from hrun.convert.moments import DEFAULT_TOKENS
    from hrun.convert.quick_copy import room_for_model
    from hrun.convert.table import size_text
    from hrun.convert.text_moments import TextMoments
    from hrun.outputs import work_folder

    _check_usage(arguments)
    source = open_source(arguments.source)
    if arguments.model_name is not None:
        source = source.renamed(arguments.model_name)
    default = default_output(arguments.source, source.name, arguments.format or "mixed")
    output = arguments.output if arguments.output is not None else default
    replaced = check_output(source, output).exists()
    folder = Path(os.path.realpath(output)).parent
    kept = load_allocation(arguments.plan) if arguments.plan is not None else None
    options = PlanOptions(
        format=arguments.format or "rtq3",
        tensor_types=arguments.tensor_type,
        embedding_format=arguments.token_embedding_type,
        head_format=arguments.output_tensor_type,
        pure=arguments.pure,
        allocation=kept.formats if kept is not None else {},
    )
    has_target = arguments.target_bpw is not None or arguments.target_size is not None
    trellis = {info.name for info in _core.formats() if info.trellis}
    plan = make_plan(source, options)
    has_trellis = has_target or any(p.format.name in trellis for p in plan.tensors)
    auto = None
    if _calibrates_itself(arguments, has_trellis):
        auto = AutoText(arguments.calibrate_tokens or DEFAULT_TOKENS, arguments.threads)
    calibration, preset = _calibration(arguments, auto)
    if arguments.fold == "always" or (arguments.fold == "auto" and has_trellis):
        source, folds = fold_channels(source, 0 if arguments.fold == "always" else UNEVEN)
        if folds:
            _note(
                f"note: channel scales evened before {sum(len(fold.readers) for fold in folds)} matrices"
            )
            plan = make_plan(source, options)
    for note in source.notes:
        _note(f"note: {note}")
    chosen = set[str]()
    if has_target:
        unallocated = make_plan(source, replace(options, allocation={}))
        with_outside = arguments.target_size is not None
        chosen = {t.name for t in open_tensors(unallocated, options, with_outside)}
    wanted = [
        p.tensor.name
        for p in plan.tensors
        if len(p.tensor.shape) > 1 and (p.tensor.name in chosen or p.format.name in trellis)
    ]

    def dry_run() -> int:
        _note(
            f"dry run: {output} not written"
            + (" (it exists and would be replaced)" if replaced else "")
        )
        return 0

    if not has_target:
        print_plan(plan, sys.stderr, every_tensor=arguments.verbose)
        if arguments.dry_run:
            return dry_run()
    allocation = None
    room = max(room_for_model(source, arguments.memory or _MEMORY), arguments.memory or 0)
    found: Check | None = None
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(quiet=not sys.stderr.isatty()))
        model = stack.enter_context(shared_float_model(source, folder, arguments.threads))
        work = None
        if calibration.has_text:
            work = stack.enter_context(work_folder(output, _job(arguments, source, wanted)))
            if auto is not None and not _makes_text(
                arguments, auto, model, source, work, room, progress
            ):
                calibration, preset = _calibration(arguments, None)
        if arguments.kv_stats:
            if not calibration.has_text:
                raise ArgumentError("--kv-stats needs a text: give --calibrate TEXT, or auto")
            assert work is not None  # as there is a text
            file = part_file(source, work, arguments.threads)
            tokens, first = calibration_tokens(calibration, file.path, TOKENS, model)
            source = with_key_tables(source, file, tokens, first, work, progress)
            plan = make_plan(source, options)
        moments = stack.enter_context(
            moment_source(
                calibration,
                source,
                wanted,
                work or folder,
                model,
                arguments.threads,
                progress,
                keeps=(has_target and kept is None) or arguments.report is not None,
            )
        )
        if isinstance(moments, TextMoments) and (parts := moments.progress)[0]:
            _note(
                f"note: going on with an interrupted run, which has calibrated {parts[0]} of {parts[1]} parts"
            )
        if has_target:
            budget = find_budget(
                make_plan(source, replace(options, allocation={})),
                options,
                arguments.target_bpw,
                arguments.target_size,
            )
            if kept is not None:
                allocation = allocate_again(kept, budget, arguments.plan)
            else:
                meter = loss_meter(
                    calibration, source, work or folder, model, arguments.threads, progress
                )
                allocation = find_allocation(plan, budget, moments, meter, arguments.threads)
            plan = make_plan(source, replace(options, allocation=allocation.formats))
            print_plan(plan, sys.stderr, every_tensor=arguments.verbose)
            _note(
                f"allocated {allocation.bits_per_weight:.3f} bits per weight to {len(allocation.formats)} tensors, expected KL "
                f"divergence on the calibration text {allocation.loss:.4f}"
            )
            if arguments.save_plan is not None:
                allocation.save(arguments.save_plan)
            print_sizes(
                sizes_and_losses(allocation, budget.fixed_bytes),
                len(allocation.formats),
                sys.stderr,
            )
            if arguments.dry_run:
                return dry_run()
        encoder = Encoder(moments, preset, arguments.report is not None, arguments.threads)

        def inspect(path: Path) -> Check | None:
            nonlocal found
            from hrun.convert.self_check import check

            try:
                found = check(source, path, folder, room, arguments.threads, progress)
            except Error as error:
                _note(f"note: not checked against its source: {error}")
            return found

        checks = _checks(arguments, plan, calibration.has_text)
        size = write_plan(
            plan,
            output,
            arguments.threads,
            progress,
            encoder,
            inspect if checks else None,
            kept=work if arguments.report is None else None,  # a report wants every tensor's error
        )
        if arguments.report is not None:
            from hrun.convert.report import write_report

            write_report(
                arguments.report,
                plan,
                output,
                encoder,
                moments,
                allocation,
                work or folder,
                arguments.report_text or calibration.text,
                arguments.threads,
                progress,
            )
    if missing := [name for name in encoder.uncalibrated if name in wanted]:
        _note(
            f"note: nothing was known about the input of {shown(missing[0])}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; coded without calibration"
        )
    _note(f"{'replaced' if replaced else 'wrote'} {output}, {size_text(size)}")
    if arguments.report is not None:
        _note(f"wrote {arguments.report}")
    return _verdict(arguments, found)


def _check_usage(arguments: argparse.Namespace) -> None:
    """Checks the rules that argparse cannot express.  Raises ArgumentError."""
    if arguments.target_bpw is not None and arguments.target_size is not None:
        raise ArgumentError("--target-bpw and --target-size exclude each other")
    target = arguments.target_bpw is not None or arguments.target_size is not None
    unmeasured = arguments.imatrix is not None or arguments.moments is not None
    if (
        target
        and arguments.plan is None
        and (arguments.calibrate == _NONE or (arguments.calibrate is None and unmeasured))
    ):
        raise ArgumentError(
            "bits are allocated by measuring the model on text: give --calibrate TEXT, or auto"
        )
    if arguments.save_plan is not None and not target:
        raise ArgumentError(
            "--save-plan keeps what --target-bpw or --target-size found; give one of them"
        )


def main(argv: Sequence[str] | None = None) -> int:
    verbose = False
    try:
        parser = make_parser()
        arguments = parser.parse_args(argv)
        verbose = arguments.verbose
        if (
            arguments.format is None
            and arguments.target_bpw is None
            and arguments.target_size is None
            and arguments.plan is None
        ):
            parser.error("the following arguments are required: --type (or a target, or a plan)")
        with unwinding_on_termination():
            return run(arguments)
    except KeyboardInterrupt:
        _note("interrupted")
        return 130
    except Terminated as stop:
        _note("terminated")
        return stop.exit_code
    except BrokenPipeError:  # stderr was closed by its reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        return 1
    except (Error, OSError, MemoryError) as error:
        if verbose:
            raise
        text = str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"
        _note(f"error: {text}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
