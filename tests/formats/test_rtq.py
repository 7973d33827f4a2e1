"""RTQ2 to RTQ6: an independent decoder, the quality they promise, hostile blocks, tails, and where the tables come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hrun import _core as core

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TABLES = json.loads((ROOT / "tools/experiments/rtq_tables.json").read_text())
ROW_LENGTHS = [32, 64, 96, 128, 224, 288, 896, 29568]


@dataclass(frozen=True)
class Code:
    """One of the formats.  Errors are relative, on N(0,1): as promised, as measured, and of tails of 32 to 128 columns,
    whose path starts from a fixed state."""

    bits: int
    promised: float
    figure: float
    tail_figure: float
    scalar_levels: tuple[float, ...]  # positive half of Lloyd and Max's code of as many bits

    @property
    def name(self) -> str:
        return f"rtq{self.bits}"

    @property
    def trained(self) -> dict:
        return TABLES[self.name]

    def row_bytes(self, cols: int) -> int:
        tail = cols % 256
        return cols // 256 * (2 + 32 * self.bits) + (2 + tail * self.bits // 8 if tail else 0)

    @property
    def memory(self) -> int:
        """Earlier codes that a weight depends on."""
        top = max(mask for masks in self.trained["index_bits"] for mask in masks)
        return (top.bit_length() - 1) // self.bits

    def levels(self) -> np.ndarray:
        """int [2^(bits (memory + 1))]: z of a window of codes, the newest in the lowest bits."""
        return levels_of(self)


@cache
def levels_of(code: Code) -> np.ndarray:
    window = np.arange(1 << code.bits * (code.memory + 1))
    z = np.zeros(window.size, int)
    for masks, table in zip(code.trained["index_bits"], code.trained["tables"], strict=True):
        index = sum(
            (np.array([bin(w).count("1") for w in window & mask]) % 2) << i
            for i, mask in enumerate(masks)
        )
        z += np.array(table)[index]
    return z


def lloyd_max(n: int) -> tuple[float, ...]:
    """Positive half of the best n levels for N(0,1): each the mean of what is nearest to it, from the quantiles of a grid."""
    x = np.linspace(0, 8, 80001)
    density = np.exp(-x * x / 2)
    quantiles = np.cumsum(
        density ** (1 / 3)
    )  # the density of the best levels, where there are many
    levels = x[np.searchsorted(quantiles, quantiles[-1] * (np.arange(n // 2) + 0.5) / (n // 2))]
    for _ in range(500):
        edges = np.searchsorted(x, (levels[1:] + levels[:-1]) / 2)
        mass = np.add.reduceat(density, [0, *edges])
        levels = np.add.reduceat(density * x, [0, *edges]) / mass
    return tuple(levels)


LLOYD_MAX_32 = """
0.0659 0.1981 0.3314 0.4667 0.6049 0.7471 0.8946 1.0488
1.2118 1.3863 1.5762 1.7872 2.0287 2.3177 2.6911 3.2607
"""

CODES = [
    Code(2, 0.092, 0.0760, 0.0860, (0.4528, 1.5104)),
    Code(3, 0.0240, 0.0192, 0.0210, (0.2451, 0.7560, 1.3439, 2.1519)),
    Code(
        4, 0.0078, 0.0052, 0.0057, (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326)
    ),
    Code(5, 0.0019, 0.00136, 0.00152, tuple(map(float, LLOYD_MAX_32.split()))),
    Code(6, 0.00055, 0.00036, 0.00042, lloyd_max(64)),
]
every_code = pytest.mark.parametrize("code", CODES, ids=[c.name for c in CODES])


def decode_row_own_basis(code: Code, row: np.ndarray, cols: int) -> np.ndarray:
    """The file layout, from its description: float32 [cols] from uint8 [row_bytes]."""
    k, levels = code.bits, code.levels()
    out = np.zeros(cols, np.float32)
    at = 0
    for first in range(0, cols, 256):
        n = min(256, cols - first)
        scale = row[at : at + 2].copy().view("<f2")[0].astype(np.float32)
        bits = np.unpackbits(row[at + 2 : at + 2 + n * k // 8], bitorder="little").reshape(n, k)
        codes = np.concatenate([np.zeros(code.memory, int), bits @ (1 << np.arange(k))])
        window = sum(
            codes[code.memory - lag : code.memory - lag + n] << k * lag
            for lag in range(code.memory + 1)
        )
        out[first : first + n] = scale * levels[window].astype(np.float32)
        at += 2 + n * k // 8
    assert at == row.size
    return out


def round_trip(code: Code, w: np.ndarray) -> np.ndarray:
    w = np.ascontiguousarray(w, np.float32)
    return core.decode(code.name, core.encode(code.name, w), *w.shape).astype(np.float64)


def block_errors(code: Code, w: np.ndarray) -> np.ndarray:
    """Squared error over energy of each block of 256 columns."""
    blocks = w.astype(np.float64).reshape(-1, 256)
    return ((round_trip(code, w).reshape(-1, 256) - blocks) ** 2).sum(axis=1) / (blocks**2).sum(
        axis=1
    )


@pytest.mark.parametrize("cols", [32, 96, 224, 256, 288, 512, 896])
@every_code
def test_decoder_equals_the_oracle_bit_for_bit(code: Code, cols: int) -> None:
    data = np.random.default_rng(cols).integers(0, 256, (60, code.row_bytes(cols)), dtype=np.uint8)
    at = [b * code.row_bytes(256) + 1 for b in range((cols + 255) // 256)]
    data[:, at] &= 0xBF  # scales below 2: finite
    got = core.decode(code.name, data.reshape(-1), 60, cols, own_basis=True)
    expected = np.stack([decode_row_own_basis(code, row, cols) for row in data])
    assert np.array_equal(got, expected)
    assert len(np.unique(got)) > 100


@every_code
def test_levels_fit_seven_bits(code: Code) -> None:
    """Kernels add 64 and use unsigned times signed instructions that would saturate beyond."""
    assert code.trained["largest"] == np.abs(code.levels()).max() <= 63


@every_code
def test_error_on_gaussian_weights(code: Code) -> None:
    w = np.random.default_rng(1).standard_normal((256, 1024), dtype=np.float32)
    error = ((round_trip(code, w) - w) ** 2).mean() / (w.astype(np.float64) ** 2).mean()
    assert error <= code.promised
    assert error <= code.figure  # the tables reach this; noise 0.0001


@every_code
def test_the_recorded_error_is_that_of_the_encoder(code: Code) -> None:
    """The encoder does what the training script's own search and scale fit do, and tries a few scales more."""
    w = np.random.default_rng(2).standard_normal((256, 1024), dtype=np.float32)
    recorded, noise = code.trained["mse_at_most_63_scale_fitted"]
    # The farthest levels of 6 bits are nearest, and a block's best scale depends most on its largest values.
    least = 0.96 if code.bits < 6 else 0.86
    assert least * recorded - 5 * noise < block_errors(code, w).mean() < recorded + 5 * noise


