"""Rules of byte-level BPE, Unigram and WordPiece vocabularies, run by the Hugging Face `tokenizers` library."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from hrun.charsmap import charsmap_fault, tokenizer_json_fault
from hrun.errors import ModelFileError, UnsupportedModelError, printable
from hrun.fork_lock import ForkLock
from hrun.library_errors import library_errors
from hrun.pre_tokenizers import PRE_TOKENIZERS
from hrun.token_types import CONTROL, UNKNOWN, USER_DEFINED, byte_alphabet

LONG_TEXT = 1 << 16  # characters
PIECE = 1 << 20  # characters encoded at once, where a text may be cut

_LINE_START = re.compile(r"(?<=\S\n)(?=[A-Za-z])")


class HuggingFaceRules:
    """A `tokenizers.Tokenizer`.  Whether it recognises special tokens is a setting of the object, hence the lock.

    ``ends_lines``: it cuts text where a line that has text ends and a word begins the next, whatever comes before and after.
    The library takes 475 bytes of memory per token, so that such a text is encoded in pieces.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, path: str, ends_lines: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._path = path
        self._ends_lines = ends_lines
        self._lock = ForkLock()

    def encode(self, text: str, special: bool) -> list[int]:
        with self._lock, library_errors(f"{self._path}: its tokenizer fails on this text"):
            self._tokenizer.encode_special_tokens = not special
            if len(text) > LONG_TEXT:
                ids: list[int] = []
                for piece in pieces(text) if self._ends_lines else (text,):
                    # The call asks for no offsets.  That is several times faster, but it starts
                    # threads.
                    (found,) = self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)
                    ids += found.ids
                return ids
            return self._tokenizer.encode(text, add_special_tokens=False).ids


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """The text in pieces of at least `size` characters that end where a line does and a word begins the next."""
    at = 0
    while at < len(text):
        found = _LINE_START.search(text, at + size) if at + size < len(text) else None
        end = found.start() if found else len(text)
        yield text[at:end]
        at = end


def _ends_lines(description: Any) -> bool:
    """Does this tokenizer.json surely cut text where `pieces` does?

    It does where its steps are those of a named pre-tokenizer that does.
    """
    if description.get("normalizer") not in (None, {"type": "NFC"}):
        return False
    if any(re.search(r"\n[A-Za-z]", t["content"]) for t in description.get("added_tokens") or ()):
        return False
    outer = description.get("pre_tokenizer") or {}
    steps = []
    for step in outer["pretokenizers"] if outer.get("type") == "Sequence" else [outer]:
        if step.get("type") == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            steps.append(step["pattern"].get("Regex"))
        elif step.get("type") == "ByteLevel" and not step["add_prefix_space"]:
            steps += PRE_TOKENIZERS["gpt-2"].steps if step.get("use_regex", True) else []
        elif step.get("type") == "Digits":
            steps.append(r"\p{N}" if step["individual_digits"] else r"\p{N}+")
        else:
            return False
    return any(rules.ends_lines and rules.steps == steps for rules in PRE_TOKENIZERS.values())


