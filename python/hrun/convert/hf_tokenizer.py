"""tokenizer.json and its companions, as GGUF metadata.

The whole tokenizer.json goes into `tokenizer.huggingface.json`, from which hrun builds its tokenizer; the tokenizer.ggml.*
keys are for the other readers of GGUF files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hrun.end_tokens import END_LIST, END_OF_TURN, closes_channels_only
from hrun.errors import ModelFileError, UnsupportedModelError
from hrun.pre_tokenizers import PRE_TOKENIZERS

from .config_object import ConfigObject
from .folder import ModelFolder, json_type, parse_json_object, shown
from .hf_word_tokenizers import plain_model, word_entries
from .rwkv import VOCABULARY, world_entries
from .source import Entry, Scalar

_TOKENIZER_LIMIT = 512 << 20  # bytes
_CONFIG_LIMIT = 64 << 20

# Token types of tokenizer.ggml.token_type.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

# The splitting steps of a byte-level BPE -> the name under which GGUF's readers know them.
_SPLIT_NAMES: dict[tuple[str, ...], str] = {
    ("<byte level>",): "gpt-2",
    ("<digits>", "<byte level>"): "smollm",
}
for _name, _rules in PRE_TOKENIZERS.items():
    if _rules.byte_level:
        _SPLIT_NAMES.setdefault(tuple(_rules.steps), _name)


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer's metadata, and remarks for the user.

    ids: of tokens by their text.  ends: the special tokens that its template puts before and after a text.
    """

    entries: list[Entry]
    notes: list[str]
    ids: dict[str, int]
    ends: tuple[int | None, int | None]


def read_tokenizer(
    folder: ModelFolder, n_vocab: int, config: dict[str, Any], keeps_merges: bool = False
) -> Vocabulary:
    """Metadata of the folder's tokenizer, padded to `n_vocab` tokens.  Raises ModelFileError, UnsupportedModelError.

    keeps_merges: SentencePiece's pieces are joined by a list of merges for other readers too, not by scores (Gemma 4).
    """
    if not folder.has("tokenizer.json"):
        if folder.has(VOCABULARY):
            return _world_vocabulary(folder, n_vocab)
        if folder.has("tokenizer.model"):
            raise UnsupportedModelError(
                f"{folder.path}: has tokenizer.model (SentencePiece) but no tokenizer.json; make one with "
                "transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
            )
        raise ModelFileError(f"{folder.path}: tokenizer.json is missing")
    text = folder.read_text("tokenizer.json", _TOKENIZER_LIMIT)
    path = str(folder.path / "tokenizer.json")
    tokenizer = parse_json_object(text, path)
    settings = ConfigObject(
        str(folder.path / "tokenizer_config.json"),
        folder.read_json_if_present("tokenizer_config.json", _CONFIG_LIMIT),
    )
    generation = ConfigObject(
        str(folder.path / "generation_config.json"),
        folder.read_json_if_present("generation_config.json", _CONFIG_LIMIT),
    )
    reader = _TokenizerJson(path, tokenizer, n_vocab)
    _check_with_library(text, path, n_vocab)
    notes = reader.notes
    entries = (
        word_entries(reader.kind, tokenizer, reader.tokens, reader.types)
        if reader.kind != "BPE"
        else reader.sentencepiece_entries(keeps_merges)
        if reader.is_sentencepiece
        else reader.byte_level_entries(notes)
    )
    entries += _special_ids(
        reader,
        settings,
        generation,
        ConfigObject(str(folder.path / "config.json"), config),
        notes,
    )
    entries += _added_by_default(reader, settings)
    entries.append(Entry("tokenizer.huggingface.json", "string", text))
    entries += _chat_templates(folder, settings)
    entries += _sampling(generation)
    ids = {**reader.vocab, **{token: number for number, token, _ in reader.added}}
    return Vocabulary(entries, notes, ids, reader.template_ids())


def _world_vocabulary(folder: ModelFolder, n_vocab: int) -> Vocabulary:
    settings = ConfigObject(
        str(folder.path / "tokenizer_config.json"),
        folder.read_json_if_present("tokenizer_config.json", _CONFIG_LIMIT),
    )
    entries, ids = world_entries(folder, n_vocab)
    return Vocabulary([*entries, *_chat_templates(folder, settings)], [], ids, (None, None))


