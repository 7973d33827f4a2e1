"""The converter: what it writes, checked against the source and against gguf-py; what it refuses, and how."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from hrun import Tokenizer, _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_hf import TEMPLATE, TinyLlama, interleaved, write_safetensors

pytestmark = pytest.mark.slow

ENCODABLE = [info for info in _core.formats() if info.encodable]
GGML_NAMES = {t.name.lower() for t in gguf.GGMLQuantizationType}


def convert(source: Path, output: Path, format: str, **options: Any) -> _core.GGUFFile:
    plan = make_plan(open_source(source), PlanOptions(format, **options))
    write_plan(plan, output, n_threads=2)
    return _core.GGUFFile(str(output))


def decoded(file: _core.GGUFFile) -> dict[str, np.ndarray]:
    out = {}
    for t in file.tensors:
        rows = int(np.prod(t.shape[1:], dtype=np.int64))
        values = _core.decode(t.format, t.data, rows, t.shape[0])
        out[t.name] = values.reshape(tuple(reversed(t.shape)))
    return out


def formats_of(file: _core.GGUFFile) -> dict[str, str]:
    return {t.name: t.format for t in file.tensors}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return TinyLlama(tmp_path_factory.mktemp("hf") / "tiny-llama", tied=False)


@pytest.mark.parametrize("info", ENCODABLE, ids=lambda info: info.name)
def test_every_format_holds_the_source(info: Any, tiny: TinyLlama, tmp_path: Path) -> None:
    file = convert(tiny.path, tmp_path / "out.gguf", info.name.upper(), pure=True)
    expected, got, formats = tiny.gguf_weights(), decoded(file), formats_of(file)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name].shape == values.shape
        if values.ndim == 1:
            assert formats[name] == "f32"
            np.testing.assert_array_equal(got[name], values)
            continue
        assert formats[name] == info.name
        if info.is_float:
            lossless = {
                "f32": values,
                "f16": values.astype(np.float16),
                "bf16": values,
            }  # the source is bf16
            np.testing.assert_array_equal(got[name], lossless[info.name].astype(np.float32))
        else:
            error = np.square(got[name] - values).sum() / np.square(values).sum()
            assert error < 8 * 4.0**-info.bits_per_weight, (
                name
            )  # the rate-distortion bound, times a generous 8
    assert file.metadata["general.quantization_version"] == 2
    assert not list(tmp_path.glob("*partial*"))


def test_tensors_and_metadata_as_gguf_py_reads_them(tiny: TinyLlama, tmp_path: Path) -> None:
    convert(tiny.path, tmp_path / "out.gguf", "q8_0")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    expected = tiny.gguf_weights()
    for t in reader.tensors:
        values = expected[t.name]
        assert tuple(t.shape) == tuple(reversed(values.shape))
        theirs = gguf.quants.dequantize(t.data, t.tensor_type).reshape(values.shape)
        np.testing.assert_allclose(theirs, values, atol=0.005 * np.abs(values).max())
    field = {name: f.contents() for name, f in reader.fields.items()}
    assert {k: v for k, v in field.items() if k.startswith("llama.")} == {
        "llama.vocab_size": 320,
        "llama.context_length": 512,
        "llama.embedding_length": 256,
        "llama.block_count": 2,
        "llama.feed_forward_length": 256,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0,
    }
    assert field["general.architecture"] == "llama" and field["general.type"] == "model"
    assert (
        field["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
        and field["general.quantization_version"] == 2
    )
    assert field["general.name"] == "tiny-llama" and field["general.size_label"] == "952K"
    assert field["general.sampling.temp"] == pytest.approx(0.6)
    assert field["tokenizer.ggml.model"] == "gpt2" and field["tokenizer.ggml.pre"] == "llama-bpe"
    text = (tiny.path / "tokenizer.json").read_text(encoding="utf-8")
    assert field["tokenizer.huggingface.json"] == text
    tokenizer = json.loads(text)
    by_id = {number: token for token, number in tokenizer["model"]["vocab"].items()} | {
        t["id"]: t["content"] for t in tokenizer["added_tokens"]
    }
    assert field["tokenizer.ggml.tokens"] == [by_id.get(i, f"[PAD{i}]") for i in range(320)]
    end = next(t["id"] for t in tokenizer["added_tokens"] if t["content"] == "<|endoftext|>")
    types = field["tokenizer.ggml.token_type"]
    assert (
        types[:end] == [1] * end
        and types[end : end + 3] == [3] * 3
        and types[end + 3 :] == [5] * (320 - end - 3)
    )
    assert field["tokenizer.ggml.merges"] == [
        " ".join(pair) for pair in tokenizer["model"]["merges"]
    ]
    assert (field["tokenizer.ggml.bos_token_id"], field["tokenizer.ggml.eos_token_id"]) == (
        end,
        end + 2,
    )
    assert (
        field["tokenizer.ggml.eot_token_id"] == end + 2
        and field["tokenizer.ggml.eom_token_id"] == end
    )
    assert field["tokenizer.ggml.add_bos_token"] is False
    assert field["tokenizer.chat_template"] == TEMPLATE


def test_the_head_reordering_formula() -> None:
    # Rotating pairs (2i, 2i + 1) of the reordered head must equal Hugging Face's rotation of (i, i + d/2).
    rng = np.random.default_rng(1)
    d, x, angle = 8, rng.standard_normal(8), rng.standard_normal(4)
    turned = np.concatenate(
        [
            x[:4] * np.cos(angle) - x[4:] * np.sin(angle),
            x[4:] * np.cos(angle) + x[:4] * np.sin(angle),
        ]
    )
    y = interleaved(x.reshape(d, 1), d).ravel()
    pairs = np.empty(d)
    pairs[0::2] = y[0::2] * np.cos(angle) - y[1::2] * np.sin(angle)
    pairs[1::2] = y[1::2] * np.cos(angle) + y[0::2] * np.sin(angle)
    np.testing.assert_allclose(interleaved(turned.reshape(d, 1), d).ravel(), pairs)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_shards_and_number_types(dtype: str, tmp_path: Path) -> None:
    model = TinyLlama(
        tmp_path / "hf",
        layers=1,
        dtype=dtype,
        shards=3,
        embd=64,
        heads=2,
        kv_heads=1,
        head_dim=32,
        ff=96,
    )
    file = convert(model.path, tmp_path / "out.gguf", "f32")
    got = decoded(file)
    for name, values in model.gguf_weights().items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
    assert "output.weight" not in got  # tied


def test_default_formats_guard_embedding_and_head(tiny: TinyLlama, tmp_path: Path) -> None:
    # A rotated format of fewer bits than the guard has.
    target = "rtq4" if any(i.name == "rtq4" for i in ENCODABLE) else "q4_0"
    file = convert(tiny.path, tmp_path / "out.gguf", target)
    formats = formats_of(file)
    guard = formats["token_embd.weight"]
    assert (
        guard
        == formats["output.weight"]
        == ("q6_k" if any(i.name == "q6_k" for i in ENCODABLE) else "q8_0")
    )
    assert formats["blk.0.attn_q.weight"] == formats["blk.1.ffn_down.weight"] == target
    options = PlanOptions(
        target,
        tensor_types=[(r"blk\.1\.ffn_.*", "f16"), ("ffn_down", "q8_0")],
        embedding_format="bf16",
        head_format="f32",
    )
    chosen = {
        p.tensor.name: p.format.name for p in make_plan(open_source(tiny.path), options).tensors
    }
    assert chosen["blk.1.ffn_down.weight"] == "f16" and chosen["blk.0.ffn_down.weight"] == "q8_0"
    assert (
        chosen["token_embd.weight"] == "bf16"
        and chosen["output.weight"] == "f32"
        and chosen["blk.0.attn_v.weight"] == target
    )
    assert chosen["output_norm.weight"] == "f32"
    assert {
        p.format.name
        for p in make_plan(open_source(tiny.path), PlanOptions("f16")).tensors
        if len(p.tensor.shape) > 1
    } == {"f16"}
    with pytest.raises(_core.ArgumentError, match="matches no tensor"):
        make_plan(open_source(tiny.path), PlanOptions(target, tensor_types=[("no_such", "f16")]))


def test_rows_that_do_not_fit_fall_back(tmp_path: Path) -> None:
    model = TinyLlama(tmp_path / "hf", layers=1, embd=32, heads=2, kv_heads=2, head_dim=8, ff=40)
    for info in ENCODABLE:
        plan = make_plan(open_source(model.path), PlanOptions(info.name, pure=True))
        for planned in plan.tensors:
            cols = planned.tensor.cols
            assert planned.format.row_ok(
                cols
            ) and planned.n_bytes == planned.tensor.rows * planned.format.row_bytes(cols)
            if len(planned.tensor.shape) > 1:
                assert (planned.format.name == info.name) == info.row_ok(cols)
                assert planned.format.bits_per_weight >= info.bits_per_weight
                assert info.rotated or not planned.format.rotated
                assert info.row_ok(cols) or str(cols) in planned.reason
    file = convert(model.path, tmp_path / "out.gguf", "q8_0", pure=True)
    assert formats_of(file)["blk.0.ffn_down.weight"] == "f16"


def test_gguf_to_gguf(tiny: TinyLlama, tmp_path: Path) -> None:
    first = convert(tiny.path, tmp_path / "f32.gguf", "f32")
    again = convert(tmp_path / "f32.gguf", tmp_path / "again.gguf", "f32")
    assert (tmp_path / "f32.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes()
    for info in (
        info for info in ENCODABLE if info.is_float or info.rotated or info.name == "q4_0"
    ):
        direct, indirect = tmp_path / "direct.gguf", tmp_path / "indirect.gguf"
        convert(tiny.path, direct, info.name)
        convert(tmp_path / "f32.gguf", indirect, info.name)
        assert direct.read_bytes() == indirect.read_bytes(), info.name
    assert first.metadata == again.metadata


def test_own_formats_turned_back_are_plain_files(tiny: TinyLlama, tmp_path: Path) -> None:
    own = [info.name for info in ENCODABLE if info.rotated]
    for name in own:
        coded = convert(tiny.path, tmp_path / "own.gguf", name)
        assert coded.metadata[f"hrun.format.{name}.version"] == 1
        assert coded.metadata["general.file_type"] not in set(gguf.LlamaFileType)
        source = open_source(tmp_path / "own.gguf")
        assert any("already quantized" in note for note in source.notes)
        write_plan(make_plan(source, PlanOptions("f16")), tmp_path / "back.gguf")
        reader = gguf.GGUFReader(tmp_path / "back.gguf")  # knows none of our ids
        assert not [key for key in reader.fields if key.startswith("hrun.")]
        assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_F16
        values = decoded(coded)
        for t in reader.tensors:
            np.testing.assert_array_equal(
                t.data.astype(np.float32),
                values[t.name].astype(np.float16 if t.data.dtype == np.float16 else np.float32),
            )
    if not own:
        pytest.skip("no rotated format can be written")


def test_quantized_to_the_same_format_keeps_the_blocks(tiny: TinyLlama, tmp_path: Path) -> None:
    first = convert(tiny.path, tmp_path / "a.gguf", "q8_0")
    second = convert(tmp_path / "a.gguf", tmp_path / "b.gguf", "q8_0")
    for a, b in zip(first.tensors, second.tensors):
        np.testing.assert_array_equal(a.data, b.data)


def llama3_factors(
    base: float, dim: int, factor: float, low: float, high: float, original: int
) -> list[float]:
    """Scales by wavelength, one frequency at a time, as published with Llama 3.1."""
    out = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * base ** (i / dim)
        if wavelength < original / high:
            out.append(1.0)
        elif wavelength > original / low:
            out.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return out


def test_rope_scalings(tmp_path: Path) -> None:
    model = TinyLlama(tmp_path / "hf", layers=1, embd=64, heads=2, kv_heads=1, head_dim=64, ff=64)

    def scaled(scaling: Any, **config: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        model.write_config(rope_scaling=scaling, **config)
        file = convert(model.path, tmp_path / "out.gguf", "f32")
        return {
            k.removeprefix("llama.rope."): v
            for k, v in file.metadata.items()
            if k.startswith("llama.rope.")
        }, decoded(file)

    plain = {"dimension_count": 64, "freq_base": 10000.0}
    assert scaled(None)[0] == plain
    assert scaled({"rope_type": "default"})[0] == plain
    assert scaled({"type": "linear", "factor": 4})[0] == {
        **plain,
        "scaling.type": "linear",
        "scaling.factor": 4.0,
    }
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    }
    keys, tensors = scaled(llama3, rope_theta=500000.0)
    assert keys == {**plain, "freq_base": 500000.0}
    expected = llama3_factors(500000.0, 64, 8.0, 1.0, 4.0, 256)
    assert (
        min(expected) == 1 and max(expected) == 8 and len(set(expected)) > 3
    )  # all three branches
    np.testing.assert_allclose(tensors["rope_freqs.weight"], expected, rtol=1e-6)
    yarn = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16,
    }
    assert scaled(yarn)[0] == {
        **plain,
        "scaling.type": "yarn",
        "scaling.factor": 4.0,
        "scaling.original_context_length": 128,
        "scaling.yarn_beta_fast": 16.0,
    }
    keys, _ = scaled(yarn | {"attention_factor": 2.0})
    assert keys["scaling.attn_factor"] == pytest.approx(2.0 / (0.1 * math.log(4) + 1))
    assert "scaling.yarn_attn_factor" not in keys  # readers multiply the two
    keys, _ = scaled(
        None,
        rope_theta=...,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0},
    )
    assert keys == {
        "dimension_count": 64,
        "freq_base": 77.0,
        "scaling.type": "linear",
        "scaling.factor": 2.0,
    }
    # Within the context of the configuration it changes nothing, and hrun goes no further.
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    assert scaled(dynamic)[0] == scaled(None)[0]
    for refused in (
        {**dynamic, "original_max_position_embeddings": 128},
        {"rope_type": "nonsense", "factor": 2.0},
    ):
        with pytest.raises(_core.UnsupportedModelError, match=str(refused["rope_type"])):
            scaled(refused)
    with pytest.raises(_core.ModelFileError, match="long_factor.*32 positive numbers"):
        scaled({"rope_type": "longrope", "factor": 2.0})


def test_weights_that_are_not_finite_or_do_not_fit(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    for value, format, message in (
        (np.nan, "q8_0", "value 5 of row 37 is nan"),
        (np.inf, "f32", "value 5 of row 37 is inf"),
        (1e5, "f16", "value 5 of row 37 is 100000; F16 holds magnitudes up to 65504"),
        (1e9, "q8_0", r"value 5 of row 37 is 1e\+09; Q8_0 holds magnitudes"),
    ):
        weights = np.ones((64, 64), np.float32)
        weights[37, 5] = value
        model = TinyLlama(
            tmp_path / "hf",
            layers=1,
            embd=64,
            heads=2,
            kv_heads=1,
            head_dim=32,
            ff=64,
            dtype="F32",
            weights={name: weights},
        )
        with pytest.raises(_core.ConversionError, match=message) as caught:
            convert(model.path, tmp_path / "out.gguf", format)
        assert "blk.0.ffn_up.weight" in str(caught.value) and name in str(caught.value)
        assert os.listdir(tmp_path) == ["hf"]
    convert(model.path, tmp_path / "out.gguf", "bf16")


def test_without_threads_it_takes_longer(
    small_folder: TinyLlama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    convert(small_folder.path, tmp_path / "a.gguf", "q8_0")

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        convert(small_folder.path, tmp_path / "b.gguf", "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_output_must_not_be_an_input(tiny: TinyLlama, tmp_path: Path) -> None:
    convert(tiny.path, tmp_path / "a.gguf", "q8_0")
    before = (tmp_path / "a.gguf").read_bytes()
    os.link(tmp_path / "a.gguf", tmp_path / "hard.gguf")
    os.symlink("a.gguf", tmp_path / "soft.gguf")
    for name in ("a.gguf", "hard.gguf", "soft.gguf"):
        with pytest.raises(_core.ArgumentError, match="also read as input"):
            convert(tmp_path / "a.gguf", tmp_path / name, "f16")
    for output in (tiny.path / "tokenizer.json", tiny.path / "model.safetensors"):
        with pytest.raises(_core.ArgumentError, match="also read as input"):
            convert(tiny.path, output, "f16")
    for output in (tmp_path, Path("/dev/null"), tmp_path / "no" / "out.gguf"):
        with pytest.raises(_core.ArgumentError):
            convert(tiny.path, output, "f16")
    assert (tmp_path / "a.gguf").read_bytes() == before


def test_a_link_as_output_stays_a_link(tiny: TinyLlama, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real.gguf").write_bytes(b"old")
    os.symlink("elsewhere/real.gguf", tmp_path / "out.gguf")
    convert(tiny.path, tmp_path / "out.gguf", "q8_0")
    assert (tmp_path / "out.gguf").is_symlink() and (
        tmp_path / "elsewhere" / "real.gguf"
    ).read_bytes()[:4] == b"GGUF"


def test_the_demo_model_is_current() -> None:
    """The demo model is made by the tables of RTQ3 as they are now, from the checkpoint as it is
    now.
    """
    models = Path(__file__).resolve().parents[2] / "models"
    demo = _core.GGUFFile(str(models / "demo.gguf"))
    source = {t.name: t for t in open_source(models / "demo").tensors}
    tensors = {t.name: t for t in demo.tensors}
    assert source.keys() == tensors.keys()
    for name in ("blk.0.attn_q.weight", "blk.3.ffn_down.weight", "token_embd.weight"):
        values = source[name].read_rows(0, 64)
        info = tensors[name]
        got = _core.decode(
            info.format, info.data[: info.n_bytes * 64 // source[name].rows], 64, info.shape[0]
        )
        # Calibrated: the outputs are close, the weights themselves less so.
        np.testing.assert_array_less(
            np.square(got - values).sum() / np.square(values).sum(), 0.2 if "blk" in name else 0.001
        )
    for info in _core.formats():
        version = demo.metadata.get(f"hrun.format.{info.name}.version")
        assert version in (None, info.version), (
            f"made with version {version} of {info.name}: make it again (models/README.md)"
        )
    assert (
        demo.metadata["general.name"] == "hrun demo" and "hrun.format.rtq3.version" in demo.metadata
    )


# --- inputs that are wrong, hostile or not supported -------------------------------------------------------------------

small = {"layers": 1, "embd": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 32}


def sharded(name: Any) -> Callable[[TinyLlama], None]:
    def apply(model: TinyLlama) -> None:
        (model.path / "model.safetensors").rename(model.path.parent / "outside.safetensors")
        model.write_json(
            "model.safetensors.index.json", {"weight_map": dict.fromkeys(model.weights, name)}
        )

    return apply


def index_alone(model: TinyLlama) -> None:
    (model.path / "model.safetensors").unlink()
    model.write_json("model.safetensors.index.json", {})


def config(**changes: Any) -> Callable[[TinyLlama], None]:
    return lambda model: model.write_config(**changes)


def file(name: str, data: bytes) -> Callable[[TinyLlama], None]:
    return lambda model: (model.path / name).write_bytes(data) and None


class Canary:
    """A pickle of this writes a file when it is read."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("canary"),))


