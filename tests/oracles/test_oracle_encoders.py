"""Every encoder against transformers: a tiny random checkpoint, converted to F32, gives the same vectors and scores.

Optional: `pip install torch transformers`; for llama.cpp's converter `HRUN_LLAMA_CPP=FOLDER` with its source tree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import Runtime, UnsupportedModelError, _core, embeddings
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.errors import ContextOverflowError
from llama_cpp_build import source
from tiny_encoders import ENCODERS, N_VOCAB, TEXT, write_encoder

pytestmark = pytest.mark.slow

TIERS = [t.name for t in _core.cpu_tiers() if t.available]
LENGTHS = (1, 7, 64, 65, 130, 200)
SCORING = [name for name in ENCODERS if name.endswith("scores")]


@pytest.fixture(autouse=True)
def _needs_transformers() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")


def converted(folder: Path, out: Path, kind: str = "f32") -> Path:
    write_plan(make_plan(open_source(folder), PlanOptions(kind)), out)
    return out


def texts() -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(5, N_VOCAB, n).tolist() for n in LENGTHS]


def states_of(model: Any, ids: list[int]) -> np.ndarray:
    """The states after the last norm, by transformers."""
    import torch

    with torch.no_grad():
        base = getattr(model, model.base_model_prefix, model)
        return base(torch.tensor([ids])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_equal_transformers(name: str, tmp_path: Path) -> None:
    model = write_encoder(name, tmp_path / "hf")
    path = converted(tmp_path / "hf", tmp_path / "out.gguf")
    loaded = _core.Model.load(str(path))
    assert loaded.architecture == ENCODERS[name].architecture and loaded.is_encoder
    encoder = _core.Encoder(loaded)
    together = encoder.encode(texts(), "none")
    for ids, got in zip(texts(), together):
        expected = states_of(model, ids)
        assert expected.std() > 0.1
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    # Bits: alone, in other company, by other pooling, on other tiers and with other threads.
    for ids, got in zip(texts(), together):
        assert np.array_equal(encoder.encode([ids], "none")[0], got)
    for ids, got in zip(
        reversed(texts()), _core.Encoder(loaded, n_batch=70).encode(texts()[::-1], "none")
    ):
        assert np.array_equal(got, together[texts().index(ids)])
    for ids, states in zip(texts(), together):
        assert np.array_equal(encoder.encode([ids], "cls")[0], states[:1])
        assert np.array_equal(encoder.encode([ids], "last")[0], states[-1:])
        mean = states.astype(np.float64).mean(axis=0, keepdims=True)
        np.testing.assert_allclose(encoder.encode([ids], "mean")[0], mean, rtol=0, atol=1e-6)
    for tier in TIERS:
        other = _core.Encoder(_core.Model.load(str(path), cpu_tier=tier, n_threads=3))
        for got, same in zip(other.encode(texts(), "none"), together):
            assert np.array_equal(got, same), tier


@pytest.mark.parametrize("name", SCORING)
def test_scores_equal_transformers(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    model = write_encoder(name, tmp_path / "hf")
    path = converted(tmp_path / "hf", tmp_path / "out.gguf")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "hf" / "tokenizer.json"))
    with Runtime(path) as rt:
        assert rt.pooling == "rank" and rt.model.n_classes == model.config.num_labels
        query, documents = TEXT[0], TEXT[1:]
        pairs = [tokenizer(query, d, return_token_type_ids=True) for d in documents]
        if ENCODERS[name].tokenizer != "bytes":
            for pair, document in zip(pairs, documents):
                assert rt.tokenizer.encode_pair(query, document)[0] == pair["input_ids"]
        got = rt.rerank(query, documents)
        if ENCODERS[name].tokenizer == "bytes":  # a tokenizer without a template for pairs
            ids = [rt.tokenizer.encode_pair(query, d)[0] for d in documents]
            pairs = [{"input_ids": i, "token_type_ids": [0] * len(i)} for i in ids]
        with torch.no_grad():
            expected = [
                model(
                    torch.tensor([p["input_ids"]]),
                    **({"token_type_ids": torch.tensor([p["token_type_ids"]])} if "modern" not in name else {}),
                ).logits[0, 0].item()
                for p in pairs
            ]  # fmt: skip
        assert np.std(expected) > 1e-3
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
        assert np.array_equal(rt.rerank(query, documents[::-1]), got[::-1])


def test_embedding_gemma_has_projections(tmp_path: Path) -> None:
    model = write_encoder("embedding gemma", tmp_path / "hf", pooling="mean_tokens", dense=True)
    path = converted(tmp_path / "hf", tmp_path / "out.gguf")
    with Runtime(path) as rt:
        ids = texts()[3]
        expected = states_of(model, ids).mean(axis=0)
        for weight in model.projections:
            expected = weight.numpy() @ expected
        got = rt.embed(ids, normalize=False)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        unit = rt.embed([ids, texts()[4]])
        np.testing.assert_allclose(unit[0], expected / np.linalg.norm(expected), rtol=0, atol=1e-5)
        assert np.array_equal(rt.embed(ids), unit[0])


@pytest.mark.parametrize(("pooling", "name"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")])  # fmt: skip
def test_pooling_is_the_files(pooling: str, name: str, tmp_path: Path) -> None:
    model = write_encoder("bert", tmp_path / "hf", pooling=pooling)
    with Runtime(converted(tmp_path / "hf", tmp_path / "out.gguf")) as rt:
        assert rt.pooling == name
        ids = rt.embedding_ids(TEXT[0])
        assert (ids[0], ids[-1]) == (2, 3)
        states = states_of(model, ids)
        expected = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[name]
        np.testing.assert_allclose(rt.embed(TEXT[0], normalize=False), expected, rtol=0, atol=1e-4)
        both = rt.embed(TEXT[:2])
        assert np.array_equal(rt.embed(TEXT[1]), both[1])
        np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6)


def test_readme_lists_the_encoders() -> None:
    from architecture_table import encoder_table

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert encoder_table() in readme, "python tests/oracles/architecture_table.py makes the table"


def test_what_an_encoder_refuses(tmp_path: Path) -> None:
    write_encoder("bert", tmp_path / "hf")
    path = converted(tmp_path / "hf", tmp_path / "out.gguf")
    with Runtime(path) as rt:
        for call in (lambda: rt.generate("a"), lambda: rt.logits([5]), lambda: rt.score("a b")):
            with pytest.raises(
                UnsupportedModelError, match="encoder: it gives embeddings and no text"
            ):
                call()
        with pytest.raises(ContextOverflowError, match=r"257 tokens.* 256"):
            rt.embed([[5] * 257, [5]])
        with pytest.raises(UnsupportedModelError, match="no reranker"):
            rt.rerank("a", ["b"])
    model = _core.Model.load(str(path))
    with pytest.raises(ContextOverflowError, match=r"257 tokens, .* 256 positions"):
        _core.Encoder(model).encode([[5] * 257])
    for make in (_core.Session, _core.Engine):
        with pytest.raises(UnsupportedModelError, match="encoder"):
            make(model)


@pytest.mark.parametrize("kind", ["q8_0", "q4_k", "rtq4", "rtq3"])
def test_coded_weights_stay_near(kind: str, tmp_path: Path) -> None:
    write_encoder(
        "bert", tmp_path / "hf", hidden_size=256, intermediate_size=512, initializer_range=0.05
    )
    exact = converted(tmp_path / "hf", tmp_path / "f32.gguf")
    coded = converted(tmp_path / "hf", tmp_path / "coded.gguf", kind)
    with Runtime(exact) as a, Runtime(coded) as b:
        near = (a.embed(TEXT) * b.embed(TEXT)).sum(axis=1)
    assert near.min() > {"q8_0": 0.999, "q4_k": 0.97, "rtq4": 0.97, "rtq3": 0.9}[kind]


# ---- decoders that embed and compare


def test_a_decoder_for_embeddings(tmp_path: Path) -> None:
    """Works as in Qwen3-Embedding: the last token's state, behind a token that ends texts and is
    not the end of generation.
    """
    import torch
    from tokenizers import Tokenizer, processors

    from tiny_transformers import write_checkpoint

    folder = tmp_path / "hf"
    model = write_checkpoint("qwen3", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with Runtime(converted(folder, tmp_path / "out.gguf"), type_k="f32", type_v="f32") as rt:
        assert rt.model.pooling == rt.pooling == "last"
        for text in TEXT:
            ids = tokenizer.encode(text).ids
            assert rt.embedding_ids(text) == ids and ids[-1] == end
            with torch.no_grad():
                states = model.model(torch.tensor([ids])).last_hidden_state[0].numpy()
            want = states[-1] / np.linalg.norm(states[-1])
            np.testing.assert_allclose(rt.embed(text), want, rtol=0, atol=1e-4)
        together = rt.embed(TEXT)
        assert all(np.array_equal(rt.embed(text), row) for text, row in zip(TEXT, together))


@pytest.mark.parametrize("has_scores", [True, False])
def test_a_decoder_that_compares(has_scores: bool, tmp_path: Path) -> None:
    """Works as in Qwen3-Reranker: the probability of "yes" against "no" behind its prompt.

    The scores come from the model's own tensor, or from the head.
    """
    import torch
    from tokenizers import Tokenizer

    from tiny_hf import tokenizer_json
    from tiny_transformers import write_checkpoint

    folder = tmp_path / "Qwen3-Reranker-tiny"
    model = write_checkpoint("qwen3", folder, max_position_embeddings=1024)
    tokenizer = Tokenizer.from_str(tokenizer_json(N_VOCAB - 2))
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.save(str(folder / "tokenizer.json"))
    out = converted(folder, tmp_path / "out.gguf")
    with Runtime(out, type_k="f32", type_v="f32") as rt:
        assert rt.pooling == "rank" and rt.model.n_classes == 2
        query, documents = "which animal is quick?", [*TEXT, "a trap <|im_end|> in a text"]
        template = rt.tokenizer.rerank_template
        assert template is not None
        yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
        want, by_head = [], []
        for document in documents:
            prompt = template.replace("{query}", query).replace("{document}", document)
            ids = embeddings.pair_ids(rt, query, document)[0]
            if document in TEXT:
                assert ids == tokenizer.encode(prompt).ids
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].double()
            want.append(torch.softmax(logits[[yes, no]], 0)[0].item())
            by_head.append(ids)
        got = rt.rerank(query, documents)
        if not has_scores:
            got = embeddings._answers(rt, by_head)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
        assert np.std(want) > 1e-3
        assert rt.generate(query, max_tokens=2, seed=1).text is not None  # it still is a decoder


@pytest.mark.parametrize("labels", [1, 3])
def test_a_decoder_with_a_head_of_classes(labels: int, tmp_path: Path) -> None:
    """Qwen3ForSequenceClassification: the head on the last token's state; with one class its number, with more their shares."""
    import torch
    import transformers

    from tiny_hf import tokenizer_json
    from tiny_transformers import TINY, sizes_of

    torch.manual_seed(3)
    config = transformers.Qwen3Config(**sizes_of("qwen3"), num_labels=labels)
    model = transformers.Qwen3ForSequenceClassification(config).float().eval()
    assert TINY["qwen3"].config == "Qwen3Config"
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_json(N_VOCAB), encoding="utf-8")
    with Runtime(converted(folder, tmp_path / "out.gguf"), type_k="f32", type_v="f32") as rt:
        assert rt.pooling == "rank" and rt.model.n_classes == labels
        query, documents = TEXT[0], TEXT[1:]
        want = []
        for document in documents:
            ids = embeddings.pair_ids(rt, query, document)[0]
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0].double()
            want.append((scores if labels == 1 else torch.softmax(scores, 0))[0].item())
        assert np.std(want) > 1e-3
        np.testing.assert_allclose(rt.rerank(query, documents), want, rtol=0, atol=1e-4)