def _check_with_library(text: str, path: str, n_vocab: int) -> None:
    """The runtime builds its tokenizer from this text: refuse what the library refuses."""
    from hrun.charsmap import tokenizer_json_fault
    from hrun.library_errors import library_errors
    from hrun.tokenizer_rules import loaded

    if fault := tokenizer_json_fault(text):
        raise ModelFileError(f"{path}: precompiled_charsmap {fault}")
    with library_errors(f"{path}: the tokenizers library refuses it"):
        loaded(text, n_vocab).encode("a", add_special_tokens=False)


class _TokenizerJson:
    """The checked content of tokenizer.json: tokens, types, merges, splitting rules."""

    def __init__(self, path: str, values: dict[str, Any], n_vocab: int) -> None:
        self.path = path
        self.values = values
        model = self._object(values, "model")
        kind = model.get("type", "BPE")  # older files leave it out
        if kind in ("WordPiece", "Unigram"):
            model = plain_model(kind, model, path)
        if kind not in ("BPE", "WordPiece", "Unigram") or not isinstance(model.get("vocab"), dict):
            raise UnsupportedModelError(
                f"{path}: 'model.type' is '{shown(kind)}'; BPE, WordPiece and Unigram tokenizers are supported"
            )
        self.kind = str(kind)
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                raise UnsupportedModelError(f"{path}: 'model.{key}' is not supported")
        self.model = model
        self.notes: list[str] = []
        self.vocab = dict(self._vocab(model["vocab"]))
        self.added = self._added()
        self.tokens, self.types = self._token_list(n_vocab)
        self.merges = self._merges() if kind == "BPE" else []

    @property
    def is_sentencepiece(self) -> bool:
        """A converted SentencePiece model: spaces as U+2581, bytes as <0xNN> tokens."""
        return self.model.get("byte_fallback") is True

    def _object(self, values: dict[str, Any], key: str) -> dict[str, Any]:
        value = values.get(key)
        if not isinstance(value, dict):
            raise ModelFileError(
                f"{self.path}: '{key}' must be an object, found {json_type(value)}"
            )
        return value

    def _token_id(self, value: object, what: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise ModelFileError(
                f"{self.path}: {what} must be a token id, found {shown(repr(value))}"
            )
        return value

    def _vocab(self, vocab: dict[str, Any]) -> dict[str, int]:
        for token, number in vocab.items():
            if type(number) is not int or not 0 <= number < 2**31:
                self._token_id(number, f"'model.vocab', token '{shown(token)}'")
        return vocab

    def _added(self) -> list[tuple[int, str, bool]]:
        added = self.values.get("added_tokens") or []
        if not isinstance(added, list):
            raise ModelFileError(
                f"{self.path}: 'added_tokens' must be an array, found {json_type(added)}"
            )
        out = []
        for entry in added:
            if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
                raise ModelFileError(
                    f"{self.path}: 'added_tokens' must hold objects with a string 'content'"
                )
            number = self._token_id(
                entry.get("id"), f"'added_tokens', id of '{shown(entry['content'])}'"
            )
            out.append((number, entry["content"], entry.get("special") is True))
        return out

    def _token_list(self, n_vocab: int) -> tuple[list[str], list[int]]:
        beyond = [token for number, token, _ in self.added if number >= n_vocab]
        if beyond:
            self.notes.append(
                f"{self.path}: {len(beyond)} added token{'s' if len(beyond) > 1 else ''} beyond the model's "
                f"{n_vocab} left out (the first: '{shown(beyond[0])}')"
            )
            self.added = [entry for entry in self.added if entry[0] < n_vocab]
            for token in beyond:  # some files have added tokens in the vocabulary as well
                if self.vocab.get(token, 0) >= n_vocab:
                    del self.vocab[token]
        highest = max([*self.vocab.values(), *(number for number, _, _ in self.added)], default=-1)
        if not self.vocab or highest < 0:
            raise ModelFileError(f"{self.path}: the vocabulary is empty")
        if highest >= n_vocab:
            raise ModelFileError(
                f"{self.path}: token id {highest} is outside the model's vocabulary of {n_vocab} "
                "('vocab_size' in config.json)"
            )
        tokens: list[str | None] = [None] * n_vocab
        types = [_UNUSED] * n_vocab
        unknown = self.model.get("unk_token")
        byte_token = re.compile(r"<0x[0-9A-F]{2}>")
        fallback = self.model.get("byte_fallback") is True
        for token, number in self.vocab.items():
            if tokens[number] is not None:
                raise ModelFileError(
                    f"{self.path}: tokens '{shown(tokens[number])}' and '{shown(token)}' share the id {number}"
                )
            tokens[number] = token
            types[number] = (
                _BYTE
                if fallback and byte_token.fullmatch(token)
                else _UNKNOWN
                if token == unknown
                else _NORMAL
            )
        for number, token, special in self.added:
            if tokens[number] not in (None, token):
                raise ModelFileError(
                    f"{self.path}: added token '{shown(token)}' has the id {number} of '{shown(tokens[number])}'"
                )
            tokens[number] = token
            if types[number] not in (_UNKNOWN, _BYTE):
                types[number] = _CONTROL if special else _USER_DEFINED
        return [f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)], types

    def _merges(self) -> list[tuple[str, str]]:
        merges = self.model.get("merges")
        if not isinstance(merges, list):
            raise ModelFileError(
                f"{self.path}: 'model.merges' must be an array, found {json_type(merges)}"
            )
        out: list[tuple[str, str]] = []
        unknown: list[str] = []
        for i, merge in enumerate(merges):
            pair = merge.split(" ") if isinstance(merge, str) else merge
            where = f"{self.path}: 'model.merges', entry {i}"
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not all(isinstance(part, str) and part for part in pair)
            ):
                raise ModelFileError(f"{where}, is not a pair of tokens: {shown(repr(merge))}")
            left, right = pair
            if left not in self.vocab or right not in self.vocab:
                unknown.append(left if left not in self.vocab else right)
            elif left + right not in self.vocab:
                raise ModelFileError(
                    f"{where}, joins '{shown(left)}' and '{shown(right)}' to what is no token"
                )
            else:
                out.append((left, right))
        if unknown:
            self.notes.append(
                f"{self.path}: {len(unknown)} of {len(merges)} merges left out, as they never apply: a part is no token "
                f"(the first: '{shown(unknown[0])}')"
            )
        unique = list(dict.fromkeys(reversed(out)))[::-1]  # the library keeps the last rank
        if len(unique) < len(out):
            self.notes.append(
                f"{self.path}: {len(out) - len(unique)} of {len(out)} merges are repeated; the last counts"
            )
        return unique

    def byte_level_entries(self, notes: list[str]) -> list[Entry]:
        splits = self._splits()
        pre = _SPLIT_NAMES.get(tuple(splits))
        if pre is None:
            pre = "default"
            notes.append(
                f"{self.path}: unknown pre-tokenizer ({shown(', '.join(splits), 80)}); written as 'default': hrun reads "
                "the tokenizer.json inside the file, other programs may split text differently"
            )
        spaced = [
            tuple("".join(chr(256 + ord(c)) if c == " " else c for c in part) for part in pair)
            for pair in self.merges
        ]
        return [
            Entry("tokenizer.ggml.model", "string", "gpt2"),
            Entry("tokenizer.ggml.pre", "string", pre),
            Entry("tokenizer.ggml.tokens", "array<string>", list(self.tokens)),
            Entry("tokenizer.ggml.token_type", "array<i32>", list(self.types)),
            Entry("tokenizer.ggml.merges", "array<string>", [" ".join(pair) for pair in spaced]),
        ]

    def _splits(self) -> list[str]:
        """The splitting steps: regular expressions, and names in <> for the ready-made ones."""
        pre = self.values.get("pre_tokenizer")
        steps = (
            pre.get("pretokenizers")
            if isinstance(pre, dict) and pre.get("type") == "Sequence"
            else [pre]
        )
        out: list[str] = []
        byte_level = False
        for step in steps if isinstance(steps, list) else []:
            kind = step.get("type") if isinstance(step, dict) else None
            if kind == "ByteLevel":
                byte_level = True
                if step.get("use_regex", True):
                    out.append("<byte level>")
            elif kind == "Split" and isinstance(step.get("pattern"), dict):
                out.append(str(step["pattern"].get("Regex", step["pattern"])))
            elif kind == "Digits":
                out.append("<digits>")
            elif kind is not None:
                out.append(f"<{kind}>")
        if not byte_level:
            raise UnsupportedModelError(
                f"{self.path}: a BPE tokenizer that is neither byte-level nor SentencePiece-like is not supported"
            )
        return out

    def sentencepiece_entries(self, keeps_merges: bool) -> list[Entry]:
        """SentencePiece merges the pair with the best-scored result; the order of the merges is the order of the scores."""
        score: dict[str, float] = {}
        for left, right in self.merges:
            score.setdefault(left + right, -float(len(score)))
        unmerged = -float(len(score))
        scores = [
            score.get(token, unmerged) if kind == _NORMAL else 0.0
            for token, kind in zip(self.tokens, self.types)
        ]
        return [
            Entry("tokenizer.ggml.model", "string", "gemma4" if keeps_merges else "llama"),
            *([] if keeps_merges else [Entry("tokenizer.ggml.pre", "string", "default")]),
            Entry("tokenizer.ggml.tokens", "array<string>", list(self.tokens)),
            Entry("tokenizer.ggml.scores", "array<f32>", scores),
            Entry("tokenizer.ggml.token_type", "array<i32>", list(self.types)),
            Entry("tokenizer.ggml.add_space_prefix", "bool", self._adds_space_prefix()),
            *(
                [
                    Entry(
                        "tokenizer.ggml.merges",
                        "array<string>",
                        [" ".join(pair) for pair in self.merges],
                    )
                ]
                if keeps_merges
                else []
            ),
        ]

    def _adds_space_prefix(self) -> bool:
        normalizer, pre = self.values.get("normalizer"), self.values.get("pre_tokenizer")
        steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
        if any(isinstance(step, dict) and step.get("type") == "Prepend" for step in steps):
            return True
        if isinstance(pre, dict) and pre.get("type") == "Metaspace":
            unsaid = "always" if pre.get("add_prefix_space", True) else "never"
            return bool(pre.get("prepend_scheme", unsaid) != "never")
        return False

    def id_of(self, token: str) -> int | None:
        for number, text, _ in self.added:
            if text == token:
                return number
        return self.vocab.get(token)

    def template_ends(self) -> tuple[bool, bool]:
        """Does the post-processor put a special token before, and after, a single text?"""
        before, after = self.template_ids()
        return before is not None, after is not None

    def template_ids(self) -> tuple[int | None, int | None]:
        """The special tokens that the post-processor puts before and after a single text; None: none."""
        post = self.values.get("post_processor")
        steps = (
            post.get("processors")
            if isinstance(post, dict) and post.get("type") == "Sequence"
            else [post]
        )
        for step in steps if isinstance(steps, list) else []:
            single = (
                step.get("single")
                if isinstance(step, dict) and step.get("type") == "TemplateProcessing"
                else None
            )
            if isinstance(step, dict) and step.get("type") in (
                "BertProcessing",
                "RobertaProcessing",
            ):
                ends = [step.get(key) for key in ("cls", "sep")]
                before, after = (
                    self.id_of(e[0])
                    if isinstance(e, list) and e and isinstance(e[0], str)
                    else None
                    for e in ends
                )
                return before, after
            if isinstance(single, list) and single:
                ids = [
                    self.id_of(str(part["SpecialToken"].get("id")))
                    if isinstance(part, dict) and isinstance(part.get("SpecialToken"), dict)
                    else None
                    for part in single
                ]
                return ids[0], ids[-1] if len(ids) > 1 else None
        return None, None


