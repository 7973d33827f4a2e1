"""Streams equal what they are cut from: UTF-8 at any cut, stop strings at any cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hrun import ArgumentError
from hrun.stream import StopStrings, Utf8Decoder

ILL_FORMED = [
    b"\xc3",
    b"\xf0\xf0",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"\xff",
    b"\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
]
token_bytes = st.one_of(
    st.binary(max_size=5),
    st.sampled_from(ILL_FORMED),
    st.text(max_size=3).map(lambda s: s.encode("utf-8", "replace")),
    st.text(min_size=1, max_size=2).map(lambda s: s.encode("utf-8", "replace")[:-1]),
    st.integers(0x80, 0xFF).map(lambda b: bytes([b])),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(token_bytes, max_size=30))
@example([b"\xf0", b"\x9f", b"\x98", b"\x80"])
@example([b"\xed", b"\xa0", b"\x80"])
@example([b"\xf0", b"\xf0", b"\xf0"])
def test_utf8_stream_equals_whole(tokens: list[bytes]) -> None:
    decoder = Utf8Decoder()
    shown = ""
    seen = b""
    for token in tokens:
        piece = decoder.feed(token)
        seen += token
        shown += piece
        # At most three bytes, those of one unfinished character, are ever held back.
        assert any(
            shown == seen[: len(seen) - held].decode("utf-8", "replace") for held in range(4)
        )
    assert shown + decoder.flush() == b"".join(tokens).decode("utf-8", "replace")


def cut_at_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition, written plainly: the earliest end wins, the longest of those."""
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    if not ends:
        return text, False
    end, minus_length = min(ends)
    return text[: end + minus_length], True


few_letters = st.text(alphabet="ab\n✓", max_size=12)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(few_letters, max_size=12),
    st.lists(st.text(alphabet="ab\n✓", min_size=1, max_size=5), max_size=5),
)
@example(["ab", "cd"], ["abcd", "bc"])
@example(["aab"], ["ab", "aab"])
def test_stop_strings(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    want, want_stopped = cut_at_stop(text, stops)
    holder = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += holder.feed(piece)
        assert want.startswith(shown)  # never shows what the whole text would not
    assert holder.stopped == want_stopped
    if not holder.stopped:
        assert len(text) - len(shown) < max(
            map(len, stops), default=1
        )  # holds back no more than it must
        shown += holder.flush()
    assert shown == want
    assert not any(stop in shown for stop in stops)


def test_text_is_shown_as_soon_as_it_cannot_be_a_stop() -> None:
    holder = StopStrings(["\nUser:"])
    assert holder.feed("Hello\nUs") == "Hello"
    assert holder.feed("e") == ""
    assert holder.feed("ful") == "\nUseful"
    assert holder.feed("\nUser: more") == ""
    assert holder.stopped and holder.feed("x") == "" and holder.flush() == ""


@pytest.mark.parametrize("stops", [[""], ["a", ""], ["x"] * 257, ["x" * 20000], [b"a"], [1], 7])
def test_bad_stop_strings(stops: object) -> None:
    with pytest.raises(ArgumentError, match="stop"):
        StopStrings(stops)  # type: ignore[arg-type]
