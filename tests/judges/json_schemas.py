"""Judges structured output by JSON-Schema-Test-Suite and JSONSchemaBench: what a grammar takes validates, or the schema was refused.

Usage: json_schemas.py FOLDER...     folders of either: tests/draft2020-12, or data/ with one schema and its tests a file
For each schema: refused by name, or every document that the schema excludes must be excluded by the grammar as well (as
JSON on one line), and what random weights write under it must validate.  The judge is jsonschema.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

import hrun
from hrun.grammar import json_schema_grammar, matcher_of
from hrun.masks import vocabulary_of

# These errors are jsonschema's fault, not the schema's: it cannot look something up, calculate it
# or read it as a pattern.
_UNDECIDED = (jsonschema.exceptions.UnknownType, RecursionError, OverflowError, re.error)


# The groups of the suite of which llguidance keeps the shape only; by the standard, all but the
# last are annotations.
KNOWN = {
    "hostname": "whether a label that begins with xn-- decodes to one of IDNA",
    "idn-hostname": "the same",
    "time": "a second of 60 at times other than 23:59 UTC",
    "date-time": "the same",
    "date": "29 February in years that have none",
    "content": "contentEncoding and contentMediaType",
    "ecmascript-regex": "the byte order mark is no blank",
    "ref": "draft 7: $id beside $ref, which hides it",
}


@dataclass
class Case:
    """A schema, and documents with whether they validate."""

    name: str
    schema: Any
    documents: list[tuple[Any, bool]]
    old: bool = False  # of draft 7

    @property
    def group(self) -> str:
        """Its file's name."""
        return self.name.partition("[")[0]


@dataclass
class Verdict:
    """The verdict on all schemas."""

    n_schemas: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    n_taken: int = 0  # documents that validate, and that the grammar takes
    n_left_out: int = 0  # documents that validate, and that it would not write
    n_excluded: int = 0
    known: Counter[str] = field(default_factory=Counter)  # taken all the same
    n_answers: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        n_refused = sum(self.refused.values())
        lines = [
            f"{self.n_schemas} schemas, {n_refused} refused by name",
            f"documents that validate: {self.n_taken} taken, {self.n_left_out} left out; that do not: {self.n_excluded} excluded",
            f"{self.n_answers} answers of random weights validate",
            *(f"known: {n} of {name} ({KNOWN[name]})" for name, n in self.known.items()),
            f"{len(self.faults)} faults",
            *self.faults[:40],
        ]
        return "\n".join(lines)


def cases_of(folder: Path) -> Iterator[Case]:
    """Yields the cases of JSON-Schema-Test-Suite (lists of groups) or JSONSchemaBench (objects)."""
    for path in sorted(folder.rglob("*.json")):
        value = json.loads(path.read_text(encoding="utf-8"))
        groups = value if isinstance(value, list) else [value]
        for i, group in enumerate(groups):
            if isinstance(group, dict) and "schema" in group:
                tests = [(t["data"], bool(t["valid"])) for t in group.get("tests", ())]
                yield Case(f"{path.stem}[{i}]", group["schema"], tests, "draft7" in path.parts)


class Bytes:
    """A vocabulary of bytes."""

    tokens = [*(chr(i) for i in range(256)), "<eos>"]
    n_vocab = 257
    end_ids = frozenset({256})

    def is_control(self, token: int) -> bool:
        return token == 256

    def token_bytes(self, token: int) -> bytes:
        return b"<eos>" if token == 256 else bytes([token])

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def judge(
    cases: Iterator[Case], runtime: hrun.Runtime | None = None, n_answers: int = 1
) -> Verdict:
    """The verdict; with a Runtime its answers are judged as well."""
    verdict = Verdict()
    trie = vocabulary_of(Bytes(), 257)  # type: ignore[arg-type]
    for case in cases:
        verdict.n_schemas += 1
        try:
            grammar = json_schema_grammar(case.schema)
            matcher = matcher_of(grammar, trie)
        except hrun.GrammarError as error:
            verdict.refused[str(error)[:60]] += 1
            continue
        for document, valid in case.documents:
            text = json.dumps(document, ensure_ascii=False)
            try:
                tokens = list(text.encode())
            except UnicodeEncodeError:
                continue  # a lone surrogate is no text
            reader = matcher.deep_copy()
            taken = reader.try_consume_tokens(tokens) == len(tokens) and reader.is_accepting()
            if valid:
                verdict.n_taken += taken
                verdict.n_left_out += not taken
            elif taken and case.group in KNOWN:
                verdict.known[case.group] += 1
            elif taken:
                verdict.faults.append(f"{case.name} takes {text[:100]}")
            else:
                verdict.n_excluded += 1
        if runtime is not None:
            _judge_answers(case, grammar, runtime, n_answers, verdict)
    return verdict


def _judge_answers(
    case: Case, grammar: Any, runtime: hrun.Runtime, n: int, verdict: Verdict
) -> None:
    for seed in range(n):
        got = runtime.generate("x", grammar=grammar, seed=seed, temperature=1.2, max_tokens=200)
        if got.finish_reason == "length":
            continue
        try:
            draft = jsonschema.Draft7Validator if case.old else jsonschema.Draft202012Validator
            kind = jsonschema.validators.validator_for(case.schema, draft)
            kind(case.schema).validate(json.loads(got.text))
            verdict.n_answers += 1
        except _UNDECIDED:
            continue
        except (jsonschema.ValidationError, ValueError) as error:
            if case.group in KNOWN:
                verdict.known[case.group] += 1
                continue
            verdict.faults.append(f"{case.name} wrote {got.text[:100]}: {str(error)[:80]}")
        except Exception as error:  # references that only a registry knows
            if "Unresolvable" not in type(error).__name__ + str(type(error).__mro__):
                raise


def main() -> int:
    """The command; 1 where there are faults."""
    failed = 0
    with hrun.Runtime(n_ctx=512, n_threads=1) as runtime:
        for folder in sys.argv[1:]:
            verdict = judge(cases_of(Path(folder)), runtime)
            print(f"{folder}\n{verdict}")
            failed |= bool(verdict.faults)
    return failed


if __name__ == "__main__":
    sys.exit(main())
