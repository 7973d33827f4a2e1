"""A conversion report as one HTML page: inline SVG and CSS, no scripts, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .report_data import BINS, Comparison, ReportData, Spread, TensorFigures, kind_of
from .table import size_text

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667085; --line: #d8dde6; --back: #ffffff; --card: #f5f7fa;
  --a: #d1632a; --b: #2a6fd1; --c: #2f9e6d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #333b49; --back: #14181f; --card: #1c222c;
  --a: #f08a52; --b: #6aa5f5; --c: #5cc99a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
p { color: var(--soft); margin: .2rem 0 .8rem; max-width: 46rem; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1.2rem 0; }
.card { background: var(--card); border-radius: 8px; padding: .6rem .9rem; min-width: 8rem; }
.card b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; } .card span { color: var(--soft); font-size: .8rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--line); padding: .25rem .5rem; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: .2rem .5rem; } th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; }
"""

# Few bits are warm, many are cold.
_BITS_COLOURS = (
    (2.3, "#c2410c"),
    (3.3, "#e8912d"),
    (4.3, "#c9b458"),
    (5.1, "#7fb069"),
    (7, "#4a9d8f"),
    (9, "#3b7ea1"),
    (40, "#5b5ea6"),
)


def page(data: ReportData) -> str:
    head = [
        ("size", size_text(data.n_bytes)),
        ("bits per weight, file", f"{data.bits_per_weight:.3f}"),
        ("bits per weight, layers", f"{data.layer_bits_per_weight:.3f}"),
    ]
    body = [
        f"<h1>{escape(data.name)}</h1><p>{escape(data.output)}, "
        f"{'calibrated' if data.calibrated else 'without calibration'}</p>"
    ]
    if data.comparison is not None:
        head += _comparison_cards(data.comparison)
    body.append(
        '<div class="cards">'
        + "".join(
            f'<div class="card"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in head
        )
        + "</div>"
    )
    if data.comparison is not None:
        body.append(_divergence(data.comparison))
    body.append(
        "<h2>What rotation does</h2><p>Values over the rms of their block of 256, before and after the transform; the dashed "
        "line is a normal distribution. A code made for normal values meets them only after the rotation.</p>"
    )
    body.append(
        '<div class="pair">'
        + _histogram("weights", data.weights)
        + _histogram("inputs of the matmuls", data.inputs)
        + "</div>"
    )
    body.append(_errors(data.tensors))
    body.append(_allocation(data.tensors))
    body.append(_table(data.tensors))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(data.name)}: conversion report</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _comparison_cards(c: Comparison) -> list[tuple[str, str]]:
    return [
        ("perplexity before", f"{c.perplexity[0]:.3f}"),
        ("perplexity after", f"{c.perplexity[1]:.3f}"),
        ("mean KL divergence", f"{c.divergence.mean():.4f}"),
        ("median", f"{np.median(c.divergence):.4f}"),
        ("99th percentile", f"{np.percentile(c.divergence, 99):.4f}"),
        ("same top token", f"{100 * c.same_top:.1f} %"),
    ]


def _divergence(c: Comparison) -> str:
    """Histogram of log10 of the divergence per position."""
    values = np.log10(np.maximum(c.divergence, 1e-7))
    edges = np.linspace(-6, 1, 57)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    top = max(int(counts.max()), 1)
    width, height = 720, 150
    bars = "".join(
        f'<rect x="{40 + i * (width - 60) / len(counts):.1f}" y="{height - 25 - n / top * (height - 40):.1f}" '
        f'width="{(width - 60) / len(counts) - 1:.1f}" height="{n / top * (height - 40):.1f}" fill="var(--b)"/>'
        for i, n in enumerate(counts.tolist())
    )
    ticks = "".join(
        f'<text x="{40 + (e + 6) / 7 * (width - 60):.1f}" y="{height - 8}" text-anchor="middle">1e{e}</text>'
        for e in range(-6, 2)
    )
    return (
        f"<h2>KL divergence per token</h2><p>To the float model, {c.n_tokens} positions of {escape(c.text)}, in nats.</p>"
        f'<figure><svg viewBox="0 0 {width} {height}" role="img">{bars}{ticks}</svg></figure>'
    )