@every_code
def test_fast_encoding(code: Code) -> None:
    """The fast search is close to the exact one and deterministic; a row's bytes do not depend on
    the rows beside it; zeros and range are as in the exact one.
    """
    rng = np.random.default_rng(12)
    w = rng.standard_normal((37, 1024 + 96), dtype=np.float32)
    data = core.encode(code.name, w, fast=True)
    error = ((core.decode(code.name, data, *w.shape) - w) ** 2).mean() / (
        w.astype(np.float64) ** 2
    ).mean()
    assert error <= code.promised and error <= 1.06 * code.figure
    assert np.array_equal(data, core.encode(code.name, w, fast=True))
    alone = core.encode(code.name, np.ascontiguousarray(w[5:6]), fast=True)
    assert np.array_equal(alone, data.reshape(37, -1)[5])
    assert not core.encode(code.name, np.zeros((5, 288), np.float32), fast=True).any()
    extremes = np.stack(
        [np.full(256, 65504.0), np.full(256, 1e-40), np.eye(256)[3] * 65504, np.full(256, -6e-8)]
    ).astype(np.float32)
    decoded = core.decode(code.name, core.encode(code.name, extremes, fast=True), *extremes.shape)
    assert np.isfinite(decoded).all()
    assert (
        ((decoded - extremes) ** 2).sum(axis=1)
        <= 1.0001 * (extremes.astype(np.float64) ** 2).sum(axis=1)
    ).all()