def _special_ids(
    tokenizer: _TokenizerJson,
    settings: ConfigObject,
    generation: ConfigObject,
    config: ConfigObject,
    notes: list[str],
) -> list[Entry]:
    """bos, eos, eot, eom, unknown, padding: from tokenizer_config.json by text, else by id from the other two files."""
    ids: dict[str, int] = {}
    stops: list[int] = []
    for role in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"):
        named = settings.values.get(f"{role}_token")
        text = named.get("content") if isinstance(named, dict) else named
        if isinstance(text, str) and (number := tokenizer.id_of(text)) is not None:
            ids[role] = number
        for source in (generation, config):
            value = source.values.get(f"{role}_token_id")
            listed = value if isinstance(value, list) else [] if value is None else [value]
            if any(isinstance(number, bool) or not isinstance(number, int) for number in listed):
                raise source.error(f"{role}_token_id", "a token id or an array of them")
            # -1 stands for "none" in some configurations.
            usable = [number for number in listed if 0 <= number < len(tokenizer.tokens)]
            if unknown_ids := [number for number in listed if number >= len(tokenizer.tokens)]:
                notes.append(
                    f"{source.path}: '{role}_token_id' {shown(str(unknown_ids)[1:-1], 60)} ignored: the "
                    f"vocabulary has {len(tokenizer.tokens)} tokens"
                )
            if role == "eos":
                stops += usable
            if usable:
                ids.setdefault(role, usable[0])
    unknown = tokenizer.model.get("unk_token")
    if (
        "unk" not in ids
        and isinstance(unknown, str)
        and (number := tokenizer.id_of(unknown)) is not None
    ):
        ids["unk"] = number
    ends: list[int] = []
    if "eos" in ids:
        turn_ends = [
            number
            for text in END_OF_TURN
            if (number := tokenizer.id_of(text)) is not None
            and not closes_channels_only(text, tokenizer.tokens)
        ]
        ends = list(dict.fromkeys([ids["eos"], *stops]))
        others = ends[1:]
        eot = next((n for n in turn_ends if n in ends), turn_ends[0] if turn_ends else None)
        eot = others[0] if eot is None and others else eot
        if eot is not None:
            ids["eot"] = eot
        rest = [number for number in others if number != eot]
        if rest:
            ids["eom"] = rest[0]
    names = {
        "bos": "bos",
        "eos": "eos",
        "eot": "eot",
        "eom": "eom",
        "unk": "unknown",
        "pad": "padding",
        "sep": "seperator",  # as GGUF spells it
        "cls": "cls",
        "mask": "mask",
    }
    entries = [
        Entry(f"tokenizer.ggml.{names[role]}_token_id", "u32", number)
        for role, number in ids.items()
    ]
    if not set(ends) <= {ids.get("eos"), ids.get("eot"), ids.get("eom")}:
        entries.append(Entry(END_LIST, "array<i32>", ends))
    return entries