def _histogram(title: str, spreads: tuple[Spread, Spread]) -> str:
    before, after = spreads
    if before.counts.sum() == 0:
        return f"<figure><figcaption>{escape(title)}: none known (collected with --calibrate)</figcaption></figure>"
    width, height, left, bottom, low = 420, 230, 44, 24, 1e-6
    centres = (BINS[1:] + BINS[:-1]) / 2
    step = BINS[1] - BINS[0]

    def x(value: float) -> float:
        return float(left + (value - BINS[0]) / (BINS[-1] - BINS[0]) * (width - left - 6))

    def y(density: float) -> float:
        share = np.log10(max(density, low)) / np.log10(low)
        return float(8 + share * (height - bottom - 8))

    def curve(densities: Sequence[float], style: str) -> str:
        points = " ".join(f"{x(c):.1f},{y(d):.1f}" for c, d in zip(centres.tolist(), densities))
        return f'<polyline points="{points}" fill="none" {style}/>'

    lines = "".join(
        f'<line x1="{left}" x2="{width - 6}" y1="{y(10.0**e):.1f}" y2="{y(10.0**e):.1f}" stroke="var(--line)"/>'
        f'<text x="{left - 5}" y="{y(10.0**e) + 4:.1f}" text-anchor="end">1e{e}</text>'
        for e in range(-6, 1, 2)
    )
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{height - 6}" text-anchor="middle">{v}</text>'
        for v in range(-12, 13, 4)
    )
    normal = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
    curves = curve(normal.tolist(), 'stroke="var(--soft)" stroke-dasharray="4 3"')
    for spread, colour in ((before, "var(--a)"), (after, "var(--b)")):
        curves += curve(
            (spread.counts / spread.counts.sum() / step).tolist(),
            f'stroke="{colour}" stroke-width="1.6"',
        )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img">{lines}{curves}{ticks}</svg><figcaption>{escape(title)}: '
        f'<span style="color:var(--a)">as they are</span>, largest {before.largest:.1f} rms; '
        f'<span style="color:var(--b)">rotated</span>, largest {after.largest:.1f} rms</figcaption></figure>'
    )


def _errors(tensors: Sequence[TensorFigures]) -> str:
    known = [t for t in tensors if t.error]
    if not known:
        return ""
    errors = [t.error for t in known if t.error is not None]
    low = np.floor(np.log10(min(errors)) * 2) / 2
    high = max(np.ceil(np.log10(max(errors)) * 2) / 2, low + 0.5)
    width, height, left, bottom = 900, 210, 50, 20
    slot = (width - left) / len(known)

    def y(log_error: float) -> float:
        return float(8 + (high - log_error) / (high - low) * (height - bottom - 8))

    grid = "".join(
        f'<line x1="{left}" x2="{width}" y1="{y(e):.1f}" y2="{y(e):.1f}" stroke="var(--line)"/>'
        f'<text x="{left - 5}" y="{y(e) + 4:.1f}" text-anchor="end">{10**e:.2g}</text>'
        for e in np.arange(low, high + 0.01, 0.5).tolist()
    )
    bars = "".join(
        f'<rect x="{left + i * slot + slot * 0.1:.1f}" y="{y(np.log10(e)):.1f}" width="{slot * 0.8:.1f}" '
        f'height="{max(height - bottom - y(np.log10(e)), 1):.1f}" fill="{_colour(t.bits_per_weight)}">'
        f"<title>{escape(t.name)}: {e:.5f}, {t.format.upper()}</title></rect>"
        for i, (t, e) in enumerate(zip(known, errors))
    )
    return (
        "<h2>Error per tensor</h2><p>Squared error of what the tensor computes, relative to what it computes (of the weights "
        "themselves where nothing is known about its input), in the order of the file. Point at a bar for its name.</p>"
        f'<figure><svg viewBox="0 0 {width} {height}" role="img">{grid}{bars}</svg></figure>'
    )


