"""The operations beside the matrix product, in every CPU tier: norm, rotary embedding, attention, activation function."""

from __future__ import annotations

import math

import numpy as np
import pytest

import numeric_contract as contract
from hrun import _core as core

kernels = core.testing
TIERS = [t.name for t in core.cpu_tiers() if t.available]
EPS = 2.0**-24

by_tier = pytest.mark.parametrize("tier", TIERS)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(
        ((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all()
    )


@by_tier
def test_rms_norm_gives_the_bits_of_the_contract(tier: str) -> None:
    rng = np.random.default_rng(1)
    for n, cols in ((1, 1), (3, 7), (2, 16), (5, 100), (17, 512)):
        x = (rng.standard_normal((n, cols)) * 10.0 ** rng.integers(-15, 15, (n, 1))).astype(
            np.float32
        )
        weight = rng.standard_normal(cols, dtype=np.float32)
        padded = np.pad(x, ((0, 0), (0, -cols % 16))).reshape(n, -1, 16)
        lanes = np.zeros((n, 16), np.float32)
        for i in range(padded.shape[1]):
            lanes = contract.fma(padded[:, i], padded[:, i], lanes)
        mean = contract.tree_sum(lanes) / np.float32(cols)
        inverse = np.float32(1) / np.sqrt(mean + np.float32(1e-5))
        want = (x * inverse[:, None]) * weight
        got = kernels.rms_norm(tier, x, weight, 1e-5)
        assert same_bits(got, want), (n, cols)
        # It also fits the definition, in float64: the sum of squares rounds cols / 16 + 4 times,
        # the rest six times.
        exact = (
            x
            / np.sqrt(
                (x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + float(np.float32(1e-5))
            )
            * weight
        )
        assert (np.abs(got - exact) <= (cols / 16 + 10) * EPS * np.abs(exact)).all()


@by_tier
def test_exp_is_accurate_to_two_units_in_the_last_place(tier: str) -> None:
    x = np.concatenate([np.linspace(-104, 89, 400_001), np.linspace(-1, 1, 100_001)]).astype(
        np.float32
    )
    got = kernels.exp(tier, x).astype(np.float64)
    want = np.exp(x.astype(np.float64))
    representable = want <= np.finfo(np.float32).max
    unit = np.maximum(
        np.spacing(np.where(representable, want, 1).astype(np.float32)).astype(np.float64),
        2.0**-149,
    )
    error = np.abs(got - want) / unit
    assert error[representable].max() <= 2.0
    assert np.isinf(got[want > float(np.finfo(np.float32).max) * (1 + 1e-6)]).all()


@by_tier
def test_exp_of_special_values(tier: str) -> None:
    x = np.array([0.0, -0.0, -np.inf, np.inf, np.nan, -200, -1e38, 1e38, 89.5, 1e-40], np.float32)
    got = kernels.exp(tier, x)
    want = np.array([1, 1, 0, np.inf, np.nan, 0, 0, np.inf, np.inf, 1], np.float32)
    assert same_bits(got, want)


def test_exp_gives_the_bits_of_the_contract() -> None:
    bits = np.random.default_rng(2).integers(0, 2**32, 200_000, dtype=np.uint32)
    x = np.concatenate([bits.view(np.float32), np.linspace(-110, 95, 100_003).astype(np.float32)])
    want = contract.exp(x)
    for tier in TIERS:
        assert same_bits(kernels.exp(tier, x), want), tier


@by_tier
def test_silu_mul(tier: str) -> None:
    rng = np.random.default_rng(3)
    for n, cols in ((1, 1), (3, 17), (2, 512)):
        gate = (rng.standard_normal((n, cols)) * 8).astype(np.float32)
        up = rng.standard_normal((n, cols), dtype=np.float32)
        got = kernels.silu_mul(tier, gate, up)
        assert same_bits(got, kernels.silu_mul("scalar", gate, up))
        g = gate.astype(np.float64)
        exact = g / (1 + np.exp(-g)) * up
        # exp is within 2 ulp (4 EPS) of the true value; a sum, a division, a product follow.
        assert (np.abs(got - exact) <= 8 * EPS * np.abs(exact) + 1e-44).all()
    extreme = np.array([[-1e30, -200, -88, 88, 200, 1e30]], np.float32)
    got = kernels.silu_mul(tier, extreme, np.ones_like(extreme))
    assert (
        np.isfinite(got).all() and (got[0, :2] == 0).all() and (got[0, 3:] == extreme[0, 3:]).all()
    )


@by_tier
@pytest.mark.parametrize("style", ["interleaved", "halves"])
def test_rope_gives_the_bits_of_the_contract(tier: str, style: str) -> None:
    rng = np.random.default_rng(4)
    for head_dim, n_rot, n_heads in ((64, 64, 3), (10, 6, 2), (128, 32, 1)):
        n, first, half = 5, 3, n_rot // 2
        x = rng.standard_normal((n, n_heads * head_dim), dtype=np.float32)
        angle = rng.uniform(0, 6, (n + first, half))
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        want = x.copy().reshape(n, n_heads, head_dim)
        low, high = (
            (slice(0, n_rot, 2), slice(1, n_rot, 2))
            if style == "interleaved"
            else (slice(0, half), slice(half, n_rot))
        )
        a, b = want[..., low].copy(), want[..., high].copy()
        c, s = cos[first:, None, :], sin[first:, None, :]
        want[..., low], want[..., high] = a * c - b * s, a * s + b * c
        got = kernels.rope(tier, x, n_heads, cos, sin, style, first)
        assert same_bits(got, want.reshape(n, -1)), (head_dim, n_rot)


@by_tier
def test_bias_and_fp16(tier: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((3, 37), dtype=np.float32)
    bias = rng.standard_normal(37, dtype=np.float32)
    assert same_bits(kernels.add_bias(tier, x, bias), x + bias)
    # The values are every half, the middle of every gap, and the neighbours of those.
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(over="ignore"):
        middle = np.append((halves[:-1] + halves[1:]) / 2, np.float32(65520))
        values = np.concatenate(
            [
                halves,
                middle,
                np.nextafter(middle, np.float32(np.inf)),
                np.nextafter(middle, np.float32(0)),
            ]
        )
        values = np.concatenate([values, -values])
        want = values.astype(np.float16)
    assert (kernels.to_fp16(tier, values) == want.view(np.uint16)).all()


def attention_in_float64(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, n_heads: int, n_kv_heads: int, scale: float
):
    """(outputs, bound on the error of float32) of causal attention, [n, n_heads * v_dim].

    A score s is a dot product over d dimensions: d / 16 fma, 4 additions and a product round it by at most
    (d / 16 + 6) EPS sum|q k| scale.  Its exponential moves by as much, relatively, and by 5 EPS |s - max| more for the
    rounded difference, plus 4 EPS for exp itself and 4 EPS per block of 64 for the rescaling.  Weights that are each off by
    rho move a weighted mean of |v| by at most 2 rho / (1 - rho); the sums over positions add one EPS per position.
    """
    n, group = len(q), n_heads // n_kv_heads
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    dim, v_dim = k.shape[1] // n_kv_heads, v.shape[1] // n_kv_heads
    out, bound = np.zeros((n, n_heads * v_dim)), np.zeros((n, n_heads * v_dim))
    for h in range(n_heads):
        qh = q[:, h * dim : (h + 1) * dim]
        kv = h // group
        kh, vh = k[:, kv * dim : (kv + 1) * dim], v[:, kv * v_dim : (kv + 1) * v_dim]
        visible = np.tril(np.ones((n, n), bool))
        s = np.where(visible, qh @ kh.T * scale, -np.inf)
        sizes = (np.abs(qh) @ np.abs(kh).T * abs(scale)).max(axis=1)
        top = s.max(axis=1)
        p = np.exp(s - top[:, None])
        p /= p.sum(axis=1, keepdims=True)
        spread = (top - np.where(visible, s, np.inf).min(axis=1)).clip(max=104)
        rho = ((dim / 16 + 6) * 2 * sizes + 5 * spread + 4 + 4 * (n / 64 + 1)) * EPS
        part = slice(h * v_dim, (h + 1) * v_dim)
        out[:, part] = p @ vh
        bound[:, part] = (2 * rho / (1 - rho) + (n + 4) * EPS)[:, None] * (p @ np.abs(vh)) + 1e-37
    return out, bound


def attention_bits(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    n_heads: int,
    n_kv_heads: int,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
    sinks: np.ndarray | None = None,
    causal: bool = True,
) -> np.ndarray:
    n, group = len(q), n_heads // n_kv_heads
    sinks = None if sinks is None else sinks.reshape(n_kv_heads, group)
    q = q.reshape(n, n_kv_heads, group, -1)
    k, v = k.reshape(n, n_kv_heads, -1), v.reshape(n, n_kv_heads, -1)
    heads = [
        contract.attention(
            q[:, h],
            k[:, h].copy(),
            v[:, h].copy(),
            scale,
            window,
            cap,
            None if sinks is None else sinks[h],
            causal,
        )
        for h in range(n_kv_heads)
    ]
    return np.concatenate(heads, axis=1).reshape(n, -1)


# (query heads, kv heads, dimensions of a key, of a value), formats of the cache.
SHAPES = [(1, 1, 16, 16), (4, 2, 64, 64), (3, 3, 20, 20), (8, 1, 32, 48), (6, 1, 128, 96)]
CASES = [(s, ("f16", "f16")) for s in SHAPES] + [
    (SHAPES[2], p) for p in (("f32", "f32"), ("f16", "f32"), ("f32", "f16"))
]


@pytest.mark.parametrize(("shape", "formats"), CASES, ids=str)
@pytest.mark.slow
def test_attention(shape: tuple[int, int, int, int], formats: tuple[str, str]) -> None:
    n_heads, n_kv_heads, k_dim, v_dim = shape
    rng = np.random.default_rng(6)
    n = 150  # three blocks of positions, the last one short
    q = rng.standard_normal((n, n_heads * k_dim), dtype=np.float32) * 2
    k = rng.standard_normal((n, n_kv_heads * k_dim), dtype=np.float32)
    v = rng.standard_normal((n, n_kv_heads * v_dim), dtype=np.float32)
    k[70] *= 8  # a late, larger maximum: what was summed before is scaled down
    rounded = [
        a.astype(np.float16).astype(np.float32) if f == "f16" else a
        for a, f in zip((k, v), formats)
    ]
    scale = float(np.float32(1 / np.sqrt(k_dim)))
    want, bound = attention_in_float64(q, *rounded, n_heads, n_kv_heads, scale)
    reference = None
    for tier in TIERS:
        for n_threads, chunk in (
            ((1, n), (2, n), (1, 1), (3, 7), (2, 64)) if tier != "scalar" else ((1, n), (2, 7))
        ):
            got = kernels.attention(
                tier,
                q,
                k,
                v,
                n_heads,
                n_kv_heads,
                scale,
                *formats,
                chunk,
                n_threads,
                shuffle=chunk,  # pages in any order
            )
            if reference is None:
                reference = attention_bits(q, *rounded, n_heads, n_kv_heads, scale)
                assert (np.abs(got - want) <= bound).all(), float(
                    (np.abs(got - want) / bound).max()
                )
            assert same_bits(got, reference), (tier, n_threads, chunk)


def attention_variant_in_float64(q, k, v, scale, window, cap, sinks):
    """One query head per kv head, float64: [n, heads, v_dim]."""
    n, heads = q.shape[:2]
    s = np.einsum("qhd,khd->hqk", q.astype(np.float64), k.astype(np.float64)) * scale
    s = cap * np.tanh(s / cap) if cap else s
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    s = np.where((distance >= 0) & ((distance < window) if window else True), s, -np.inf)
    extra = (
        np.full((heads, n, 1), -np.inf)
        if sinks is None
        else np.broadcast_to(sinks[:, None, None], (heads, n, 1))
    )
    s = np.concatenate([s, extra], axis=2)
    p = np.exp(s - s.max(axis=2, keepdims=True))
    p = (p / p.sum(axis=2, keepdims=True))[:, :, :-1]
    return np.einsum("hqk,khd->qhd", p, v.astype(np.float64))


@pytest.mark.parametrize("n", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("window", [0, 1, 2, 16, 100, 400])
@pytest.mark.parametrize("shape", [(4, 2, 64, 64), (3, 3, 20, 20), (6, 1, 128, 96)], ids=str)
@pytest.mark.slow
def test_attention_to_both_sides(n: int, window: int, shape: tuple[int, int, int, int]) -> None:
    heads, kv_heads, k_dim, v_dim = shape
    rng = np.random.default_rng(n + window)
    q = rng.standard_normal((n, heads * k_dim), dtype=np.float32) * 2
    k = rng.standard_normal((n, kv_heads * k_dim), dtype=np.float32)
    v = rng.standard_normal((n, kv_heads * v_dim), dtype=np.float32)
    scale = float(np.float32(1 / np.sqrt(k_dim)))
    group = heads // kv_heads
    s = np.einsum(
        "qhd,khd->hqk",
        q.reshape(n, heads, -1).astype(np.float64),
        np.repeat(k.reshape(n, kv_heads, -1), group, axis=1).astype(np.float64),
    )
    distance = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    s = np.where((distance <= window // 2) | (window == 0), s * scale, -np.inf)
    p = np.exp(s - s.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    values = np.repeat(v.reshape(n, kv_heads, -1), group, axis=1).astype(np.float64)
    exact = np.einsum("hqk,khd->qhd", p, values).reshape(n, -1)
    want = attention_bits(q, k, v, heads, kv_heads, scale, window, causal=False)
    np.testing.assert_allclose(want, exact, atol=2e-5)
    for tier in TIERS:
        for n_threads in (1, 3):
            got = kernels.attention(
                tier, q, k, v, heads, kv_heads, scale, "f32", "f32", n, n_threads,
                window, shuffle=n, causal=False,
            )  # fmt: skip
            assert same_bits(got, want), (tier, n_threads)


def test_attention_to_both_sides_takes_whole_sequences() -> None:
    x = np.zeros((20, 16), np.float32)
    for options, message in (
        ({"chunk": 7}, "whole sequences"),
        ({"k_format": "rtq4"}, "not coded"),
    ):
        with pytest.raises(core.ArgumentError, match=message):
            kernels.attention(TIERS[0], x, x, x, 1, 1, 1.0, causal=False, **options)


@pytest.mark.parametrize(
    ("window", "cap", "with_sinks"),
    [
        (20, 0.0, False),
        (64, 0.0, False),
        (100, 30.0, True),
        (0, 5.0, False),
        (0, 0.0, True),
        (1, 0.0, True),
    ],
)
def test_attention_with_window_soft_cap_and_sinks(
    window: int, cap: float, with_sinks: bool
) -> None:
    rng = np.random.default_rng(7)
    n, heads, dim = 150, 3, 32
    q, k, v = ((rng.standard_normal((n, heads * dim)) * f).astype(np.float32) for f in (2, 1, 1))
    sinks = np.array([-1.0, 0.5, 40.0], np.float32) if with_sinks else None
    scale = float(np.float32(1 / np.sqrt(dim)))
    exact = attention_variant_in_float64(
        *(a.reshape(n, heads, dim) for a in (q, k, v)), scale, window, cap, sinks
    ).reshape(n, -1)
    want = attention_bits(q, k, v, heads, heads, scale, window, cap, sinks)
    np.testing.assert_allclose(want, exact, atol=2e-5)
    for tier in TIERS:
        for n_threads, chunk in ((1, n), (2, 7), (1, 1)) if tier != "scalar" else ((2, 7),):
            got = kernels.attention(
                tier,
                q,
                k,
                v,
                heads,
                heads,
                scale,
                "f32",
                "f32",
                chunk,
                n_threads,
                window,
                cap,
                sinks,
            )
            assert same_bits(got, want), (tier, n_threads, chunk)


@by_tier
def test_layer_norm(tier: str) -> None:
    rng = np.random.default_rng(8)
    for n, cols in ((1, 1), (3, 7), (5, 100), (9, 512)):
        x = (rng.standard_normal((n, cols)) * 10.0 ** rng.integers(-3, 4, (n, 1)) + 5).astype(
            np.float32
        )
        weight, bias = rng.standard_normal((2, cols), dtype=np.float32)
        got = kernels.layer_norm(tier, x, weight, bias, 1e-5)
        assert same_bits(got, contract.layer_norm(x, weight, bias, 1e-5)), (n, cols)
        centred = x - x.astype(np.float64).mean(axis=1, keepdims=True)
        exact = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias
        relative = np.abs(x).max(axis=1, keepdims=True) / np.sqrt(
            (centred**2).mean(axis=1, keepdims=True) + 1e-5
        )  # cancellation
        assert (
            np.abs(got - exact)
            <= (cols / 16 + 10) * EPS * (np.abs(weight) * (1 + relative) * 4 + np.abs(exact))
        ).all()


def _gelu_erf(x: np.ndarray) -> np.ndarray:
    return x * np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.flat]).reshape(x.shape)


@by_tier
def test_nonlinearities(tier: str) -> None:
    rng = np.random.default_rng(9)
    gate = np.concatenate(
        [
            rng.standard_normal((3, 100)) * 4,
            np.array([[-1e30, -200, -20, 0, 20, 200, 1e30] * 14 + [7, -7]]),
        ]
    ).astype(np.float32)
    up = (rng.standard_normal(gate.shape) * 5).astype(np.float32)
    g = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        exact_gelu = np.where(
            np.abs(g) > 50,
            np.maximum(g, 0),
            0.5 * g * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * np.clip(g, -50, 50) ** 3))),
        )
    gelu = kernels.nonlinearity(tier, "gelu", gate)
    assert same_bits(gelu, contract.gelu(gate))
    np.testing.assert_allclose(gelu, exact_gelu, rtol=3e-6, atol=1e-7)
    assert same_bits(kernels.gated(tier, "gelu", gate, up), contract.gelu(gate) * up)
    exact_erf = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in g.ravel()]).reshape(
        g.shape
    )
    gelu_erf = kernels.nonlinearity(tier, "gelu_erf", gate)
    assert same_bits(gelu_erf, contract.gelu_erf(gate))
    np.testing.assert_allclose(gelu_erf, exact_erf, rtol=2e-7, atol=5e-7)
    assert same_bits(kernels.gated(tier, "gelu_erf", gate, up), contract.gelu_erf(gate) * up)
    assert same_bits(kernels.gated(tier, "silu", gate, up), kernels.silu_mul(tier, gate, up))
    assert same_bits(kernels.gated(tier, "clamped_silu", gate, up), contract.clamped_silu(gate, up))
    assert same_bits(
        kernels.nonlinearity(tier, "silu", gate), kernels.silu_mul(tier, gate, np.ones_like(gate))
    )
    assert same_bits(kernels.gated(tier, "linear", gate, up), gate * up)
    positive = np.maximum(gate, np.float32(0))
    with np.errstate(over="ignore"):
        assert same_bits(kernels.nonlinearity(tier, "relu_squared", gate), positive * positive)
    slow_decay = np.exp(-np.exp(-0.5) * np.exp(-np.logaddexp(0, -g)))
    for name, exact in (
        ("gelu_erf", _gelu_erf(g)),
        ("softplus", np.logaddexp(0, g)),
        ("slow_decay", slow_decay),
    ):
        got = kernels.nonlinearity(tier, name, gate)
        assert same_bits(got, kernels.nonlinearity("scalar", name, gate))
        np.testing.assert_allclose(got, exact, rtol=1e-6, atol=3e-7)
    numbers = (0.8, 0.7, 0.5, -1e-6)
    got = kernels.xielu(tier, gate, *numbers)
    assert same_bits(got, contract.xielu(gate, *numbers))
    below = 0.7 * (np.expm1(np.minimum(g, -1e-6)) - g)
    exact = np.where(g >= 0, 0.8 * g * g, below) + 0.5 * g
    # A few roundings of each summand; they may cancel.
    summands = np.where(g >= 0, 0.8 * g * g, 0.7 * (1 + np.abs(g))) + 0.5 * np.abs(g)
    finite = np.abs(g) < 1e9
    assert (np.abs(got - exact) <= 4 * EPS * summands)[finite].all()
    capped = kernels.soft_cap(tier, gate, 30.0)
    assert same_bits(capped, contract.soft_cap(gate, 30.0)) and np.abs(capped).max() <= 30
    np.testing.assert_allclose(capped, 30 * np.tanh(g / 30), rtol=1e-5, atol=1e-5)


@by_tier
def test_mixing_rows_goes_in_order(tier: str) -> None:
    rng = np.random.default_rng(10)
    x = rng.standard_normal((6, 37), dtype=np.float32)
    rows, weights = np.array([5, 0, 3, 3, 1, 2], np.int32), rng.standard_normal(6, dtype=np.float32)
    want = np.zeros((2, 37), np.float32)
    for t in range(2):
        for i in range(3 * t, 3 * t + 3):
            want[t] = contract.fma(weights[i], x[rows[i]], want[t])
    assert same_bits(kernels.mix_rows(tier, x, rows, weights, 2), want)
    with pytest.raises(core.ArgumentError, match="rows of x"):
        kernels.mix_rows(tier, x, np.array([6, 0], np.int32), weights[:2], 2)


@by_tier
def test_long_contexts_are_cut_between_threads_without_a_change_of_bits(tier: str) -> None:
    """Above eight blocks of positions and with more threads than heads, blocks are computed apart and joined."""
    rng = np.random.default_rng(7)
    n, n_heads, dim = 700, 3, 20
    q, k, v = (rng.standard_normal((n, dim * heads), dtype=np.float32) for heads in (n_heads, 1, 1))
    k[650] *= 9
    together = kernels.attention(tier, q, k, v, n_heads, 1, 0.3, chunk=n, n_threads=1)
    assert same_bits(
        kernels.attention(tier, q, k, v, n_heads, 1, 0.3, chunk=9, n_threads=3), together
    )
    assert same_bits(
        kernels.attention(tier, q, k, v, n_heads, 1, 0.3, chunk=70, n_threads=5), together
    )


@by_tier
def test_attention_with_far_apart_scores(tier: str) -> None:
    """Scores hundreds apart: the smaller weights vanish without a NaN; a NaN or an infinity in q does not stay hidden."""
    n, dim = 130, 16
    q, k, v = (
        np.ones((n, dim), np.float32),
        np.zeros((n, dim), np.float32),
        np.zeros((n, dim), np.float32),
    )
    k[:, 0] = np.linspace(-2000, 2000, n)  # ever larger
    v[:, 0] = np.arange(n)
    out = kernels.attention(tier, q, k, v, 1, 1, 1.0, "f32", "f32")
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[:, 0], np.arange(n), rtol=1e-5)
    down = kernels.attention(tier, q, k[::-1].copy(), v, 1, 1, 1.0, "f32", "f32")
    np.testing.assert_allclose(down[:, 0], 0, atol=1e-5)
    for bad in (np.nan, np.inf):
        q[3, 1] = bad
        k[:, 1] = 1
        spoiled = kernels.attention(tier, q, k, v, 1, 1, 1.0, "f32", "f32")
        assert np.isnan(spoiled[3]).all() and np.isfinite(spoiled[4:]).all()


