"""hrun-inspect: what a GGUF file holds, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import hrun
from hrun._core import GGUFFile, TensorInfo, formats, read_spec
from hrun.cache_memory import PAIRS, bytes_per_token
from hrun.cli.common import EXIT_ERROR, Parser, run
from hrun.cli.options import add_flags, whole_number
from hrun.errors import printable

_SHOWN_ITEMS = 6
_SHOWN_CHARACTERS = 100


def main(argv: Sequence[str] | None = None) -> int:
    return run("hrun-inspect", _inspect, make_parser(), argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(
        prog="hrun-inspect",
        description=__doc__,
        epilog="Exit code 0: hrun can run the file; 1: it cannot.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.add_argument("--no-tensors", action="store_true", help="leave out the table of tensors")
    parser.add_argument(
        "--check-data",
        action="store_true",
        help="also look for NaN and infinity in the weights (reads the whole file)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="only what a KV cache costs with each pair of formats",
    )
    text = "with --memory: tokens in the cache (default: the model's context)"
    add_flags(parser, "ctx_size", type=whole_number(1), help=text)
    add_flags(parser, "version")
    return parser


def _inspect(options: argparse.Namespace) -> int:
    file = GGUFFile(options.file)
    if options.memory:
        return _print_memory(options)
    found = _check(file, options.check_data)
    tensors = [_tensor(t) for t in file.tensors]
    summary = _summary(file, tensors)
    if options.json:
        metadata = {
            k: {"type": file.metadata_types[k], "value": _shortened(v)}
            for k, v in file.metadata.items()
        }
        everything = {**summary, **found, "metadata": metadata} | (
            {} if options.no_tensors else {"tensors": tensors}
        )
        json.dump(everything, sys.stdout, indent=1, default=str)
        print()
    else:
        _print(file, summary, found, [] if options.no_tensors else tensors)
    return EXIT_ERROR if found["errors"] else 0


def _check(file: GGUFFile, data: bool) -> dict[str, Any]:
    """Would hrun run the file?  A vocabulary or an imatrix is a sound file that hrun cannot run."""
    warnings: list[str] = []
    errors: list[str] = []
    plan: dict[str, Any] = {}
    try:
        made = read_spec(file.path)
        warnings += made.warnings
        plan = {"architecture": made.architecture, "params": dict(made.params)}
    except hrun.Error as error:
        errors.append(str(error))
    try:
        hrun.Tokenizer.from_gguf(file)
    except hrun.Error as error:
        errors.append(str(error))
    for tensor in file.tensors if data else []:
        try:
            tensor.verify()
        except hrun.Error as error:
            errors.append(str(error))
    if file.unused_bytes:
        warnings.append(f"{file.unused_bytes} bytes after the last tensor")
    return {"plan": plan, "warnings": warnings, "errors": list(dict.fromkeys(errors))}


def _print_memory(options: argparse.Namespace) -> int:
    params = read_spec(options.file).params
    n_ctx = options.ctx_size or params["n_ctx_train"]
    rows: list[dict[str, Any]] = []
    for k, v in PAIRS:
        try:
            per_token = bytes_per_token(params, k, v)
        except hrun.Error as error:
            rows.append({"keys": k, "values": v, "error": str(error)})
            continue
        rows.append(
            {"keys": k, "values": v, "bytes_per_token": per_token, "bytes": per_token * n_ctx}
        )
    if options.json:
        json.dump({"tokens": n_ctx, "caches": rows}, sys.stdout, indent=1)
        print()
        return 0
    print(f"A KV cache of {n_ctx} tokens (-ctk, -ctv):")
    for row in rows:
        name = f"{row['keys']}/{row['values']}"
        if "error" in row:
            print(f"  {name:10} {row['error']}")
        else:
            print(
                f"  {name:10} {_size(row['bytes_per_token']):>11} per token {_size(row['bytes']):>11}"
            )
    return 0


def _tensor(tensor: TensorInfo) -> dict[str, Any]:
    weights = math.prod(tensor.shape)
    return {
        "name": tensor.name
        if isinstance(tensor.name, str)
        else tensor.name.decode("utf-8", "replace"),
        "format": tensor.format,
        "shape": list(tensor.shape),
        "bytes": tensor.n_bytes,
        "offset": tensor.offset,
        "bits_per_weight": 8 * tensor.n_bytes / weights if weights else 0.0,
    }


def _summary(file: GGUFFile, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    weights = sum(math.prod(t["shape"]) for t in tensors)
    data = sum(t["bytes"] for t in tensors)
    by_format: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        row = by_format.setdefault(tensor["format"], {"tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += math.prod(tensor["shape"])
        row["bytes"] += tensor["bytes"]
    return {
        "path": file.path,
        "version": file.version,
        "alignment": file.alignment,
        "file_bytes": file.file_bytes,
        "tensor_bytes": data,
        "weights": weights,
        "bits_per_weight": 8 * data / weights if weights else 0.0,
        "formats": by_format,
    }


def _shortened(value: Any) -> Any:
    if isinstance(value, list) and len(value) > 64:
        return {"count": len(value), "first": [_shortened(v) for v in value[:_SHOWN_ITEMS]]}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _print(
    file: GGUFFile, summary: dict[str, Any], found: dict[str, Any], tensors: list[dict[str, Any]]
) -> None:
    print(
        f"{printable(str(summary['path']), 1000)}: GGUF version {summary['version']}, {_size(summary['file_bytes'])}"
    )
    print(f"\nMetadata ({len(file.metadata)} keys)")
    width = max((len(k) for k in file.metadata), default=0)
    types = file.metadata_types
    for key, value in file.metadata.items():
        print(f"  {printable(str(key)):{min(width, 48)}}  {types[key]:14} {_text(value)}")
    if tensors:
        print(f"\nTensors ({len(tensors)})")
        width = max(len(printable(t["name"], 64)) for t in tensors)
        print(f"  {'name':{width}}  {'format':8} {'shape':>20} {'bytes':>14} {'bits/weight':>11}")
        for t in tensors:
            shape = " x ".join(map(str, t["shape"]))
            sizes = f"{t['format']:8} {shape:>20} {t['bytes']:14,} {t['bits_per_weight']:11.4f}"
            print(f"  {printable(t['name'], 64):{width}}  {sizes}")
    if summary["formats"]:
        rotated = {f.name for f in formats() if f.rotated}
        print("\nFormats")
        total = {
            key: sum(row[key] for row in summary["formats"].values())
            for key in ("tensors", "weights", "bytes")
        }
        by_size = sorted(summary["formats"].items(), key=lambda item: -item[1]["bytes"])
        for name, row in [*by_size, ("all", total)]:
            bits = 8 * row["bytes"] / row["weights"] if row["weights"] else 0.0
            amounts = (
                f"{row['tensors']:5} tensors {row['weights']:16,} weights {_size(row['bytes']):>10}"
            )
            print(
                f"  {name:8} {amounts} {bits:8.4f} bits/weight{'  rotated' if name in rotated else ''}"
            )
    if found["plan"]:
        print(f"\nModel: {found['plan']['architecture']}")
        for key, value in found["plan"]["params"].items():
            print(f"  {key:20} {_text(value)}")
    for kind in ("warnings", "errors"):
        for line in found[kind]:
            print(f"\n{kind[:-1]}: {line}")
    if not found["errors"]:
        print("\nhrun can run this file.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        items = ", ".join(_text(v) for v in value[:_SHOWN_ITEMS])
        return f"[{items}{', ...' if len(value) > _SHOWN_ITEMS else ''}] ({len(value)})"
    if isinstance(value, (str, bytes)):
        text = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
        more = f" ({len(text)} characters)" if len(text) > _SHOWN_CHARACTERS else ""
        return f'"{printable(text, _SHOWN_CHARACTERS)}"{more}'
    return f"{value:g}" if isinstance(value, float) else str(value)


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} {unit}" if unit == "bytes" else f"{n_bytes:.2f} {unit}"
        n_bytes /= 1024
    raise AssertionError


if __name__ == "__main__":
    sys.exit(main())