def _allocation(tensors: Sequence[TensorFigures]) -> str:
    """Layers across, roles down, coloured by bits per weight."""
    roles: list[str] = []
    layers: list[str] = []
    for t in tensors:
        layer, role = kind_of(t.name)
        if role not in roles:
            roles.append(role)
        if layer not in layers:
            layers.append(layer)
    layers.sort(key=lambda name: (name == "", int(name) if name.isdigit() else 0))
    cell, row_height, left = min(60.0, 720 / max(len(layers), 1)), 22, 150
    width, height = left + cell * len(layers) + 10, row_height * len(roles) + 24
    labels = "".join(
        f'<text x="{left - 8}" y="{i * row_height + 15}" text-anchor="end">{escape(role)}</text>'
        for i, role in enumerate(roles)
    )
    numbers = "".join(
        f'<text x="{left + (i + 0.5) * cell:.1f}" y="{height - 8}" text-anchor="middle">{escape(layer)}</text>'
        for i, layer in enumerate(layers)
        if cell > 15 or i % 4 == 0
    )
    cells = ""
    for t in tensors:
        layer, role = kind_of(t.name)
        x, y = left + layers.index(layer) * cell, roles.index(role) * row_height
        text = (
            f'<text x="{x + cell / 2:.1f}" y="{y + 15}" text-anchor="middle" style="fill:#fff">{escape(t.format.upper())}</text>'
            if cell > 44
            else ""
        )
        cells += (
            f'<rect x="{x + 1:.1f}" y="{y + 1}" width="{cell - 2:.1f}" height="{row_height - 2}" rx="3" '
            f'fill="{_colour(t.bits_per_weight)}"><title>{escape(t.name)}: {t.format.upper()}, {t.bits_per_weight:.2f} bits per '
            f"weight</title></rect>{text}"
        )
    return (
        "<h2>Allocation</h2><p>Formats by layer (across) and role; warm colours are few bits. Outside the layers: the last column.</p>"
        f'<figure style="max-width:{width:.0f}px"><svg viewBox="0 0 {width:.0f} {height}" role="img">{labels}{cells}{numbers}</svg></figure>'
    )


def _table(tensors: Sequence[TensorFigures]) -> str:
    rows = "".join(
        f"<tr><td>{escape(t.name)}</td><td>{' x '.join(map(str, reversed(t.shape)))}</td><td>{escape(t.format.upper())}</td>"
        f"<td>{t.bits_per_weight:.3f}</td><td>{size_text(t.n_bytes)}</td><td>{_ratio(t.weight_outliers)}</td><td>{_ratio(t.input_outliers)}</td>"
        f"<td>{'' if t.error is None else f'{t.error:.5f}'}</td><td>{'' if t.loss is None else f'{t.loss:.5f}'}</td></tr>"
        for t in tensors
    )
    return (
        '<h2>Tensors</h2><p>Outliers: the largest value over the rms of its block of 256, as it is and rotated.</p><div class="scroll"><table><tr>'
        "<th>tensor</th><th>shape</th><th>format</th><th>bits/weight</th><th>size</th><th>weight outliers</th><th>input outliers</th>"
        f"<th>relative error</th><th>expected KL</th></tr>{rows}</table></div>"
    )


def _ratio(pair: tuple[float, float] | None) -> str:
    return "" if pair is None or pair[0] == 0 else f"{pair[0]:.1f} → {pair[1]:.1f}"


def _colour(bits: float) -> str:
    return next(colour for limit, colour in _BITS_COLOURS if bits <= limit)
