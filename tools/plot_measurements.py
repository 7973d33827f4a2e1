"""Draw the pictures of the README from the measured figures beside them: python tools/plot_measurements.py

docs/measurements/quality.json and speed.json -> .svg.  A test checks that the pictures are those of the figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "measurements"
WIDTH, HEIGHT = 460, 300
COLOURS = {"hrun": "#0f766e", "llama.cpp": "#b45309"}
INK, FAINT = "#374151", "#d1d5db"


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{FAINT}"/>'


def page(title: str, body: Iterable[str]) -> str:
    """A picture that is readable on light and dark pages: it brings its own background."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff"/>',
        *body,
        "</svg>\n",
    ])  # fmt: skip


def quality(data: dict[str, Any]) -> str:
    """KL divergence (logarithmic) against bits per weight."""
    left, right, top, bottom = 52, WIDTH - 16, 34, HEIGHT - 40
    points = [p for series in data["series"].values() for p in series]
    low, high = math.floor(min(p[1] for p in points)) - 0.5, math.ceil(max(p[1] for p in points))
    floor, ceiling = 0.002, 0.2

    def x(bits: float) -> float:
        return left + (bits - low) / (high - low) * (right - left)

    def y(loss: float) -> float:
        return bottom - math.log(loss / floor) / math.log(ceiling / floor) * (bottom - top)

    body = [text(left, 18, "KL divergence to F16 (lower is better)", more='font-weight="bold"')]
    for tick in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        body += [
            line(left, y(tick), right, y(tick)),
            text(left - 6, y(tick) + 4, f"{tick:g}", "end"),
        ]
    for bits in range(math.ceil(low), high + 1):
        body.append(text(x(bits), bottom + 16, str(bits), "middle"))
    body.append(text((left + right) / 2, HEIGHT - 8, "bits per weight of the layers", "middle"))
    for name, series in data["series"].items():
        colour = COLOURS[name]
        path = " ".join(f"{x(bits):.1f},{y(loss):.1f}" for _, bits, loss in series)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for label, bits, loss in series:
            body.append(f'<circle cx="{x(bits):.1f}" cy="{y(loss):.1f}" r="3.5" fill="{colour}"/>')
            at = (-8.0, 14.0, "end") if name == "hrun" else (8.0, -6.0, "start")
            if label == series[-1][0] and name != "hrun":
                at = (8.0, 12.0, "start")
            body.append(text(x(bits) + at[0], y(loss) + at[1], label, at[2], f'fill="{colour}"'))
    for i, (name, colour) in enumerate(COLOURS.items()):
        body.append(
            text(right - 8, top + 16 + 16 * i, name, "end", f'fill="{colour}" font-weight="bold"')
        )
    return page(data["what"], body)


def speed(data: dict[str, Any]) -> str:
    """Two bars per row: tokens generated and read per second, each on its own scale."""
    top, step, name_width, gap = 52, 40, 112, 14
    half = (WIDTH - name_width - gap - 24) / 2
    heads = ("generated tok/s", "read tok/s")
    body = [text(12, 18, "Speed on two CPU cores (higher is better)", more='font-weight="bold"')]
    for column, head in enumerate(heads):
        left = name_width + column * (half + gap)
        most = max(row[1 + column] for row in data["rows"])
        body.append(text(left, 40, head))
        for i, row in enumerate(data["rows"]):
            value = row[1 + column]
            colour = COLOURS[row[0].split()[0]]
            width = value / most * (half - 34)
            y = top + i * step
            body.append(
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="22" fill="{colour}"/>'
            )
            body.append(text(left + width + 5, y + 16, f"{value:.0f}"))
            if not column:
                body.append(text(name_width - 8, y + 16, row[0], "end"))
    return page(data["what"], body)


def made() -> dict[str, str]:
    """File name -> its text."""

    def read(name: str) -> Any:
        return json.loads((FOLDER / name).read_text(encoding="utf-8"))

    return {"quality.svg": quality(read("quality.json")), "speed.svg": speed(read("speed.json"))}


if __name__ == "__main__":
    for name, picture in made().items():
        (FOLDER / name).write_text(picture, encoding="utf-8")