def _added_by_default(tokenizer: _TokenizerJson, settings: ConfigObject) -> list[Entry]:
    before, after = tokenizer.template_ends()
    return [
        Entry("tokenizer.ggml.add_bos_token", "bool", settings.boolean("add_bos_token", before)),
        Entry("tokenizer.ggml.add_eos_token", "bool", settings.boolean("add_eos_token", after)),
    ]


def _chat_templates(folder: ModelFolder, settings: ConfigObject) -> list[Entry]:
    """chat_template.jinja if there is one, else the template or templates of tokenizer_config.json."""
    templates: dict[str, str] = {}
    listed = settings.values.get("chat_template")
    if isinstance(listed, str):
        templates["default"] = listed
    elif isinstance(listed, list):
        for entry in listed:
            if not (
                isinstance(entry, dict)
                and isinstance(entry.get("name"), str)
                and isinstance(entry.get("template"), str)
                and re.fullmatch(r"\w{1,64}", entry["name"], re.ASCII)
            ):
                raise settings.error(
                    "chat_template", "a string or an array of objects with 'name' and 'template'"
                )
            templates[entry["name"]] = entry["template"]
    elif listed is not None:
        raise settings.error(
            "chat_template", "a string or an array of objects with 'name' and 'template'"
        )
    if folder.has("chat_template.jinja"):
        templates["default"] = folder.read_text("chat_template.jinja", _CONFIG_LIMIT)
    out = [
        Entry(
            "tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}",
            "string",
            template,
        )
        for name, template in templates.items()
    ]
    named: list[Scalar] = [name for name in templates if name != "default"]
    if named:
        out.append(Entry("tokenizer.chat_templates", "array<string>", named))
    return out


def _sampling(generation: ConfigObject) -> list[Entry]:
    """The model's recommended sampling, where it recommends one."""
    out: list[Entry] = []
    for key, name in (("temperature", "temp"), ("top_p", "top_p"), ("min_p", "min_p")):
        if generation.has(key):
            out.append(
                Entry(f"general.sampling.{name}", "f32", generation.number(key, exclusive=False))
            )
    if generation.has("top_k"):  # 0 and -1 stand for "off"
        top_k = max(0, generation.integer("top_k", low=-1))
        out.append(Entry("general.sampling.top_k", "i32", top_k))
    if generation.has("repetition_penalty"):  # of all tokens before, the prompt's included
        penalty = generation.number("repetition_penalty")
        out.append(Entry("general.sampling.penalty_repeat", "f32", penalty))
        if penalty != 1:
            out.append(Entry("general.sampling.penalty_last_n", "i32", -1))
    return out
