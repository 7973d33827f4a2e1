"""Models in several files: NAME-00001-of-0000N.gguf and its parts beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import Runtime, _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.tokenizer import Tokenizer


def split(source: Path, folder: Path, count: int, name: str = "m", **first: Any) -> Path:
    """The tensors dealt over `count` files, the metadata in the first."""
    file = _core.GGUFFile(str(source))
    total = len(file.tensors)
    for part in range(count):
        with _core.GGUFWriter(str(folder / f"{name}-{part + 1:05d}-of-{count:05d}.gguf")) as writer:
            if part == 0:
                for key, value in file.metadata.items():
                    writer.add(key, file.metadata_types[key], value)
            else:
                writer.add("general.architecture", "string", first.get("architecture", "llama"))
            writer.add("split.no", *(first.get("number") or ("u16", part)))
            writer.add("split.count", "u16", count)
            writer.add("split.tensors.count", "i32", first.get("total", total))
            mine = [t for i, t in enumerate(file.tensors) if i % count == part]
            for t in mine:
                writer.add_tensor(t.name, list(t.shape), t.format)
            for t in mine:
                writer.write_tensor(t.name, t.data.reshape(-1))
    return folder / f"{name}-00001-of-{count:05d}.gguf"


def logits(path: Path) -> np.ndarray:
    return _core.Session(_core.Model.load(str(path)), 8).forward([1, 2, 3], "all")


@pytest.mark.parametrize("count", [2, 3])
def test_parts_are_one_model(count: int, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    whole = tiny_model(format="q8_0")
    first = split(whole, tmp_path, count)
    assert np.array_equal(logits(first), logits(whole))
    with Runtime(first) as runtime:
        assert runtime.tokenize("the")
    write_plan(
        make_plan(open_source(first), PlanOptions("q8_0", embedding_format="q8_0")),
        tmp_path / "joined.gguf",
    )
    assert np.array_equal(logits(tmp_path / "joined.gguf"), logits(whole))
    assert not any(
        key.startswith("split.") for key in _core.GGUFFile(str(tmp_path / "joined.gguf")).metadata
    )


def refused(path: Path, message: str) -> None:
    for call in (_core.read_spec, _core.Model.load):
        with pytest.raises(_core.ModelFileError, match=message):
            call(str(path))


def test_what_is_missing_or_wrong_is_named(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    first = split(tiny_model(), tmp_path, 3)
    second = tmp_path / "m-00002-of-00003.gguf"
    message = "part 2 of a model in 3 files; open the first, 'm-00001-of-00003.gguf'"
    refused(second, message)
    for opened in (Runtime, Tokenizer.from_gguf, open_source):
        with pytest.raises(_core.ModelFileError, match=message):
            opened(second)
    shutil.copy(second, tmp_path / "second.gguf")
    refused(
        tmp_path / "second.gguf", "part 2 .* open the first, whose name ends in '-00001-of-00003"
    )
    kept = second.read_bytes()
    second.unlink()
    refused(first, "'m-00002-of-00003.gguf' is not beside it")
    shutil.copy(tmp_path / "m-00003-of-00003.gguf", second)
    refused(first, "'split.no' is 2 .* expected 1 and 3")
    second.write_bytes(kept[:-100])
    refused(first, "m-00002-of-00003.gguf")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.gguf").write_bytes(kept)
    second.unlink()
    second.symlink_to(tmp_path / "elsewhere" / "x.gguf")
    refused(first, "'m-00002-of-00003.gguf' is a link that leaves the folder")
    second.unlink()
    second.write_bytes(kept)
    first.rename(tmp_path / "other.gguf")
    refused(tmp_path / "other.gguf", "must end in '-00001-of-00003.gguf'")
    refused(split(tiny_model(), tmp_path, 2, "n", total=7), "'split.tensors.count' is 7")


def test_parts_joined_byte_by_byte(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    first = split(tiny_model(), tmp_path, 2)
    second = tmp_path / "m-00002-of-00002.gguf"
    joined = tmp_path / "joined.gguf"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    at = first.stat().st_size
    message = f"the second from byte {at} on; .* not joined byte by byte: give each its own file"
    refused(joined, message)
    with pytest.raises(_core.ModelFileError, match=message):
        Runtime(joined)
    second.unlink()
    shutil.copy(joined, first)  # also under the name of the first
    refused(first, message)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("number", "message"),
    [
        (("u16", 9), "'split.no' is 9, must be below {}"),
        (("u64", 2**64 - 1), "'split.no' is 18446744073709551615, must be below {}"),
        (("i32", -1), "'split.no' is i32 -1, must be an unsigned integer"),
        (("string", "0"), "'split.no' is .*must be an unsigned integer"),
    ],
)
def test_numbers_that_no_part_has(
    count: int,
    number: tuple[str, Any],
    message: str,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    refused(split(tiny_model(), tmp_path, count, number=number), message.format(count))


def test_a_part_of_another_architecture(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    refused(
        split(tiny_model(), tmp_path, 2, architecture="gpt2"),
        "00002.*'general.architecture' is 'gpt2', the first part's is 'llama'",
    )


def test_links_inside_one_folder_are_followed(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The cache of Hugging Face keeps files this way: names are links into a folder of contents."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    split(tiny_model(), tmp_path / "blobs", 2)
    for i, blob in enumerate(sorted((tmp_path / "blobs").iterdir())):
        content = blob.rename(tmp_path / "blobs" / f"content{i}")
        (tmp_path / "snapshot" / f"m-{i + 1:05d}-of-00002.gguf").symlink_to(content)
    assert np.isfinite(logits(tmp_path / "snapshot" / "m-00001-of-00002.gguf")).all()
