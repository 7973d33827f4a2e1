"""The numeric contract on whole models: logits have the same bits whatever the threads, chunks and CPU tier.

Kernel by kernel this is tested in test_kernels.py and test_ops.py; here every registered format goes through the decoder,
and the demo model through chunks of the sizes that the contract names.
"""

from __future__ import annotations

import numpy as np
import pytest

from hrun import _core, demo_model_path
from make_tiny_models import TinyConfig, write_tiny_model

pytestmark = pytest.mark.slow

TIERS = [t.name for t in _core.cpu_tiers() if t.available]
FORMATS = [f.name for f in _core.formats() if f.encodable]
TOKENS = [(i * 37 + 5) % 290 for i in range(41)]


def logits(path, tokens, *, tier="", threads=1, chunk=512) -> np.ndarray:
    """float32 [n_tokens, n_vocab] of one pass in chunks."""
    model = _core.Model.load(str(path), n_threads=threads, cpu_tier=tier)
    return _core.Session(model, len(tokens), n_batch=chunk).forward(tokens, "all")


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, TinyConfig(n_embd=256, n_ff=512, format=name))
    expected = logits(path, TOKENS, tier="scalar")
    assert np.isfinite(expected).all() and expected.std() > 0
    for tier in TIERS:
        for threads, chunk in ((1, 41), (2, 41), (1, 1), (2, 3), (2, 7), (1, 16)):
            assert same_bits(
                logits(path, TOKENS, tier=tier, threads=threads, chunk=chunk), expected
            ), (tier, threads, chunk)


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
@pytest.mark.parametrize("threads", [1, 2])
def test_demo_model(chunk, threads, demo_logits):
    tokens, expected = demo_logits
    tiers = (
        TIERS if chunk >= 64 else TIERS[-1:]
    )  # token by token the scalar tier alone would take half a minute
    for tier in tiers:
        assert same_bits(
            logits(demo_model_path(), tokens, tier=tier, threads=threads, chunk=chunk), expected
        ), tier


@pytest.fixture(scope="module")
def demo_logits() -> tuple[list[int], np.ndarray]:
    tokens = [(i * 7919 + 13) % 4093 for i in range(200)]
    return tokens, logits(demo_model_path(), tokens, tier=TIERS[0], chunk=512)


def test_prefix_reuse(demo_logits):
    """Continuing after truncate() gives what a fresh session gives."""
    tokens, expected = demo_logits
    session = _core.Session(_core.Model.load(str(demo_model_path())), len(tokens))
    session.forward(tokens[:150] + [7] * 20, "none")
    session.truncate(150)
    assert same_bits(session.forward(tokens[150:], "all"), expected[150:])


def test_a_difference_would_be_seen(demo_logits):
    tokens, expected = demo_logits
    assert not same_bits(logits(demo_model_path(), [*tokens[:-1], 9]), expected)


@pytest.mark.parametrize(
    "name", ["qwen2moe", "gemma2", "gpt-oss", "deepseek3", "phi3, long", "command-r", "glm 4.5"]
)
def test_every_kind_of_block(name, tmp_path):
    """The models have experts, windows, sinks, latent attention, fused matrices, parallel blocks,
    with quantized weights.
    """
    pytest.importorskip("transformers", reason="transformers is not installed")
    from hrun.convert import PlanOptions, make_plan, open_source, write_plan
    from tiny_transformers import write_checkpoint

    write_checkpoint(name, tmp_path / "hf")
    path = tmp_path / "out.gguf"
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("rtq3")), path)
    expected = logits(path, TOKENS, tier="scalar")
    assert np.isfinite(expected).all() and expected.std() > 0
    for tier in TIERS:
        for threads, chunk in ((2, 41), (1, 1), (2, 7)):
            assert same_bits(
                logits(path, TOKENS, tier=tier, threads=threads, chunk=chunk), expected
            ), (tier, threads, chunk)
