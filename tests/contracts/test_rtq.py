"""RTQ3: an independent decoder, the quality it promises, hostile blocks, tails, and where its tables come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrun import _core as core

ROOT = Path(__file__).parents[2]
TABLES = json.loads((ROOT / "tools/experiments/rtq_tables.json").read_text())
ROW_LENGTHS = [32, 64, 96, 128, 224, 288, 896, 29568]
# Relative error on N(0,1): as promised, as measured (0.0188), and of tails, whose path starts from a fixed state: measured
# 0.0202 at 32 columns, 0.0196 at 64 and 96, 0.0190 at 128.
PROMISED_ERROR = 0.0240
FIGURE = 0.0192
TAIL_FIGURE = 0.0210


def row_bytes(cols: int) -> int:
    return cols // 256 * 98 + (2 + cols % 256 * 3 // 8 if cols % 256 else 0)


def decode_row_own_basis(row: np.ndarray, cols: int) -> np.ndarray:
    """The file layout, from its description: float32 [cols] from uint8 [row_bytes]."""
    t0, t1, t2 = (np.array(t) for t in TABLES["tables"])
    out = np.zeros(cols, np.float32)
    at = 0
    for first in range(0, cols, 256):
        n = min(256, cols - first)
        scale = row[at : at + 2].copy().view("<f2")[0].astype(np.float32)
        bits = np.unpackbits(row[at + 2 : at + 2 + n * 3 // 8], bitorder="little").reshape(n, 3)
        c = np.concatenate([[0, 0, 0], bits @ [1, 2, 4]])
        z = t0[c[3:] ^ c[:-3]] + t1[c[2:-1]] + t2[c[1:-2]]
        out[first : first + n] = scale * z.astype(np.float32)
        at += 2 + n * 3 // 8
    assert at == row.size
    return out


def round_trip(w: np.ndarray) -> np.ndarray:
    w = np.ascontiguousarray(w, np.float32)
    return core.decode("rtq3", core.encode("rtq3", w), *w.shape).astype(np.float64)


def block_errors(w: np.ndarray) -> np.ndarray:
    """Squared error over energy of each block of 256 columns."""
    blocks = w.astype(np.float64).reshape(-1, 256)
    return ((round_trip(w).reshape(-1, 256) - blocks) ** 2).sum(axis=1) / (blocks**2).sum(axis=1)


@pytest.mark.parametrize("cols", [32, 96, 224, 256, 288, 512, 896])
def test_decoder_equals_the_oracle_bit_for_bit(cols: int) -> None:
    data = np.random.default_rng(cols).integers(0, 256, (60, row_bytes(cols)), dtype=np.uint8)
    at = [b * 98 + 1 for b in range((cols + 255) // 256)]
    data[:, at] &= 0xBF  # scales below 2: finite
    got = core.decode("rtq3", data.reshape(-1), 60, cols, own_basis=True)
    expected = np.stack([decode_row_own_basis(row, cols) for row in data])
    assert np.array_equal(got, expected)
    assert len(np.unique(got)) > 100


def test_levels_fit_seven_bits() -> None:
    """Kernels add 64 and use unsigned times signed instructions that would saturate beyond."""
    t0, t1, t2 = (np.array(t) for t in TABLES["tables"])
    levels = t0[:, None, None] + t1[:, None] + t2
    assert TABLES["largest"] == np.abs(levels).max() <= 63


def test_error_on_gaussian_weights() -> None:
    w = np.random.default_rng(1).standard_normal((256, 1024), dtype=np.float32)
    error = ((round_trip(w) - w) ** 2).mean() / (w.astype(np.float64) ** 2).mean()
    assert error <= PROMISED_ERROR
    assert error <= FIGURE  # what the tables reach; noise 0.0001


def test_the_recorded_error_is_that_of_the_encoder() -> None:
    """The encoder does what the training script's own search and scale fit do, and tries a few scales more."""
    w = np.random.default_rng(2).standard_normal((256, 1024), dtype=np.float32)
    recorded, noise = TABLES["mse_at_most_63_scale_fitted"]
    assert 0.96 * recorded - 5 * noise < block_errors(w).mean() < recorded + 5 * noise


def test_heavy_tails_are_gaussian_after_rotation() -> None:
    rng = np.random.default_rng(3)
    gaussian = block_errors(rng.standard_normal((128, 1024), dtype=np.float32)).mean()
    heavy = block_errors(rng.standard_t(3, (128, 1024)).astype(np.float32)).mean()
    assert heavy <= 1.05 * gaussian


def test_one_weight_a_hundred_times_larger() -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((256, 256), dtype=np.float32)
    gaussian = block_errors(w).mean()
    w[np.arange(256), rng.integers(0, 256, 256)] *= 100
    errors = block_errors(w)
    assert errors.mean() <= 2 * gaussian
    # A weight exactly 100 times the block's rms, in every position.
    w = rng.standard_normal((256, 256), dtype=np.float32)
    w[np.arange(256), np.arange(256)] = np.where(np.arange(256) % 2, 100, -100)
    errors = block_errors(w)
    assert errors.mean() <= 2 * gaussian
    assert errors.max() <= 3 * gaussian