def only_pickle(model: TinyLlama) -> None:
    (model.path / "model.safetensors").unlink()
    (model.path / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))


def remote_code(model: TinyLlama) -> None:
    (model.path / "modeling.py").write_text("open('canary', 'w')")
    model.write_config(
        architectures=["MyForCausalLM"], auto_map={"AutoModelForCausalLM": "modeling.MyForCausalLM"}
    )


def link_out(model: TinyLlama) -> None:
    (model.path / "model.safetensors").rename(model.path.parent / "outside.safetensors")
    os.symlink("../outside.safetensors", model.path / "model.safetensors")


def overlapping(model: TinyLlama) -> None:
    header = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [1024], "data_offsets": [0, 4096]} for i in range(10)}
    ).encode()
    (model.path / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + bytes(4096)
    )


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[TinyLlama], None]:
    def apply(model: TinyLlama) -> None:
        values = json.loads((model.path / "tokenizer.json").read_text(encoding="utf-8"))
        change(values)
        model.write_json("tokenizer.json", values)

    return apply


BAD, NO = _core.ModelFileError, _core.UnsupportedModelError
CASES: dict[str, tuple[Callable[[TinyLlama], None], type[Exception], str]] = {
    "shard above": (sharded("../outside.safetensors"), BAD, "not a plain file name"),
    "shard absolute": (sharded("/etc/passwd"), BAD, "not a plain file name"),
    "shard below": (sharded("a/../../b"), BAD, "not a plain file name"),
    "shard with NUL": (sharded("model\0.safetensors"), BAD, "not a plain file name"),
    "shard on a drive": (sharded("C:outside"), BAD, "not a plain file name"),
    "shard dots": (sharded(".."), BAD, "not a plain file name"),
    "shard with a newline": (sharded("a\nb"), BAD, r"a\\nb"),
    "shard long": (sharded("a" * 300), BAD, "not a plain file name"),
    "shard a number": (sharded(7), BAD, "must be a string"),
    "shard absent": (sharded("absent.safetensors"), BAD, "No such file"),
    "shard a folder": (
        lambda m: (sharded("sub")(m), (m.path / "sub").mkdir()) and None,
        BAD,
        "not a regular file",
    ),
    "weights a link out": (link_out, BAD, "leaves the model folder"),
    "index empty": (index_alone, BAD, "weight_map"),
    "pickle": (only_pickle, NO, "can run any code"),
    "pickle as safetensors": (
        file("model.safetensors", b"PK\x03\x04" + bytes(100)),
        NO,
        "can run any code",
    ),
    "pickle as config": (file("config.json", pickle.dumps(Canary())), NO, "can run any code"),
    "remote code": (remote_code, NO, "MyForCausalLM"),
    "safetensors empty": (file("model.safetensors", b""), BAD, "too few"),
    "safetensors noise": (file("model.safetensors", b"\xff" * 1000), BAD, "not a safetensors file"),
    "safetensors overlapping": (overlapping, BAD, "not a sound safetensors file"),
    "config not JSON": (
        file("config.json", b'{"a": 1,\n "b" 2}'),
        BAD,
        "config.json: not JSON.*line 2",
    ),
    "config deep": (file("config.json", b'{"a":' * 100000), BAD, "config.json"),
    "config deep array": (file("config.json", b"[" * 1000000), BAD, "config.json"),
    "config an array": (file("config.json", b"[]"), BAD, "expected a JSON object"),
    "config not UTF-8": (file("config.json", b'{"a": "\xff"}'), BAD, "not UTF-8 at byte 7"),
    "config twice": (file("config.json", b'{"a": 1, "a": 2}'), BAD, "'a' appears twice"),
    "config huge integer": (
        file("config.json", b'{"a": ' + b"9" * 10000 + b"}"),
        BAD,
        "config.json",
    ),
    "layers a string": (
        config(num_hidden_layers="1"),
        BAD,
        "config.json: 'num_hidden_layers' must be an integer",
    ),
    "layers a boolean": (
        config(num_hidden_layers=True),
        BAD,
        "'num_hidden_layers' must be an integer",
    ),
    "layers 2^70": (config(num_hidden_layers=2**70), BAD, "'num_hidden_layers' must be an integer"),
    "layers negative": (
        config(num_hidden_layers=-1),
        BAD,
        "'num_hidden_layers' must be an integer",
    ),
    "layers missing": (config(num_hidden_layers=...), BAD, "'num_hidden_layers' is missing"),
    "layers too many": (
        config(num_hidden_layers=2),
        BAD,
        r"model.layers.1.input_layernorm.weight' is missing",
    ),
    "heads zero": (config(num_attention_heads=0), BAD, "'num_attention_heads'"),
    "heads odd": (config(num_key_value_heads=3), BAD, "not a multiple"),
    "head dim odd": (config(head_dim=15), BAD, "even"),
    "eps NaN": (config(rms_norm_eps=math.nan), BAD, "'rms_norm_eps' must be a finite number"),
    "theta huge": (config(rope_theta=1e30), BAD, "'rope_theta' must be a finite number"),
    "theta a list": (config(rope_theta=[1]), BAD, "'rope_theta'"),
    "width wrong": (config(hidden_size=64), BAD, r"shape \[320, 32\]"),
    "vocabulary larger": (config(vocab_size=400), BAD, "embed_tokens"),
    "vocabulary smaller": (
        config(vocab_size=100),
        BAD,
        "embed_tokens|outside the model's vocabulary",
    ),
    "classes missing": (config(architectures=None), BAD, "'architectures'"),
    "activation": (config(hidden_act="gelu"), NO, "gelu"),
    "quantized": (config(quantization_config={"quant_method": "bitsandbytes"}), NO, "bitsandbytes"),
    "partly rotated": (config(partial_rotary_factor=0.01), NO, "partial_rotary_factor"),
    "untied without head": (config(tie_word_embeddings=False), BAD, "'lm_head.weight' is missing"),
    "rope not an object": (config(rope_scaling="linear"), BAD, "'rope_scaling' must be an object"),
    "rope factor": (
        config(rope_scaling={"type": "linear", "factor": "2"}),
        BAD,
        "'rope_scaling.factor'",
    ),
    "tokenizer missing": (
        lambda m: (m.path / "tokenizer.json").unlink(),
        BAD,
        "tokenizer.json is missing",
    ),
    "tokenizer unigram": (
        tokenizer(lambda t: t.update(model={"type": "Unigram", "vocab": []})),
        BAD,
        "the vocabulary is empty",
    ),
    "tokenizer prefix": (
        tokenizer(lambda t: t["model"].update(continuing_subword_prefix="##")),
        NO,
        "continuing_subword_prefix",
    ),
    "tokenizer no vocab": (tokenizer(lambda t: t["model"].update(vocab={})), BAD, "tokenizer.json"),
    "tokenizer id a string": (
        tokenizer(lambda t: t["model"]["vocab"].update(a="7")),
        BAD,
        "must be a token id",
    ),
    "tokenizer id huge": (
        tokenizer(lambda t: t["model"]["vocab"].update(zz=2**40)),
        BAD,
        "must be a token id",
    ),
    "tokenizer id shared": (
        tokenizer(lambda t: t["model"]["vocab"].update(zzzz=5)),
        BAD,
        "share the id 5",
    ),
    "tokenizer merge": (
        tokenizer(lambda t: t["model"]["merges"].append(["a", "%"])),
        BAD,
        "'model.merges', entry .*joins 'a' and '%' to what is no token",
    ),
    "tokenizer refused": (
        tokenizer(lambda t: t.update(pre_tokenizer={"type": "Nonsense"})),
        BAD,
        "tokenizers library",
    ),
    "eos a text": (
        lambda m: m.write_json("generation_config.json", {"eos_token_id": "5"}),
        BAD,
        "'eos_token_id'",
    ),
    "template a number": (
        lambda m: m.write_json("tokenizer_config.json", {"chat_template": 7}),
        BAD,
        "'chat_template'",
    ),
    "unknown tensor": (
        lambda m: write_safetensors(
            m.path / "model.safetensors", {**m.weights, "extra.weight": np.zeros((2, 2))}, "BF16"
        ),
        NO,
        "extra.weight",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_folders_are_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_folder: TinyLlama
) -> None:
    import copy
    import shutil

    break_it, error, message = CASES[case]
    model = copy.copy(small_folder)
    model.path = tmp_path / "hf"
    shutil.copytree(small_folder.path, model.path)
    monkeypatch.chdir(tmp_path)
    break_it(model)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=message) as caught:
        convert(model.path, tmp_path / "out.gguf", "q8_0")
    assert str(caught.value).isprintable()
    assert sorted(os.listdir(tmp_path)) == before  # no output, no canary


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return TinyLlama(tmp_path_factory.mktemp("small") / "hf", **small)


