"""Experts that the device chooses: the logits are those of the host's choice, whatever the plan, and
a decoded token is one graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrun import _core

pytestmark = [pytest.mark.usefixtures("emulated_cuda"), pytest.mark.slow]
IDS = [5, 9, 3, 7, 11, 2, 60, 31]
# Every gating, groups, a correction of the scores, shared experts with a router and without, biases,
# a scale per expert, experts in formats with a fast kernel and without.
MODELS = {
    "mixtral": "q8_0", "qwen2moe": "q4_0", "qwen3moe": "q8_0", "gpt-oss": "q4_1",
    "deepseek3": "q8_0", "qwen35moe": "q8_0", "gemma4, experts": "f16",
}  # fmt: skip


@pytest.fixture(scope="module")
def path_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from hrun.convert import PlanOptions, make_plan, open_source, write_plan
    from tiny_transformers import write_checkpoint

    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("model")
            write_checkpoint(name, folder / "hf")
            made[name] = folder / "out.gguf"
            plan = make_plan(open_source(folder / "hf"), PlanOptions(MODELS[name]))
            write_plan(plan, made[name])
        return made[name]

    return make


@pytest.mark.parametrize("name", MODELS)
def test_the_device_chooses_as_the_host_does(
    name: str, path_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))

    def logits(where: str) -> tuple[np.ndarray, str]:
        monkeypatch.setenv("HRUN_CUDA_EXPERTS", where)
        log.write_text("")
        session = _core.Session(_core.Model.load(str(path_of(name)), device="cuda"), 96)
        rows = [session.forward([i % 50 for i in range(40)], "all")]
        rows += [session.forward(IDS[:3], "all")]
        rows += [session.forward([i], "last") for i in IDS[3:]]
        return np.concatenate(rows), log.read_text()

    device, launches = logits("device")
    host, others = logits("host")
    assert device.tobytes() == host.tobytes()
    assert "the choice of experts" in launches
    assert "the choice of experts" not in others
    assert " graph\n" in launches
    assert " graph\n" not in others


@pytest.mark.parametrize("name", ["qwen3moe", "deepseek3"])
def test_a_prompt_with_experts_can_be_cut_anywhere(
    name: str, path_of: Callable[[str], Path]
) -> None:
    """The cuts are around 8 and 16 rows of a launch, and 32 of an expert."""
    model = _core.Model.load(str(path_of(name)), device="cuda")
    ids = [(7 * i + i * i) % 50 for i in range(50)]

    def cut(*ends: int) -> np.ndarray:
        session = _core.Session(model, 96, n_batch=96)
        bounds = [0, *ends, len(ids)]
        parts = [ids[a:b] for a, b in itertools.pairwise(bounds)]
        return np.concatenate([session.forward(part, "all") for part in parts])

    whole = cut()
    for ends in ((1,), (8, 17), (9,), (33, 34), (42,)):
        assert cut(*ends).tobytes() == whole.tobytes(), ends