@pytest.mark.parametrize("cols", ROW_LENGTHS)
def test_rows_of_any_multiple_of_32(cols: int) -> None:
    rng = np.random.default_rng(cols)
    w = rng.standard_normal((max(2, 30000 // cols), cols), dtype=np.float32)
    assert core.encode("rtq3", w).size == len(w) * row_bytes(cols)
    r = round_trip(w)
    error = ((r - w) ** 2).mean()
    assert error <= (FIGURE * 1.03 if cols >= 256 else TAIL_FIGURE), error
    if cols % 256:  # the tail by itself
        tail = slice(cols - cols % 256, cols)
        noise = np.sqrt(2 / (len(w) * (cols % 256)))
        assert ((r - w)[:, tail] ** 2).mean() <= TAIL_FIGURE * (1 + 3 * noise)


def test_a_tail_is_a_block_of_its_own() -> None:
    """The bytes of whole blocks do not depend on what follows, and the tail not on what precedes."""
    rng = np.random.default_rng(6)
    w = rng.standard_normal((3, 256 + 96), dtype=np.float32)
    data = core.encode("rtq3", w).reshape(3, -1)
    assert np.array_equal(data[:, :98].reshape(-1), core.encode("rtq3", np.ascontiguousarray(w[:, :256])))
    other = w.copy()
    other[:, :256] = 0
    assert np.array_equal(data[:, 98:], core.encode("rtq3", other).reshape(3, -1)[:, 98:])


def test_zeros_are_a_zero_scale_and_zero_codes() -> None:
    assert not core.encode("rtq3", np.zeros((2, 288), np.float32)).any()


@pytest.mark.parametrize("magnitude", [65504.0, 1.0, 0.02, 6e-5, 5.9e-8])
def test_constants_and_signs_at_any_fp16_magnitude(magnitude: float) -> None:
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
    r = round_trip(rows)
    assert np.isfinite(r).all()
    # fp16 scales are multiples of 2^-24, so below about 1e-5 a block keeps fewer levels, and at last none.
    step = 2.0**-24 * 32
    error = np.sqrt(((r - rows) ** 2).mean(axis=1))
    assert (error[:3] <= 0.15 * magnitude + step).all(), error / magnitude
    # One coefficient among 255 zeros is the worst that a code without a run of zeros can meet; no worse than coding zeros.
    assert (error <= 0.8 * magnitude + step).all(), error / magnitude
    assert (error <= magnitude * 1.000001).all()


def test_denormals_and_wide_ranges() -> None:
    rng = np.random.default_rng(8)
    tiny = np.float32(1e-40) * rng.standard_normal((2, 256), dtype=np.float32)
    assert not round_trip(tiny).any()
    small = np.float32(2e-5) * rng.standard_normal((16, 256), dtype=np.float32)  # scales of about 17 fp16 steps
    assert block_errors(small).mean() <= 1.1 * FIGURE
    mixed = np.zeros((1, 512), np.float32)
    mixed[0, :256] = 65504 * rng.choice([-1, 1], 256)
    mixed[0, 256:] = 1e-3 * rng.standard_normal(256)
    assert block_errors(mixed).max() <= 2 * FIGURE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_by_name(value: float) -> None:
    w = np.zeros((4, 288), np.float32)
    w[3, 287] = value
    with pytest.raises(core.ConversionError, match="blk.3.attn_q.weight"):
        core.encode("rtq3", w, tensor="blk.3.attn_q.weight")


def test_encoder_repeats_itself() -> None:
    w = np.random.default_rng(9).standard_t(3, (8, 896)).astype(np.float32)
    first = core.encode("rtq3", w)
    assert np.array_equal(first, core.encode("rtq3", w))
    assert np.array_equal(first, core.encode("rtq3", w, np.random.default_rng(1).random(896, dtype=np.float32)))


def test_every_block_beats_the_best_scalar_code() -> None:
    """Lloyd and Max's eight levels at their best of 40 scales, in the same basis."""
    levels = np.array([0.2451, 0.7560, 1.3439, 2.1519])
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
    assert (block_errors(w) < best).all()
    assert block_errors(w).mean() < 0.65 * best.mean()


def test_a_block_s_path_is_the_best_of_all() -> None:
    """On a short block, a search over every state in NumPy finds no path that is better at the stored scale."""
    t0, t1, t2 = (np.array(t) for t in TABLES["tables"])
    w = np.random.default_rng(11).standard_normal((3, 32), dtype=np.float32)
    data = core.encode("rtq3", w).reshape(3, -1)
    h = np.ones((1, 1))
    while len(h) < 32:
        h = np.block([[h, h], [h, -h]])
    targets = (w.astype(np.float64) * core.rotation_signs(32)) @ (h / np.sqrt(32))
    c3, c2, c1, c0 = np.meshgrid(*[np.arange(8)] * 4, indexing="ij")
    for row, target in zip(data, targets):
        scale = float(row[:2].copy().view("<f2")[0])
        level = scale * (t0[c0 ^ c3] + t1[c1] + t2[c2])
        cost = np.full((8, 8, 8), np.inf)  # [c3, c2, c1]
        cost[0, 0, 0] = 0
        for x in target:
            cost = (cost[..., None] + (x - level) ** 2).min(axis=0)
        found = ((decode_row_own_basis(row, 32) - target) ** 2).sum()
        # The path was searched at the scale before the last least-squares step, so it may be a little off.
        assert cost.min() * (1 - 1e-6) <= found <= cost.min() * 1.03
