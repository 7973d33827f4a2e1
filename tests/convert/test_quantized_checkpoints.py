"""GPTQ, AWQ, FP8 and MXFP4 checkpoints become the weights that their definitions give; each is packed here by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_hf import TinyLlama

pytestmark = pytest.mark.slow

MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
Arrays = dict[str, tuple[str, np.ndarray]]


def write(path: Path, tensors: Arrays) -> None:
    """A safetensors file; values: (type, array with the bytes of that type)."""
    header, blobs, at = {}, [], 0
    for name, (kind, array) in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [at, at + len(data)],
        }
        blobs.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def pack_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint32 [n * bits / 32, cols] from codes [n, cols], bit by bit."""
    n, cols = codes.shape
    out = np.zeros((n * bits // 32, cols), np.uint32)
    for i in range(n):
        for b in range(bits):
            at = i * bits + b
            out[at // 32] |= (((codes[i] >> b) & 1) << (at % 32)).astype(np.uint32)
    return out


def gptq(
    rng: np.random.Generator, rows: int, cols: int, bits: int, order: bool
) -> tuple[Arrays, np.ndarray]:
    groups = cols // 32
    codes, zeros = (
        rng.integers(0, 1 << bits, (cols, rows)),
        rng.integers(0, (1 << bits) - 1, (groups, rows)),
    )
    scales = (rng.random((groups, rows)) * 0.02 + 0.001).astype(np.float16)
    which = rng.permutation(np.arange(cols) // 32) if order else np.arange(cols) // 32
    weight = np.zeros((rows, cols), np.float32)
    for c in range(cols):
        weight[:, c] = scales[which[c]].astype(np.float32) * (codes[c] - zeros[which[c]] - 1)
    parts: Arrays = {
        "qweight": ("I32", pack_stream(codes, bits)),
        "qzeros": ("I32", np.ascontiguousarray(pack_stream(zeros.T, bits).T)),
        "scales": ("F16", scales),
        "g_idx": ("I32", which.astype(np.int32)),
    }
    return parts, weight


def awq(rng: np.random.Generator, rows: int, cols: int) -> tuple[Arrays, np.ndarray]:
    groups = cols // 32
    codes, zeros = rng.integers(0, 16, (cols, rows)), rng.integers(0, 16, (groups, rows))
    scales = (rng.random((groups, rows)) * 0.02 + 0.001).astype(np.float16)

    def packed(values: np.ndarray) -> np.ndarray:
        out = np.zeros((values.shape[0], rows // 8), np.uint32)
        for j in range(rows // 8):
            for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                out[:, j] |= (values[:, 8 * j + column] << (4 * place)).astype(np.uint32)
        return out

    weight = np.stack(
        [scales[c // 32].astype(np.float32) * (codes[c] - zeros[c // 32]) for c in range(cols)],
        axis=1,
    )
    return {
        "qweight": ("I32", packed(codes)),
        "qzeros": ("I32", packed(zeros)),
        "scales": ("F16", scales),
    }, weight


def fp8(rng: np.random.Generator, rows: int, cols: int, block: int) -> tuple[Arrays, np.ndarray]:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    values = (torch.tensor(rng.standard_normal((rows, cols))) * 50).to(torch.float8_e4m3fn)
    shape = (-(-rows // block), -(-cols // block)) if block else (rows, 1)
    scales = (rng.random(shape) * 0.01 + 0.001).astype(np.float32)
    spread = scales.repeat(block, 0)[:rows].repeat(block, 1)[:, :cols] if block else scales
    parts: Arrays = {
        "weight": ("F8_E4M3", values.view(torch.uint8).numpy()),
        "weight_scale_inv" if block else "weight_scale": ("F32", scales),
    }
    return parts, values.float().numpy() * spread


def bitnet(
    rng: np.random.Generator, rows: int, cols: int, kind: str
) -> tuple[Arrays, np.ndarray, dict[str, str]]:
    signs = rng.integers(-1, 2, (rows, cols)).astype(np.float32)
    if "online" in kind:
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        mean = np.abs(values).mean(dtype=np.float64)
        weight = np.where(np.abs(values) < mean / 2, 0, np.sign(values) * mean)
        return {"weight": ("F32", values)}, weight, {"quantization_mode": "online"}
    packed = np.zeros((rows // 4, cols), np.uint8)
    for row in range(rows):
        part, at = divmod(row, rows // 4)
        packed[at] |= (signs[row] + 1).astype(np.uint8) << (2 * part)
    scale = np.array([0.03], np.float32)
    parts: Arrays = {"weight": ("U8", packed), "weight_scale": ("F32", scale)}
    if "divided" in kind:
        return parts, signs / scale, {}
    return parts, signs * scale, {"linear_class": "autobitlinear"}


@pytest.mark.parametrize(
    "kind",
    ["gptq 2", "gptq 3", "gptq 4", "gptq 8", "gptq 4, act order", "awq", "fp8 blocks", "fp8 rows"]
    + ["bitnet packed", "bitnet divided", "bitnet online"],
)
def test_weights_are_those_of_the_definition(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    model = TinyLlama(tmp_path / "hf", layers=1, embd=96, ff=160, heads=3, kv_heads=1, head_dim=32)
    settings: dict[str, Any] = {"quant_method": kind.split()[0]}
    tensors: Arrays = {name: ("F32", values) for name, values in model.weights.items()}
    expected = dict(model.weights)
    for matrix in MATRICES:
        name = f"model.layers.0.{matrix}"
        rows, cols = tensors.pop(f"{name}.weight")[1].shape
        if kind.startswith("gptq"):
            settings |= {"bits": int(kind.split()[1].strip(",")), "group_size": 32}
            parts, weight = gptq(rng, rows, cols, settings["bits"], "act" in kind)
        elif kind.startswith("bitnet"):
            parts, weight, more = bitnet(rng, rows, cols, kind)
            settings |= more
        elif kind == "awq":
            settings |= {"bits": 4, "group_size": 32, "version": "gemm"}
            parts, weight = awq(rng, rows, cols)
        else:
            block = 64 if "blocks" in kind else 0
            settings |= {"weight_block_size": [64, 64]} if block else {}
            parts, weight = fp8(rng, rows, cols, block)
        expected[f"{name}.weight"] = weight
        tensors.update({f"{name}.{part}": value for part, value in parts.items()})
    write(tmp_path / "hf" / "model.safetensors", tensors)
    model.write_config(quantization_config=settings)
    model.weights = expected
    source = open_source(model.path)
    assert any("already quantized" in note for note in source.notes)
    write_plan(make_plan(source, PlanOptions("f32")), tmp_path / "out.gguf")
    got = {t.name: t for t in _core.GGUFFile(str(tmp_path / "out.gguf")).tensors}
    for name, values in model.gguf_weights().items():
        found = got[name].data.view(np.float32).reshape(values.shape)
        np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-7, err_msg=name)


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def gpt_oss(folder: Path) -> tuple[Arrays, Arrays]:
    """The tensors of a tiny checkpoint with its experts in float32, and with the same in MXFP4."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.numpy import load_file

    from tiny_transformers import write_checkpoint

    write_checkpoint("gpt-oss", folder)
    tensors: Arrays = {
        name: ("F32", values) for name, values in load_file(folder / "model.safetensors").items()
    }
    rng = np.random.default_rng(2)
    plain: Arrays = dict(tensors)
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name)[1].shape
        codes = rng.integers(0, 16, (experts, outputs, inputs // 32, 32)).astype(np.uint8)
        scales = rng.integers(120, 126, (experts, outputs, inputs // 32)).astype(np.uint8)
        weight = FP4[codes] * 2.0 ** (scales[..., None].astype(float) - 127)
        plain[name] = (
            "F32",
            np.ascontiguousarray(
                weight.reshape(experts, outputs, inputs).swapaxes(1, 2).astype(np.float32)
            ),
        )
        tensors[f"{name}_blocks"] = ("U8", codes[..., 0::2] | (codes[..., 1::2] << 4))
        tensors[f"{name}_scales"] = ("U8", scales)
    return plain, tensors


def store(folder: Path, tensors: Arrays, method: str | None) -> None:
    write(folder / "model.safetensors", tensors)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = None if method is None else {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config))


def test_mxfp4_experts_of_gpt_oss(tmp_path: Path) -> None:
    """The same file from the experts in float32 and from their MXFP4 form."""
    files = []
    for i, (stored, method) in enumerate(zip(gpt_oss(tmp_path / "hf"), (None, "mxfp4"))):
        store(tmp_path / "hf", stored, method)
        files.append(tmp_path / f"{i}.gguf")
        write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), files[-1])
    first, second = (
        {t.name: t.data.tobytes() for t in _core.GGUFFile(str(f)).tensors} for f in files
    )
    assert first == second


def formats_of(path: Path) -> dict[str, str]:
    return {t.name: t.format for t in _core.GGUFFile(str(path)).tensors if "exps.weight" in t.name}


def test_mxfp4_blocks_are_taken_over_bit_for_bit(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    plain, coded = gpt_oss(tmp_path / "hf")
    store(tmp_path / "hf", plain, None)
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "f32.gguf")
    with pytest.raises(
        _core.ArgumentError, match="'mxfp4' is only taken over from a source that has it"
    ):
        make_plan(open_source(tmp_path / "hf"), PlanOptions("mxfp4"))
    store(tmp_path / "hf", coded, "mxfp4")
    source = open_source(tmp_path / "hf")
    write_plan(make_plan(source, PlanOptions("mxfp4")), tmp_path / "mxfp4.gguf")
    want = {t.name: t for t in _core.GGUFFile(str(tmp_path / "f32.gguf")).tensors}
    compared = 0
    for tensor in _core.GGUFFile(str(tmp_path / "mxfp4.gguf")).tensors:
        if "exps.weight" not in tensor.name:
            assert tensor.format in ("f32", "q8_0", "q6_k"), tensor.name
            continue
        assert tensor.format == "mxfp4"
        values = want[tensor.name].data.view(np.float32) + np.float32(
            0
        )  # GGUF's format has no negative zero
        cols = tensor.shape[0]
        assert (
            _core.decode("mxfp4", tensor.data, values.size // cols, cols).tobytes()
            == values.tobytes()
        )
        theirs = gguf.quants.dequantize(
            tensor.data.reshape(-1, cols // 32 * 17), gguf.GGMLQuantizationType.MXFP4
        )
        assert theirs.astype(np.float32).tobytes() == values.tobytes()
        compared += 1
    assert compared >= 3

    # A file of such width or more keeps them; a narrower one and one of floats do not; and so it is from the GGUF on.
    for origin in (tmp_path / "hf", tmp_path / "mxfp4.gguf"):
        for name, kept in (("q8_0", True), ("rtq3", False), ("f16", False)):
            write_plan(make_plan(open_source(origin), PlanOptions(name)), tmp_path / "other.gguf")
            assert set(formats_of(tmp_path / "other.gguf").values()) == {
                "mxfp4" if kept else name
            }, (origin, name)
    options = PlanOptions(
        "rtq3", tensor_types=[("ffn_down_exps", "mxfp4"), ("ffn_up_exps", "q8_0")]
    )
    write_plan(make_plan(source, options), tmp_path / "mixed.gguf")
    for name, found in formats_of(tmp_path / "mixed.gguf").items():
        assert found == ("mxfp4" if "down" in name else "q8_0" if "up" in name else "rtq3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes.*reads gptq, awq"),
        ({"quant_method": "gptq", "bits": 4}, "no tensor is coded that way"),
        ({"quant_method": "hqq"}, "convert the original"),
    ],
)
def test_other_methods_are_refused_by_name(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = TinyLlama(tmp_path / "hf", layers=1, embd=64, ff=64, heads=2, kv_heads=1, head_dim=32)
    model.write_config(quantization_config=settings)
    with pytest.raises(_core.Error, match=message):
        open_source(model.path)
