"""The numeric contract of the CPU kernels, restated in NumPy.

These functions give the bits that every CPU tier must produce: float32 throughout, in the order that DESIGN.md fixes.
Integers are exact.  They share no code with the kernels.
"""

from __future__ import annotations

import numpy as np

LANES = 16
GROUP = 16


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """float32 a * b + c with one rounding, element by element.

    The product of two float32 is exact in float64.  The sum is rounded there to odd (Boldo and Melquiond, "Emulation of
    FMA and correctly rounded sums", 2008), after which rounding to float32 is the correct one.
    """
    p = np.asarray(a, np.float32).astype(np.float64) * np.asarray(b, np.float32).astype(np.float64)
    c = np.asarray(c, np.float32).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        s = np.atleast_1d(p + c)
        part = s - p
        error = (p - (s - part)) + (c - part)  # exactly the amount that the sum's rounding lost
        bits = s.view(np.int64)
        fix = np.isfinite(s) & (error != 0) & (bits & 1 == 0)
        s = np.where(fix, (bits + np.where((error > 0) == (s > 0), 1, -1)).view(np.float64), s)
        return s.astype(np.float32).reshape(np.broadcast(p, c).shape)


def tree_sum(lanes: np.ndarray) -> np.ndarray:
    """float32 sum over the last axis of 16 lanes: lane l takes lane l + 8, then l + 4, l + 2, l + 1."""
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def float_dot(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [n, cols] times w [rows, cols] transposed: 16 running fma sums, zeros beyond the end, then the tree."""
    padding = (0, -x.shape[1] % LANES)
    x = np.pad(x, ((0, 0), padding)).reshape(x.shape[0], 1, -1, LANES)
    w = np.pad(w, ((0, 0), padding)).reshape(1, w.shape[0], -1, LANES)
    acc = np.zeros((x.shape[0], w.shape[1], LANES), np.float32)
    for i in range(x.shape[2]):
        acc = fma(x[:, :, i], w[:, :, i], acc)
    return tree_sum(acc)


def rotation_pieces(cols: int) -> list[tuple[int, int]]:
    """(first column, length) of the transforms of a row: 256s, then 128, 64, 32 for the tail."""
    pieces, first = [], 0
    while first < cols:
        size = next(s for s in (256, 128, 64, 32) if s <= cols - first)
        pieces.append((first, size))
        first += size
    return pieces


def rotate(x: np.ndarray, signs: np.ndarray | None) -> np.ndarray:
    """float32 [n, cols]: butterflies of distance 1, 2, 4, ... and one multiplication by 1/sqrt(size)."""
    x = x.astype(np.float32) if signs is None else (x * signs).astype(np.float32)
    out = np.empty_like(x)
    for first, size in rotation_pieces(x.shape[1]):
        z = x[:, first : first + size]
        half = 1
        while half < size:
            pairs = z.reshape(len(x), -1, 2, half)
            z = np.stack(
                [pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2
            ).reshape(len(x), size)
            half *= 2
        out[:, first : first + size] = z * np.float32(1 / np.sqrt(size))
    return out


def blocks_of(cols: int, block: int) -> list[slice]:
    return [slice(i, min(i + block, cols)) for i in range(0, cols, block)]


def quantize(x: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes int64 [n, cols], scale float32 [n, blocks]); a block that is not finite has codes 0 and scale NaN."""
    codes = np.zeros(x.shape, np.int64)
    scale = np.zeros((x.shape[0], -(-x.shape[1] // block)), np.float32)
    for b, columns in enumerate(blocks_of(x.shape[1], block)):
        part = x[:, columns]
        finite = np.isfinite(part).all(axis=1)
        amax = np.abs(np.where(finite[:, None], part, 0)).max(axis=1).astype(np.float32)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(amax > 0, np.float32(127) / amax, np.float32(0)).astype(np.float32)
        used = finite & (inverse > 0) & np.isfinite(inverse)
        scaled = np.where(used[:, None], part, 0) * np.where(used, inverse, 0)[:, None].astype(
            np.float32
        )
        codes[:, columns] = np.rint(scaled.astype(np.float32)).astype(np.int64)
        scale[:, b] = np.where(finite, np.where(used, amax / np.float32(127), 0), np.nan)
    return codes, scale


def integer_matmul(
    codes: np.ndarray,
    scale: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    block: int,
    has_offset: bool,
) -> np.ndarray:
    """float32 [n, rows] from quantized activations and the integer view of the weights (hrun._core.testing.unpack).

    Block sums are exact integers; per block, in column order, one fma with scale * activation scale, and one more with
    minus offset * activation scale for formats that have an offset.
    """
    w_codes, group_scale, group_offset, w_scale, w_offset = weights
    scaled = w_codes.astype(np.int64) * np.repeat(group_scale.astype(np.int64), GROUP, axis=1)
    offsets = np.repeat(group_offset.astype(np.int64), GROUP, axis=1)
    acc = np.zeros((codes.shape[0], w_codes.shape[0]), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for b, columns in enumerate(blocks_of(codes.shape[1], block)):
            sums = codes[:, columns] @ scaled[:, columns].T
            assert np.abs(sums).max() < 2**31
            acc = fma(w_scale[None, :, b] * scale[:, b, None], sums.astype(np.float32), acc)
            if has_offset:
                sums = codes[:, columns] @ offsets[:, columns].T
                assert np.abs(sums).max() < 2**31
                acc = fma(-(w_offset[None, :, b] * scale[:, b, None]), sums.astype(np.float32), acc)
    return acc


def exp(x: np.ndarray) -> np.ndarray:
    """float32 e^x: x = n ln 2 + r, a Taylor polynomial of degree 7 in r, then 2^n in two factors."""
    f32 = np.float32
    x = np.asarray(x, f32)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        clamped = np.where(x < -104, f32(-104), np.where(x > 89, f32(89), x)).astype(f32)
        magic = f32(12582912)
        n = fma(clamped, f32(1.44269504088896341), magic) - magic
        r = fma(n, f32(2.12194440e-4), fma(n, f32(-0.693359375), clamped))
        p = np.full_like(x, f32(1 / 5040))
        for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
            p = fma(p, r, f32(c))
        whole = np.where(np.isnan(x), 0, n).astype(np.int64)
        half = whole >> 1
        return (p * np.ldexp(f32(1), half)) * np.ldexp(f32(1), whole - half)


def gelu(x: np.ndarray) -> np.ndarray:
    f32 = np.float32
    with np.errstate(over="ignore"):
        cubic = fma((x * x) * f32(0.044715), x, x)
    return x / (f32(1) + exp(cubic * f32(-1.5957691216057308)))


def xielu(x: np.ndarray, alpha_p: float, alpha_n: float, beta: float, eps: float) -> np.ndarray:
    """alpha_p x^2 + beta x for x >= 0, else alpha_n (e^min(x, eps) - 1 - x) + beta x."""
    f32 = np.float32
    positive = np.maximum(x, f32(0))
    below = exp(np.minimum(x, f32(eps))) - f32(1) - x
    with np.errstate(over="ignore"):
        sides = fma(
            f32(alpha_p), positive * positive, f32(alpha_n) * np.where(np.signbit(x), below, f32(0))
        )
    return fma(f32(beta), x, sides)


def gelu_erf(x: np.ndarray) -> np.ndarray:
    """x Phi(x): max(x, 0) - |x| t e^(P(t) - z^2) / 2 with z = |x| / sqrt(2), t = 1 / (1 + z / 2)."""
    f32 = np.float32
    y = np.maximum(f32(-13), x)
    size = np.minimum(f32(13), np.abs(y))
    z = size * f32(0.70710678)
    t = f32(1) / fma(z, f32(0.5), f32(1))
    p = np.full_like(t, f32(0.14050713364850675))
    for c in (
        -0.6566158302483989,
        1.0994384609802506,
        -0.6195233273292629,
        -0.14417350705618032,
        0.035467864881156275,
        0.022874142446800985,
        0.3891171467874744,
        0.9983414489249967,
        -1.2654334892479913,
    ):
        p = fma(p, t, f32(c))
    return np.maximum(f32(0), y) - size * (t * f32(0.5) * exp(p - z * z))


def clamped_silu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    f32 = np.float32
    g, u = np.minimum(f32(7), gate), np.maximum(f32(-7), np.minimum(f32(7), up))
    return (u + f32(1)) * (g / (f32(1) + exp(g * f32(-1.702))))


def soft_cap(x: np.ndarray, cap: float) -> np.ndarray:
    f32 = np.float32
    e = exp(f32(2) * (x / f32(cap)))
    return f32(cap) * (f32(1) - f32(2) / (f32(1) + e))


def mean_of_squares(x: np.ndarray) -> np.ndarray:
    """float32 [n] of x [n, cols]: 16 lanes of fma and the tree."""
    n, cols = x.shape
    lanes = np.zeros((n, LANES), np.float32)
    for part in np.pad(x, ((0, 0), (0, -cols % LANES))).reshape(n, -1, LANES).swapaxes(0, 1):
        lanes = fma(part, part, lanes)
    return tree_sum(lanes) / np.float32(cols)


def spread(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the variance of each row of x [n, cols], float32 [n]."""
    n, cols = x.shape
    lanes = np.zeros((n, LANES), np.float32)
    for part in np.pad(x, ((0, 0), (0, -cols % LANES))).reshape(n, -1, LANES).swapaxes(0, 1):
        lanes = lanes + part
    mean = tree_sum(lanes) / np.float32(cols)
    return mean, mean_of_squares(x - mean[:, None])


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    f32 = np.float32
    mean, variance = spread(x)
    inverse = f32(1) / np.sqrt(variance + f32(eps))
    return ((x - mean[:, None]) * inverse[:, None]) * weight + bias


def keep_above(x: np.ndarray, deviations: float) -> np.ndarray:
    """max(x - c, 0) with c = deviations * sqrt(variance) + mean of the row."""
    mean, variance = spread(x)
    cutoff = fma(np.float32(deviations), np.sqrt(variance), mean)
    return np.maximum(x - cutoff[:, None], np.float32(0))


def match_rms(x: np.ndarray, y: np.ndarray, least: float) -> np.ndarray:
    """x times min(1 / rms(x), 1 / sqrt(least)) / (1 / rms(y)), row by row."""
    f32 = np.float32
    with np.errstate(divide="ignore"):
        own, other = (f32(1) / np.sqrt(mean_of_squares(v)) for v in (x, y))
    return x * (np.minimum(own, f32(1) / np.sqrt(f32(least))) / other)[:, None]


def mix_heads(
    factors: np.ndarray, shift: float, x: np.ndarray, n: int, base: np.ndarray
) -> np.ndarray:
    """base[t, h] + the sum over i of (factors[t, h * n + i] + shift) x[t, i], a chain of fma."""
    rows, width = len(x), x.shape[1] // n
    heads, out = x.reshape(rows, n, width), base.reshape(rows, -1, width)
    for i in range(n):
        factor = (factors.reshape(rows, -1, n)[:, :, i] + np.float32(shift))[:, :, None]
        out = fma(factor, heads[:, None, i], out)
    return out.reshape(base.shape)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
    sinks: np.ndarray | None = None,
    causal: bool = True,
) -> np.ndarray:
    """Attention of one kv head, causal or with window // 2 positions to either side: q [n, heads, k_dim], k [n, k_dim], v [n, v_dim] -> float32 [n, heads, v_dim].

    Scores are fma over the dimensions in order. Blocks of 64 positions: the largest score of the block, the exponentials added in 16 lanes and the tree, the values added
    in position order with fma; then the block is joined to those before, both scaled to the larger maximum.
    """
    n, heads, _ = q.shape
    scores = np.zeros((n, heads, n), np.float32)
    for d in range(q.shape[2]):
        scores = fma(q[:, :, d, None], k[None, None, :, d], scores)
    scores = scores * np.float32(scale)
    if cap:
        scores = soft_cap(scores, cap)
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    visible = distance >= 0 if causal else np.ones((n, n), bool)
    if window:
        visible &= distance < window if causal else np.abs(distance) <= window // 2
    scores = np.where(visible[:, None, :], scores, np.float32(-np.inf))
    largest = np.full((n, heads), -np.inf, np.float32)
    total = np.zeros((n, heads), np.float32)
    if sinks is not None:
        largest, total = (
            np.broadcast_to(sinks.astype(np.float32), (n, heads)),
            np.ones((n, heads), np.float32),
        )
    behind = window - 1 if causal else window // 2
    start = np.maximum(0, np.arange(n) - behind) // 64 * 64 if window else np.zeros(n, int)
    last = (
        np.arange(n) if causal else np.minimum(n - 1, np.arange(n) + (window // 2 if window else n))
    )
    acc = np.zeros((n, heads, v.shape[1]), np.float32)
    for first in range(0, n, 64):
        block = np.full((n, heads, 64), -np.inf, np.float32)
        block[:, :, : min(64, n - first)] = scores[:, :, first : first + 64]
        reached = ((last >= first) & (start <= first))[
            :, None
        ]  # other tokens do not see this block
        top = block.max(axis=2)
        now = np.maximum(largest, top)
        with np.errstate(invalid="ignore"):
            before, here = exp(largest - now), exp(top - now)
            p = exp(block - top[:, :, None])
        lanes = np.zeros((n, heads, LANES), np.float32)
        for i in range(0, 64, LANES):
            lanes = lanes + p[:, :, i : i + LANES]
        total = np.where(reached, fma(total, before, tree_sum(lanes) * here), total)
        largest = np.where(reached, now, largest)
        part = np.zeros_like(acc)
        for j in range(first, min(first + 64, n)):
            part = np.where(
                visible[:, j, None, None],
                fma(p[:, :, j - first, None], v[None, None, j], part),
                part,
            )
        acc = np.where(
            reached[:, :, None], fma(acc, before[:, :, None], part * here[:, :, None]), acc
        )
    return acc / total[:, :, None]
