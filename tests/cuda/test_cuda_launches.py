"""Bounds the number of kernels that a decoded token launches on CUDA: it rises easily, and without
a card few notice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrun import _core

pytestmark = pytest.mark.usefixtures("emulated_cuda")
IDS = [5, 9, 3, 7, 2, 8]


def token_launches(path: Path, log: Path, monkeypatch: pytest.MonkeyPatch, before: int = 0, n: int = 1) -> Counter[str]:  # fmt: skip
    """Kernels of n tokens after some others, by name, launched one by one."""
    monkeypatch.setenv("HRUN_CUDA_GRAPHS", "0")
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))
    session = _core.Session(_core.Model.load(str(path), device="cuda"), before + 64)
    session.forward([i % 90 for i in range(before + 3)], "last")
    session.forward(IDS[:n], "last")
    log.write_text("")
    session.forward(IDS[-n:], "last")
    return Counter(line.split(" ", 1)[1] for line in log.read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "n_embd"), [("rtq3", 1024), ("q4_k", 1024), ("q8_0", 1024), ("rtq3", 256)]
)
def test_a_layer_of_llamas_shape_takes_seven(
    name: str, n_embd: int, tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"n_embd": n_embd, "n_ff": 512, "n_heads": n_embd // 64, "n_kv_heads": 4}
    sizes["format"] = name
    one, two = (
        token_launches(tiny_model(n_layers=n, **sizes), tmp_path / "log", monkeypatch)
        for n in (1, 2)
    )
    assert (two - one).total() == 7, two - one
    assert one.total() - 7 <= 3, one  # the embedding, its norm, the head


def test_attention_in_parts_takes_no_launch_more(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(n_embd=256, n_ff=256, format="rtq3", n_layers=1, n_ctx=512)
    counts = [token_launches(path, tmp_path / "log", monkeypatch, n) for n in (0, 260)]
    assert counts[0].total() == counts[1].total(), counts
    assert "the join of attention's parts, quantized" in counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtq3", "q8_0", "f16"])
def test_what_waits_for_the_next_operation_changes_no_bit(
    name: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(
        format=name, n_embd=256 if name == "f16" else 1024, n_ff=512, n_ctx=512, n_layers=1
    )

    def logits(fused: str) -> np.ndarray:
        monkeypatch.setenv("HRUN_CUDA_FUSION", fused)
        session = _core.Session(_core.Model.load(str(path), device="cuda"), 400)
        rows = [session.forward([i % 90 for i in range(257 if name == "rtq3" else 9)], "last")]
        rows += [session.forward([i], "last") for i in IDS]  # the last ones from a graph
        return np.concatenate([*rows, session.forward(IDS[:2], "all"), session.forward(IDS, "all")])

    assert logits("1").tobytes() == logits("0").tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtq3", "q4_k"])
def test_a_larger_card_and_bulk_copies_change_no_bit(
    name: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(format=name, n_embd=768, n_ff=256, n_heads=12, n_ctx=128, n_layers=1)

    def logits(multiprocessors: str, bulk: str) -> np.ndarray:
        monkeypatch.setenv("HRUN_EMULATED_MULTIPROCESSORS", multiprocessors)
        monkeypatch.setenv("HRUN_CUDA_BULK", bulk)
        session = _core.Session(_core.Model.load(str(path), device="cuda"), 64)
        rows = [session.forward(list(range(17)), "all"), session.forward(IDS[:5], "all")]
        return np.concatenate(rows + [session.forward([i], "last") for i in IDS])

    first = logits("4", "1").tobytes()
    assert first == logits("132", "1").tobytes()
    assert first == logits("4", "0").tobytes()


@pytest.mark.parametrize("name", ["rtq3", "q8_0"])
def test_a_kernel_that_starts_early_reads_nothing_too_soon(
    name: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(format=name, n_embd=256, n_ff=256, n_ctx=128, n_layers=1)

    def logits(early: str) -> np.ndarray:
        monkeypatch.setenv("HRUN_EMULATED_EARLY", early)
        session = _core.Session(_core.Model.load(str(path), device="cuda"), 64)
        rows = [session.forward(list(range(20)), "last")]
        return np.concatenate(rows + [session.forward([i], "last") for i in IDS[:4]])

    assert logits("1").tobytes() == logits("0").tobytes()


# The launches of one token and of five in a tiny model in Q8_0, all its layers: two, but seven of
# gemma3, three of deepseek3 and five of qwen35.  Lower numbers are welcome.  Inputs of several
# tokens are quantized in launches of their own where those of one token are made ready by the
# kernel before; experts and heads take no launch more.
MOST = {
    "llama": (17, 23), "qwen3": (17, 23), "phi3": (19, 23), "olmo2": (35, 37),
    "gemma3": (109, 109), "command-r": (31, 33), "mixtral": (31, 31), "qwen3moe": (31, 31),
    "gpt-oss": (51, 51), "deepseek3": (70, 75), "qwen35": (73, 88),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_no_architecture_takes_more_launches_than_it_did(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from hrun.convert import PlanOptions, make_plan, open_source, write_plan
    from tiny_transformers import write_checkpoint

    write_checkpoint(name, tmp_path / "hf")
    path = tmp_path / "out.gguf"
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("q8_0")), path)
    for n, most in zip((1, 5), MOST[name], strict=True):
        counts = token_launches(path, tmp_path / "log", monkeypatch, n=n)
        assert 0 < counts.total() <= most, (n, counts)