def test_other_cache_formats_are_refused() -> None:
    x = np.zeros((2, 32), np.float32)
    with pytest.raises(core.ArgumentError, match="bf16.*f16, f32"):
        kernels.attention(TIERS[0], x, x, x, 1, 1, 1.0, "bf16", "bf16")


def test_the_environment_forces_a_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    for tier in TIERS:
        monkeypatch.setenv("HRUN_CPU_TIER", tier)
        assert [t.name for t in core.cpu_tiers() if t.active] == [tier]
    monkeypatch.delenv("HRUN_CPU_TIER")
    assert [t.name for t in core.cpu_tiers() if t.active] == TIERS[-1:]
    monkeypatch.setenv("HRUN_CPU_TIER", "abacus")
    with pytest.raises(core.DeviceError, match="abacus.*HRUN_CPU_TIER.*scalar"):
        core.cpu_tiers()
    for t in [t for t in core.testing.tier_names() if t not in TIERS]:
        monkeypatch.setenv("HRUN_CPU_TIER", t)
        with pytest.raises(core.DeviceError, match="lacks"):
            core.cpu_tiers()


@by_tier
def test_operations_of_several_hidden_states(tier: str) -> None:
    """Each gives the bits of the contract, which fit the definition in float64."""
    rng = np.random.default_rng(31)
    for n, cols in ((1, 1), (3, 7), (2, 64), (5, 100)):
        x = (rng.standard_normal((n, cols)) * 10.0 ** rng.integers(-3, 4, (n, 1))).astype(
            np.float32
        )
        y = rng.standard_normal((n, cols + 3), dtype=np.float32)
        weight = rng.standard_normal(cols, dtype=np.float32)
        assert same_bits(kernels.scale_columns(tier, x, weight), x * weight)
        wide = x.astype(np.float64)
        for least in (1e-5, 1e4):
            got = kernels.match_rms(tier, x, y, least)
            assert same_bits(got, contract.match_rms(x, y, least))
            own = np.sqrt(np.maximum((wide**2).mean(axis=1, keepdims=True), least))
            other = np.sqrt((y.astype(np.float64) ** 2).mean(axis=1, keepdims=True))
            # Two means of squares, two roots, and five operations more.
            assert (np.abs(got - wide * other / own) <= (cols / 8 + 20) * EPS * np.abs(got)).all()
        for deviations in (1.6448536, 0.0, -0.5):
            got = kernels.keep_above(tier, x, deviations)
            assert same_bits(got, contract.keep_above(x, deviations))
            mean, std = wide.mean(axis=1, keepdims=True), wide.std(axis=1, keepdims=True)
            exact = np.maximum(wide - (mean + np.float64(np.float32(deviations)) * std), 0)
            bound = (cols / 16 + 12) * EPS * (np.abs(wide) + np.abs(mean) + 2 * std)
            bound += (cols / 16 + 6) * EPS * np.abs(wide).mean(axis=1, keepdims=True)
            assert (np.abs(got - exact) <= bound).all()
    for n, width, n_in, n_out in ((1, 1, 1, 1), (3, 7, 2, 2), (4, 64, 4, 4), (5, 100, 1, 3)):
        factors, x, base = (
            rng.standard_normal((n, c), dtype=np.float32)
            for c in (n_in * n_out, n_in * width, n_out * width)
        )
        for shift in (0.0, 1.0):
            got = kernels.mix_heads(tier, factors, shift, x, n_in, base)
            assert same_bits(got, contract.mix_heads(factors, shift, x, n_in, base))
    nothing = np.zeros((2, 20), np.float32)
    assert (kernels.match_rms(tier, nothing, nothing, 1e-5) == 0).all()
    assert (kernels.match_rms(tier, nothing + 1, nothing, 1e-5) == 0).all()
    assert (kernels.keep_above(tier, nothing + 3, 0.0) == 0).all()
    for wrong in (
        lambda: kernels.scale_columns(tier, nothing, np.zeros(19, np.float32)),
        lambda: kernels.match_rms(tier, nothing, nothing[:1], 1e-5),
        lambda: kernels.match_rms(tier, nothing, nothing, 0.0),
        lambda: kernels.mix_heads(tier, nothing, 0.0, nothing, 3, nothing),
        lambda: kernels.mix_heads(tier, nothing[:, :3], 0.0, nothing, 2, nothing),
    ):
        with pytest.raises(core.ArgumentError):
            wrong()
