"""Answers bound to a grammar: they keep it, end where it can end, and are refused where it cannot be kept."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hrun
from hrun import ArgumentError, GrammarError, Runtime, _core
from hrun.grammar import Grammar, grammar_of, json_schema_grammar, text_grammar
from hrun.masks import vocabulary_of
from hrun.tokenizer import CONTROL, Tokenizer

llguidance = pytest.importorskip("llguidance")
pytest.importorskip("llguidance.numpy")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def rt(tiny_model: Callable[..., Path]) -> Iterator[Runtime]:
    with Runtime(tiny_model(tied=False, n_ctx=512), n_ctx=512, n_batch=64) as runtime:
        yield runtime


# ---- what a grammar means


def accepts(grammar: Grammar, text: str) -> bool:
    """Does the grammar accept the text, byte by byte?"""

    class Bytes:
        tokens = [bytes([i]) for i in range(256)] + [b"\xff<end>"]
        eos_token_id, bos_token_id, special_token_ids = 256, None, [256]

        def __call__(self, text: bytes) -> list[int]:
            return list(text)

    vocabulary = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
    matcher = llguidance.LLMatcher(vocabulary, grammar.source)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("grammar", "yes", "no"),
    [
        # A lexer that takes the longest match would never end these.
        ('root ::= [a-z]+ "b"', ["ab", "abb", "abcab"], ["a", "b", "ba"]),
        ('root ::= [a-c]* "abc"', ["abc", "ababc", "aabc"], ["ab", "abcc"]),
        ('root ::= ("ab" | [a-z] [a-z]) "x"', ["abx", "acx"], ["ax", "abcx"]),
        ('root ::= "" | "a" root', ["", "a", "aaa"], ["b"]),
        ('root ::= "(" root ")" | "-"', ["-", "((-))"], ["(-", "-)"]),
        ("root ::= [^a-c\\]x-]", ["d", "\n", "é"], ["a", "]", "x", "-", ""]),
        ("root ::= [a\\-c] [-x] [x-]", ["a--", "-xx"], ["b-x"]),
        ("root ::= . [\\x41\\u00e9\\U0001F600]", ["\nA", "xé", "é😀"], ["A", "xB"]),
        ('root ::= "\\"\\\\\\n\\t" "/" [/"\\[]', ['"\\\n\t//', '"\\\n\t/"', '"\\\n\t/['], ["x"]),
        ('root ::= "a"{2} "b"{1,} "c"{,2} "d"{0,1}', ["aab", "aabbccd"], ["ab", "aabccc"]),
        ('root ::= a b? # a comment\n\n# another\na ::=\n  "x" |\n  "y"\nb ::= "z"\n  | "w"', ["x", "yz", "xw"], ["z"]),
        ('root ::= (\n "a"\n | "b"\n)+', ["ab", "b"], [""]),
        ('some-rule ::= "s"\nroot ::= some-rule some_rule\nsome_rule ::= "t"', ["st"], ["s"]),
        ("%llguidance {}\nstart: /[a-c]+/", ["abc"], ["d"]),
    ],
)  # fmt: skip
def test_a_text_grammar(grammar: str, yes: list[str], no: list[str]) -> None:
    bound = text_grammar(grammar)
    assert [t for t in yes if not accepts(bound, t)] == []
    assert [t for t in no if accepts(bound, t)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("root ::= nope", "line 1: no rule 'nope'"),
        ('x ::= "a"', "no rule 'root'"),
        ('root ::= "a"\nroot ::= "b"', "line 2: rule 'root' is defined twice"),
        ('root ::= "a', "line 1: expected a character"),
        ('root ::= "a" )', "expected the end of the rule"),
        ("root ::= [b-a]", "expected a range that rises"),
        ("root ::= []", "expected a character in"),
        ('root ::= "\\q"', "expected an escape"),
        ('root ::= "\\u12"', "expected an escape"),
        ('root ::= "\\uD800"', "expected a character's number"),
        ('root ::= "a"{3,2}', "expected a repetition that rises"),
        ('root ::= "a"{', "expected a number"),
        ('root ::= "a"{99999999999}', "expected a number"),
        ('root = "a"', "root"),
        ('root ::= "a"\nfoo bar', "line 2: expected '::='"),
        ("root ::= " + "(" * 5000, "expected at most 200 parentheses"),
        ("root ::= <x", "expected '>'"),
        ("", "grammar"),
    ],
)
def test_a_bad_text_grammar_is_refused(text: str, words: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(words)):
        text_grammar(text)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"not": {"type": "string"}}, 'unsupported keywords: ["not"]'),
        ({"type": "object", "propertyNames": {"pattern": "a"}}, '["propertyNames"]'),
        ({"type": "array", "uniqueItems": True}, '["uniqueItems"]'),
        ({"properties": {"a": {"if": {}, "then": {}}}}, '"if"'),
        ({"type": "array", "contains": {}}, '["contains"]'),
        ({"type": "string", "format": "nope"}, "Unknown format: nope"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"$ref": "http://example.com/schema"}, "example.com"),
        ({"$ref": "#/definitions/nope"}, "nope"),
        ({"type": "nope"}, "nope"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
        (False, "false"),
        (7, "int"),
        ("[1]", "list"),
        ("{", "no JSON"),
        ({"const": float("nan")}, "no JSON"),
        ({"const": object()}, "no JSON"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(schema: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(words)):
        json_schema_grammar(schema)


def test_what_the_arguments_may_be(rt: Runtime) -> None:
    for call, words in (
        (lambda: grammar_of(regex="a", choice=["b"]), "regex and choice"),
        (lambda: grammar_of(choice="abc"), "choice must be a list"),
        (lambda: grammar_of(choice=[]), "choice must be a list"),
        (lambda: grammar_of(choice=["a", ""]), "choice[1]"),
        (lambda: grammar_of(regex=7), "regex"),  # type: ignore[arg-type]
        (lambda: rt.generate("a", grammar=7), "grammar"),  # type: ignore[call-overload]
    ):
        with pytest.raises(ArgumentError, match=re.escape(words)):
            call()
    with pytest.raises(GrammarError, match="unclosed group"):
        rt.generate("a", regex="(a")
    with pytest.raises(GrammarError, match="nosuch"):  # a token that the vocabulary does not have
        rt.generate("a", grammar="start: <|nosuch|>")
    assert rt.engine.stats()["n_running"] == rt.engine.stats()["n_waiting"] == 0

    class Model:
        @staticmethod
        def model_json_schema() -> dict[str, Any]:
            return PERSON

    assert json_schema_grammar(Model) == json_schema_grammar(json.dumps(PERSON))


# ---- what the engine makes of it


@pytest.mark.parametrize("seed", range(6))
def test_texts_keep_their_grammar(rt: Runtime, seed: int) -> None:
    options = {"seed": seed, "temperature": 1.5, "max_tokens": 200}
    person = rt.generate("a", json_schema=PERSON, **options)
    value = json.loads(person.text)
    assert list(value) == ["name", "age"] and len(value["name"]) <= 8 and value["age"] <= 99
    assert person.finish_reason == "stop"
    assert re.fullmatch(
        r"[a-f]{2,5}-\d", rt.generate("b", regex=r"[a-f]{2,5}-[0-9]", **options).text
    )
    assert rt.generate("c", choice=["no", "nope", "never"], **options).text in (
        "no",
        "nope",
        "never",
    )
    assert re.fullmatch(r"(ab)+\.", rt.generate("d", grammar='root ::= "ab"+ "."', **options).text)
    chat = rt.chat([{"role": "user", "content": "x"}], grammar='root ::= " " [xy]', **options)
    assert chat.text in (" x", " y")


def test_the_end_comes_exactly_where_the_grammar_can_end(rt: Runtime) -> None:
    ends = min(rt.tokenizer.end_ids)
    for seed in range(8):
        wants_end = {ends: 30.0}  # the model would end at once, and at every chance
        got = rt.generate("a", regex="[ab]{3,9}", seed=seed, logit_bias=wants_end, max_tokens=50)
        assert (len(got.text), got.finish_reason) == (3, "stop")
        never = rt.generate("a", regex="[ab]{3,9}", seed=seed, ignore_eos=True, max_tokens=50)
        assert (len(never.text), never.finish_reason) == (9, "stop")  # nothing can follow
    cut = rt.generate("a", json_schema=PERSON, max_tokens=2, seed=1)
    assert cut.finish_reason == "length" and len(cut.tokens) == 2
    assert rt.generate("a", grammar='root ::= ""', max_tokens=5).text == ""


def test_bound_and_free_ones_together_are_what_each_is_alone(rt: Runtime) -> None:
    """Masks that come late or early change nothing; log-probabilities are those of raw logits."""
    grammars: list[dict[str, Any]] = [
        {"regex": "[a-z ]{20,30}"}, {}, {"json_schema": PERSON}, {"choice": ["abc", "abd"]}, {},
    ]  # fmt: skip
    options = {"seed": 5, "temperature": 1.2, "max_tokens": 40, "logprobs": 2}
    alone = [rt.generate(f"p{i}", **g, **options) for i, g in enumerate(grammars)]  # type: ignore[call-overload]
    got: list[hrun.Generation | None] = [None] * len(grammars)

    def run(i: int) -> None:
        pieces = rt.generate(f"p{i}", stream=True, **grammars[i], **options)  # type: ignore[call-overload]
        got[i] = [p.generation for p in pieces][-1]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(grammars))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, got):
        assert other is not None
        assert (one.tokens, one.text, one.logprobs) == (other.tokens, other.text, other.logprobs)
    many = rt.generate(["p", "q", "r"], regex="[0-9]{4}", seed=2, max_tokens=20)
    assert [g.tokens for g in many] == [
        rt.generate(p, regex="[0-9]{4}", seed=2, max_tokens=20).tokens for p in "pqr"
    ]
    assert alone[0].logprobs is not None
    ids = rt.tokenizer.encode("p0")
    scores = rt.score(rt._with_bos(ids) + alone[0].tokens)[-len(alone[0].tokens) :]
    assert [x.logprob for x in alone[0].logprobs] == [x.logprob for x in scores]


def test_asyncio_and_cancellation(rt: Runtime) -> None:
    async def main() -> None:
        results = await asyncio.gather(
            *(rt.agenerate("a", regex="[ab]{5}", seed=i, max_tokens=20) for i in range(6))
        )
        assert all(re.fullmatch("[ab]{5}", g.text) for g in results)
        chat = await rt.achat(
            [{"role": "user", "content": "x"}], json_schema={"const": "k"}, seed=1
        )
        assert chat.text == '"k"'
        stream = rt.astream("a", regex="[ab]{300}")
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(main())
    while rt.engine.stats()["n_running"] + rt.engine.stats()["n_waiting"]:
        pass
    assert rt.generate("a", regex="[ab]{5}", max_tokens=20).finish_reason == "stop"
    while rt.masks._matchers:  # the last one's end is on its way
        pass


def test_masks_of_an_engine_that_ends(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(tied=False, n_ctx=512)
    runtime = Runtime(path, n_ctx=256)
    stream = runtime.generate("a", regex="[ab]{200}", stream=True)
    next(stream)
    thread = runtime.masks._thread
    runtime.close()
    assert not thread.is_alive()
    with pytest.raises(hrun.Error):
        list(stream)
    runtime = Runtime(path, n_ctx=256)  # one that nobody closes
    runtime.generate("a", regex="ab")
    thread = runtime.masks._thread
    del runtime
    thread.join(20)
    assert not thread.is_alive()


def test_answers_of_a_desk_that_nobody_knows(rt: Runtime) -> None:
    """The engine's seam, without llguidance."""
    model = _core.Model.load(str(rt.model_path), n_threads=1)
    engine = _core.Engine(model, 128)
    desk = engine.mask_desk
    n_words = (model.n_vocab + 31) // 32
    only = np.zeros(n_words, np.uint32)
    only[5 // 32] = 1 << 5 % 32

    def asked() -> Any:
        while not (queries := desk.take()):
            pass
        assert len(queries) == 1
        return queries[0]

    with pytest.raises(ArgumentError, match="draws no tokens"):
        engine.submit([1, 2], kind="logits", constraint=1)
    handle = engine.submit([1, 2, 3], max_tokens=3, constraint=9)
    number, same, token, ended = asked()
    assert (number, same.id, token, ended) == (9, handle.id, None, False)
    free = engine.submit([1, 2], max_tokens=20, sampling={"temperature": 0.0})
    assert len(engine.take(free, all=True)[0]) > 0  # the one that waits holds up nobody
    desk.allow(same, only)
    assert asked()[2] == 5
    with pytest.raises(ArgumentError, match="without words"):
        desk.allow(same, only[:0])
    desk.allow(same, only)
    assert asked()[2] == 5
    desk.complete(same)
    assert asked()[3] is True
    drawn, finish = engine.take(handle, all=True)
    assert [t for t, _, _ in drawn] == [5, 5] and finish == "stop"
    desk.allow(same, only)  # too late, and nothing to say about it
    assert engine.stats()["n_late_masks"] >= 1

    failing = engine.submit([1], max_tokens=3, constraint=10)
    desk.fail(asked()[1], "some reason")
    with pytest.raises(hrun.GenerationError, match="some reason"):
        engine.take(failing, all=True)
    assert asked()[3] is True
    short = engine.submit([1], max_tokens=3, constraint=11)
    same = asked()[1]
    desk.allow(same, only)
    assert asked()[2] == 5
    desk.allow(same, only[: n_words - 1])
    assert len(engine.take(short, all=True)[0]) == 1  # the next call reports the later failures
    with pytest.raises(ArgumentError, match="mask of"):
        engine.take(short, all=True)
    engine.close()
    assert desk.closed


def test_draws_of_a_device_and_of_the_host_are_one_under_a_grammar(
    emulated_cuda: None, tiny_model: Callable[..., Path]
) -> None:
    path = tiny_model(tied=False, n_ctx=512)
    texts = []
    for device in ("cpu", "cuda"):
        with Runtime(path, n_ctx=256, device=device) as runtime:
            together = runtime.generate(["a", "b"], regex="[a-e]{12}", seed=3, temperature=0.0)
            texts.append([g.text for g in together])
    assert all(re.fullmatch("[a-e]{12}", t) for t in texts[1])


# ---- vocabularies


def check_vocabulary(tokenizer: Tokenizer) -> None:
    """The trie has exactly the bytes of each token, and control tokens are no text."""
    vocabulary = vocabulary_of(tokenizer, tokenizer.n_vocab)
    for i in range(tokenizer.n_vocab):
        special = tokenizer.is_control(i) or i in tokenizer.end_ids
        if not special and tokenizer.token_bytes(i)[:1] == b"\xff":
            continue  # the library's mark of control tokens; a byte that no text has
        assert vocabulary.is_special_token(i) == special, i
        if not special:
            assert vocabulary.decode_bytes([i]) == tokenizer.token_bytes(i), i
    assert set(vocabulary.eos_tokens) >= set(tokenizer.end_ids)
    # Any text, by the tokens that the tokenizer makes of it, and by no control token.
    matcher = llguidance.LLMatcher(vocabulary, llguidance.LLMatcher.grammar_from_regex("(?s:.*)"))
    for text in ("Hello, world!\n\n  x = [1, 2]", "Grüße, 你好 😀", "<|im_end|></s>"):
        ids = tokenizer.encode(text)
        assert matcher.validate_tokens(ids) == len(ids), text
    words = np.zeros((1, tokenizer.n_vocab // 32 + 1), np.int32)
    llguidance.numpy.fill_next_token_bitmask(matcher, words)
    for i in range(tokenizer.n_vocab):
        if tokenizer.types[i] == CONTROL and i not in tokenizer.end_ids:
            assert not words[0, i // 32] >> (i % 32) & 1, tokenizer.tokens[i]


@pytest.mark.slow
def test_the_trie_of_a_vocabulary(rt: Runtime, vocabulary: Callable[[str], Path]) -> None:
    check_vocabulary(rt.tokenizer)
    for name in ("llama-spm", "gpt-2", "qwen2"):
        check_vocabulary(Tokenizer.from_gguf(vocabulary(name)))


def test_a_panic_of_the_library_ends_one_answer_and_no_thread(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panic is no Exception; it would end the thread that all grammars share."""
    from hrun import masks

    class PanicException(BaseException):
        """The name of pyo3's."""

    answer = masks._answer

    def panics(*arguments: object) -> None:
        monkeypatch.setattr(masks, "_answer", answer)
        raise PanicException("index out of bounds")

    assert rt.generate("a", choice=["yes", "no"], max_tokens=9).text in ("yes", "no")
    monkeypatch.setattr(masks, "_answer", panics)
    with pytest.raises(hrun.GenerationError, match="the grammar: index out of bounds"):
        rt.generate("a", choice=["yes", "no"], max_tokens=9)
    assert rt.generate("a", choice=["yes", "no"], max_tokens=9).text in ("yes", "no")