def test_the_small_folder_itself_is_sound(small_folder: TinyLlama, tmp_path: Path) -> None:
    convert(
        small_folder.path, tmp_path / "out.gguf", "q8_0"
    )  # else every case above would pass for the wrong reason


def test_sources_that_are_no_models(tmp_path: Path) -> None:
    for name, data, error in (
        ("a.bin", pickle.dumps(Canary()), NO),
        ("b.gguf", b"GGUF" + bytes(10), BAD),
        ("c.txt", b"hello", BAD),
        ("d.gguf", b"", BAD),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error):
            open_source(tmp_path / name)
    with pytest.raises(BAD, match="no such file"):
        open_source(tmp_path / "absent")
    with pytest.raises(BAD, match="config.json is missing"):
        open_source(tmp_path)


def test_a_hugging_face_cache_snapshot_may_link_to_its_blobs(
    small_folder: TinyLlama, tmp_path: Path
) -> None:
    repository = tmp_path / "models--someone--Tiny-1M"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for i, path in enumerate(sorted(small_folder.path.iterdir())):
        (repository / "blobs" / f"{i:040x}").write_bytes(path.read_bytes())
        os.symlink(f"../../blobs/{i:040x}", snapshot / path.name)
    source = open_source(snapshot)
    assert source.name == "Tiny-1M"


