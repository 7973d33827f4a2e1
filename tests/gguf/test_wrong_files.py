"""Files that are no model: the message says what the file is and what to do."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_bytes import model
from hrun import Runtime, _core
from hrun.convert import open_source
from tiny_hf import TinyLlama


def changed(edit: Callable[..., object]) -> bytes:
    file = model()
    edit(file)
    return file.build()


def vocabulary_only() -> bytes:
    file = model()
    file.tensors.clear()
    return file.build()


_SAFETENSORS = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
# The kind of file -> its bytes, and the words that the message must hold.
WRONG: dict[str, tuple[Callable[[], bytes], list[str]]] = {
    "a text file": (lambda: b"Once upon a time there was a model.\n" * 20, ["text file"]),
    "config.json": (lambda: b'{"architectures": ["LlamaForCausalLM"]}', ["text file"]),
    "an empty file": (lambda: b"", ["the file is empty"]),
    "a web page": (
        lambda: b"<!DOCTYPE html><html><body>Access denied</body></html>",
        ["HTML page", "download it again"],
    ),
    "a Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
        ["Git LFS pointer", "git lfs pull"],
    ),
    "safetensors": (
        lambda: struct.pack("<Q", len(_SAFETENSORS)) + _SAFETENSORS + bytes(4),
        ["safetensors", "hrun-convert"],
    ),
    "a PyTorch checkpoint": (
        lambda: b"PK\x03\x04" + bytes(100),
        ["PyTorch", "convert the original"],
    ),
    "a pickle": (lambda: b"\x80\x02}q\x00." + bytes(30), ["pickle", "safetensors"]),
    "GGML version 1": (lambda: b"lmgg" + bytes(100), ["old GGML", "convert the original"]),
    "ggjt": (lambda: b"tjgg" + bytes(100), ["old GGML", "convert the original"]),
    "GGUF version 1": (lambda: b"GGUF" + struct.pack("<IIQ", 1, 0, 0) + bytes(64), ["version 1"]),
    "a big-endian GGUF": (
        lambda: b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64),
        ["big-endian"],
    ),
    "a zstd archive": (lambda: b"\x28\xb5\x2f\xfd" + bytes(100), ["zstd", "unpack"]),
    "a vocabulary": (vocabulary_only, ["vocabulary", "no weights"]),
    "mmproj": (
        lambda: changed(lambda f: f.set("general.architecture", "string", "clip")),
        ["vision", "mmproj", "open the other file"],
    ),
    "mmproj by type": (
        lambda: changed(lambda f: f.set("general.type", "string", "mmproj")),
        ["vision", "open the other file"],
    ),
    "an adapter": (
        lambda: changed(lambda f: f.set("general.type", "string", "adapter")),
        ["adapter", "merge it into its model"],
    ),
    "an importance matrix": (
        lambda: changed(lambda f: f.set("general.type", "string", "imatrix")),
        ["importance matrix", "--imatrix"],
    ),
    "an image model": (
        lambda: changed(lambda f: f.set("general.architecture", "string", "flux")),
        ["image model", "language models"],
    ),
    "a speech model": (
        lambda: changed(lambda f: f.set("general.architecture", "string", "whisper")),
        ["speech model"],
    ),
    "an encoder": (
        lambda: changed(lambda f: f.set("general.architecture", "string", "eurobert")),
        ["an encoder of a kind that hrun does not have"],
    ),
    "an unknown architecture": (
        lambda: changed(lambda f: f.set("general.architecture", "string", "qwen9next")),
        ["qwen9next", "nearest", "'qwen2'"],
    ),
    "a truncated download": (lambda: model().build()[:-1000], ["bytes"]),
    "half a header": (lambda: model().build()[:40], ["cannot fit in a file of 40 bytes"]),
    "a type of a fork": (
        lambda: changed(lambda f: f.add_tensor("x", [32], 137, data=bytes(64))),
        ["unknown format 137", "fork", "convert the original"],
    ),
    "a removed type": (
        lambda: changed(lambda f: f.add_tensor("x", [32], 31, data=bytes(64))),
        ["removed", "convert the original"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_message_says_what_it_is(what: str, tmp_path: Path) -> None:
    make, says = WRONG[what]
    path = tmp_path / "model.gguf"
    path.write_bytes(make())
    with pytest.raises(_core.Error) as caught:
        Runtime(path)
    message = str(caught.value)
    assert "model.gguf" in message
    for part in says:
        assert part in message, message


@pytest.mark.parametrize(
    ("pieces", "listed"),
    [
        (["m.gguf.part1", "m.gguf.part2"], "m.gguf.part1 m.gguf.part2"),
        (["m.gguf-part-1-of-2", "m.gguf-part-2-of-2"], "m.gguf-part-1-of-2 m.gguf-part-2-of-2"),
        (["m.gguf.part2of2", "m.gguf.part1of2"], "m.gguf.part1of2 m.gguf.part2of2"),
        (["m.gguf.001", "m.gguf.002", "m.gguf.003"], "m.gguf.001 m.gguf.002 m.gguf.003"),
        (["m.gguf.partaa", "m.gguf.partab"], "m.gguf.partaa m.gguf.partab"),
        (["m.gguf-split-a", "m.gguf-split-b"], "m.gguf-split-a m.gguf-split-b"),
        (
            [f"m.gguf.part{i}" for i in range(1, 13)],
            " ".join(f"m.gguf.part{i}" for i in range(1, 8)) + " ... m.gguf.part12",
        ),
    ],
)
def test_pieces_cut_byte_by_byte(pieces: list[str], listed: str, tmp_path: Path) -> None:
    data = model().build()
    size = len(data) // len(pieces) + 1
    order = sorted(pieces, key=lambda name: (len(name), name))
    for i, name in enumerate(order):
        (tmp_path / name).write_bytes(data[i * size : (i + 1) * size])
    (tmp_path / "other.gguf.part9").write_bytes(b"")
    for name in ("m.gguf.partial", "m.gguf.partly"):
        (tmp_path / name).write_bytes(b"")
    for name in pieces:
        with pytest.raises(_core.ModelFileError) as caught:
            _core.GGUFFile(str(tmp_path / name))
        assert f"one of {len(pieces)} pieces of 'm.gguf'" in str(caught.value)
        assert str(caught.value).endswith(f"join them in order: cat {listed} > m.gguf")
    (tmp_path / "m.gguf").write_bytes(b"".join((tmp_path / n).read_bytes() for n in order))
    assert _core.GGUFFile(str(tmp_path / "m.gguf")).tensors
    with pytest.raises(_core.ModelFileError, match=r"piece of 'm\.gguf', which is beside it"):
        _core.GGUFFile(str(tmp_path / pieces[0]))


def test_a_piece_alone_and_other_names(tmp_path: Path) -> None:
    data = model().build()
    (tmp_path / "m.gguf.part1").write_bytes(data[:-1000])
    with pytest.raises(_core.ModelFileError, match="no other piece is beside it"):
        _core.GGUFFile(str(tmp_path / "m.gguf.part1"))
    for name in ("m.gguf", "m.gguf.partly", "m.part1", "part1.gguf", ".gguf.part1"):
        (tmp_path / name).write_bytes(data[:-1000])
        with pytest.raises(_core.ModelFileError) as caught:
            _core.GGUFFile(str(tmp_path / name))
        assert "the name of" not in str(caught.value)
        (tmp_path / name).unlink()
    (tmp_path / "whole.gguf.part1").write_bytes(data)  # a whole file is read, whatever its name
    assert _core.GGUFFile(str(tmp_path / "whole.gguf.part1")).tensors


def test_folders_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(_core.ModelFileError, match="nowhere.gguf"):
        Runtime(tmp_path / "nowhere.gguf")
    with pytest.raises(_core.Error, match="hrun-convert|folder|directory"):
        Runtime(tmp_path)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("Qwen4ForCausalLM", "Qwen3ForCausalLM"),
        ("LlamaForSequenceClassification", "LlamaForCausalLM"),
        ("RecurrentGemmaForCausalLM", "supported are"),
    ],
)
def test_unsupported_classes_name_the_nearest(name: str, near: str, tmp_path: Path) -> None:
    model = TinyLlama(tmp_path / "hf", layers=1, embd=64, ff=64, heads=2, kv_heads=1, head_dim=32)
    model.write_config(architectures=[name])
    with pytest.raises(_core.UnsupportedModelError, match=f"{name}.*{near}"):
        open_source(model.path)
