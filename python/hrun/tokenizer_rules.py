"""Rules of byte-level BPE vocabularies, run by the Hugging Face `tokenizers` library."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, Regex, models, pre_tokenizers

from hrun.errors import ModelFileError, UnsupportedModelError, printable
from hrun.tokenizer import CONTROL, UNKNOWN, USER_DEFINED, byte_alphabet

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _llama3(digits: str) -> str:
    return (
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _o200k(tail: str) -> str:
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{tail}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{tail}"


_O200K_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# The splitting steps of each named pre-tokenizer, applied in order; the names are those of tokenizer.ggml.pre.
_SPLITS: dict[tuple[str, ...], list[str]] = {
    ("gpt-2", "mpt", "olmo", "jais", "phi-2", "trillion", "granite-docling", "gigachat", "roberta-bpe"): [_GPT2],
    ("default",): [r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "smaug-bpe", "dbrx"): [
        _llama3(r"\p{N}{1,3}")
    ],
    ("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"): [_llama3(r"\p{N}")],
    ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"): [r"\p{N}", _GPT2],
    ("falcon",): [r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"],
    ("deepseek-coder",): ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    ("deepseek-v3",): [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    ],
    ("gpt-4o", "llama4"): [_o200k(rf"(?i:{_CONTRACTIONS})?") + r"|\p{N}{1,3}" + _O200K_REST],
    ("tekken",): [_o200k("") + r"|\p{N}" + _O200K_REST],
}
PRE_TOKENIZERS: dict[str, list[str]] = {name: steps for names, steps in _SPLITS.items() for name in names}
# Vocabularies in which a whole word that is a token is taken as it is, whatever the merges say.
_WHOLE_WORDS_FIRST = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken"})


LONG_TEXT = 1 << 16  # characters


class HuggingFaceRules:
    """A `tokenizers.Tokenizer`.  Whether it recognises special tokens is a setting of the object, hence the lock."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def encode(self, text: str, special: bool) -> list[int]:
        with self._lock:
            self._tokenizer.encode_special_tokens = not special
            if len(text) > LONG_TEXT:  # without offsets: several times faster, but it starts threads
                return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
            return self._tokenizer.encode(text, add_special_tokens=False).ids


def huggingface_rules(json_text: str, n_vocab: int, path: str) -> HuggingFaceRules:
    """The rules of a tokenizer.json.  Raises ModelFileError if it is none, or knows ids beyond the vocabulary."""
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises plain Exception
        raise ModelFileError(f"{path}: tokenizer.huggingface.json: {printable(str(error), 300)}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = tokenizer.get_vocab_size(with_added_tokens=True)
    if known > n_vocab:
        raise ModelFileError(f"{path}: tokenizer.huggingface.json has {known} tokens, tokenizer.ggml.tokens {n_vocab}")
    return HuggingFaceRules(tokenizer)


def byte_level_rules(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], pre: str, path: str
) -> HuggingFaceRules:
    """Byte-level BPE from the tokenizer.ggml.* keys; ``pre`` names the regular expressions that split words."""
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModelError(f"{path}: tokenizer.ggml.pre is '{printable(pre)}'; known are {known}")
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
    missing = next((c for c in byte_alphabet() if c not in vocabulary), None)
    unknown = None
    if missing is not None:  # without it the library drops such bytes silently
        unknown = next((t for t, kind in zip(tokens, types) if kind == UNKNOWN), None)
    try:
        bpe = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in _WHOLE_WORDS_FIRST, unk_token=unknown)
    except Exception as error:
        raise ModelFileError(f"{path}: tokenizer.ggml.merges: {printable(str(error), 300)}") from error
    tokenizer = tokenizers.Tokenizer(bpe)
    steps = [pre_tokenizers.Split(Regex(step), "isolated") for step in PRE_TOKENIZERS[pre]]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [AddedToken(t, normalized=False, special=special) for t, k in zip(tokens, types) if k == kind and t]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    return HuggingFaceRules(tokenizer)