def test_sentencepiece_like_tokenizer(small_folder: TinyLlama, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "hf"
    shutil.copytree(small_folder.path, folder)
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": b + 3 for b in range(256)}
    for piece in ("\u2581t", "he", "\u2581the", "\u2581", "t", "h", "e"):
        vocab[piece] = len(vocab)
    special = [
        {
            "id": i,
            "content": c,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, c in enumerate(("<unk>", "<s>", "</s>"))
    ]
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": special,
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Prepend", "prepend": "\u2581"},
                        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
                    ],
                },
                "pre_tokenizer": None,
                "decoder": None,
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<s>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [
                        {"Sequence": {"id": "A", "type_id": 0}},
                        {"Sequence": {"id": "B", "type_id": 1}},
                    ],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
                },
                "model": {
                    "type": "BPE",
                    "dropout": None,
                    "unk_token": "<unk>",
                    "fuse_unk": True,
                    "byte_fallback": True,
                    "vocab": vocab,
                    "merges": ["\u2581 t", "h e", "\u2581t he"],
                },
            }
        ),
        encoding="utf-8",
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
    )
    (folder / "generation_config.json").unlink()
    meta = convert(folder, tmp_path / "out.gguf", "q8_0").metadata
    assert meta["tokenizer.ggml.model"] == "llama" and "tokenizer.ggml.merges" not in meta
    assert (
        meta["tokenizer.ggml.add_space_prefix"] is True
        and meta["tokenizer.ggml.add_bos_token"] is True
    )
    assert meta["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]
    scores = dict(zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.scores"]))
    assert (
        scores["\u2581t"] > scores["he"] > scores["\u2581the"] > scores["e"] and scores["<s>"] == 0
    )
    assert (
        meta["tokenizer.ggml.bos_token_id"],
        meta["tokenizer.ggml.eos_token_id"],
        meta["tokenizer.ggml.unknown_token_id"],
    ) == (1, 2, 0)


def test_tokenizers_with_more_than_the_model_needs(tmp_path: Path) -> None:
    """Ids and added tokens beyond the vocabulary, repeated merges: converted, with a note."""
    model = TinyLlama(tmp_path / "model", layers=1)
    end = 317
    model.write_json(
        "generation_config.json",
        {
            "eos_token_id": [end + 2, end, 5, 6, 5000],
            "pad_token_id": -1,
            "top_k": -1,
            "repetition_penalty": 1.05,
        },
    )
    path = model.path / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    merges = values["model"]["merges"]
    values["model"]["merges"] = [merges[0], ["a", "zz%"], *merges]
    values["added_tokens"].append(dict(values["added_tokens"][0], id=320, content="<extra>"))
    path.write_text(json.dumps(values), encoding="utf-8")
    source = open_source(model.path)
    notes = "\n".join(source.notes)
    assert "'eos_token_id' 5000 ignored" in notes and "1 added token beyond" in notes
    assert "merges are repeated" in notes
    assert "1 of" in notes and "a part is no token (the first: 'zz%')" in notes
    field = {entry.key: entry.value for entry in source.metadata}
    assert len(field["tokenizer.ggml.tokens"]) == 320
    assert len(field["tokenizer.ggml.merges"]) == len(merges)
    assert field["general.sampling.top_k"] == 0
    assert field["general.sampling.penalty_repeat"] == pytest.approx(1.05)
    assert field["general.sampling.penalty_last_n"] == -1
    assert field["tokenizer.ggml.eos_token_ids"] == [end + 2, end, 5, 6]
    convert(model.path, tmp_path / "out.gguf", "q8_0")
    ends = Tokenizer.from_gguf(tmp_path / "out.gguf").end_ids
    assert ends >= {end + 2, end, 5, 6}
