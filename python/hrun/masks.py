"""Computes which tokens a grammar allows next, in a thread of its own while the model runs."""

from __future__ import annotations

import itertools
import select
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hrun.errors import GenerationError, GrammarError
from hrun.grammar import Grammar, library, matcher_of
from hrun.library_errors import library_errors

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from hrun._core import Engine, MaskDesk, RequestHandle
    from hrun.tokenizer import Tokenizer

_MAX_KEPT = 32  # grammars whose matchers are kept for the next request


_FAULT = "the grammar: "


def grammar_error(error: GenerationError) -> GrammarError | GenerationError:
    """The error of a request whose grammar turned out too large amid the answer, else the one given."""
    text = str(error)
    return GrammarError(text) if text.startswith(_FAULT) else error


class Masks:
    """The grammars that bind requests of one engine.  Safe from any thread."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, n_vocab: int) -> None:
        self._vocabulary = vocabulary_of(tokenizer, n_vocab)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._matchers: dict[int, LLMatcher] = {}  # by constraint
        self._numbers = itertools.count(1)
        # It knows the desk and no engine, so that an engine that nobody holds any more can end.
        self._thread = threading.Thread(
            target=_keep,
            args=(engine.mask_desk, self._matchers, _bits_of(tokenizer.end_ids, n_vocab), n_vocab),
            name="hrun-masks",
            daemon=True,
        )
        self._thread.start()

    def prepare(self, grammar: Grammar) -> LLMatcher:
        """A matcher at its beginning, kept for those who :meth:`bind`.  Raises GrammarError."""
        with self._lock:
            matcher = self._kept.pop(grammar, None)
            if matcher is not None:
                self._kept[grammar] = matcher
                return matcher
        matcher = matcher_of(grammar, self._vocabulary)
        with self._lock:
            self._kept[grammar] = matcher
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def bind(self, grammar: Grammar, drawn: Sequence[int] = ()) -> int:
        """The ``constraint`` of one request; :meth:`drop` it if the request is not made.

        ``drawn``: tokens of the text that are there already.  Raises GrammarError.
        """
        matcher = self.prepare(grammar).deep_copy()
        if drawn and not matcher.consume_tokens(list(drawn)):
            raise GrammarError("the tokens before are not of the grammar")
        constraint = next(self._numbers)
        self._matchers[constraint] = matcher
        return constraint

    def drop(self, constraint: int) -> None:
        self._matchers.pop(constraint, None)

    def join(self) -> None:
        """Waits for the thread, after the engine has closed."""
        if threading.current_thread() is not self._thread:
            self._thread.join(5)


class _Vocabulary:
    """The interface that llguidance's TokenizerWrapper asks for."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self.tokens = [
            b"\xff" + tokenizer.token_bytes(i)
            if tokenizer.is_control(i) or i in tokenizer.end_ids
            else tokenizer.token_bytes(i)
            for i in range(min(tokenizer.n_vocab, n_vocab))
        ]
        # Rows of the head that no token has; and the last stands for the end of a model that has no end token.
        self.tokens += [b"\xff<none %d>" % i for i in range(len(self.tokens), n_vocab + 1)]
        self.eos_token_id = min(tokenizer.end_ids, default=n_vocab)
        self.special_token_ids = [
            i for i, token in enumerate(self.tokens) if token.startswith(b"\xff") and len(token) > 1
        ]
        self._encode = tokenizer.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def vocabulary_of(tokenizer: Tokenizer, n_vocab: int) -> LLTokenizer:
    """The trie of a vocabulary's bytes.

    Control tokens have names behind a byte that no text has, 0xFF, so that no rule for text allows them.
    """
    llguidance = library()
    vocabulary = _Vocabulary(tokenizer, n_vocab)
    ends = sorted(tokenizer.end_ids) or [vocabulary.eos_token_id]
    with library_errors("the vocabulary has no trie", GrammarError):
        trie: LLTokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(vocabulary), n_vocab=len(vocabulary.tokens), eos_token=ends
        )
    return trie


def _bits_of(ids: frozenset[int], n_vocab: int) -> np.ndarray:
    words = np.zeros(n_vocab // 32 + 1, np.uint32)  # one bit more than tokens
    for i in [*ids, n_vocab]:
        words[i // 32] |= np.uint32(1) << np.uint32(i % 32)
    return words


def _keep(desk: MaskDesk, matchers: dict[int, LLMatcher], ends: np.ndarray, n_vocab: int) -> None:
    """Answers until the engine is closed."""
    words = np.zeros_like(ends)
    n_words = (n_vocab + 31) // 32
    waiting = select.poll()
    waiting.register(desk.descriptor, select.POLLIN)
    while not desk.closed:
        waiting.poll()
        for constraint, handle, token, ended in desk.take():
            if ended:
                matchers.pop(constraint, None)
                continue
            try:
                with library_errors("the grammar", GrammarError):
                    _answer(desk, handle, matchers[constraint], token, words, ends, n_words)
            except Exception as error:
                desk.fail(handle, str(error))


def _answer(
    desk: MaskDesk,
    handle: RequestHandle,
    matcher: LLMatcher,
    token: int | None,
    words: np.ndarray,
    ends: np.ndarray,
    n_words: int,
) -> None:
    if token is not None:
        matcher.consume_token(token)
    if not matcher.is_error() and not matcher.is_stopped():
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
    if matcher.is_error():
        desk.fail(handle, _FAULT + " ".join(matcher.get_error().split()))
    elif matcher.is_stopped() or not (words & ~ends).any():
        desk.complete(handle)
    else:
        desk.allow(handle, words[:n_words])
