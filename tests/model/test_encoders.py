"""Encoders without an oracle: bits, pooling, refusals, damaged files.  Their results are tested in test_oracle_encoders.py."""

from __future__ import annotations

import json
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from hrun import ArgumentError, ModelFileError, Runtime, UnsupportedModelError, _core, embeddings
from hrun.cli.edit import main as edit
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.errors import ContextOverflowError
from tiny_encoders import N_VOCAB, TEXT, write_plain_bert

TIERS = [t.name for t in _core.cpu_tiers() if t.available]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(write_plain_bert(tmp_path_factory.mktemp("bert") / "hf"))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted(write_plain_bert(tmp_path_factory.mktemp("reranker") / "hf", classes=1))


def converted(folder: Path) -> Path:
    out = folder.parent / "model.gguf"
    write_plan(make_plan(open_source(folder), PlanOptions("f32")), out)
    return out


def test_bits_do_not_depend_on_company(bert: Path) -> None:
    rng = np.random.default_rng(3)
    texts = [rng.integers(5, N_VOCAB, n).tolist() for n in rng.integers(1, 129, 40)]
    alone = _core.Encoder(_core.Model.load(str(bert), n_threads=1), n_batch=1)
    want = {i: alone.encode([text], "none")[0] for i, text in enumerate(texts)}
    for tier in TIERS:
        for n_threads, n_batch in ((1, 512), (3, 100), (2, 4096)):
            model = _core.Model.load(str(bert), cpu_tier=tier, n_threads=n_threads)
            encoder = _core.Encoder(model, n_batch=n_batch)
            order = rng.permutation(len(texts)).tolist()
            for i, got in zip(order, encoder.encode([texts[i] for i in order], "none")):
                assert np.array_equal(got, want[i]), (tier, n_threads, n_batch)


def test_order_of_tokens_and_length_matter(bert: Path) -> None:
    """A test that fails where positions, or what comes behind a token, are ignored."""
    encoder = _core.Encoder(_core.Model.load(str(bert)))
    first, second = encoder.encode([[9, 10, 11], [9, 11, 10]], "none")
    assert np.abs(first[0] - second[0]).max() > 1e-3
    (one,), (types,) = (
        encoder.encode([[9, 10, 11]], "none"),
        encoder.encode([[9, 10, 11]], "none", [1]),
    )
    assert np.abs(one - types).max() > 1e-3  # the second text's type


def test_poolings(bert: Path) -> None:
    with Runtime(bert) as rt:
        assert rt.pooling == "mean" and rt.model.pooling == "mean"
        states = rt.embed(TEXT[0], pooling="none", normalize=False)
        ids = rt.embedding_ids(TEXT[0])
        assert states.shape == (len(ids), rt.model.n_embd)
        for pooling, want in (
            ("cls", states[0]),
            ("last", states[-1]),
            ("mean", states.mean(axis=0)),
        ):
            got = rt.embed(TEXT[0], pooling=pooling, normalize=False)
            np.testing.assert_allclose(got, want, atol=1e-6)
        assert np.array_equal(rt.embed(TEXT[0]), rt.embed(TEXT)[0])
        assert np.array_equal(rt.embed(ids), rt.embed(TEXT[0]))
        with pytest.raises(ArgumentError, match="one text"):
            rt.embed(TEXT, pooling="none")
        with pytest.raises(ArgumentError, match="pooling is 'most'"):
            rt.embed("a", pooling="most")  # type: ignore[arg-type]


