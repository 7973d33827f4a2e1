"""Markdown and thoughts as they stream to a terminal."""

from __future__ import annotations

import random
import re

import pytest

from hrun.cli.answer_view import AnswerView, Folding
from hrun.cli.markdown import Markdown
from hrun.serve.tools.formats import Reasoning

TAGS = Reasoning("<think>", "</think>")


def pieces(text: str, seed: int) -> list[str]:
    source, out, at = random.Random(seed), [], 0
    while at < len(text):
        n = source.randint(1, 6)
        out.append(text[at : at + n])
        at += n
    return out


def rendered(text: str, width: int = 40) -> str:
    """The same in whatever pieces it comes."""
    seen = set()
    for seed in range(4):
        view = Markdown(lambda: width)
        seen.add("".join(map(view.feed, pieces(text, seed))) + view.finish())
    (out,) = seen
    assert out.count("\x1b[") == 0 or re.search(r"\x1b\[(0|39;49;00)m[^\x1b]*$", out), "styles end"
    return out


def plain(text: str, width: int = 40) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", rendered(text, width))


@pytest.mark.parametrize(
    "text, shown",
    [
        ("**bold** and *it*", "bold and it"),
        ("2 * 3 * 4, 2**3 and a_b_c", "2 * 3 * 4, 2**3 and a_b_c"),
        ("## Head `x`\ntext", "Head x\ntext"),
        ("#hashtag and # no", "#hashtag and # no"),
        ("* one\n- two\n  + three", "• one\n• two\n  • three"),
        ("1. one\n12) two", "1. one\n12) two"),
        ("> said", "│ said"),
        ("---\nx", "─" * 39 + "\nx"),
        ("-- x\n**b** c\n*i* d", "-- x\nb c\ni d"),
        ("`a*b*c` and ``x`y``", "a*b*c and x`y"),
        (r"\*no\* C:\dir", r"*no* C:\dir"),
        ("```\nx = `1`\n\n  y\n```\nend", "  x = `1`\n\n    y\nend"),
        ("~~~python\nx\n~~~", "  x\n"),
        ("| a | b |\n|---|--:|\n| **x** | 1 |\nend", "a │ b\n──┼──\nx │ 1\nend"),
        ("| no table\nx", "| no table\nx"),
        ("~5 and ~~gone~~", "~5 and gone"),
        ("", ""),
        ("\n\n", "\n\n"),
        ("```\nunclosed", "  unclosed"),
    ],
)
def test_marks(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_styles() -> None:
    out = rendered("a **b** `c` # d")
    assert "\x1b[1mb\x1b[0m" in out and "\x1b[36mc\x1b[0m" in out and out.startswith("a ")
    assert "\x1b[" in rendered("```python\ndef f(): pass\n```").replace("\x1b[36m", "")


def test_lines_break_between_words() -> None:
    text = "- " + "seven words of a rather long item " * 4
    lines = plain(text).split("\n")
    assert all(len(line) < 40 for line in lines) and len(lines) > 3
    assert lines[1].startswith("  ") and " ".join(" ".join(lines).split())[2:] == text[2:].strip()
    wide = "日本語" * 20
    assert "".join(plain(wide).split("\n")) == wide
    long = "x" * 100 + " y"
    assert plain(long).replace("\n", "").replace(" ", "") == "x" * 100 + "y"


def test_nothing_is_lost_of_random_text() -> None:
    source = random.Random(3)
    for _ in range(200):
        text = "".join(source.choices("ab 1\n*_`~#>|-.\\[](", k=source.randrange(80)))
        left = re.sub(r"[^ab1.\[\]()]", "", text)
        shown = re.sub(r"[^ab1.\[\]()]", "", plain(text, 1000))
        dropped = re.sub(r"(?m)^\s*(```+|~~~+)[^\n]*$", "", text)  # the word behind a fence
        assert shown == left or shown == re.sub(r"[^ab1.\[\]()]", "", dropped), text


@pytest.mark.parametrize(
    "text, begun, thought, said",
    [
        ("<think>\nhm a<b</think>\n\nHello <think> x", False, "\nhm a<b", "Hello <think> x"),
        ("hm</think>\nyes", True, "hm", "yes"),
        ("hm", True, "hm", ""),
        ("Hello <th", False, "", "Hello <th"),
        ("<thin", False, "", "<thin"),
        ("plain </think>", False, "", "plain </think>"),
    ],
)
def test_thoughts(text: str, begun: bool, thought: str, said: str) -> None:
    for seed in range(10):
        folding = Folding(TAGS, begun)
        parts = [part for piece in pieces(text, seed) for part in folding.feed(piece)]
        parts += folding.finish()
        assert "".join(t for thinks, t in parts if thinks) == thought
        assert "".join(t for thinks, t in parts if not thinks) == said


def test_a_thought_is_folded_to_a_line() -> None:
    template = "{{ '<think>' }}{{ '</think>' }}"
    view = AnswerView(template, "", True)
    out = "".join(map(view.feed, pieces("<think>one two three</think>**four**", 1))) + view.finish()
    assert "thought for" in out and "3 words" in out and "\x1b[1mfour" in out
    assert view.thought == "one two three"
    raw = AnswerView(template, "", False)
    assert raw.feed("<think>x</think>**y**") + raw.finish() == "<think>x</think>**y**"