# ---- llama.cpp's converter

# The converter knows tokenizers by a hash of the tokens that they make of a text, and ours are made
# up.
SCRIPT = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "llama-bpe"
base = TextModel.get_vocab_base

def vocabulary(self):
    described = json.loads((Path(self.dir_model) / "tokenizer.json").read_text())
    if described["model"]["type"] != "BPE":
        return base(self)
    ids = {**described["model"]["vocab"], **{t["content"]: t["id"] for t in described["added_tokens"]}}
    names = {i: t for t, i in ids.items()}
    return [names[i] for i in range(len(names))], [1] * len(names), "llama-bpe"

TextModel.get_vocab_base = vocabulary
import convert_hf_to_gguf
sys.argv = ["convert_hf_to_gguf.py", sys.argv[2], "--outfile", sys.argv[3], "--outtype", "f32", *sys.argv[4:]]
convert_hf_to_gguf.main()
"""
THEIRS = [
    "bert",
    "bert, scores",
    "nomic",
    "modern",
    "modern, silu",
    "modern, scores",
    "embedding gemma",
]


# Keys of config.json that its converter wants and transformers no longer writes.
MISSING: dict[str, dict[str, Any]] = {
    **{name: {"layer_norm_eps": 1e-5} for name in ("modern", "modern, silu", "modern, scores")},
    "nomic": {
        "n_positions": 2048,
        "max_trained_positions": 2048,
        "activation_function": "swiglu",
        "causal": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "prenorm": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
    },
}


@pytest.mark.parametrize("name", THEIRS)
def test_llama_cpps_files_give_the_same_vectors(name: str, tmp_path: Path) -> None:
    tree = str(source())
    gemma = name == "embedding gemma"
    model = write_encoder(name, tmp_path / "hf", pooling="mean_tokens", dense=gemma)
    theirs, ours = tmp_path / "theirs.gguf", converted(tmp_path / "hf", tmp_path / "ours.gguf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **MISSING.get(name, {})}))
    options = ["--sentence-transformers-dense-modules"] if gemma else []
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tree, str(tmp_path / "hf"), str(theirs), *options],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    a, b = _core.Model.load(str(theirs)), _core.Model.load(str(ours))
    for ids, left, right in zip(texts(), _core.Encoder(a).encode(texts(), "none"), _core.Encoder(b).encode(texts(), "none")):  # fmt: skip
        assert np.array_equal(left, right)
        np.testing.assert_allclose(left, states_of(model, ids), rtol=0, atol=1e-4)
    if gemma:
        vector = np.ones((1, a.n_embd), np.float32)
        assert np.array_equal(_core.project_texts(a, vector), _core.project_texts(b, vector))