def test_a_file_whose_own_pooling_is_none(bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.gguf"
    assert edit([str(bert), "-o", str(out), "--set", "bert.pooling_type=0"]) == 0
    with Runtime(bert) as rt:
        want = rt.embed(TEXT[0], pooling="none")
    with Runtime(out) as rt:
        assert rt.pooling == "none"
        assert np.array_equal(rt.embed(TEXT[0]), want)
        with pytest.raises(ArgumentError, match="'none', the model file's own, .* not of a list"):
            rt.embed(TEXT)
        assert rt.embed(TEXT, pooling="mean").shape == (len(TEXT), rt.model.n_embd)


def test_normalisations() -> None:
    row = np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    assert np.array_equal(embeddings.normalized(row, -1), row)
    assert np.array_equal(embeddings.normalized(row, False), row)
    for how, want in (
        (True, [0.6, -0.8, 0]),
        (2, [0.6, -0.8, 0]),
        (1, [3 / 7, -4 / 7, 0]),
        (0, [24570, -32760, 0]),
        (3, [3 / 91 ** (1 / 3), -4 / 91 ** (1 / 3), 0]),
    ):
        got = embeddings.normalized(row, how)
        np.testing.assert_allclose(got[0], want, rtol=1e-6)
        assert not got[1].any()


def test_rerank(reranker: Path, bert: Path) -> None:
    with Runtime(reranker) as rt:
        assert rt.pooling == "rank"
        scores = rt.rerank(TEXT[0], TEXT)
        assert scores.shape == (len(TEXT),) and len(set(scores.tolist())) == len(TEXT)
        for text, score in zip(TEXT, scores):
            assert rt.rerank(TEXT[0], [text])[0] == score
        ids, second = rt.tokenizer.encode_pair(TEXT[0], TEXT[1])
        states = rt.text_states([ids], "cls", [second])[0]
        assert _core.score_texts(rt.model, states)[0, 0] == scores[1]
        assert rt.rerank("a", []).shape == (0,)
        for wrong in ("a", [3]):
            with pytest.raises(ArgumentError):
                rt.rerank("a", wrong)  # type: ignore[arg-type]
    with Runtime(bert) as rt, pytest.raises(UnsupportedModelError, match="no reranker"):
        rt.rerank("a", ["b"])


def test_a_file_is_converted_again(bert: Path, reranker: Path, tmp_path: Path) -> None:
    for path in (bert, reranker):
        write_plan(make_plan(open_source(path), PlanOptions("f32")), tmp_path / "again.gguf")
        write_plan(make_plan(open_source(path), PlanOptions("q8_0")), tmp_path / "coded.gguf")
        with (
            Runtime(path) as a,
            Runtime(tmp_path / "again.gguf") as b,
            Runtime(tmp_path / "coded.gguf") as c,
        ):
            if a.pooling == "rank":
                assert np.array_equal(a.rerank(TEXT[0], TEXT), b.rerank(TEXT[0], TEXT))
                np.testing.assert_allclose(
                    c.rerank(TEXT[0], TEXT), a.rerank(TEXT[0], TEXT), atol=0.1
                )
            else:
                assert np.array_equal(a.embed(TEXT), b.embed(TEXT))
                assert (a.embed(TEXT) * c.embed(TEXT)).sum(axis=1).min() > 0.999


def test_what_an_encoder_refuses(bert: Path) -> None:
    with Runtime(bert) as rt:
        for call in (lambda: rt.generate("a"), lambda: rt.logits([5]), lambda: rt.score("a b")):
            with pytest.raises(
                UnsupportedModelError, match="encoder: it gives embeddings and no text"
            ):
                call()
        with pytest.raises(ContextOverflowError, match=r"129 tokens, .* 128"):
            rt.embed([[5] * 129, [5]])
        with pytest.raises(ArgumentError, match=f"between 0 and {N_VOCAB - 1}"):
            rt.embed([N_VOCAB])
    model = _core.Model.load(str(bert))
    encoder = _core.Encoder(model)
    with pytest.raises(ContextOverflowError, match=r"129 tokens, .* 128 positions"):
        encoder.encode([[5] * 129])
    with pytest.raises(ContextOverflowError, match=r"9 tokens, .* 8 positions of the model's 128"):
        _core.Encoder(model, n_ctx=8).encode([[5] * 9])
    with pytest.raises(ArgumentError, match="without tokens"):
        encoder.encode([[]])
    with pytest.raises(ArgumentError, match="vocabulary"):
        encoder.encode([[-1]])
    for make in (_core.Session, _core.Engine):
        with pytest.raises(UnsupportedModelError, match="encoder"):
            make(model)
    with Runtime() as demo, pytest.raises(UnsupportedModelError, match="no encoder"):
        _core.Encoder(demo.model)


def test_a_closed_runtime_and_threads(bert: Path) -> None:
    with Runtime(bert) as rt:
        want = rt.embed(TEXT)
        got: list[np.ndarray] = []
        threads = [threading.Thread(target=lambda: got.append(rt.embed(TEXT))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 4 and all(np.array_equal(rows, want) for rows in got)
        assert rt.stats()["n_running"] == 0
    with pytest.raises(Exception, match="closed"):
        rt.embed("a")


def test_a_decoder_follows_its_files_pooling() -> None:
    with Runtime() as rt:
        assert rt.model.pooling is None and rt.pooling == "last"
        rows = rt.embed("Call me Ishmael.", pooling="none", normalize=False)
        for pooling, want in (("last", rows[-1]), ("cls", rows[0]), ("mean", rows.mean(axis=0))):
            got = rt.embed("Call me Ishmael.", pooling=pooling, normalize=False)  # type: ignore[arg-type]
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        with pytest.raises(UnsupportedModelError, match="no reranker"):
            rt.rerank("a", ["b"])


def test_a_head_of_other_sizes_is_named(reranker: Path, tmp_path: Path) -> None:
    data = reranker.read_bytes()
    at = data.index(b"cls.output.weight") + len(b"cls.output.weight")
    n_dims, width, rows = struct.unpack_from("<IQQ", data, at)
    assert (n_dims, width, rows) == (2, 64, 1)
    for dims, message in (
        ((64, 0), "is empty"),
        ((32, 2), "shape"),
        ((64, 2), "cls.output"),
    ):
        damaged = bytearray(data)
        struct.pack_into("<QQ", damaged, at + 4, *dims)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        with pytest.raises(ModelFileError, match=message):
            _core.Model.load(str(tmp_path / "damaged.gguf"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"max_position_embeddings": 100}, "shape"),
        ({"model_type": "roberta", "pad_token_id": 200}, "positions begin after the padding"),
    ],
)
def test_wrong_folders_are_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    folder = write_plain_bert(tmp_path / "hf")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((ModelFileError, UnsupportedModelError), match=message):
        open_source(folder)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{}", "expected an array"),
        ("[", "not JSON"),
        ('[{"type": "a.Pooling", "path": "../x"}]', "name of a folder"),
        ('[{"type": "a.Pooling", "path": "nowhere"}]', "nowhere|config.json"),
    ],
)
def test_wrong_modules_are_named(modules: str, message: str, tmp_path: Path) -> None:
    folder = write_plain_bert(tmp_path / "hf")
    (folder / "modules.json").write_text(modules)
    with pytest.raises((ModelFileError, UnsupportedModelError), match=message):
        open_source(folder)
