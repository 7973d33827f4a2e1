"""Checkpoints whose weights are already coded (GPTQ, AWQ, FP8, MXFP4, BitNet), as plain weights.

    gptq   X.qweight int32 [in * bits / 32, out], X.qzeros [groups, out * bits / 32], X.scales [groups, out], X.g_idx [in]:
           codes are one stream of bits down a column; weight = scale * (code - zero - 1), without the 1 in gptq_v2
    awq    X.qweight int32 [in, out / 8], X.qzeros [groups, out / 8], X.scales [groups, out]: 4 bits, of eight columns in the
           order 0 2 4 6 1 3 5 7; weight = scale * (code - zero)
    fp8    X.weight float8 [out, in], X.weight_scale_inv [out / 128, in / 128] (blocks) or X.weight_scale (one, or one per row)
    mxfp4  X_blocks uint8 [..., out, in / 32, 16], X_scales uint8 [..., out, in / 32]: low half first, scale 2^(s - 127); stored
           unquantized as X [..., in, out]
    bitnet X.weight uint8 [out / 4, in]: rows r, r + out / 4, ... as pairs of bits from the low end, weight + 1; times
           X.weight_scale (linear_class "autobitlinear") or divided by it; or, with quantization_mode "online", plain weights
           that stand for the nearest of -m, 0 and m, m the mean of their magnitudes

Each becomes a tensor under the name that the unquantized checkpoint would have, decoded when it is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrun.errors import ModelFileError, UnsupportedModelError
from hrun.fork_lock import ForkLock

from .config_object import ConfigObject
from .folder import shown
from .safetensors_file import StoredTensor
from .source import NATIVE_FORMATS
from .transforms import Floats, Stored

_METHODS = ("gptq", "awq", "fp8", "fbgemm_fp8", "compressed-tensors", "mxfp4", "bitnet")
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)

_decoded: OrderedDict[tuple[object, int], Floats] = (
    OrderedDict()
)  # the matrices that were decoded last; their rows are asked for in slices
_lock = ForkLock()
_KEPT_MATRICES = 2


@dataclass(frozen=True, eq=False)
class Decoded:
    """A tensor that is decoded, one outermost slice at a time: decode(i) is the slice as float32 [rows, cols].

    shape: [rows, cols] or [slices, rows, cols].  blocks(i): the slice's columns in blocks of GGUF's format of that name, uint8
    [cols, bytes], where they can be taken over without loss.
    """

    name: str
    shown_path: str
    shape: tuple[int, ...]
    format: str
    decode: Callable[[int], Floats]
    blocks: Callable[[int], npt.NDArray[np.uint8]] | None = None

    def rows(self, first: int, last: int, cols: int) -> Floats:
        per_slice = self.shape[-2]
        parts = []
        while first < last:
            which, at = divmod(first, per_slice)
            end = min(last, (which + 1) * per_slice)
            parts.append(self._slice(which)[at : at + end - first])
            first = end
        return np.ascontiguousarray(
            parts[0] if len(parts) == 1 else np.concatenate(parts), dtype=np.float32
        )

    def _slice(self, which: int) -> Floats:
        key = (self, which)
        with _lock:
            if key not in _decoded:
                _decoded[key] = self.decode(which)
                while len(_decoded) > _KEPT_MATRICES:
                    _decoded.popitem(last=False)
            _decoded.move_to_end(key)
            return _decoded[key]


def plain_weights(
    stored: dict[str, StoredTensor], config: ConfigObject, notes: list[str]
) -> dict[str, Stored]:
    """The tensors with the coded ones in plain form.  Raises UnsupportedModelError, ModelFileError."""
    settings = config.child("quantization_config")
    if settings is None:
        return dict(stored)
    method = settings.text("quant_method", "")
    if method not in _METHODS:
        raise UnsupportedModelError(
            f"{config.path}: the checkpoint is already quantized (quant_method '{shown(method)}'), in a way "
            f"that hrun does not read (it reads {', '.join(_METHODS)}); convert the original"
        )
    out: dict[str, Stored] = {}
    used: set[str] = set()
    count = 0
    for name, tensor in stored.items():
        found = _one(name, tensor, stored, settings, method)
        if found is not None:
            plain, parts = found
            out[plain.name] = plain
            used.update(parts)
            count += 1
    out.update({name: tensor for name, tensor in stored.items() if name not in used})
    if not count:
        raise ModelFileError(
            f"{config.path}: 'quantization_config' says '{shown(method)}', but no tensor is coded that way"
        )
    notes.append(
        f"{count} tensors are in {method.upper()}: kept as they are in files of such width or more, else coded again"
        if method in NATIVE_FORMATS
        else f"the checkpoint is already quantized ({method}, {count} tensors); coding it again adds to its error: convert from the "
        "original where you have it"
    )
    return out


def _one(
    name: str,
    tensor: StoredTensor,
    stored: dict[str, StoredTensor],
    settings: ConfigObject,
    method: str,
) -> tuple[Decoded, list[str]] | None:
    """The plain tensor that begins with the tensor `name`, and the names of its parts; None where it begins none."""
    if method in ("gptq", "awq") and name.endswith(".qweight"):
        base = name.removesuffix(".qweight")
        return (_gptq if method == "gptq" else _awq)(base, tensor, stored, settings)
    if method == "mxfp4" and name.endswith("_blocks"):
        return _mxfp4(name.removesuffix("_blocks"), tensor, stored)
    if method == "bitnet" and name.endswith("_proj.weight"):
        return _bitnet(name, tensor, stored, settings)
    if name.endswith(".weight") and tensor.dtype in _FP8:
        return _fp8(name, tensor, stored, settings)
    if name.endswith((".weight_packed", ".weight_shape")):
        raise UnsupportedModelError(
            f"{tensor.shown_path}: tensor '{shown(name)}': compressed-tensors with packed integers are not "
            "supported; convert the original"
        )
    return None


def _part(
    base: str, suffix: str, stored: dict[str, StoredTensor], whole: StoredTensor
) -> StoredTensor:
    if base + suffix not in stored:
        raise ModelFileError(
            f"{whole.shown_path}: tensor '{shown(base + suffix)}' is missing beside '{shown(whole.name)}'"
        )
    return stored[base + suffix]


def _integers(tensor: StoredTensor, dimensions: int) -> npt.NDArray[np.uint32]:
    if tensor.dtype not in ("I32", "U32") or len(tensor.shape) != dimensions:
        raise ModelFileError(
            f"{tensor.shown_path}: tensor '{shown(tensor.name)}' has type {shown(tensor.dtype)} and shape "
            f"{list(tensor.shape)}, expected {dimensions} dimensions of int32"
        )
    return tensor.array(np.dtype("<u4"))


def _matrix(tensor: StoredTensor) -> Floats:
    rows = int(np.prod(tensor.shape[:-1], dtype=np.int64)) if tensor.shape else 1
    return tensor.rows(0, rows, tensor.shape[-1] if tensor.shape else 1)


def bit_stream(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.int32]:
    """int32 [n * 32 / bits, cols]: codes that lie one after the other down the columns of [n, cols]."""
    n, cols = words.shape
    count = n * 32 // bits
    first = np.arange(count) * bits
    word, shift = first // 32, (first % 32).astype(np.uint64)[:, None]
    wide = words.astype(np.uint64)
    following = np.concatenate([wide[1:], np.zeros((1, cols), np.uint64)])
    both = wide[word] | (following[word] << np.uint64(32))
    codes: npt.NDArray[np.int32] = ((both >> shift) & np.uint64((1 << bits) - 1)).astype(np.int32)
    return codes


def _check(ok: bool, tensor: StoredTensor, expected: str) -> None:
    if not ok:
        raise ModelFileError(
            f"{tensor.shown_path}: tensor '{shown(tensor.name)}' has shape {list(tensor.shape)}, expected {expected}"
        )


def _gptq(
    base: str, qweight: StoredTensor, stored: dict[str, StoredTensor], settings: ConfigObject
) -> tuple[Decoded, list[str]]:
    bits = settings.integer("bits", low=2, high=8)
    if bits not in (2, 3, 4, 8):
        raise settings.error("bits", "2, 3, 4 or 8")
    zeros, scales = _part(base, ".qzeros", stored, qweight), _part(base, ".scales", stored, qweight)
    order = stored.get(base + ".g_idx")
    _check(
        len(qweight.shape) == 2 and qweight.shape[0] * 32 % bits == 0,
        qweight,
        "[in * bits / 32, out]",
    )
    cols, rows = qweight.shape[0] * 32 // bits, qweight.shape[1]
    _check(
        len(scales.shape) == 2 and scales.shape[1] == rows and scales.shape[0] > 0,
        scales,
        f"[groups, {rows}]",
    )
    _check(
        zeros.shape == (scales.shape[0], rows * bits // 32),
        zeros,
        f"[{scales.shape[0]}, {rows * bits // 32}]",
    )
    _check(order is None or order.shape == (cols,), order or qweight, f"[{cols}]")
    group = settings.integer("group_size", default=-1, low=-1)
    offset = 0 if settings.text("checkpoint_format", "gptq") == "gptq_v2" else 1

    def decode(_: int) -> Floats:
        codes = bit_stream(_integers(qweight, 2), bits)
        zero = bit_stream(np.ascontiguousarray(_integers(zeros, 2).T), bits).T + offset
        n_groups = scales.shape[0]
        which = (
            _integers(order, 1).astype(np.int64)
            if order is not None
            else np.arange(cols) // (group if group > 0 else cols)
        )
        if which.size and which.max() >= n_groups:
            raise ModelFileError(
                f"{qweight.shown_path}: tensor '{shown(base)}.g_idx' names group {which.max()} of {n_groups}"
            )
        return np.ascontiguousarray(
            (_matrix(scales)[which] * (codes - zero[which])).T.astype(np.float32)
        )

    names = [base + suffix for suffix in (".qweight", ".qzeros", ".scales", ".g_idx")]
    return Decoded(base + ".weight", qweight.shown_path, (rows, cols), f"gptq{bits}", decode), names


def _awq(
    base: str, qweight: StoredTensor, stored: dict[str, StoredTensor], settings: ConfigObject
) -> tuple[Decoded, list[str]]:
    if (
        settings.integer("bits", default=settings.integer("w_bit", default=4)) != 4
        or settings.text("version", "gemm").lower() != "gemm"
    ):
        raise UnsupportedModelError(
            f"{settings.path}: AWQ with other than 4 bits or another layout than 'gemm' is not supported"
        )
    zeros, scales = _part(base, ".qzeros", stored, qweight), _part(base, ".scales", stored, qweight)
    _check(len(qweight.shape) == 2, qweight, "[in, out / 8]")
    cols, rows = qweight.shape[0], qweight.shape[1] * 8
    n_groups = scales.shape[0] if len(scales.shape) == 2 else 0
    _check(
        n_groups > 0 and scales.shape[1] == rows and cols % n_groups == 0,
        scales,
        f"[groups, {rows}]",
    )
    _check(zeros.shape == (n_groups, rows // 8), zeros, f"[{n_groups}, {rows // 8}]")

    def unpacked(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        out = np.empty((words.shape[0], words.shape[1], 8), np.int32)
        for place, column in enumerate(_AWQ_ORDER):
            out[:, :, column] = (words >> np.uint32(4 * place)) & np.uint32(15)
        return out.reshape(words.shape[0], -1)

    def decode(_: int) -> Floats:
        which = np.arange(cols) // (cols // n_groups)
        codes, zero = unpacked(_integers(qweight, 2)), unpacked(_integers(zeros, 2))
        return np.ascontiguousarray(
            (_matrix(scales)[which] * (codes - zero[which])).T.astype(np.float32)
        )

    return Decoded(base + ".weight", qweight.shown_path, (rows, cols), "awq4", decode), [
        base + s for s in (".qweight", ".qzeros", ".scales")
    ]


def _float8(exponent_bits: int) -> Floats:
    """The 256 values of an 8-bit float; e4m3 has no infinities, and NaN at its largest pattern alone."""
    mantissa_bits = 7 - exponent_bits
    bias = (1 << (exponent_bits - 1)) - 1
    codes = np.arange(256)
    exponent, mantissa = (
        (codes >> mantissa_bits) & ((1 << exponent_bits) - 1),
        codes & ((1 << mantissa_bits) - 1),
    )
    values = np.where(
        exponent == 0,
        np.ldexp(mantissa.astype(float), 1 - bias - mantissa_bits),
        np.ldexp(1 + mantissa / (1 << mantissa_bits), exponent - bias),
    )
    if exponent_bits == 4:
        values[(codes & 0x7F) == 0x7F] = np.nan
    else:
        values = np.where(exponent == 31, np.where(mantissa == 0, np.inf, np.nan), values)
    signed: Floats = np.where(codes >= 128, -values, values).astype(np.float32)
    return signed


_FP8 = {"F8_E4M3": _float8(4), "F8_E5M2": _float8(5)}


def _fp8(
    name: str, weight: StoredTensor, stored: dict[str, StoredTensor], settings: ConfigObject
) -> tuple[Decoded, list[str]]:
    base = name.removesuffix(".weight")
    _check(len(weight.shape) == 2, weight, "[out, in]")
    rows, cols = weight.shape
    table = _FP8[weight.dtype]
    scale = next(
        (stored[base + s] for s in (".weight_scale_inv", ".weight_scale") if base + s in stored),
        None,
    )
    if scale is None:
        raise ModelFileError(
            f"{weight.shown_path}: tensor '{shown(name)}' is float8 and has no weight_scale beside it"
        )
    block = settings.values.get("weight_block_size")
    if block is not None and not (
        isinstance(block, list)
        and len(block) == 2
        and all(isinstance(n, int) and n > 0 for n in block)
    ):
        raise settings.error("weight_block_size", "two positive integers")
    shape = scale.shape
    if block is not None and len(shape) == 2:
        _check(
            shape == (-(-rows // block[0]), -(-cols // block[1])),
            scale,
            f"one scale per {block[0]} x {block[1]} of {list(weight.shape)}",
        )
    else:
        _check(
            shape in ((), (1,), (1, 1), (rows,), (rows, 1)),
            scale,
            f"one scale, or one for each of {rows} rows",
        )

    def decode(_: int) -> Floats:
        values = table[weight.array(np.uint8)]
        factors = _matrix(scale).reshape(shape if len(shape) == 2 else (-1, 1))
        if block is not None and len(shape) == 2:
            factors = factors.repeat(block[0], axis=0)[:rows].repeat(block[1], axis=1)[:, :cols]
        out: Floats = (values * factors).astype(np.float32)
        return out

    parts = [
        name,
        *(
            base + s
            for s in (
                ".weight_scale_inv",
                ".weight_scale",
                ".input_scale",
                ".activation_scale",
                ".input_scale_ub",
            )
        ),
    ]
    return Decoded(name, weight.shown_path, (rows, cols), "fp8", decode), parts


def _bitnet(
    name: str, weight: StoredTensor, stored: dict[str, StoredTensor], settings: ConfigObject
) -> tuple[Decoded, list[str]] | None:
    _check(len(weight.shape) == 2, weight, "[out, in]")
    rows, cols = weight.shape
    if weight.dtype != "U8":
        if settings.text("quantization_mode", "offline") != "online":
            return None

        def nearest(_: int) -> Floats:
            values = _matrix(weight)
            mean = max(float(np.abs(values).mean(dtype=np.float64)), 1e-5)
            return np.clip(np.round(values / mean), -1, 1).astype(np.float32) * np.float32(mean)

        return Decoded(name, weight.shown_path, (rows, cols), "bitnet", nearest), [name]
    base = name.removesuffix(".weight")
    scale = _part(base, ".weight_scale", stored, weight)
    _check(scale.shape in ((), (1,)), scale, "one scale")
    divides = settings.text("linear_class", "bitlinear") != "autobitlinear"

    def decode(_: int) -> Floats:
        packed = weight.array(np.uint8)
        codes = np.concatenate([(packed >> shift) & 3 for shift in (0, 2, 4, 6)])
        factor = np.float32(_matrix(scale).reshape(-1)[0])
        values = codes.astype(np.float32) - np.float32(1)
        out: Floats = values / factor if divides else values * factor
        return out

    shape = (4 * rows, cols)
    return Decoded(name, weight.shown_path, shape, "bitnet", decode), [name, base + ".weight_scale"]


def _mxfp4(
    base: str, blocks: StoredTensor, stored: dict[str, StoredTensor]
) -> tuple[Decoded, list[str]]:
    scales = _part(base, "_scales", stored, blocks)
    _check(
        blocks.dtype == "U8" and len(blocks.shape) == 4 and blocks.shape[3] == 16,
        blocks,
        "[experts, out, in / 32, 16] of uint8",
    )
    _check(
        scales.dtype == "U8" and scales.shape == blocks.shape[:3],
        scales,
        f"{list(blocks.shape[:3])} of uint8",
    )
    experts, out_rows, groups, _ = blocks.shape

    def decode(expert: int) -> Floats:
        codes = blocks.file.read_slice(blocks, expert, np.uint8)
        exponent = scales.file.read_slice(scales, expert, np.uint8).astype(np.int32) - 127
        values = np.empty((out_rows, groups, 32), np.float32)
        values[..., 0::2], values[..., 1::2] = _FP4[codes & 15], _FP4[codes >> 4]
        return np.ldexp(values, exponent[..., None]).reshape(out_rows, groups * 32).T

    def gguf_blocks(expert: int) -> npt.NDArray[np.uint8]:
        """The scale first, and weights i and i + 16 in a byte instead of 2i and 2i + 1."""
        pairs = blocks.file.read_slice(blocks, expert, np.uint8)
        codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(out_rows, groups, 32)
        out = np.empty((out_rows, groups, 17), np.uint8)
        out[..., 0] = scales.file.read_slice(scales, expert, np.uint8)
        out[..., 1:] = codes[..., :16] | (codes[..., 16:] << 4)
        return out.reshape(out_rows, groups * 17)

    plain = Decoded(
        base, blocks.shown_path, (experts, groups * 32, out_rows), "mxfp4", decode, gguf_blocks
    )
    return plain, [base + "_blocks", base + "_scales"]