class NewlineRuns(HuggingFaceRules):
    """A run of newlines that is a token is that token, whatever the merges say; files lack merges of newlines."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, path: str, ends_lines: bool, tokens: Sequence[str]
    ) -> None:
        super().__init__(tokenizer, path, ends_lines)
        runs = {i: len(t) for i, t in enumerate(tokens) if t and not t.strip("\n")}
        self._lengths = runs
        self._runs = {n: i for i, n in runs.items()}

    def encode(self, text: str, special: bool) -> list[int]:
        ids = super().encode(text, special)
        if "\n\n" not in text:
            return ids
        out: list[int] = []
        for is_newlines, group in itertools.groupby(ids, self._lengths.__contains__):
            run = list(group)
            whole = self._runs.get(sum(self._lengths[i] for i in run)) if is_newlines else None
            out += run if whole is None else [whole]
        return out


def huggingface_rules(
    json_text: str, n_vocab: int, path: str, control: Collection[str] = ()
) -> HuggingFaceRules:
    """The rules of a tokenizer.json; its added tokens among ``control`` are control tokens, whatever it says of them.

    Raises ModelFileError if it is none, or knows ids beyond the vocabulary.
    """
    if fault := tokenizer_json_fault(json_text):
        raise ModelFileError(f"{path}: tokenizer.huggingface.json: precompiled_charsmap {fault}")
    with library_errors(f"{path}: tokenizer.huggingface.json"):
        tokenizer = loaded(json_text, n_vocab)
        tokenizer.no_truncation()
        plain = [
            token
            for token in tokenizer.get_added_tokens_decoder().values()
            if token.content in control and not token.special
        ]
        if plain:
            tokenizer.add_special_tokens([AddedToken(t.content, normalized=False) for t in plain])
        tokenizer.no_padding()
        known = tokenizer.get_vocab_size(with_added_tokens=True)
    if known > n_vocab:
        raise ModelFileError(
            f"{path}: tokenizer.huggingface.json has {known} tokens, tokenizer.ggml.tokens {n_vocab}"
        )
    try:
        ends_lines = _ends_lines(json.loads(json_text))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        ends_lines = False  # a form that the library takes and we do not know
    return HuggingFaceRules(tokenizer, path, ends_lines)


def loaded(json_text: str, n_vocab: int) -> tokenizers.Tokenizer:
    """The library's tokenizer, without what it refuses or hrun cannot use and what changes no encoding.

    The library's errors pass as they are: see library_errors.
    """
    tokenizer = _parsed(json_text)
    if max(tokenizer.get_added_tokens_decoder(), default=0) >= n_vocab:
        tokenizer = _parsed(_without_added_beyond(json_text, n_vocab))
    return tokenizer


def _parsed(json_text: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:
        if "out of vocabulary" not in str(error):
            raise
    values = json.loads(json_text)
    model = values["model"]
    # A merge of what is no token never applies.  One to what is no token would: that stays an error.
    model["merges"] = [
        merge
        for merge in model["merges"]
        if all(
            part in model["vocab"]
            for part in (merge.split(" ") if isinstance(merge, str) else merge)
        )
    ]
    return tokenizers.Tokenizer.from_str(json.dumps(values, ensure_ascii=False))


def _without_added_beyond(json_text: str, n_vocab: int) -> str:
    """Drops the added tokens that the model has no row for: their names are text."""
    values = json.loads(json_text)
    kept, beyond = [], set()
    for token in values.get("added_tokens") or []:
        (kept.append(token) if token["id"] < n_vocab else beyond.add(token["content"]))
    values["added_tokens"] = kept
    vocabulary = values["model"].get("vocab")
    if isinstance(vocabulary, dict):
        for token in beyond:
            if vocabulary.get(token, 0) >= n_vocab:
                del vocabulary[token]
    return json.dumps(values, ensure_ascii=False)


def byte_level_rules(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str, path: str
) -> HuggingFaceRules:
    """Byte-level BPE from the tokenizer.ggml.* keys; ``pre`` names the regular expressions that split words."""
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModelError(
            f"{path}: tokenizer.ggml.pre is '{printable(pre)}'; known are {known}. If the model uses one of "
            "these under another name, say so with --pre-tokenizer NAME"
        )
    rules = PRE_TOKENIZERS[pre]
    if not merges:
        raise ModelFileError(f"{path}: tokenizer.ggml.merges is missing")
    pairs = []
    for i, merge in enumerate(merges):
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise ModelFileError(
                f"{path}: tokenizer.ggml.merges, entry {i} is '{printable(merge)}', expected two parts"
            )
        pairs.append((left, right))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # The library refuses a merge of what is no token, and counts the last of equal ones; the first counts.
    pairs = [
        pair
        for pair in dict.fromkeys(pairs)
        if pair[0] in vocabulary and pair[1] in vocabulary and "".join(pair) in vocabulary
    ]
    missing = next((c for c in byte_alphabet() if c not in vocabulary), None)
    unknown = None
    if (
        missing is not None or not rules.byte_level
    ):  # without it the library drops such bytes silently
        unknown = next((t for t, kind in zip(tokens, types) if kind == UNKNOWN), None)
    with library_errors(f"{path}: tokenizer.ggml.merges"):
        bpe = models.BPE(
            vocab=vocabulary,
            merges=pairs,
            ignore_merges=rules.whole_words_first,
            unk_token=unknown,
            byte_fallback=not rules.byte_level,
        )
        tokenizer = tokenizers.Tokenizer(bpe)
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(step), "isolated") for step in rules.steps
        ]
        if rules.byte_level:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        if rules.marks_spaces:
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        _add_special(tokenizer, tokens, types)
    special = (t for t, kind in zip(tokens, types) if kind in (CONTROL, USER_DEFINED))
    ends_lines = rules.ends_lines and not any(re.search(r"\n[A-Za-z]", t) for t in special)
    if rules.whole_newlines:
        return NewlineRuns(tokenizer, path, ends_lines, tokens)
    return HuggingFaceRules(tokenizer, path, ends_lines)


def _add_special(
    tokenizer: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]
) -> None:
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [
            AddedToken(t, normalized=False, special=special)
            for t, k in zip(tokens, types)
            if k == kind and t
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)


def unigram_rules(
    tokens: Sequence[str],
    types: Sequence[int],
    scores: Sequence[float],
    unknown: int | None,
    charsmap: bytes,
    adds_space: bool,
    squeezes_spaces: bool,
    path: str,
) -> HuggingFaceRules:
    """SentencePiece Unigram: the pieces whose scores add up best."""
    for i, score in enumerate(scores):
        if not math.isfinite(score):
            raise ModelFileError(
                f"{path}: tokenizer.ggml.scores, entry {i} is {score}, expected a finite number"
            )
    if charsmap and (fault := charsmap_fault(charsmap)):
        raise ModelFileError(f"{path}: tokenizer.ggml.precompiled_charsmap {fault}")
    with library_errors(f"{path}: tokenizer.ggml.tokens"):
        model = models.Unigram(
            [(t, float(s)) for t, s in zip(tokens, scores)], unk_id=unknown, byte_fallback=False
        )
        tokenizer = tokenizers.Tokenizer(model)
        steps: list[normalizers.Normalizer] = (
            [normalizers.Precompiled(charsmap)] if charsmap else []
        )
        if squeezes_spaces:
            steps.append(normalizers.Replace(Regex(" {2,}"), " "))
            steps.append(normalizers.Replace(Regex(r"\A | \z"), ""))
        if steps:
            tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement="▁", prepend_scheme="always" if adds_space else "never"
        )
        _add_special(tokenizer, tokens, types)
    return HuggingFaceRules(tokenizer, path)


def wordpiece_rules(
    tokens: Sequence[str],
    types: Sequence[int],
    unknown: int | None,
    lowercase: bool,
    strip_accents: bool,
    path: str,
) -> HuggingFaceRules:
    """WordPiece (BERT): the longest piece that fits, word by word.

    In GGUF files a piece that begins a word has U+2581 before it; in the library's, one that does not has ##.
    """
    if unknown is None:
        raise ModelFileError(
            f"{path}: tokenizer.ggml.unknown_token_id is missing, and there is no [UNK]; a WordPiece vocabulary needs one"
        )
    special = (CONTROL, UNKNOWN, USER_DEFINED)
    vocabulary = {
        t if kind in special or i == unknown else t[1:] if t.startswith("▁") else f"##{t}": i
        for i, (t, kind) in enumerate(zip(tokens, types))
    }
    with library_errors(f"{path}: tokenizer.ggml.tokens"):
        tokenizer = tokenizers.Tokenizer(
            models.WordPiece(vocabulary, unk_token=tokens[unknown], max_input_chars_per_word=100)
        )
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=True,
            strip_accents=strip_accents,
            lowercase=lowercase,
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        _add_special(tokenizer, tokens, types)
    return HuggingFaceRules(tokenizer, path)
