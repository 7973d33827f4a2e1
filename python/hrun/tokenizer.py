"""Text to token ids and back, from what a GGUF file holds.

The rules come from ``tokenizer.huggingface.json`` where the file has it, else from the ``tokenizer.ggml.*`` keys:
byte-level BPE ("gpt2") by its named pre-tokenizer, BPE of SentencePiece's pieces ("gemma4"), SentencePiece BPE ("llama") or
Unigram ("t5"), WordPiece ("bert"), the longest tokens ("rwkv").  The bytes of each token always come from ``tokenizer.ggml.tokens``, so a stream of tokens
is a stream of bytes whatever the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hrun.control_tokens import ControlTokens
from hrun.end_tokens import END_LIST, END_NAMES, END_OF_TURN, END_ROLES, end_ids
from hrun.errors import ArgumentError, ModelFileError, UnsupportedModelError, printable
from hrun.pre_tokenizers import PRE_TOKENIZERS
from hrun.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, byte_alphabet
from hrun.world_tokens import WorldRules, plain_bytes

if TYPE_CHECKING:
    from hrun._core import GGUFFile


class Rules(Protocol):
    """The rules by which text becomes ids.  ``encode`` recognises control tokens only if
    ``special`` is set.
    """

    def encode(self, text: str, special: bool) -> list[int]: ...


class Tokenizer:
    """The vocabulary and rules of one model; immutable, and safe to use from several threads.

    Attributes: ``n_vocab``; ``bos_id``, ``eos_id``, ``unknown_id`` (None if the model has none); ``end_ids``, every id
    that ends a generation; ``adds_bos``, ``adds_eos``: what ``encode(add_special=True)`` adds; ``chat_template``.
    """

    def __init__(self, metadata: Mapping[str, Any], path: str, pre: str | None = None) -> None:
        """``pre``: the name of the pre-tokenizer, in place of the file's ``tokenizer.ggml.pre``."""
        self.path = path
        reader = _Reader(metadata, path)
        self.model = reader.string("tokenizer.ggml.model", "")
        self.tokens = reader.strings("tokenizer.ggml.tokens")
        if not self.tokens:
            raise ModelFileError(
                f"{path}: tokenizer.ggml.tokens is missing or empty; the file has no vocabulary"
            )
        self.n_vocab = len(self.tokens)
        types = reader.numbers("tokenizer.ggml.token_type", int, self.n_vocab)
        # A token that ends a turn is no text, whatever type a converter gave it: else a user could
        # write it.
        self.types = [
            CONTROL if token in END_NAMES else kind
            for token, kind in zip(self.tokens, types or [NORMAL] * self.n_vocab)
        ]
        is_named = pre is not None
        if pre is None:
            gemma4 = self.model == "gemma4"
            pre = "gemma4" if gemma4 else reader.string("tokenizer.ggml.pre", "default")
        known = PRE_TOKENIZERS.get(pre)
        byte_level = self.model == "gpt2" and (known is None or known.byte_level)
        self._bytes = (
            [
                token.encode() if kind in (CONTROL, UNKNOWN) else plain_bytes(token)
                for token, kind in zip(self.tokens, self.types)
            ]
            if self.model == "rwkv"
            else _token_bytes(self.tokens, self.types, byte_level)
        )

        def special(name: str) -> int | None:
            return reader.token_id(f"tokenizer.ggml.{name}_token_id", self.n_vocab)

        # In WordPiece, [CLS] begins a text and [SEP] ends it, under names of their own or none.
        words = self.model == "bert"
        self.bos_id = _first_of(
            special("bos"), special("cls"), self._named("[CLS]") if words else None
        )
        self.eos_id = special("eos")
        self.sep_id = _first_of(special("seperator"), self._named("[SEP]") if words else None)
        self.unknown_id = special("unknown")
        named_ends = [special(role) for role in END_ROLES]
        named_ends += reader.token_ids(END_LIST, self.n_vocab)
        self.end_ids = end_ids(
            self.tokens,
            [kind == CONTROL for kind in self.types],
            [i for i in named_ends if i is not None],
        )
        self._eot_id = special("eot")
        self.adds_bos = self.bos_id is not None and (
            (known is not None and known.forces_bos)
            or reader.boolean(
                "tokenizer.ggml.add_bos_token",
                self.model in ("llama", "bert") or (known is not None and known.adds_bos),
            )
        )
        self.adds_eos = self.eos_id is not None and reader.boolean(
            "tokenizer.ggml.add_eos_token", self.model == "t5"
        )
        self.adds_sep = self.sep_id is not None and reader.boolean(
            "tokenizer.ggml.add_sep_token", words
        )
        self.adds_space = self.model == "llama" and reader.boolean(
            "tokenizer.ggml.add_space_prefix", True
        )
        self.chat_template: str | None = reader.string("tokenizer.chat_template", "") or None
        rerank = reader.string("tokenizer.chat_template.rerank", "")
        self.rerank_template = rerank if "{query}" in rerank and "{document}" in rerank else None

        self._control = ControlTokens(
            {
                text: i
                for i, (text, kind) in enumerate(zip(self.tokens, self.types))
                if kind == CONTROL and text
            }
        )
        self._rules = self._make_rules(reader, pre, is_named)

    @classmethod
    def from_gguf(cls, source: str | Path | GGUFFile, pre: str | None = None) -> Tokenizer:
        """From a path or an open file; files that hold a vocabulary and no weights will do.

        Raises ModelFileError for a damaged vocabulary and for a part that is not the first, UnsupportedModelError for a
        kind that hrun does not know.
        """
        if isinstance(source, (str, Path)):
            from hrun._core import GGUFFile

            source = GGUFFile(str(source))
        source.require_first_part()
        return cls(source.metadata, source.path, pre)

    @property
    def end_of_turn_id(self) -> int | None:
        """What ends a turn: the file's EOT, else the likeliest end by name, else EOS; None if the model has none."""
        if self._eot_id is not None:
            return self._eot_id
        by_name = {self.tokens[i]: i for i in self.end_ids}
        return next((by_name[text] for text in END_OF_TURN if text in by_name), self.eos_id)

    def _make_rules(self, reader: _Reader, pre: str, named: bool) -> Rules:
        json_text = reader.string("tokenizer.huggingface.json", "")
        if json_text and not named:
            from hrun.tokenizer_rules import huggingface_rules

            return huggingface_rules(json_text, self.n_vocab, self.path, END_NAMES)
        if self.model in ("gpt2", "gemma4"):
            from hrun.tokenizer_rules import byte_level_rules

            merges = reader.strings("tokenizer.ggml.merges")
            return byte_level_rules(self.tokens, self.types, merges, pre, self.path)
        if self.model == "llama":
            from hrun.sentencepiece import SentencePieceRules

            scores = reader.numbers("tokenizer.ggml.scores", float, self.n_vocab)
            if scores is None:
                raise ModelFileError(f"{self.path}: tokenizer.ggml.scores is missing")
            return SentencePieceRules(
                self.tokens, self.types, scores, self.adds_space, self.unknown_id, self.path
            )
        if self.model == "t5":
            from hrun.tokenizer_rules import unigram_rules

            scores = reader.numbers("tokenizer.ggml.scores", float, self.n_vocab)
            if scores is None:
                raise ModelFileError(f"{self.path}: tokenizer.ggml.scores is missing")
            charsmap = bytes(
                v & 0xFF for v in reader.integers("tokenizer.ggml.precompiled_charsmap")
            )
            return unigram_rules(
                self.tokens,
                self.types,
                scores,
                self.unknown_id,
                charsmap,
                reader.boolean("tokenizer.ggml.add_space_prefix", True),
                reader.boolean("tokenizer.ggml.remove_extra_whitespaces", False),
                self.path,
            )
        if self.model == "bert":
            from hrun.tokenizer_rules import wordpiece_rules

            lowercase = reader.boolean("tokenizer.ggml.normalizer.lowercase", True)
            return wordpiece_rules(
                self.tokens,
                self.types,
                self.unknown_id if self.unknown_id is not None else self._named("[UNK]"),
                lowercase,
                reader.boolean("tokenizer.ggml.normalizer.strip_accents", lowercase),
                self.path,
            )
        if self.model == "rwkv":
            return WorldRules(self._bytes, self.types, self._control, self.unknown_id, self.path)
        found = f"'{printable(self.model)}'" if self.model else "missing"
        raise UnsupportedModelError(
            f"{self.path}: tokenizer.ggml.model is {found}; known are 'gpt2', 'gemma4', 'llama', 't5', 'bert' and 'rwkv', and any "
            "file with tokenizer.huggingface.json"
        )

    # ---- text to ids

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids of ``text``.

        ``add_special`` adds BOS and EOS where the model asks for them.  Without ``parse_special`` the text of a control
        token, like ``<|im_end|>``, is text: what a user typed cannot end a turn.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text must be a string, got {type(text).__name__}")
        ids = self._rules.encode(_whole_characters(text), parse_special)
        return self._with_ends(ids) if add_special else ids

    def encode_guarded(self, text: str, guard: str) -> list[int]:
        """Token ids of text with control tokens, in which those marked by :meth:`guard` are plain text."""
        text = _whole_characters(text)
        if not guard or guard not in text:
            return self._rules.encode(text, True)
        ids: list[int] = []
        at = 0
        for start, end, token in self._control.find(text, guard):
            ids += self._rules.encode(text[at:start].replace(guard, ""), False)
            ids.append(token)
            at = end
        return ids + self._rules.encode(text[at:].replace(guard, ""), False)

    def guard(self, text: str, guard: str) -> str:
        """``text`` with the character ``guard`` before every character of every control token written in it."""
        return self._control.guarded(text, guard)

    def control_ids_in(self, text: str) -> frozenset[int]:
        """The control tokens whose names are written in ``text``."""
        return frozenset(token for _, _, token in self._control.find(text))

    def _with_ends(self, ids: list[int]) -> list[int]:
        head = [self.bos_id] if self.adds_bos and self.bos_id is not None else []
        return head + ids + self._end

    @property
    def _end(self) -> list[int]:
        """The token that ``add_special`` puts behind a text: EOS, or the separator of texts."""
        end = self.eos_id if self.adds_eos else self.sep_id if self.adds_sep else None
        return [] if end is None else [end]

    def encode_pair(self, first: str, second: str) -> tuple[list[int], int]:
        """Two texts as a model that compares them reads them, and where the second begins.

        ``[CLS] first [SEP] second [SEP]``, or ``<s> first </s></s> second </s>`` where texts end with EOS and a separator
        stands between them besides, as in XLM-RoBERTa.
        """
        head = self._with_ends(self.encode(first))
        doubled = self.model == "t5" or (self.model == "gpt2" and self._names_eos)
        between = self._end if doubled else []
        tail = self.encode(second) + self._end
        return head + between + tail, len(head) + len(between)

    @property
    def _names_eos(self) -> bool:
        """RoBERTa's </s>, between two texts twice."""
        return self.eos_id is not None and self.tokens[self.eos_id] == "</s>"

    def _named(self, text: str) -> int | None:
        return self.tokens.index(text) if text in self.tokens else None

    # ---- ids to text

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for; a control token stands for its own name."""
        return self._bytes[self._checked(token)]

    def is_control(self, token: int) -> bool:
        """Is it a mark such as BOS or the end of a turn, rather than text?"""
        return self.types[self._checked(token)] in (CONTROL, UNKNOWN)

    def decode_bytes(self, ids: Iterable[int], skip_special: bool = False) -> bytes:
        """The concatenated bytes of the tokens; without the leading space that a SentencePiece model added."""
        kept = [t for t in ids if not (self.is_control(t) and skip_special)]
        parts = [self.token_bytes(t) for t in kept]
        first = next((i for i, t in enumerate(kept) if not self.is_control(t)), None)
        if self.adds_space and first is not None and all(t == self.bos_id for t in kept[:first]):
            parts[first] = parts[first].removeprefix(b" ")
        return b"".join(parts)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of the tokens; each maximal ill-formed part of the bytes becomes one U+FFFD."""
        return self.decode_bytes(ids, skip_special).decode("utf-8", "replace")

    def _checked(self, token: int) -> int:
        if isinstance(token, bool) or not hasattr(token, "__index__"):
            raise ArgumentError(f"a token id must be an integer, got {type(token).__name__}")
        number = token.__index__()
        if not 0 <= number < self.n_vocab:
            raise ArgumentError(
                f"token id {number} is outside the vocabulary of {self.n_vocab} tokens"
            )
        return number


