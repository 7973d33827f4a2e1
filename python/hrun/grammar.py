"""A grammar binds the form of an answer: a JSON schema, a regular expression, a choice of texts, or
a grammar.

llguidance (extra ``hrun[grammar]``) does the work; what it cannot keep exactly is refused, and the error says which keyword
it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hrun.errors import ArgumentError, GrammarError, printable
from hrun.gbnf import gbnf_to_lark
from hrun.library_errors import library_errors

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Blanks between the parts of a document; without a bound some models write blanks for ever.
JSON_BLANKS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,8}"}
_MAX_CHARACTERS = 1 << 20  # of a grammar


@dataclass(frozen=True)
class Grammar:
    """A grammar that answers can be bound to.

    ``source`` is in llguidance's form; ``warnings`` say what will not be kept exactly, and only where the schema's own
    ``x-guidance`` asked for that.
    """

    source: str
    warnings: tuple[str, ...] = ()


def json_schema_grammar(schema: Any) -> Grammar:
    """JSON that validates against ``schema``: a dict, its text, True for any JSON, or a pydantic model.

    Raises GrammarError that names the keyword for what cannot be kept.
    """
    from_model = getattr(schema, "model_json_schema", None)
    if callable(from_model):
        schema = from_model()
    if isinstance(schema, (str, bytes)):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise GrammarError(
                f"the JSON schema is no JSON: {printable(str(error), 200)}"
            ) from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        found = "false, which nothing fulfils" if schema is False else type(schema).__name__
        raise GrammarError(f"the JSON schema is {found}, expected an object")
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError(f"the JSON schema is no JSON: {printable(str(error), 200)}") from None
    with library_errors("the JSON schema", GrammarError):
        source = _library().grammar_from_json_schema(text, defaults=JSON_BLANKS)  # type: ignore[arg-type]
    return _checked("the JSON schema", source)


def regex_grammar(pattern: str) -> Grammar:
    """Text that ``pattern`` matches as a whole.  Raises GrammarError."""
    if not isinstance(pattern, str):
        raise ArgumentError(f"regex must be a string, got {type(pattern).__name__}")
    with library_errors("the regular expression", GrammarError):
        source = _library().grammar_from_regex(pattern)
    return _checked("the regular expression", source)


def choice_grammar(choices: Sequence[str]) -> Grammar:
    """One of ``choices``, whole.  Raises ArgumentError."""
    if isinstance(choices, (str, bytes)) or not isinstance(choices, Sequence) or not choices:
        raise ArgumentError("choice must be a list of texts, not empty")
    for i, text in enumerate(choices):
        if not isinstance(text, str) or not text:
            raise ArgumentError(f"choice[{i}] must be a text, not empty")
    # The texts are matched by characters: the lexer would take the longest of texts that begin
    # alike.
    quoted = ["".join(f"\\u{{{ord(c):x}}}" for c in text) for text in dict.fromkeys(choices)]
    return _checked("the choice", _library().grammar_from_regex("|".join(quoted)))


def text_grammar(text: str) -> Grammar:
    """A grammar in GBNF (llama.cpp's notation, with ``::=``) or in llguidance's dialect of Lark.  Raises GrammarError."""
    if not isinstance(text, str):
        raise ArgumentError(f"grammar must be a string, got {type(text).__name__}")
    if len(text) > _MAX_CHARACTERS:
        raise GrammarError(
            f"the grammar has {len(text)} characters, {_MAX_CHARACTERS} are the limit"
        )
    is_gbnf = "::=" in text and "%llguidance" not in text
    lark = gbnf_to_lark(text) if is_gbnf else text
    with library_errors("the grammar", GrammarError):
        source = _library().grammar_from_lark(lark)
    return _checked("the grammar", source)


def within(lark: str, grammar: Grammar) -> Grammar:
    """``lark``, in llguidance's dialect, with ``grammar`` where it says ``@answer``.  Raises GrammarError."""
    is_lark = not grammar.source.startswith("{")
    parts = (
        [{"lark_grammar": grammar.source}] if is_lark else json.loads(grammar.source)["grammars"]
    )
    main = {"name": "main", "lark_grammar": lark}
    named = [{**parts[0], "name": "answer"}, *parts[1:]]
    source = json.dumps({"grammars": [main, *named]})
    return replace(_checked("the grammar", source), warnings=grammar.warnings)


def grammar_of(
    json_schema: Any = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    grammar: str | Grammar | None = None,
) -> Grammar | None:
    """The grammar that these ask for, one at most; None if none does.  Raises GrammarError, ArgumentError."""
    given = {"json_schema": json_schema, "regex": regex, "choice": choice, "grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise ArgumentError(f"{' and '.join(names)}: an answer has one grammar at most")
    if isinstance(grammar, Grammar):
        return grammar
    make = {
        "json_schema": json_schema_grammar,
        "regex": regex_grammar,
        "choice": choice_grammar,
        "grammar": text_grammar,
    }[names[0]]
    return make(given[names[0]])


def matcher_of(grammar: Grammar, vocabulary: LLTokenizer) -> LLMatcher:
    """A matcher at the beginning of ``grammar``.  Raises GrammarError."""
    with library_errors("the grammar", GrammarError):
        matcher: LLMatcher = _library()(vocabulary, grammar.source, log_level=0, limits=_limits())
        # Some grammars show only with their first mask that they are too large, or that nothing fulfils them.
        begun = matcher if matcher.is_error() else matcher.deep_copy()
        if not begun.is_error():
            begun.compute_bitmask()
    if begun.is_error():
        raise GrammarError(f"the grammar: {_said(begun.get_error())}")
    return matcher


def library() -> Any:
    """The module llguidance.  Raises GrammarError where it is not installed."""
    try:
        import llguidance
    except ImportError:
        raise GrammarError(
            "grammars and JSON schemas need llguidance: pip install 'hrun[grammar]'"
        ) from None
    return llguidance


def _library() -> type[LLMatcher]:
    matcher: type[LLMatcher] = library().LLMatcher
    return matcher


def _limits() -> Any:
    return library().LLParserLimits(verbose_errors=False)


def _checked(what: str, source: str) -> Grammar:
    with library_errors(what, GrammarError):
        failed, said = _library().validate_grammar_with_warnings(source, limits=_limits())
    if failed:
        raise GrammarError(f"{what}: {_said(said[0])}")
    return Grammar(source, tuple(_said(text) for text in said))


def _said(text: str) -> str:
    """Returns the library's message as one line.  Its "Unimplemented keys" become "unsupported
    keywords", as users call them.
    """
    return printable(" ".join(text.split()), 500).replace(
        "Unimplemented keys:", "unsupported keywords:"
    )
