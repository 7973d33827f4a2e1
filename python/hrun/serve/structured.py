"""The bounds that a request sets on its answer: a schema, a pattern, a choice, a grammar."""

from __future__ import annotations

import json
from typing import Any

from hrun.errors import ArgumentError, GrammarError
from hrun.grammar import Grammar, grammar_of
from hrun.serve.errors import ApiError, bad
from hrun.serve.schemas import Drawing
from hrun.serve.service import Service

_KINDS = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "grammar"}


def grammar_asked(service: Service, body: Drawing) -> Grammar | None:
    """The grammar of the request's answer; for a thread.  Raises ApiError that names the field."""
    asked = {**_response_format(body), **_structured(body)}
    for name in ("grammar", "json_schema"):
        value = getattr(body, name)
        if value is not None:
            asked[name] = (name, value)
    if len(asked) > 1:
        names = ", ".join(sorted(asked))
        raise bad(f"{names}: an answer has one form at most", param="response_format")
    if not asked:
        return None
    ((field, (kind, value)),) = asked.items()
    _check_size(service, field, value)
    return checked(field, lambda: grammar_of(**{kind: value}))


def checked(field: str, make: Any) -> Grammar | None:
    """Returns the result of ``make``; its errors name the field."""
    try:
        grammar: Grammar | None = make()
        return grammar
    except GrammarError as error:
        missing = "llguidance" in str(error)
        code = "not_supported" if missing else "unsupported_grammar"
        raise ApiError(501 if missing else 400, str(error), param=field, code=code) from None
    except ArgumentError as error:
        raise bad(str(error), param=field) from None


def ready(service: Service, field: str, grammar: Grammar | None) -> Grammar | None:
    """The same, with its matcher made, so that binding a request to it takes no time; for a thread."""
    if grammar is None:
        return None

    def prepared() -> Grammar:
        service.engines.prepare(grammar)
        return grammar

    return checked(field, prepared)


def _response_format(body: Drawing) -> dict[str, tuple[str, Any]]:
    given = body.response_format
    if given is None or given.get("type") == "text":
        return {}
    if given.get("type") == "json_object":
        schema = given.get("schema")  # llama-server's
        wanted = {"type": "object"} if schema is None else schema
        return {"response_format": ("json_schema", wanted)}
    if given.get("type") == "json_schema":
        inner = given.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, (dict, bool)):
            raise bad(
                "response_format.json_schema.schema is missing or no schema",
                param="response_format.json_schema.schema",
            )
        return {"response_format": ("json_schema", schema)}
    raise bad(
        "response_format.type must be text, json_object or json_schema",
        param="response_format.type",
    )


def _structured(body: Drawing) -> dict[str, tuple[str, Any]]:
    out: dict[str, tuple[str, Any]] = {}
    for name, value in (body.structured_outputs or {}).items():
        if value is None or value is False:
            continue
        if name == "json_object":
            out["structured_outputs.json_object"] = ("json_schema", {"type": "object"})
        elif name in _KINDS:
            out[f"structured_outputs.{name}"] = (_KINDS[name], value)
        else:
            raise bad(
                f"structured_outputs.{name} is not supported", param=f"structured_outputs.{name}"
            )
    return out


def _check_size(service: Service, field: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    limit = service.options.max_schema_bytes
    if len(text) > limit:
        raise bad(f"{field} has {len(text)} characters, the server takes {limit}", param=field)