@every_code
def test_heavy_tails_are_gaussian_after_rotation(code: Code) -> None:
    rng = np.random.default_rng(3)
    gaussian = block_errors(code, rng.standard_normal((128, 1024), dtype=np.float32)).mean()
    heavy = block_errors(code, rng.standard_t(3, (128, 1024)).astype(np.float32)).mean()
    assert heavy <= 1.05 * gaussian


@every_code
def test_one_weight_a_hundred_times_larger(code: Code) -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((256, 256), dtype=np.float32)
    gaussian = block_errors(code, w).mean()
    w[np.arange(256), rng.integers(0, 256, 256)] *= 100
    errors = block_errors(code, w)
    assert errors.mean() <= 2 * gaussian
    # A weight exactly 100 times the block's rms, in every position.
    w = rng.standard_normal((256, 256), dtype=np.float32)
    w[np.arange(256), np.arange(256)] = np.where(np.arange(256) % 2, 100, -100)
    errors = block_errors(code, w)
    assert errors.mean() <= 2 * gaussian
    assert errors.max() <= 3 * gaussian


@pytest.mark.parametrize("cols", ROW_LENGTHS)
@every_code
def test_rows_of_any_multiple_of_32(code: Code, cols: int) -> None:
    rng = np.random.default_rng(cols)
    w = rng.standard_normal((max(2, 30000 // cols), cols), dtype=np.float32)
    assert core.encode(code.name, w).size == len(w) * code.row_bytes(cols)
    r = round_trip(code, w)
    error = ((r - w) ** 2).mean()
    assert error <= (code.figure * 1.03 if cols >= 256 else code.tail_figure), error
    if cols % 256:  # the tail by itself
        tail = slice(cols - cols % 256, cols)
        noise = np.sqrt(2 / (len(w) * (cols % 256)))
        assert ((r - w)[:, tail] ** 2).mean() <= code.tail_figure * (1 + 3 * noise)


@every_code
def test_a_tail_is_a_block_of_its_own(code: Code) -> None:
    """The bytes of whole blocks do not depend on what follows, and the tail not on what precedes."""
    rng = np.random.default_rng(6)
    w = rng.standard_normal((3, 256 + 96), dtype=np.float32)
    data = core.encode(code.name, w).reshape(3, -1)
    assert np.array_equal(
        data[:, : code.row_bytes(256)].reshape(-1),
        core.encode(code.name, np.ascontiguousarray(w[:, :256])),
    )
    other = w.copy()
    other[:, :256] = 0
    assert np.array_equal(
        data[:, code.row_bytes(256) :],
        core.encode(code.name, other).reshape(3, -1)[:, code.row_bytes(256) :],
    )


@every_code
def test_zeros_are_a_zero_scale_and_zero_codes(code: Code) -> None:
    assert not core.encode(code.name, np.zeros((2, 288), np.float32)).any()


@pytest.mark.parametrize("magnitude", [65504.0, 1.0, 0.02, 6e-5, 5.9e-8])
@every_code
def test_constants_and_signs_at_any_fp16_magnitude(code: Code, magnitude: float) -> None:
    rng = np.random.default_rng(7)
    rows = np.stack(
        [
            np.full(256, magnitude),
            np.full(256, -magnitude),
            rng.choice([-magnitude, magnitude], 256),
            # The signs of the rotation itself: all energy in one coefficient, 16 times the rms.
            core.rotation_signs(256) * magnitude,
            -core.rotation_signs(256) * magnitude,
        ]
    )
    r = round_trip(code, rows)
    assert np.isfinite(r).all()
    # fp16 scales are multiples of 2^-24, so below about 1e-5 a block keeps fewer levels, and at last none.
    step = 2.0**-24 * 32
    error = np.sqrt(((r - rows) ** 2).mean(axis=1))
    assert (error[:3] <= 1.08 * np.sqrt(code.figure) * magnitude + step).all(), error / magnitude
    # One coefficient among 255 zeros is the worst that a code without a run of zeros can meet; no worse than coding zeros.
    assert (error <= (0.96 if code.bits == 2 else 0.8) * magnitude + step).all(), error / magnitude
    assert (error <= magnitude * 1.000001).all()


@every_code
def test_denormals_and_wide_ranges(code: Code) -> None:
    rng = np.random.default_rng(8)
    tiny = np.float32(1e-40) * rng.standard_normal((2, 256), dtype=np.float32)
    assert not round_trip(code, tiny).any()
    small = np.float32(2e-5) * rng.standard_normal(
        (16, 256), dtype=np.float32
    )  # scales of about 17 fp16 steps
    assert block_errors(code, small).mean() <= 1.1 * code.figure
    mixed = np.zeros((1, 512), np.float32)
    mixed[0, :256] = 65504 * rng.choice([-1, 1], 256)
    mixed[0, 256:] = 1e-3 * rng.standard_normal(256)
    assert block_errors(code, mixed).max() <= 2 * code.figure


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_code
def test_what_is_not_a_number_is_refused_by_name(code: Code, value: float) -> None:
    w = np.zeros((4, 288), np.float32)
    w[3, 287] = value
    with pytest.raises(core.ConversionError, match="blk.3.attn_q.weight"):
        core.encode(code.name, w, tensor="blk.3.attn_q.weight")


@every_code
def test_encoder_repeats_itself(code: Code) -> None:
    w = np.random.default_rng(9).standard_t(3, (8, 896)).astype(np.float32)
    first = core.encode(code.name, w)
    assert np.array_equal(first, core.encode(code.name, w))
    assert np.array_equal(
        first, core.encode(code.name, w, np.random.default_rng(1).random(896, dtype=np.float32))
    )


@every_code
def test_every_block_beats_the_best_scalar_code(code: Code) -> None:
    """The rivals are Lloyd and Max's levels at their best of 40 scales, in the same basis."""
    levels = np.array(code.scalar_levels)
    levels = np.concatenate([-levels[::-1], levels])
    w = np.random.default_rng(10).standard_normal((64, 256), dtype=np.float32)
    h = np.ones((1, 1))
    while len(h) < 256:
        h = np.block([[h, h], [h, -h]])
    z = (w * core.rotation_signs(256)) @ (h / 16)
    energy = (z**2).sum(axis=1)
    best = np.full(64, np.inf)
    for scale in np.linspace(0.8, 1.2, 40):
        nearest = levels[np.abs(z[..., None] / scale - levels).argmin(axis=-1)] * scale
        best = np.minimum(best, ((z - nearest) ** 2).sum(axis=1) / energy)
    assert (block_errors(code, w) < best).all()
    assert block_errors(code, w).mean() < (0.65 if code.bits < 6 else 0.7) * best.mean()


@every_code
def test_a_block_s_path_is_the_best_of_all(code: Code) -> None:
    """On a short block, a search over every state in NumPy finds no path that is better at the stored scale."""
    w = np.random.default_rng(11).standard_normal((3, 32), dtype=np.float32)
    data = core.encode(code.name, w).reshape(3, -1)
    h = np.ones((1, 1))
    while len(h) < 32:
        h = np.block([[h, h], [h, -h]])
    targets = (w.astype(np.float64) * core.rotation_signs(32)) @ (h / np.sqrt(32))
    levels = code.levels().reshape((1 << code.bits,) * (code.memory + 1))
    for row, target in zip(data, targets):
        scale = float(row[:2].copy().view("<f2")[0])
        level = scale * levels
        cost = np.full(levels.shape[:-1], np.inf)  # [oldest, ..., newest]
        cost[(0,) * code.memory] = 0
        for x in target:
            cost = (cost[..., None] + (x - level) ** 2).min(axis=0)
        found = ((decode_row_own_basis(code, row, 32) - target) ** 2).sum()
        # The path was searched at the scale before the last least-squares step, so it may be a little off.
        assert cost.min() * (1 - 1e-6) <= found <= cost.min() * 1.03
