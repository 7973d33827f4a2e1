"""The named pre-tokenizers of byte-level vocabularies: `tokenizer.ggml.pre` -> how text is cut before pairs are merged.

Each is what the tokenizer.json of the models of that name says, as regular expressions that are applied in turn: every match
becomes a piece of its own, and what lies between matches another.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LINES = r"[^\n]+|[\n]+"


def _llama3(
    digits: str,
    head: str = rf"(?i:{_CONTRACTIONS})|",
    letters: str = r"[^\r\n\p{L}\p{N}]?\p{L}+",
    rest: str = r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    spaces: str = _SPACES,
) -> str:
    return rf"{head}{letters}|{digits}{rest}{spaces}"


def _o200k(
    digits: str, tail: str = "", and_not: str = "", rest: str = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
) -> str:
    """Words in which capitals come first; `and_not` takes characters out of the letters."""
    upper, lower = (
        rf"[\p{{L{case}}}{others}{and_not}]"
        for case, others in (("u", r"\p{Lt}\p{Lm}\p{Lo}\p{M}"), ("l", r"\p{Lm}\p{Lo}\p{M}"))
    )
    start = r"[^\r\n\p{L}\p{N}]?"
    return rf"{start}{upper}*{lower}+{tail}|{start}{upper}+{lower}*{tail}|{digits}{rest}{_SPACES}"


_ENGLISH = rf"(?i:{_CONTRACTIONS})?"
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
)
_DEEPSEEK3 = [r"\p{N}{1,3}", _CJK, _ASCII_WORDS + r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES]
# Letters with case, as the DeepSeek LLM tokenizer lists them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d"
    "\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a"
    "\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_MARKS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"

_SPLITS: dict[tuple[str, ...], list[str]] = {
    ("default",): [r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    (
        "gpt-2",
        "mpt",
        "olmo",
        "jais",
        "phi-2",
        "trillion",
        "granite-docling",
        "gigachat",
        "roberta-bpe",
        "jina-es",
        "jina-de",
        "jina-v1-en",
        "jina-v2-code",
        "jina-v2-es",
        "jina-v2-de",
        "a.x-4.0",
        "mellum",
        "modern-bert",
        "exaone4",
    ): [_GPT2],
    (
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
        "smaug-bpe",
        "dbrx",
        "chatglm-bpe",
        "glm4",
        "glm5",
    ): [_llama3(r"\p{N}{1,3}")],
    ("jais-2",): [
        _llama3(
            r"\p{N}{1,3}",
            spaces=r"|\s*[\r\n]+"
            + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"|\s{1,2}(?!\S)|\s{1}",
        )
    ],
    ("minicpm5",): [r"\p{N}{1,3}", _llama3(r"\p{N}+")],
    (
        "qwen2",
        "deepseek-r1-qwen",
        "kormo",
        "f2llmv2",
        "stablelm2",
        "hunyuan",
        "megrez",
        "solar-open",
        "grok-2",
    ): [_llama3(r"\p{N}")],
    ("qwen35",): [_llama3(r"\p{N}", letters=_MARKS, rest=r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*")],
    ("ufakzeka",): [_llama3(r"\p{N}", head="")],
    ("laguna",): [_LINES, _llama3(r"\p{N}")],
    ("seed-coder",): [_llama3(r"\p{N}", rest=r"| ?[^\s\p{L}\p{N}\r\n]+")],
    ("bailingmoe", "bailingmoe2", "llada-moe"): [
        _llama3(r"\p{N}", head=r"'(?i:[sdmt]|ll|ve|re)|", spaces=r"|\s*[\r\n]|\s+(?!\S)|\s+")
    ],
    ("exaone-moe",): [
        _llama3(
            r"\p{N}",
            letters=r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
            rest=r"| ?[^\s\p{L}\p{N}]+[\r\n/]?",
            spaces=r"|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ],
    (
        "starcoder",
        "refact",
        "command-r",
        "smollm",
        "codeshell",
        "exaone",
        "minerva-7b",
        "mellum2",
    ): [r"\p{N}", _GPT2],
    ("falcon",): [r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"],
    ("deepseek-coder",): ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    ("deepseek-llm",): [
        "[\r\n]",
        rf"\s?[{_CASED}]+",
        r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
        r"\s+$",
        "[一-龥ࠀ-一가-퟿]+",
        r"\p{N}+",
    ],
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): _DEEPSEEK3,
    ("spark2_5",): [
        r"\p{N}{1,3}",
        _CJK,
        _ASCII_WORDS + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
        r"\p{N}",
    ],
    ("afmoe",): [
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
        "[一-鿿㐀-䶿豈-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿\u0e80-\u0effក-៿က-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+",
        _ASCII_WORDS + r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES,
    ],
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"): [_o200k(r"\p{N}{1,3}", _ENGLISH)],
    ("granite-embed-multi-97m",): [_o200k(r"\p{N}{1,3}", _ENGLISH)],
    ("tekken",): [_o200k(r"\p{N}")],
    ("tiny_aya", "cohere2moe"): [r"\d{1,3}(?=(?:\d{3})*\b)", _o200k(r"\p{N}{1,3}", _ENGLISH)],
    ("youtu",): [
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _CJK,
        _o200k(r"\p{N}", _ENGLISH),
    ],
    ("kimi-k2",): [
        r"[\p{Han}]+|"
        + _o200k(r"\p{N}{1,3}", _ENGLISH, r"&&[^\p{Han}]", r"| ?[^\s\p{L}\p{N}]+[\r\n]*")
    ],
    ("superbpe",): [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    ("poro-chat", "bloom", "gpt3-finnish"): [_BLOOM],
    ("viking",): [_BLOOM, r"\p{N}"],
    ("chameleon",): [
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]",
        _GPT2,
    ],
    ("gemma4", "sarvam-moe", "granite-embed-multi-311m"): [_LINES],
    ("whitespace",): [r"\S+"],
}


@dataclass(frozen=True)
class PreTokenizer:
    """steps: regular expressions, applied in turn.  byte_level: bytes are coded as printing characters; else text is merged as
    it is, bytes stand in for unknown characters, and with `marks_spaces` a space is U+2581.  whole_words_first: a piece that is
    a token is taken as it is, whatever the merges say; whole_newlines: a run of newlines that is one.  adds_bos: models expect BOS
    where the file does not say; forces_bos: even where it says otherwise.  ends_lines: no piece reaches from the end of a line that
    has text into a word at the beginning of the next."""

    steps: list[str]
    byte_level: bool = True
    marks_spaces: bool = False
    whole_words_first: bool = False
    whole_newlines: bool = False
    adds_bos: bool = False
    ends_lines: bool = True
    forces_bos: bool = False


_LLAMA3_NAMES = frozenset(
    {
        "llama-bpe",
        "llama3",
        "llama-v3",
        "falcon3",
        "falcon-h1",
        "pixtral",
        "midm-2.0",
        "lfm2",
        "jina-v5-nano",
    }
)
_RAW = frozenset({"gemma4", "sarvam-moe", "granite-embed-multi-311m"})

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    name: PreTokenizer(
        steps,
        byte_level=name not in _RAW | {"whitespace"},
        marks_spaces=name in _RAW,
        whole_words_first=name in _LLAMA3_NAMES | {"tekken", "youtu"},
        whole_newlines=name == "gemma4",
        forces_bos=name == "gemma4",
        adds_bos=name in _LLAMA3_NAMES | {"tekken", "chameleon"},
        ends_lines=name != "superbpe",
    )
    for names, steps in _SPLITS.items()
    for name in names
}
