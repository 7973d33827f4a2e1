"""Matrix products of every registered format in every CPU tier that this machine can run.

Two kinds of oracle: the numeric contract restated in NumPy, whose bits the kernels must give, and the product in float64
within a bound derived below.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import numeric_contract as contract
from hrun import _core as core

pytestmark = pytest.mark.slow

kernels = core.testing
TIERS = [t.name for t in core.cpu_tiers() if t.available]
FORMATS = core.formats()
QUANTIZED = [f for f in FORMATS if f.activation_block > 0]
FLOATS = [
    f for f in FORMATS if f.activation_block == 0
]  # multiplied in fp32: float formats, and those decoded first
PLAIN_NUMBERS = {"i8": "<i1", "i16": "<i2", "i32": "<i4", "i64": "<i8", "f64": "<f8"}
ROTATED = [f for f in FORMATS if f.rotated]
OFFSET = {f.name for f in FORMATS if f.has_offset}
EPS = 2.0**-24  # relative error of one float32 operation
WAYS = ["activation", "activation-float", "weight"]

by_format = pytest.mark.parametrize("f", FORMATS, ids=lambda f: f.name)
by_quantized = pytest.mark.parametrize("f", QUANTIZED, ids=lambda f: f.name)
by_rotated = pytest.mark.parametrize("f", ROTATED, ids=lambda f: f.name)
by_tier = pytest.mark.parametrize("tier", TIERS)


def columns(f: core.FormatInfo) -> list[int]:
    """Row lengths that the format takes: short and odd ones first, with tails where it has them."""
    return [c for c in (1, 7, 16, 31, 32, 96, 224, 256, 288, 512, 928) if f.row_ok(c)]


def random_weights(
    f: core.FormatInfo, rows: int, cols: int, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [rows * row_bytes]: random bytes, with the fp16 scales that came out as NaN or infinity made finite."""
    if f.is_float:
        return core.encode(f.name, rng.standard_normal((rows, cols), dtype=np.float32))
    if f.name in PLAIN_NUMBERS:
        return (
            (100 * rng.standard_normal(rows * cols))
            .clip(-127, 127)
            .astype(PLAIN_NUMBERS[f.name])
            .view(np.uint8)
        )
    for _ in range(20):
        data = rng.integers(0, 256, rows * f.row_bytes(cols), dtype=np.uint8).reshape(rows, -1)
        if f.name == "mxfp4":  # scales of up to 2^127 overflow in products
            data[:, ::17] = data[:, ::17] % 32 + 110
        for r in range(rows):  # a row with a bad scale takes the place of a copy of a good one
            for _ in range(200):
                if np.isfinite(core.decode(f.name, data[r].copy(), 1, cols)).all():
                    break
                data[r] = rng.integers(0, 256, data.shape[1], dtype=np.uint8)
        if np.isfinite(core.decode(f.name, data.reshape(-1), rows, cols)).all():
            return data.reshape(-1)
    raise AssertionError("no finite weights found")


