"""Vectors and scores of texts: pooling, projections, normalisation, reranking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hrun import _core
from hrun.errors import ArgumentError, UnsupportedModelError
from hrun.messages import unused_character

if TYPE_CHECKING:
    from hrun.tokenizer import Tokenizer

_LARGEST = 32760.0  # the largest number that "max absolute, int16" gives
_QUERY, _DOCUMENT = "{query}", "{document}"


class TextModel(Protocol):
    """The parts of :class:`hrun.Runtime` that embeddings need."""

    @property
    def model(self) -> _core.Model: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def model_path(self) -> Path: ...
    @property
    def pooling(self) -> str: ...
    def text_states(
        self, prompts: Sequence[Sequence[int]], pooling: str, seconds: Sequence[int] = ()
    ) -> list[np.ndarray]: ...
    def logits(self, ids: Sequence[int], start: int = 0) -> np.ndarray: ...


def embed(
    runtime: TextModel,
    prompts: Sequence[Sequence[int]],
    pooling: str | None = None,
    seconds: Sequence[int] = (),
) -> list[np.ndarray]:
    """Returns the vector of each text, given as token ids: float32 [1, n_embd], with "none"
    [n_tokens, n_embd], with "rank" [1, n_classes].

    ``seconds``: of pairs of texts, for "rank", as in :func:`scores`.
    """
    model = runtime.model
    pooling = pooling or runtime.pooling
    if pooling == "rank":
        return scores(runtime, prompts, seconds)
    rows = runtime.text_states(prompts, pooling)
    return [_core.project_texts(model, np.ascontiguousarray(row)) for row in rows]


def scores(
    runtime: TextModel, prompts: Sequence[Sequence[int]], seconds: Sequence[int] = ()
) -> list[np.ndarray]:
    """Returns the scores of each text, or pair of texts: float32 [1, n_classes].

    ``seconds``: where second texts begin, for encoders; -1: nowhere.
    """
    model = runtime.model
    if model.n_classes == 0:
        raise _no_reranker(runtime)
    rows = runtime.text_states(prompts, model.class_pooling, seconds if model.is_encoder else ())
    return [_core.score_texts(model, np.ascontiguousarray(row)) for row in rows]


def normalized(row: np.ndarray, how: bool | int = True) -> np.ndarray:
    """Rows of length 1.

    As a number: -1 as they are, 0 the largest magnitude becomes 32760, 1 the sum of the magnitudes 1, 2 (and True) the length
    1, p the p-norm 1.  Rows of zeros stay as they are.
    """
    if how is False or (how is not True and how < 0):
        return row
    wide = row.astype(np.float64)
    if how is True or how == 2:
        size = np.sqrt((wide * wide).sum(axis=-1, keepdims=True))
    elif how == 0:
        size = np.abs(wide).max(axis=-1, keepdims=True) / _LARGEST
    else:
        size = (np.abs(wide) ** how).sum(axis=-1, keepdims=True) ** (1.0 / how)
    return (wide / np.where(size > 0, size, 1)).astype(np.float32)


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks the rows of several texts to [n_texts, n]."""
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)


class _Facts(Protocol):
    @property
    def is_encoder(self) -> bool: ...
    @property
    def n_classes(self) -> int: ...
    @property
    def pooling(self) -> str | None: ...


def scores_pairs(model: _Facts) -> bool:
    """Is it a model that compares two texts itself?

    Files of Qwen's rerankers by other converters may have the pooling and no tensor of scores.
    """
    return model.n_classes > 0 or (model.pooling == "rank" and not model.is_encoder)


def rerank(runtime: TextModel, query: str, documents: Sequence[str]) -> np.ndarray:
    """Returns how well each document answers the query: float32 [n_documents]; higher is better."""
    if isinstance(documents, str) or not all(isinstance(d, str) for d in documents):
        raise ArgumentError("documents must be a list of strings")
    if not isinstance(query, str):
        raise ArgumentError(f"query must be a string, got {type(query).__name__}")
    if not scores_pairs(runtime.model):
        raise _no_reranker(runtime)
    return compared(runtime, [pair_ids(runtime, query, document) for document in documents])


def compared(runtime: TextModel, pairs: Sequence[tuple[list[int], int]]) -> np.ndarray:
    """Returns the scores of :func:`rerank` for pairs of texts that :func:`pair_ids` has made:
    float32 [n_pairs].
    """
    if not pairs:
        return np.empty(0, np.float32)
    prompts, seconds = zip(*pairs)
    if runtime.model.n_classes > 0:
        rows = scores(runtime, prompts, seconds)
        return np.array([row[0, 0] for row in rows], np.float32)
    return _answers(runtime, prompts)


def _no_reranker(runtime: TextModel) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{runtime.model_path}: no head that scores texts (tensor cls.output.weight): it is no reranker"
    )


def pair_ids(runtime: TextModel, query: str, document: str) -> tuple[list[int], int]:
    """A query and a document as the model reads them, and where the document begins.

    By the file's template of the name "rerank", in which the names of control tokens that the texts hold are text; else
    with the tokenizer's separators.
    """
    tokenizer = runtime.tokenizer
    template = tokenizer.rerank_template
    if template is None:
        return tokenizer.encode_pair(query, document)
    guard = unused_character([query, document], template)
    text, rest = "", template
    for mark, own in sorted(
        ((_QUERY, query), (_DOCUMENT, document)), key=lambda pair: template.index(pair[0])
    ):
        before, _, rest = rest.partition(mark)
        text += before + tokenizer.guard(own, guard)
    return tokenizer.encode_guarded(text + rest, guard), 0


def _answers(runtime: TextModel, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """The probability of "yes" beside that of "no" as the next token."""
    vocabulary = {token: i for i, token in enumerate(runtime.tokenizer.tokens)}
    yes, no = vocabulary.get("yes"), vocabulary.get("no")
    if yes is None or no is None:
        raise UnsupportedModelError(
            f"{runtime.model_path}: its pooling is rank, but it has neither tensor cls.output.weight nor tokens yes and no"
        )
    scores = []
    for ids in prompts:
        logits = runtime.logits(ids, start=len(ids) - 1)[0].astype(np.float64)
        scores.append(1.0 / (1.0 + np.exp(logits[no] - logits[yes])))
    return np.array(scores, np.float32)