def _first_of(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


class _Reader:
    """Typed access to the metadata; errors name the file, the key, what was found and what was expected."""

    def __init__(self, metadata: Mapping[str, Any], path: str) -> None:
        self._metadata = metadata
        self._path = path

    def _typed(self, key: str, kind: type, name: str, fallback: Any) -> Any:
        value = self._metadata.get(key)
        if value is None:
            return fallback
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            shown = (
                "a string that is not UTF-8" if isinstance(value, bytes) else type(value).__name__
            )
            raise ModelFileError(f"{self._path}: {key} is {shown}, expected {name}")
        return value

    def string(self, key: str, fallback: str) -> str:
        value: str = self._typed(key, str, "a string", fallback)
        return value

    def boolean(self, key: str, fallback: bool) -> bool:
        value: bool = self._typed(key, bool, "a boolean", fallback)
        return value

    def strings(self, key: str) -> list[str]:
        values = list(self._typed(key, list, "an array of strings", []))
        for i, value in enumerate(values):
            if isinstance(value, bytes):
                values[i] = value.decode("utf-8", "replace")
            elif not isinstance(value, str):
                raise ModelFileError(
                    f"{self._path}: {key} is no array of strings, entry {i} is {type(value).__name__}"
                )
        return values

    def numbers(self, key: str, kind: Callable[[Any], Any], count: int) -> list[Any] | None:
        value = self._metadata.get(key)
        if value is None:
            return None
        if not hasattr(value, "__len__") or isinstance(value, (str, bytes, dict)):
            raise ModelFileError(
                f"{self._path}: {key} is {type(value).__name__}, expected an array of numbers"
            )
        if len(value) < count:
            raise ModelFileError(
                f"{self._path}: {key} has {len(value)} entries, the vocabulary has {count}"
            )
        out = []
        for i, item in enumerate(value[:count]):
            if isinstance(item, (str, bytes, list, bool)) or item != item:
                raise ModelFileError(
                    f"{self._path}: {key}, entry {i} is {item!r}, expected a number"
                )
            out.append(kind(item))
        return out

    def integers(self, key: str) -> list[int]:
        """An array of small integers; [] where there is none."""
        value = self._metadata.get(key)
        if value is None:
            return []
        try:
            return [int(v) for v in value]
        except (TypeError, ValueError):
            raise ModelFileError(f"{self._path}: {key} is no array of integers") from None

    def token_id(self, key: str, n_vocab: int) -> int | None:
        """Returns the id, or None where there is none: files then say -1, 4294967295, or another id
        that no token has.
        """
        value = self._typed(key, int, "an integer", None)
        return value if value is not None and 0 <= value < n_vocab else None

    def token_ids(self, key: str, n_vocab: int) -> list[int]:
        """The ids of an array that are in the vocabulary."""
        return [value for value in self.integers(key) if 0 <= value < n_vocab]


def _token_bytes(tokens: Sequence[str], types: Sequence[int], byte_level: bool) -> list[bytes]:
    if byte_level:
        table = byte_alphabet()
        out = []
        for token, kind in zip(tokens, types):
            plain = kind in (CONTROL, USER_DEFINED, UNKNOWN)
            try:
                out.append(token.encode() if plain else bytes([table[c] for c in token]))
            except KeyError:  # a token that was added in plain text
                out.append(token.encode())
        return out
    hexadecimal = re.compile(r"<0x([0-9A-Fa-f]{2})>")
    out = []
    for token, kind in zip(tokens, types):
        found = hexadecimal.fullmatch(token) if kind == BYTE else None
        if found:
            out.append(bytes([int(found[1], 16)]))
        elif kind in (CONTROL, UNKNOWN):
            out.append(token.encode())
        else:
            out.append(token.replace("▁", " ").encode())
    return out


def _whole_characters(text: str) -> str:
    """Lone surrogates, as a terminal or a JSON file may hold, become U+FFFD; everything else is kept."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
