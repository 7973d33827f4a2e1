"""Calibration of experts: the moments that each of them sees, and coding against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_calibration import full_matrix, rotation

from hrun import _core as core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.encoding import PRESETS, Encoder
from hrun.convert.moments import MomentFile, MomentWriter
from hrun.convert.text_moments import TextMoments
from whole_model import text_moments

pytestmark = pytest.mark.slow

CHUNK, CHUNKS, USED, EXPERTS = 32, 24, 2, 6
Matrix = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """The checkpoint folder and the GGUF of a tiny model with experts, and transformers' model."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tiny_transformers import write_checkpoint

    folder = tmp_path_factory.mktemp("experts")
    made = write_checkpoint("qwen3moe", folder / "hf")
    write_plan(make_plan(open_source(folder / "hf"), PlanOptions("f32")), folder / "f32.gguf")
    return folder / "hf", folder / "f32.gguf", made


def tokens() -> list[int]:
    return np.random.default_rng(3).integers(0, 320, CHUNK * CHUNKS).tolist()


def expert_inputs(made: Any, layer: int) -> tuple[Matrix, list[Matrix]]:
    """Inputs of the layer's experts [tokens, embd] and, of each expert, those of its down projection, from transformers."""
    import torch

    seen: list[Any] = []
    hook = made.model.layers[layer].mlp.register_forward_hook(
        lambda _m, args, _out: seen.append(args[0].detach())
    )
    with torch.no_grad():
        for i in range(CHUNKS):
            made(torch.tensor([tokens()[i * CHUNK : (i + 1) * CHUNK]]))
    hook.remove()
    x = torch.cat([s.reshape(-1, s.shape[-1]) for s in seen]).double().numpy()
    weights = {
        k: v.double().numpy()
        for k, v in made.state_dict().items()
        if k.startswith(f"model.layers.{layer}.mlp.")
    }
    router = next(v for k, v in weights.items() if k.endswith("mlp.gate.weight"))
    chosen = np.argsort(-(x @ router.T), axis=1)[:, :USED]
    gate_up = next(v for k, v in weights.items() if k.endswith("gate_up_proj"))
    hidden = []
    for e in range(EXPERTS):
        mine = x[(chosen == e).any(axis=1)]
        gate, up = np.split(mine @ gate_up[e].T, 2, axis=1)
        hidden.append(gate / (1 + np.exp(-gate)) * up)
    return x, hidden


def collect(path: Path, folder: Path, memory: int = 1 << 30) -> TextMoments:
    folder.mkdir(exist_ok=True)
    return text_moments(path, tokens(), folder, memory, chunk=CHUNK)


def test_moments_are_those_that_each_expert_sees(
    model: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    _, path, made = model
    moments = collect(path, tmp_path)
    for layer in (0, 1):
        x, hidden = expert_inputs(made, layer)
        whole = moments.of(f"blk.{layer}.ffn_gate_exps.weight")
        assert whole is not None
        assert whole is moments.of(f"blk.{layer}.ffn_up_exps.weight")
        assert whole.n_tokens == len(x)
        assert np.allclose(
            full_matrix(whole.values, whole.cols),
            (x @ rotation(whole.cols).T).T @ (x @ rotation(whole.cols).T) / len(x),
            atol=1e-3,
        )
        assert moments.of(f"blk.{layer}.ffn_down_exps.weight") is None
        for e, h in enumerate(hidden):
            found = moments.of(f"blk.{layer}.ffn_down_exps.weight[{e}]")
            if not len(h):
                assert found is None
                continue
            assert found is not None and found.n_tokens == len(h), (layer, e)
            z = h @ rotation(found.cols).T
            want = z.T @ z / len(h)
            assert np.allclose(
                full_matrix(found.values, found.cols), want, atol=2e-3 * np.abs(want).max()
            )


def test_passes_and_files_give_the_same(model: tuple[Path, Path, Any], tmp_path: Path) -> None:
    _, path, _ = model
    whole = {m.tensors: m for m in collect(path, tmp_path / "whole").every()}
    some = collect(path, tmp_path / "some", 60_000)
    for moments in some.every():
        assert np.array_equal(moments.values, whole[moments.tensors].values), moments.tensors
    some.save(MomentWriter(tmp_path / "saved.npz"))
    saved = MomentFile(tmp_path / "saved.npz")
    for names, moments in whole.items():
        read = saved.of(names[0])
        assert read is not None and np.array_equal(read.values, moments.values)


def output_error(weights: Matrix, coded: Matrix, x: Matrix) -> float:
    return float(np.square((coded - weights) @ x.T).sum() / np.square(weights @ x.T).sum())


def test_experts_are_coded_against_their_moments(
    model: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    folder, path, made = model
    plan = make_plan(open_source(folder), PlanOptions("rtq3"))
    encoder = Encoder(collect(path, tmp_path / "moments"), PRESETS["normal"])
    write_plan(plan, tmp_path / "calibrated.gguf", encoder=encoder)
    write_plan(plan, tmp_path / "plain.gguf", encoder=Encoder(preset=PRESETS["normal"]))
    assert not [name for name in encoder.uncalibrated if "exps" in name]

    def matrices(file: Path, name: str) -> Matrix:
        t = next(t for t in core.GGUFFile(str(file)).tensors if t.name == name)
        return core.decode(t.format, t.data, t.shape[1] * t.shape[2], t.shape[0]).reshape(
            t.shape[2], t.shape[1], t.shape[0]
        )

    for layer in (0, 1):
        x, hidden = expert_inputs(made, layer)
        for role, inputs in (("gate", [x] * EXPERTS), ("up", [x] * EXPERTS), ("down", hidden)):
            name = f"blk.{layer}.ffn_{role}_exps.weight"
            exact, calibrated, plain = (
                matrices(f, name)
                for f in (path, tmp_path / "calibrated.gguf", tmp_path / "plain.gguf")
            )
            errors = np.array(
                [
                    [output_error(exact[e], coded[e], inputs[e]) for coded in (calibrated, plain)]
                    for e in range(EXPERTS)
                ]
            )
            # Inputs of random weights are nearly white: what there is to gain is little, but it is there for most.
            assert errors[:, 0].mean() < 0.97 * errors[:, 1].mean(), (name, errors)
    assert core.read_spec(str(tmp_path / "calibrated.gguf")).architecture == "qwen3moe"


def test_importance_matrices_of_experts(tmp_path: Path) -> None:
    from hrun.convert.imatrix import read_imatrix

    sums, counts = np.arange(1, 3 * 64 + 1, dtype=np.float32).reshape(3, 64), np.float32([2, 0, 4])
    writer = core.GGUFWriter(str(tmp_path / "imatrix.gguf"))
    writer.add("general.type", "string", "imatrix")
    writer.add_tensor("x.in_sum2", [64, 3], "f32")
    writer.add_tensor("x.counts", [1, 3], "f32")
    writer.write_tensor("x.in_sum2", sums.view(np.uint8).reshape(-1))
    writer.write_tensor("x.counts", counts.view(np.uint8))
    writer.finish()
    found = read_imatrix(tmp_path / "imatrix.gguf")
    first, whole = found.of("x[0]"), found.of("x")
    assert first is not None and np.allclose(first.power, sums[0] / 2)
    assert (
        found.of("x[1]") is None
        and whole is not None
        and np.allclose(whole.power, sums.sum(axis=0) / 6)
    )