def hostile_inputs(cols: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    normal = rng.standard_normal(cols).astype(np.float32)
    one_hot = np.zeros(cols, np.float32)
    one_hot[cols // 2] = 3.0
    outlier = normal.copy()
    outlier[cols // 3] = 1e4
    hadamard_row = np.where([bin(c & 0xA5).count("1") % 2 for c in range(cols)], -1, 1).astype(
        np.float32
    )
    yield "normal", normal
    yield "zeros", np.zeros(cols, np.float32)
    yield "large", (normal * np.float32(1e30)).astype(np.float32)
    yield "subnormal", (normal * np.float32(1e-40)).astype(np.float32)
    yield "tiny", (normal * np.float32(1e-35)).astype(np.float32)
    yield "one-hot", one_hot
    yield "alternating", np.where(np.arange(cols) % 2, -1, 1).astype(np.float32)
    yield "outlier", outlier
    yield "row of H", hadamard_row
    yield "row of H, signed", hadamard_row * core.rotation_signs(cols)
    yield "ties", (np.arange(cols) % 255 - 127 + 0.5).astype(np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal as bits; any NaN equals any NaN, and only that."""
    return a.shape == b.shape and bool(
        ((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all()
    )


def signs_for(f: core.FormatInfo, cols: int) -> np.ndarray | None:
    return core.rotation_signs(cols) if f.signed_rotation else None


def kind_of(f: core.FormatInfo) -> str:
    return (
        "rotated_signed"
        if f.signed_rotation
        else "rotated"
        if f.rotated
        else f"int8x{f.activation_block}"
    )


def expected_bits(f: core.FormatInfo, data: np.ndarray, rows: int, x: np.ndarray) -> np.ndarray:
    cols = x.shape[1]
    if f.activation_block == 0:
        return contract.float_dot(x, core.decode(f.name, data, rows, cols))
    with np.errstate(over="ignore", invalid="ignore"):
        own = contract.rotate(x, signs_for(f, cols)) if f.rotated else x
    codes, scale = contract.quantize(own, f.activation_block)
    return contract.integer_matmul(
        codes, scale, kernels.unpack(f.name, data, rows, cols), f.activation_block, f.name in OFFSET
    )


@by_format
@by_tier
def test_bits_are_those_of_the_contract(f: core.FormatInfo, tier: str) -> None:
    rng = np.random.default_rng(1)
    for cols, rows, n in zip(columns(f), (3, 17, 1, 16, 33, 2, 18), (3, 17, 9, 1, 2, 8, 5)):
        data = random_weights(f, rows, cols, rng)
        x = rng.standard_normal((n, cols), dtype=np.float32)
        assert same_bits(
            kernels.matmul(tier, f.name, data, rows, x), expected_bits(f, data, rows, x)
        ), (rows, cols, n)


@by_format
@by_tier
def test_a_norm_or_a_gate_on_the_way_changes_no_bit(f: core.FormatInfo, tier: str) -> None:
    rng = np.random.default_rng(8)
    cols, rows = columns(f)[-1], 17
    data = random_weights(f, rows, cols, rng)
    for n in (1, 11):
        x, gate = rng.standard_normal((2, n, cols), dtype=np.float32)
        weight = rng.standard_normal(cols, dtype=np.float32)
        stored = {
            "norm": kernels.rms_norm(tier, x, weight, 1e-5),
            "gate": kernels.silu_mul(tier, gate, x),
        }
        for way in WAYS if f.rotated else WAYS[:1]:
            normed = kernels.matmul(tier, f.name, data, rows, x, way, norm=weight, eps=1e-5)
            assert same_bits(
                normed, kernels.matmul(tier, f.name, data, rows, stored["norm"], way)
            ), way
            gated = kernels.matmul(tier, f.name, data, rows, x, way, gate=gate, n_threads=2)
            assert same_bits(
                gated, kernels.matmul(tier, f.name, data, rows, stored["gate"], way)
            ), way


@by_format
def test_hostile_inputs_give_the_bits_of_the_contract(f: core.FormatInfo) -> None:
    rng = np.random.default_rng(2)
    cols, rows = columns(f)[-1], 3
    data = random_weights(f, rows, cols, rng)
    names, inputs = zip(*hostile_inputs(cols, rng))
    x = np.stack(inputs)
    want = expected_bits(f, data, rows, x)
    for tier in TIERS:
        got = kernels.matmul(tier, f.name, data, rows, x)
        for i, name in enumerate(names):
            assert same_bits(got[i], want[i]), (tier, name)


@by_format
def test_what_is_not_finite_gives_nan_and_spares_other_tokens(f: core.FormatInfo) -> None:
    rng = np.random.default_rng(3)
    cols, rows = columns(f)[-1], 5
    data = random_weights(f, rows, cols, rng)
    x = rng.standard_normal((3, cols), dtype=np.float32)
    clean = {tier: kernels.matmul(tier, f.name, data, rows, x) for tier in TIERS}
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = x.copy()
        spoiled[1, cols // 2] = bad
        for tier in TIERS:
            for way in WAYS if f.rotated else WAYS[:1]:
                got = kernels.matmul(tier, f.name, data, rows, spoiled, way)
                assert not np.isfinite(got[1]).any(), (tier, way, bad)
                if way == "activation":
                    assert same_bits(got[[0, 2]], clean[tier][[0, 2]]), (tier, bad)
    if f.activation_block > 0:
        assert np.isnan(kernels.matmul(TIERS[-1], f.name, data, rows, spoiled)[1]).all()


@by_format
def test_results_do_not_depend_on_threads_tokens_or_tier(f: core.FormatInfo) -> None:
    rng = np.random.default_rng(4)
    cols, rows = columns(f)[-1], 70
    data = random_weights(f, rows, cols, rng)
    x = rng.standard_normal((17, cols), dtype=np.float32)
    for way in WAYS if f.rotated else WAYS[:1]:
        whole = kernels.matmul("scalar", f.name, data, rows, x, way)
        for tier in TIERS:
            for n_threads in (1, 2, 5):
                assert same_bits(
                    kernels.matmul(tier, f.name, data, rows, x, way, n_threads), whole
                ), (tier, way, n_threads)
            for chunk in (1, 2, 3, 4, 5, 6, 7, 8, 16) if tier != "scalar" else (1, 5):
                parts = [
                    kernels.matmul(tier, f.name, data, rows, x[i : i + chunk], way)
                    for i in range(0, len(x), chunk)
                ]
                assert same_bits(np.concatenate(parts), whole), (tier, way, chunk)


def product_bound(
    f: core.FormatInfo, data: np.ndarray, rows: int, x: np.ndarray, quantized: bool
) -> np.ndarray:
    """Largest possible |y - <w, x>| per token and row, in float64.

    With z the activation in the basis of the weights (x itself where the format is not rotated), A = |w| or, with an
    offset, |scale * group_scale * code| + |offset * group_offset|, and B blocks of n columns:

    - rotation: a transform of 2^m points rounds m + 1 times, each time by at most EPS of a sum that is at most
      sum|x| / sqrt(n); every z moves by at most r = (m + 1) EPS sum|x| / sqrt(n).
    - quantization: z = d (q + e) with |e| <= 1/2 from the rounding and at most 127 * 4 EPS from d, its inverse and the
      product; every z moves by at most d (1/2 + 508 EPS), where d = max|z| / 127.
    - the weight itself, as the decoder rounds it: at most 3 EPS A.
    - the float operations: scale * d, the conversion of an integer sum, B fma (2 B with an offset) of which each rounds a
      partial sum that is at most sum A|z|; without quantization ceil(cols / 16) fma and 4 additions instead.
    """
    cols = x.shape[1]
    w = np.abs(core.decode(f.name, data, rows, cols, True).astype(np.float64))
    if f.activation_block > 0:
        codes, group_scale, group_offset, scale, offset = (
            a.astype(np.float64) for a in kernels.unpack(f.name, data, rows, cols)
        )
        per_column = np.repeat(np.arange(scale.shape[1]), f.block_values)[:cols]
        w = np.abs(scale[:, per_column] * np.repeat(group_scale, 16, axis=1) * codes)
        if f.name in OFFSET:
            w += np.abs(offset[:, per_column] * np.repeat(group_offset, 16, axis=1))
    z, moved = np.abs(x.astype(np.float64)), np.zeros_like(x, dtype=np.float64)
    if f.rotated:
        z = np.abs(rotate_in_float64(f, x))
        for first, size in contract.rotation_pieces(cols):
            part = slice(first, first + size)
            moved[:, part] += (
                (np.log2(size) + 1)
                * EPS
                * np.abs(x[:, part]).sum(axis=1, keepdims=True)
                / np.sqrt(size)
            )
    steps = -(-cols // 16) + 4
    if quantized:
        blocks = contract.blocks_of(cols, f.activation_block)
        for part in blocks:
            d = (
                z[:, part].max(axis=1, keepdims=True) + moved[:, part].max(axis=1, keepdims=True)
            ) / 127
            moved[:, part] += d * (0.5 + 508 * EPS)
        steps = 2 * len(blocks) + 2
    return (moved @ w.T) + (steps + 3) * EPS * ((z + moved) @ w.T) * (1 + 1e-4)


def rotate_in_float64(f: core.FormatInfo, x: np.ndarray) -> np.ndarray:
    cols = x.shape[1]
    signed = x.astype(np.float64) * (core.rotation_signs(cols) if f.signed_rotation else 1.0)
    out = np.empty_like(signed)
    for first, size in contract.rotation_pieces(cols):
        index = np.arange(size)
        parity = np.array([[bin(i & j).count("1") & 1 for j in index] for i in index])
        out[:, first : first + size] = (
            signed[:, first : first + size] @ (1.0 - 2.0 * parity) / np.sqrt(size)
        )
    return out


@by_format
def test_products_are_within_the_derived_bound_of_float64(f: core.FormatInfo) -> None:
    rng = np.random.default_rng(5)
    for cols in columns(f)[-3:]:
        rows = 19
        data = random_weights(f, rows, cols, rng)
        if f.encodable:  # realistic weights; random bytes have scales of every order of magnitude
            data = core.encode(f.name, rng.standard_normal((rows, cols), dtype=np.float32))
        x = np.stack(
            [v for name, v in hostile_inputs(cols, rng) if name not in ("subnormal", "tiny")]
        )
        own = core.decode(f.name, data, rows, cols, True).astype(np.float64)
        z = rotate_in_float64(f, x) if f.rotated else x.astype(np.float64)
        want = z @ own.T
        for way in WAYS if f.rotated else WAYS[:1]:
            got = kernels.matmul(TIERS[-1], f.name, data, rows, x, way)
            bound = product_bound(
                f, data, rows, x, quantized=way == "activation" and f.activation_block > 0
            )
            if way == "weight":
                # The inverse transform of a block moves every weight by at most 9 EPS sum|w| / 16 <= 9 EPS |w|, by Cauchy's
                # inequality, and a token's share in that is sum|x| <= 16 |x|.  Then decoding, and the float operations.
                norms = (
                    np.linalg.norm(own, axis=1)[None, :]
                    * np.linalg.norm(x.astype(np.float64), axis=1)[:, None]
                )
                bound = (9 * 16 + 3 + -(-cols // 16) + 4) * EPS * norms * (1 + 1e-4)
            assert (np.abs(got - want) <= bound).all(), (
                way,
                cols,
                float((np.abs(got - want) / bound).max()),
            )


@by_rotated
def test_both_float_ways_of_a_rotated_product_agree(f: core.FormatInfo) -> None:
    """They agree to 1e-5 of |w||x|, the amount that weights and activations could contribute."""
    rng = np.random.default_rng(6)
    for cols in columns(f):
        rows = 20
        data = core.encode(f.name, rng.standard_normal((rows, cols), dtype=np.float32))
        x = np.stack(
            [v for name, v in hostile_inputs(cols, rng) if name not in ("subnormal", "tiny")]
        )
        norms = (
            np.linalg.norm(core.decode(f.name, data, rows, cols), axis=1)
            * np.linalg.norm(x.astype(np.float64), axis=1)[:, None]
        )
        for tier in TIERS:
            by_activation = kernels.matmul(tier, f.name, data, rows, x, "activation-float")
            by_weight = kernels.matmul(tier, f.name, data, rows, x, "weight")
            assert (np.abs(by_activation.astype(np.float64) - by_weight) <= 1e-5 * norms).all(), (
                tier,
                cols,
            )


@by_tier
@pytest.mark.parametrize("with_signs", [False, True])
def test_rotation_gives_the_bits_of_the_contract(tier: str, with_signs: bool) -> None:
    rng = np.random.default_rng(7)
    for cols in (32, 64, 96, 128, 224, 256, 288, 992):
        x = np.stack([v for _, v in hostile_inputs(cols, rng)])
        signs = core.rotation_signs(cols) if with_signs else None
        assert same_bits(kernels.rotate(tier, x, with_signs), contract.rotate(x, signs)), cols


@by_tier
@pytest.mark.parametrize(
    "kind", ["int8x32", "int8x64", "int8x128", "int8x256", "rotated", "rotated_signed"]
)
def test_quantization_of_activations(tier: str, kind: str) -> None:
    rng = np.random.default_rng(8)
    block = int(kind.removeprefix("int8x")) if kind.startswith("int8x") else 256
    for cols in (32, 288, 512, 992):
        x = np.stack([v for _, v in hostile_inputs(cols, rng)])
        x[0, 5] = np.inf
        x[1, 31] = np.nan
        with np.errstate(invalid="ignore"):
            own = (
                contract.rotate(x, core.rotation_signs(cols) if kind == "rotated_signed" else None)
                if "rotated" in kind
                else x
            )
        want_codes, want_scale = contract.quantize(own, block)
        codes, scale, sums = kernels.quantize_activations(tier, kind, x)
        assert (codes == want_codes).all()
        assert np.abs(codes).max() == 127
        assert same_bits(scale, want_scale)
        assert (sums == want_codes.reshape(len(x), -1, 16).sum(axis=2)).all()
        assert np.isnan(scale[0, 0]) and np.isnan(scale[1, 0])


@by_quantized
def test_integers_stay_in_the_range_that_the_kernels_rely_on(f: core.FormatInfo) -> None:
    """format.h: |code * group_scale| < 2^15 and every block sum of 127 times that below 2^31, for any bytes."""
    rng = np.random.default_rng(9)
    cols = columns(f)[-1]
    rows = 60
    data = rng.integers(0, 256, (rows, f.row_bytes(cols)), dtype=np.uint8)
    data[0], data[1], data[2], data[3] = 0, 0xFF, 0x80, 0x7F
    codes, group_scale, group_offset, _, _ = kernels.unpack(f.name, data.reshape(-1), rows, cols)
    scaled = np.abs(codes.astype(np.int64) * np.repeat(group_scale.astype(np.int64), 16, axis=1))
    assert scaled.max() < 2**15
    offsets = np.abs(np.repeat(group_offset.astype(np.int64), 16, axis=1))
    for part in contract.blocks_of(cols, f.block_values):
        assert scaled[:, part].sum(axis=1).max() * 127 < 2**31
        assert offsets[:, part].sum(axis=1).max() * 127 < 2**31


@by_format
@by_tier
def test_embedding_rows_equal_the_decoder(f: core.FormatInfo, tier: str) -> None:
    rng = np.random.default_rng(10)
    for cols in columns(f):
        rows = 5
        data = random_weights(f, rows, cols, rng)
        tokens = np.array([4, 0, 0, 2, 1, 3], np.int32)
        got = kernels.embed(tier, f.name, data, rows, cols, tokens)
        assert same_bits(got, core.decode(f.name, data, rows, cols)[tokens]), cols
    for outside in (-1, rows):
        with pytest.raises(core.ArgumentError, match="outside the vocabulary"):
            kernels.embed(tier, f.name, data, rows, cols, np.array([outside], np.int32))


def test_refusals_name_what_was_expected() -> None:
    x = np.zeros((1, 32), np.float32)
    with pytest.raises(core.DeviceError, match=r"no such tier.*scalar"):
        kernels.matmul("avx9", "q8_0", np.zeros(34, np.uint8), 1, x)
    with pytest.raises(core.ArgumentError, match="34 bytes"):
        kernels.matmul("scalar", "q8_0", np.zeros(33, np.uint8), 1, x)
    with pytest.raises(core.ArgumentError, match="number of threads"):
        kernels.matmul("scalar", "q8_0", np.zeros(34, np.uint8), 1, x, n_threads=-1)
    with pytest.raises(core.ArgumentError, match="activation-float"):
        kernels.matmul("scalar", "q8_0", np.zeros(34, np.uint8), 1, x, way="sideways")
