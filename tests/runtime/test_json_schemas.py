"""An answer validates or the schema was refused, whatever the schema and the model.  The judge is
jsonschema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrun import GrammarError, Runtime
from hrun.grammar import json_schema_grammar, matcher_of
from hrun.masks import vocabulary_of

pytestmark = pytest.mark.slow

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")


@pytest.fixture(scope="module", params=[1, 2, 3])
def rt(tiny_model: Callable[..., Path], request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """A model with random weights: whatever it would write is noise."""
    with Runtime(tiny_model(tied=False, n_ctx=1024, seed=request.param), n_ctx=1024) as runtime:
        yield runtime


def validator(schema: Any) -> Any:
    return jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


def answer(rt: Runtime, schema: Any, seed: int) -> Any:
    """A complete answer that validates; None where the tokens did not suffice."""
    got = rt.generate("x", json_schema=schema, seed=seed, temperature=1.3, max_tokens=300)
    if got.finish_reason == "length":
        return None
    value = json.loads(got.text)
    validator(schema).validate(value)
    return [value]


# Each row is in the manner of JSON-Schema-Test-Suite: a schema, documents that validate, documents
# that do not.
STRING = {"type": "string", "maxLength": 6}
SAMPLES: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
     [{}, {"a": 1}], [{"a": "x"}, {"a": 1.5}, {"b": 1}, []]),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"], "additionalProperties": False},
     [{"b": 1}, {"a": [], "b": None}], [{}, {"a": 1}]),
    ({"type": "object", "additionalProperties": {"type": "boolean"}}, [{}, {"x": True}], [{"x": 1}]),
    ({"type": "object", "patternProperties": {"^n_": {"type": "number"}}, "additionalProperties": False},
     [{"n_a": 1.5}], [{"n_a": "1"}, {"a": 1}]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}, [[1], [1, 2, 3]], [[], [1, 2, 3, 4], ["1"]]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, STRING], "items": False}, [[1, "a"], [1]], [["a"], [1, "a", 2]]),
    ({"type": "array", "items": {"type": "array", "items": {"type": "null"}, "maxItems": 2}, "maxItems": 2}, [[[None]], []], [[[1]], [1]]),
    ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13, 1.5]),
    ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}, [1, 9], [0, 10]),
    ({"type": "number", "minimum": 0.5, "maximum": 2}, [0.5, 1.25, 2], [0.25, 2.5]),
    ({"type": "integer", "multipleOf": 5}, [0, 10], [3]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "äöü"], ["a", "abcd"]),
    ({"type": "string", "pattern": "^[a-c]{2}-[0-9]$"}, ["ab-1"], ["ab-", "abc-1"]),
    ({"type": "string", "pattern": "b+", "maxLength": 5}, ["abc", "b"], ["ac"]),
    ({"type": "string", "format": "date"}, ["2024-02-03"], ["2024-13-01", "x"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
    ({"type": "string", "format": "ipv4"}, ["127.0.0.1"], ["256.0.0.1"]),
    ({"enum": ["red", 1, None, [2], {"a": 3}]}, ["red", 1, None, [2], {"a": 3}], ["blue", 2]),
    ({"const": {"k": "v"}}, [{"k": "v"}], [{"k": "w"}, {}]),
    ({"type": ["boolean", "null"]}, [True, None], [0, "true"]),
    ({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]}, [1, "abcd"], ["abcde", 1.5]),
    ({"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}, "n": {"type": "integer"}}, "required": ["k", "n"], "additionalProperties": False},
                {"type": "object", "properties": {"k": {"const": "b"}, "s": STRING}, "required": ["k", "s"], "additionalProperties": False}]},
     [{"k": "a", "n": 1}, {"k": "b", "s": "x"}], [{"k": "a", "s": "x"}, {"k": "c"}]),
    ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6]),
    ({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer", "maximum": 9, "minimum": 0}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                         "required": ["v", "next"], "additionalProperties": False}}, "$ref": "#/$defs/node"},
     [{"v": 1, "next": None}, {"v": 1, "next": {"v": 2, "next": None}}], [{"v": 1}, {"v": 1, "next": 1}]),
    ({"definitions": {"s": STRING}, "type": "array", "items": {"$ref": "#/definitions/s"}, "maxItems": 2}, [["a"]], [["abcdefg"], [1]]),
    ({"type": "object", "properties": {"ä \"quoted\"\n": {"type": "null"}}, "required": ["ä \"quoted\"\n"], "additionalProperties": False},
     [{"ä \"quoted\"\n": None}], [{}]),
]  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=[json.dumps(s[0])[:60] for s in SAMPLES])
def test_samples(rt: Runtime, sample: tuple[Any, list[Any], list[Any]]) -> None:
    schema, valid, invalid = sample
    vocabulary = vocabulary_of(rt.tokenizer, rt.n_vocab)
    grammar = json_schema_grammar(schema)

    def accepted(document: Any) -> bool:
        matcher = matcher_of(grammar, vocabulary)
        ids = rt.tokenizer.encode(json.dumps(document, ensure_ascii=False))
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    for document in valid:
        assert validator(schema).is_valid(document) and accepted(document), document
    for document in invalid:
        assert not validator(schema).is_valid(document) and not accepted(document), document
    answers = [answer(rt, schema, seed) for seed in range(3)]
    assert any(answers), "none was complete"


scalars = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.builds(lambda a, n: {"type": "integer", "minimum": a, "maximum": a + n}, st.integers(-500, 500), st.integers(0, 400)),
    st.builds(lambda a, n: {"type": "number", "minimum": a, "exclusiveMaximum": a + n}, st.integers(-9, 9), st.integers(1, 9)),
    st.builds(lambda a, n: {"type": "string", "minLength": a, "maxLength": a + n}, st.integers(0, 4), st.integers(0, 5)),
    st.sampled_from([{"type": "string", "pattern": p} for p in ("^a[bc]{1,3}$", "^\\d\\d$", "^(x|yy)?$", "^[^a-z]{2}$")]),
    st.sampled_from([{"type": "string", "format": f} for f in ("date", "time", "date-time", "email", "ipv6", "hostname", "nope")]),
    st.builds(lambda v: {"enum": v}, st.lists(st.one_of(st.text(max_size=4), st.integers(-99, 99), st.none(), st.booleans()), min_size=1, max_size=4, unique_by=repr)),
    st.sampled_from([{"not": {"type": "null"}}, {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 99}]),
)  # fmt: skip


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=3)
    return st.one_of(
        st.builds(
            lambda p, n: {"type": "object", "properties": p, "required": list(p)[:n], "additionalProperties": False},
            st.dictionaries(names, inner, max_size=3), st.integers(0, 3),
        ),
        st.builds(
            lambda s, a, n: {"type": "array", "items": s, "minItems": a, "maxItems": a + n},
            inner, st.integers(0, 2), st.integers(0, 2),
        ),
        st.builds(lambda a: {"anyOf": a}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda a: {"oneOf": a}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda a, b: {"allOf": [a, b]}, inner, inner),
        st.builds(lambda a: {"$defs": {"x": a}, "$ref": "#/$defs/x"}, inner),
        st.builds(lambda a: {"type": "array", "items": a, "uniqueItems": True, "maxItems": 3}, inner),
    )  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(schema=st.recursive(scalars, nested, max_leaves=5), seed=st.integers(0, 1000))
def test_any_schema(rt: Runtime, schema: Any, seed: int) -> None:
    try:
        answer(rt, schema, seed)
    except GrammarError as error:
        assert str(error).startswith("the JSON schema: ")
