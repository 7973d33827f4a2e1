"""Word wrap while text streams: what the screen shows, however the text was cut into pieces."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from hrun.cli.wrapping import Wrapping, width_of, wrapped

WIDTH = 20


def screen(pieces: list[str]) -> list[str]:
    """The lines that a terminal of endless width would show."""
    wrapping = Wrapping(lambda: WIDTH)
    lines: list[list[str]] = [[]]  # cells; a wide character has two
    column = 0
    for part in re.findall(r"\x1b\[\d+D|\x1b\[K|\n|[^\x1b\n]", "".join(map(wrapping.feed, pieces))):
        if part == "\n":
            lines.append([])
            column = 0
        elif part == "\x1b[K":
            del lines[-1][column:]
        elif part.startswith("\x1b"):
            column -= int(part[2:-1])
        else:
            lines[-1][column:] = [part, *[""] * (width_of(part) - 1)]
            column += width_of(part)
    return ["".join(line) for line in lines]


def test_lines_break_between_words() -> None:
    text = "The quick brown fox jumps over the lazy dog."
    want = ["The quick brown fox", "jumps over the lazy", "dog."]
    assert [line.rstrip() for line in screen([text])] == want
    assert [line.rstrip() for line in screen(list(text))] == want
    assert screen(["short\n", "lines stay\n"]) == ["short", "lines stay", ""]


def test_code_tables_and_long_words_are_left_alone() -> None:
    code = "```\nfor each in range(100): print(each)\n```\n"
    assert screen([code]) == code.split("\n")
    table = "| a very long row | of a table | here |\n"
    assert screen(list(table)) == table.split("\n")
    word = "x" * 50
    assert screen([word]) == [word]


plain = st.text(alphabet="abc \n", max_size=120)


@settings(max_examples=200, deadline=None)
@given(plain, st.integers(1, 9))
def test_nothing_but_line_ends_changes(text: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    lines = screen(pieces)
    assert lines == screen([text])
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    longest = max(map(len, text.split()), default=0)
    if longest < WIDTH - 1:
        assert all(len(line.rstrip()) < WIDTH for line in lines)


@settings(max_examples=200, deadline=None)
@given(plain)
def test_a_whole_text(text: str) -> None:
    lines = wrapped(text, WIDTH).split("\n")
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert all(len(line) < WIDTH or " " not in line.strip() for line in lines)
    if all(len(line) < WIDTH for line in text.split("\n")):
        assert wrapped(text, WIDTH) == text


def test_wide_characters_count_twice() -> None:
    assert width_of("日本") == 4 and width_of("e\u0301") == 1
    lines = screen(["日本語 日本語 日本語 日本語"])
    assert [line.rstrip() for line in lines] == ["日本語 日本語", "日本語 日本語"]
