"""hrun-edit: what changes is what was asked for, weights stay byte for byte, and a file is whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrun import ArgumentError, Error, Runtime, _core
from hrun.cli.edit import main
from hrun.convert.edit import Changes, Opened, write_edited, write_parts


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False)


def weights(path: Path) -> dict[str, tuple[tuple[int, ...], str, bytes]]:
    file = _core.GGUFFile(str(path))
    return {
        str(t.name): (tuple(t.shape), t.format, np.array(t.data).tobytes()) for t in file.tensors
    }


def logits(path: Path) -> np.ndarray:
    with Runtime(path, n_ctx=32) as runtime:
        return runtime.logits([1, 2, 3])


def test_metadata(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    flags = ["--set", "general.name=A name", "--set", "new.key=true", "--set", "new.count=3"]
    flags += ["--set", "new.word=hello = there", "--remove", "tokenizer.ggml.add_bos_token"]
    before = _core.GGUFFile(str(model)).metadata
    if "tokenizer.ggml.add_bos_token" not in before:
        flags = flags[:-2]
    assert main([str(model), "-o", str(out), *flags]) == 0
    after = _core.GGUFFile(str(out))
    changed = {k: v for k, v in after.metadata.items() if before.get(k) != v}
    assert changed == {
        "general.name": "A name",
        "new.key": True,
        "new.count": 3,
        "new.word": "hello = there",
    }
    assert after.metadata_types["new.count"] == "u32" and weights(out) == weights(model)
    np.testing.assert_array_equal(logits(out), logits(model))


def test_in_place_and_the_template(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    assert main([str(path), "--in-place", "--chat-template-file", str(template)]) == 0
    with Runtime(path, n_ctx=32) as runtime:
        asked = [{"role": "user", "content": "ab"}]
        assert runtime.detokenize(runtime.chat_tokens(asked)).endswith("<ab>")
    assert [p.name for p in tmp_path.glob("*partial*")] == []


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--set", "llama.block_count=9"], "would not load"),
        (["--set", "llama.block_count=many"], "not of the type"),
        (["--set", "llama.block_count=-1"], "expected u32"),
        (["--set", "llama.block_count=2.5"], "expected u32"),
        (["--set", "general.alignment=64"], "lies on disk"),
        (["--set", "tokenizer.ggml.token_type=5"], "expected a JSON list"),
        (["--set", 'tokenizer.ggml.token_type=["x"]'], "expected i32"),
        (["--set", "a key=5"], "is no key"),
        (["--set", "nothing"], "expected KEY=VALUE"),
        (["--remove", "not.there"], "has no key"),
        (["--remove", "llama.block_count"], "would not load"),
    ],
)
def test_what_is_refused(
    flags: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused edit writes nothing."""
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())
    assert main([str(path), "--in-place", *flags]) == 1
    assert message in capsys.readouterr().err
    assert path.read_bytes() == model.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_a_bad_template_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Error, match="chat template"):
        write_edited(Opened(model), tmp_path / "x.gguf", Changes(template="{% for"))
    with pytest.raises(ArgumentError, match="also read as input"):
        write_edited(Opened(model), model, Changes())
    assert not list(tmp_path.iterdir())


def test_split_and_join(model: Path, tmp_path: Path) -> None:
    largest = max(t.n_bytes for t in _core.GGUFFile(str(model)).tensors)
    parts = write_parts(Opened(model), tmp_path / "p", Changes({"general.name": "x"}), largest)
    assert len(parts) > 2 and parts[0].name == f"p-00001-of-{len(parts):05d}.gguf"
    sizes = [sum(t.n_bytes for t in _core.GGUFFile(str(p)).tensors) for p in parts]
    assert max(sizes) <= largest
    np.testing.assert_array_equal(logits(parts[0]), logits(model))
    joined = tmp_path / "joined.gguf"
    assert main([str(parts[0]), "-o", str(tmp_path / "no.gguf")]) == 1
    assert main([str(parts[0]), "--join", "-o", str(joined)]) == 0
    assert weights(joined) == weights(model)
    metadata = _core.GGUFFile(str(joined)).metadata
    assert metadata["general.name"] == "x" and not any(k.startswith("split.") for k in metadata)
    assert main([str(parts[1]), "--join", "-o", str(tmp_path / "no.gguf")]) == 1
    parts[-1].unlink()
    assert main([str(parts[0]), "--join", "-o", str(tmp_path / "no.gguf")]) == 1
    assert not (tmp_path / "no.gguf").exists()


def test_the_gguf_package_reads_our_types() -> None:
    import gguf
    import gguf.quants

    import hrun
    from hrun.gguf_types import register

    register()
    register()
    reader = gguf.GGUFReader(hrun.demo_model_path())
    tensors = {t.name: t for t in reader.tensors}
    one = tensors["blk.0.attn_q.weight"]
    assert one.tensor_type.name == "RTQ3" and gguf.GGMLQuantizationType["RTQ3"] == one.tensor_type
    ours = {t.name: t for t in _core.GGUFFile(str(hrun.demo_model_path())).tensors}[one.name]
    cols, rows = ours.shape
    np.testing.assert_array_equal(
        gguf.quants.dequantize(one.data, one.tensor_type),
        _core.decode("rtq3", np.array(ours.data), rows, cols),
    )
