"""The demo checkpoint against implementations that nobody here wrote: transformers and llama.cpp.

They are optional: `pip install torch transformers llama-cpp-python`; each test skips where its own is missing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrun import Runtime

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
UNSEEN = ROOT / "tests" / "data" / "text" / "valid.txt"

PROMPTS = [
    "Once upon a time",
    "The old man looked at",
    "It was a dark and stormy",
    "She had never seen",
    "In the year of our Lord",
    "Call me",
    "The ship sailed",
    "My dear Watson,",
    "There was no possibility of",
    "He opened the letter and",
    "When I was a child",
    "The king said to",
    "All happy families",
    "Down by the river",
    "At the end of the street",
    "A great crowd had",
    '"I do not believe',
    "The rain fell",
    "Nobody knew why",
    "Then the door",
]


@pytest.fixture(scope="module")
def checkpoint():
    return ROOT / "models" / "demo"


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory):
    """Converts the checkpoint to a type, once each."""
    from hrun.cli.convert import main

    folder, done = tmp_path_factory.mktemp("oracle"), {}

    def convert(kind: str):
        if kind not in done:
            done[kind] = folder / f"{kind}.gguf"
            assert not main(
                [str(checkpoint), "-o", str(done[kind]), "--type", kind, "--calibrate", "none"]
            )
        return done[kind]

    return convert


@pytest.fixture(scope="module")
def reference(checkpoint):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


# Logits are up to 25, and float32 keeps them to 1e-5 of that through four layers.  The second figure is what rounding keys and
# values to 11 bits does to them: transformers keeps these in float32.
@pytest.mark.parametrize("cache,bound", [("f32", 2.5e-4), ("f16", 2e-2)])
def test_logits_equal_transformers(converted, reference, cache, bound):
    import torch

    with Runtime(str(converted("f32")), n_ctx=512, type_k=cache, type_v=cache) as runtime:
        ids = runtime.tokenize(UNSEEN.read_text(encoding="utf-8")[:20000])[:512]
        assert len(ids) == 512
        ours = runtime.logits(ids)
    with torch.no_grad():
        theirs = reference(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(ours - theirs).max() <= bound


def test_greedy_text_equals_transformers(converted, reference):
    import torch

    with Runtime(str(converted("f32")), n_ctx=256) as runtime:
        for prompt in PROMPTS:
            ids = runtime.tokenize(prompt)
            ours = runtime.generate(prompt, max_tokens=64, temperature=0).tokens
            with (
                torch.no_grad()
            ):  # over the whole text at once: each token must be the best after those before it
                logits = reference(torch.tensor([ids + ours])).logits[0, len(ids) - 1 :]
            theirs = logits.argmax(dim=-1).tolist()
            assert ours == theirs[: len(ours)], prompt
            assert (
                len(ours) == 64 or theirs[len(ours)] in reference.generation_config.eos_token_id
            ), prompt


@pytest.mark.parametrize("kind", ["f16", "q8_0", "rtq3-as-f16"])
def test_llama_cpp_reads_our_files(converted, kind, tmp_path):
    """llama.cpp draws the same greedy tokens from files that hrun wrote, one of them turned back
    from RTQ3.
    """
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if kind == "rtq3-as-f16":
        from hrun.cli.convert import main

        path = tmp_path / "back.gguf"
        assert not main([str(converted("rtq3")), "-o", str(path), "--type", "f16"])
    else:
        path = converted(kind)
    theirs = llama_cpp.Llama(
        str(path), n_ctx=128, n_threads=2, verbose=False, logits_all=True, type_k=1, type_v=1
    )
    with Runtime(str(path), n_ctx=128) as runtime:
        for prompt in PROMPTS:
            ids = runtime.tokenize(prompt)
            assert theirs.tokenize(prompt.encode(), add_bos=False) == ids
            ours = runtime.generate(prompt, max_tokens=24, temperature=0, seed=0).tokens
            theirs.reset()
            theirs.eval(ids)
            for position, token in enumerate(ours):
                logits = np.array(theirs.scores[theirs.n_tokens - 1])
                best = int(logits.argmax())
                if best != token:  # a near tie may fall either way between two int8 pipelines
                    assert kind != "f16" and logits[best] - logits[token] < 0.05, (prompt, position)
                    break
                theirs.eval([token])


@pytest.mark.parametrize("name", ["nmt_nfkc", "nfkc_cf"])
def test_charsmaps_of_sentencepiece_pass_the_check(name):
    """T5 and its kin have these; each character is normalised as SentencePiece itself does it."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from tokenizers import normalizers

    from hrun.charsmap import charsmap_fault

    theirs = sentencepiece.SentencePieceNormalizer(
        rule_name=name,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        escape_whitespaces=False,
    )
    spec = dict(_fields(theirs.serialized_model_proto()))[3]  # ModelProto.normalizer_spec
    data = dict(_fields(spec))[2]  # NormalizerSpec.precompiled_charsmap
    assert len(data) > 200_000 and charsmap_fault(data) is None
    ours = normalizers.Precompiled(data)
    for c in (chr(c) for c in range(1, 0x2FFFF, 3) if not 0xD800 <= c < 0xE000):
        assert ours.normalize_str(c) == theirs.normalize(c), hex(ord(c))
    end = 4 + int.from_bytes(data[:4], "little")
    assert charsmap_fault(data[: end - 4] + data[end:])


def _fields(data):
    """(number, bytes) of the fields of a protocol buffer that hold bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 2:
            length = varint()
            yield number, data[at : at + length]
            at += length
        elif kind == 0:
            varint()
        else:
            at += 4 if kind == 5 else 8


def test_tokenizer_equals_transformers(checkpoint, converted):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with Runtime(str(converted("q8_0"))) as runtime:
        text = UNSEEN.read_text(encoding="utf-8")[:50000]
        assert runtime.tokenize(text) == theirs.encode(text, add_special_tokens=False)
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who wrote Emma?"},
        ]
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert runtime.detokenize(runtime.chat_tokens(messages)) == rendered


def test_demo_model_answers():
    """The model that the package carries still knows most of what the checkpoint was taught."""
    pairs = [
        b
        for b in json.loads((ROOT / "models" / "demo" / "books.json").read_text())
        if b[0] != "Anonymous"
    ][:20]
    with Runtime() as runtime:
        answers = [
            runtime.chat(
                [{"role": "user", "content": f"Who wrote {t}?"}], temperature=0, max_tokens=32
            ).text
            for _, t in pairs
        ]
    assert all(answers) and sum(a in text for (a, _), text in zip(pairs, answers)) >= 1
