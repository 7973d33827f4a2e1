"""Coded caches, restated in NumPy: what the codes mean, how good they are, what attention makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from hrun import _core as core

pytestmark = pytest.mark.slow

kernels = core.testing
TIERS = [t.name for t in core.cpu_tiers() if t.available]
BITS = {"rtq8": 8, "rtq5": 5, "rtq4": 4, "rtq3": 3, "rtq2": 2}
# Relative squared error on N(0,1) at d = 128 with one scale: least squares for values, equal length for keys.
VALUES = {"rtq5": 0.00170, "rtq4": 0.0063, "rtq3": 0.0235, "rtq2": 0.0866}
KEYS = {"rtq5": 0.00171, "rtq4": 0.0064, "rtq3": 0.0238, "rtq2": 0.0892}
DIMS = [16, 48, 64, 80, 96, 112, 128, 192, 256, 512, 576]
UNIT = 64.0  # stored scales are so many times a level's

by_type = pytest.mark.parametrize("kind", BITS)


def hadamard(n: int) -> np.ndarray:
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


def rotation(d: int) -> np.ndarray:
    """Its own inverse: Walsh-Hadamard in pieces, reflected over the pieces."""
    piece = d & -d
    m = d // piece
    reflect = np.eye(m) - (2 / m if m > 1 else 0) * np.ones((m, m))
    return np.kron(reflect, hadamard(piece))


def level_tables() -> dict[str, np.ndarray]:
    """Returns the tables of levels, read from the header."""
    import re
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "cpp/formats/cache_codes.h").read_text()
    found = re.findall(r"CacheLevels<(\d)> \{.*?kTable = \{\s*\{(.*?)\}\}", text, re.S)
    return {f"rtq{b}": np.array([int(x) for x in v.split(",")]) for b, v in found}


TABLES = level_tables()


def decode(data: np.ndarray, kind: str, d: int, keys: bool) -> tuple[np.ndarray, np.ndarray]:
    """Levels [64, d] and scales [64] of a coded block, by the layout and the trellis as they are written down."""
    bits = BITS[kind]
    codes, scales = data[: 8 * d * bits], data[8 * d * bits :].view(np.float16)
    by_byte = codes.reshape(-1, 64).astype(np.int64)

    def pair(x: np.ndarray, m_bits: int) -> list[np.ndarray]:
        """Two vectors of m, u, u, m."""
        low = 2 * (x & ((1 << m_bits) - 1)) + (x >> m_bits & 1)
        return [low, x >> (m_bits + 1) & ((2 << m_bits) - 1)]

    if bits == 8:
        vectors = list(by_byte)
    elif bits == 5:
        ones = by_byte[d // 2 :]
        vectors = [
            2 * (by_byte[v // 2] >> (v % 2 * 4) & 15) + (ones[v // 8] >> (v % 8) & 1)
            for v in range(d)
        ]
    elif bits == 4:
        vectors = [code for x in by_byte for code in pair(x, 3)]
    elif bits == 3:  # the last pair of eight vectors is in the upper bits of the three others
        vectors = []
        for x, y, z in by_byte.reshape(-1, 3, 64):
            last = (x >> 6) | (z >> 6) << 2 | (y >> 6) << 4
            vectors += [code for byte in (x, y, z, last) for code in pair(byte, 2)]
    else:
        vectors = [x >> (2 * k) & 3 for x in by_byte for k in range(4)]
    c = np.zeros((64, d), np.int64)
    steps = d // 4 if keys else d // 16
    for v in range(d):
        group, i = divmod(v, steps)
        x = vectors[v].reshape(16, 4)
        for lane in range(16):
            for j in range(4):
                if keys:
                    c[16 * group + lane, j * steps + i] = x[lane, j]
                else:
                    c[4 * group + j, lane * steps + i] = x[lane, j]
    if bits == 8:
        levels = np.where(c > 127, c - 256, c)
    else:
        m, u = c >> 1, c & 1
        one = np.pad(u, ((0, 0), (1, 0)))[:, :d]
        two = np.pad(u, ((0, 0), (2, 0)))[:, :d]
        levels = TABLES[kind][4 * m + 2 * (u ^ two) + one]
    return levels, scales.astype(np.float64) / UNIT


def coded(tier: str, x: np.ndarray, kind: str, keys: bool) -> np.ndarray:
    d = x.shape[1]
    return np.asarray(
        kernels.code_block(
            tier, x.astype(np.float32), kind, keys, np.zeros(d, np.float32), np.ones(d, np.float32)
        )
    )


@by_type
@pytest.mark.parametrize("keys", [True, False])
def test_error_on_a_gaussian_source(kind: str, keys: bool) -> None:
    """A trellis that constrains nothing, or a table read wrongly, shows in the error first."""
    rng = np.random.default_rng(1)
    error = total = 0.0
    for _ in range(30):
        x = rng.standard_normal((64, 128)).astype(np.float16).astype(np.float64)
        levels, scale = decode(coded(TIERS[-1], x, kind, keys), kind, 128, keys)
        z = x @ rotation(128)
        y = levels * scale[:, None]
        if keys and kind != "rtq8":
            np.testing.assert_allclose(
                np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-3
            )
        error += ((z - y) ** 2).sum()
        total += (z**2).sum()
    if kind == "rtq8":
        assert error / total < 1e-4
    else:
        assert error / total == pytest.approx((KEYS if keys else VALUES)[kind], rel=0.015)


@by_type
def test_every_tier_codes_alike_at_every_head_size(kind: str) -> None:
    rng = np.random.default_rng(2)
    for d in DIMS:
        x = rng.standard_normal((64, d)) * 10.0 ** rng.integers(-3, 3, (64, 1))
        x[3] = 0  # no length
        x[5] = x[5, 0]  # all equal: one value after the rotation
        x[7, 1:] = 0  # a spike
        for keys in (True, False):
            data = {tier: coded(tier, x, kind, keys) for tier in TIERS}
            for tier in TIERS:
                assert data[tier].tobytes() == data[TIERS[0]].tobytes(), (tier, d, keys)
            assert data[TIERS[0]].nbytes == 64 * (d * BITS[kind] // 8 + 2)
            levels, scale = decode(data[TIERS[0]], kind, d, keys)
            assert scale[3] == 0
            y = (levels * scale[:, None]) @ rotation(d)
            z = x.astype(np.float16).astype(np.float64)
            error = np.linalg.norm(y - z, axis=1)[8:] / np.linalg.norm(z, axis=1)[8:]
            assert error.mean() < {8: 0.02, 5: 0.06, 4: 0.1, 3: 0.2, 2: 0.4}[BITS[kind]], (d, keys)


@by_type
@pytest.mark.parametrize("tier", TIERS)
def test_what_is_no_number_does_no_harm(kind: str, tier: str) -> None:
    x = np.random.default_rng(3).standard_normal((64, 64))
    x[1, 2], x[9, 3], x[20] = np.inf, np.nan, 65000
    for keys in (True, False):
        levels, scale = decode(coded(tier, x, kind, keys), kind, 64, keys)
        others = [p for p in range(64) if p not in (1, 9, 20)]
        assert np.isfinite(scale[others]).all() and np.abs(levels).max() <= 127


def reference(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    kinds: tuple[str, str],
    scale: float,
    window: int,
    k_plain: int,
) -> np.ndarray:
    """Computes attention of one head as the coded kernels mean it, but for the rounding of queries
    and weights to bytes.  The last k_plain values of keys are no codes.
    """
    n, d = k.shape
    c = d - k_plain
    e = v.shape[1]
    q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
    k16, v16 = (
        t if kind == "f32" else t.astype(np.float16).astype(np.float64)
        for t, kind in zip((k, v), kinds)
    )
    k_read, v_read = k16.copy(), v16.copy()
    if n > 64:
        mean = k16[4:64].mean(0)
        q2, k2 = (q[4:64] ** 2).sum(0), ((k16[4:64] - mean) ** 2).sum(0)
        s = ((q2 + 0.01 * q2.mean()) / (k2 + 0.01 * k2.mean())) ** 0.25
        for b in range(n // 64):
            rows = slice(64 * b, 64 * b + 64)
            if kinds[0] in BITS:
                data = np.asarray(
                    kernels.code_block(
                        TIERS[-1], k16[rows, :c].astype(np.float32), kinds[0], True,
                        mean[:c].astype(np.float32), s[:c].astype(np.float32),
                    )
                )  # fmt: skip
                levels, scales = decode(data, kinds[0], c, True)
                k_read[rows, :c] = (levels * scales[:, None]) @ rotation(c) / s[:c] + mean[:c]
            if kinds[1] in BITS:
                data = np.asarray(
                    kernels.code_block(
                        TIERS[-1], v16[rows].astype(np.float32), kinds[1], False,
                        np.zeros(e, np.float32), np.ones(e, np.float32),
                    )
                )  # fmt: skip
                levels, scales = decode(data, kinds[1], e, False)
                v_read[rows] = (levels * scales[:, None]) @ rotation(e)
    out = np.zeros((n, e))
    for t in range(n):
        first = max(0, t + 1 - window) if window else 0
        own = np.zeros(n, bool)
        own[t // 64 * 64 :] = True
        own[:4] = True
        keys = np.where(own[:, None], k16, k_read)[first : t + 1]
        values = np.where(own[:, None], v16, v_read)[first : t + 1]
        w = keys @ q[t] * scale
        w = np.exp(w - w.max())
        out[t] = w @ values / w.sum()
    return out


@pytest.mark.parametrize(
    ("k_kind", "v_kind"),
    [("rtq8", "rtq8"), ("rtq4", "rtq3"), ("rtq5", "rtq2"), ("rtq4", "f16"), ("f16", "rtq3"), ("rtq2", "f32"), ("f32", "rtq8")],
)  # fmt: skip
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("k_plain", [0, 16])
def test_attention_is_the_definition(k_kind: str, v_kind: str, window: int, k_plain: int) -> None:
    rng = np.random.default_rng(4)
    n, d, e = 300, 48, 32
    q = rng.standard_normal((n, d)).astype(np.float32)
    k = (rng.standard_normal((n, d)) * np.linspace(0.2, 3, d) + rng.standard_normal(d) * 3).astype(
        np.float32
    )
    v = rng.standard_normal((n, e)).astype(np.float32)
    want = reference(q, k, v, (k_kind, v_kind), 0.2, window, k_plain)
    got = kernels.attention(
        TIERS[-1], q, k, v, 1, 1, 0.2, k_kind, v_kind, 512, 1, window, 0.0, None, 0, k_plain=k_plain
    )
    assert np.abs(got[:64] - want[:64]).max() < 2e-3
    # Queries and weights as bytes.
    assert np.sqrt(((got - want) ** 2).mean()) < 0.02


@pytest.mark.parametrize("kinds", [("rtq8", "rtq8"), ("rtq4", "rtq3"), ("rtq3", "rtq2"), ("rtq5", "f16"), ("f32", "rtq4")])  # fmt: skip
@pytest.mark.parametrize(("heads", "kv_heads", "d", "e"), [(4, 2, 64, 64), (3, 1, 80, 80), (2, 2, 128, 128), (9, 1, 96, 112), (5, 1, 576, 512), (2, 1, 256, 192)])  # fmt: skip
def test_any_chunk_thread_tier_and_page_order_gives_the_same_bits(
    kinds: tuple[str, str], heads: int, kv_heads: int, d: int, e: int
) -> None:
    k_plain = max(0, d - e) if kv_heads == 1 else 0  # as in latent attention
    rng = np.random.default_rng(5)
    n = 200 if d > 200 else 460
    q, k, v = (
        rng.standard_normal((n, h * w)).astype(np.float32)
        for h, w in ((heads, d), (kv_heads, d), (kv_heads, e))
    )
    sinks = rng.standard_normal(heads).astype(np.float32)

    def run(tier: str, chunk: int, threads: int, window: int, cap: float, shuffle: int) -> bytes:
        return np.asarray(
            kernels.attention(
                tier, q, k, v, heads, kv_heads, 0.1, *kinds, chunk, threads, window, cap,
                sinks if cap else None, shuffle, k_plain=k_plain,
            )
        ).tobytes()  # fmt: skip

    for window, cap in ((0, 0.0), (100, 20.0)):
        want = run(TIERS[-1], n, 1, window, cap, 0)
        for chunk, threads, shuffle in ((1, 4, 3), (7, 2, 1), (64, 1, 0), (65, 3, 2), (128, 2, 0)):
            assert run(TIERS[-1], chunk, threads, window, cap, shuffle) == want, (chunk, threads)
        for tier in TIERS[:-1]:
            chunk = 64 if tier == "scalar" else 33
            assert run(tier, chunk, 2, window, cap, 0) == want, tier
        if window == 0:
            plain = np.asarray(
                kernels.attention(TIERS[-1], q, k, v, heads, kv_heads, 0.1, "f16", "f16", n, 1, 0, 0.0, None, 0)
            )  # fmt: skip
            if "f32" not in kinds:  # up to 64 positions nothing is coded
                assert np.frombuffer(want, np.float32).reshape(plain.shape)[:64].tobytes() == plain[:64].tobytes()  # fmt: skip


@pytest.mark.parametrize(("d", "e"), [(d, d) for d in (64, 80, 96, 112, 128, 192, 256)] + [(576, 512)])  # fmt: skip
@pytest.mark.parametrize("tier", TIERS)
def test_codes_are_read_by_their_own_kernel(tier: str, d: int, e: int) -> None:
    """Two blocks of 130 positions are codes: the second block reads the first, the third reads
    both.
    """
    rng = np.random.default_rng(6)
    q, k, v = (rng.standard_normal((130, width)).astype(np.float32) for width in (d, d, e))
    kinds = [*BITS, "f16", "f32"]
    for k_kind in kinds:
        for v_kind in kinds:
            _, keys, values = kernels.attention(
                tier, q, k, v, 1, 1, 0.1, k_kind, v_kind, 130, 1, 0, 0.0, None, 0, reads=True,
                k_plain=d - e,
            )  # fmt: skip
            want = (3 if k_kind in BITS else 0, 3 if v_kind in BITS else 0)
            assert (keys, values) == want, (k_kind, v_kind)


def test_a_head_that_cannot_be_coded_is_an_error() -> None:
    x = np.zeros((70, 20), np.float32)
    with pytest.raises(core.UnsupportedModelError if hasattr(core, "UnsupportedModelError") else Exception, match="multiple of 16"):  # fmt: skip
        kernels.attention(TIERS[-1], x, x, x, 1, 1, 0.1, "rtq4", "rtq4", 64, 1, 0, 0.0, None, 0)


def test_bytes_of_a_position() -> None:
    """A head's keys or values: codes and an fp16 scale; latents, and the turned part behind them."""
    table = {"rtq8": 66, "rtq5": 42, "rtq4": 34, "rtq3": 26, "rtq2": 18}
    for kind, n in table.items():
        assert [core.kv_bytes(kind, d) for d in (64, 128, 256)] == [n, 2 * n - 2, 4 * n - 6]
        assert core.kv_bytes(kind, 576, 64) == 8 * n - 14 + 128
    assert core.kv_bytes("f16", 576, 64) == 1152 and core.kv_bytes("f32", 576, 64) == 2304


def test_names_of_other_programs_are_taken_as_wishes() -> None:
    assert core.kv_format("q8_0") == "rtq8" and core.kv_format("q4_0") == "rtq4"
    assert [core.kv_format(name) for name in core.kv_formats()] == core.kv_formats()
    with pytest.raises(Exception, match="rtq2"):
        core.kv_format("q9")
