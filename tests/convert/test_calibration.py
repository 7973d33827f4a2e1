"""Second moments of matmul inputs and encoding against them: each step against NumPy."""

from __future__ import annotations

import struct
import weakref
from pathlib import Path

import numpy as np
import pytest

from hrun import _core as core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.encoding import PRESETS, Encoder
from hrun.convert.imatrix import dyadic_moments, read_imatrix
from hrun.convert.moments import InputMoments, MomentFile, MomentWriter
from hrun.convert.source import SourceTensor
from tiny_hf import TinyLlama
from whole_model import text_moments, whole_moments

pytestmark = pytest.mark.slow

TRELLIS = [info.name for info in core.formats() if info.trellis]


def rotation(cols: int) -> np.ndarray:
    """The matrix R of the signed rotation: z = R w."""
    out = np.zeros((cols, cols))
    for first in range(0, cols, 256):
        done, n = 0, min(256, cols - first)
        while done < n:
            piece = max(p for p in (32, 64, 128, 256) if p <= n - done)
            h = np.ones((1, 1))
            while len(h) < piece:
                h = np.block([[h, h], [h, -h]])
            at = slice(first + done, first + done + piece)
            out[at, at] = h / np.sqrt(piece)
            done += piece
    return out * core.rotation_signs(cols)


def correlated_inputs(cols: int, n: int = 4000, seed: int = 0) -> np.ndarray:
    """[n, cols]: smooth along the columns, of uneven power."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, cols + 8))
    x = sum(x[:, i : i + cols] for i in range(8))
    return x * random.lognormal(0, 1, cols)


def full_matrix(blocks: np.ndarray, cols: int) -> np.ndarray:
    out = np.zeros((cols, cols))
    for g, block in enumerate(blocks):
        at = slice(g * len(block), min((g + 1) * len(block), cols))
        n = at.stop - at.start
        out[at, at] = block[:n, :n]
    return out


@pytest.mark.parametrize("name", TRELLIS)
@pytest.mark.parametrize(
    ("cols", "width"), [(512, 512), (512, 256), (608, 608), (608, 256), (96, 96)]
)
def test_the_reported_cost_is_that_of_the_decoded_row(name: str, cols: int, width: int) -> None:
    r = rotation(cols)
    x = correlated_inputs(cols)
    h = r @ (x.T @ x / len(x)) @ r.T
    blocks = np.zeros((-(-cols // width), width, width), np.float32)
    for g in range(len(blocks)):
        at = slice(g * width, min((g + 1) * width, cols))
        blocks[g, : at.stop - at.start, : at.stop - at.start] = h[at, at]
    damping = 0.02
    factor = core.InputFactor.make(blocks, cols, damping)
    w = np.random.default_rng(1).standard_normal((3, cols)).astype(np.float32)
    data, cost, energy = core.encode_calibrated(name, w, factor, 16, 1.1, 2)
    error = w @ r.T - core.decode(name, data, 3, cols, own_basis=True)
    damped = full_matrix(blocks, cols)
    for g in range(0, cols, width):
        at = np.arange(g, min(g + width, cols))
        damped[at, at] += damping * damped[at, at].mean()
    expected = np.einsum("ri,ij,rj->r", error, damped, error)
    assert np.allclose(cost, expected, rtol=2e-3), (cost, expected)
    assert np.allclose(energy, np.einsum("ri,ij,rj->r", w @ r.T, damped, w @ r.T), rtol=2e-3)
    # Calibration must give much less output error than plain coding.
    plain = w @ r.T - core.decode(name, core.encode(name, w), 3, cols, own_basis=True)
    gain = 0.95 if cols == 96 else 0.7
    assert expected.sum() < gain * np.einsum("ri,ij,rj->r", plain, damped, plain).sum()


def test_more_survivors_are_better() -> None:
    cols = 512
    x, r = correlated_inputs(cols), rotation(cols)
    factor = core.InputFactor.make(
        (r @ (x.T @ x / len(x)) @ r.T).astype(np.float32)[None], cols, 0.01
    )
    w = np.random.default_rng(1).standard_normal((8, cols)).astype(np.float32)
    costs = [
        core.encode_calibrated("rtq3", w, factor, survivors, 1.05)[1].sum()
        for survivors in (2, 16, 128)
    ]
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.7 * costs[0], costs


def test_a_row_has_the_same_bytes_whatever_is_beside_it() -> None:
    cols = 320
    x, r = correlated_inputs(cols), rotation(cols)
    factor = core.InputFactor.make(
        (r @ (x.T @ x / len(x)) @ r.T).astype(np.float32)[None], cols, 0.01
    )
    w = np.random.default_rng(2).standard_normal((7, cols)).astype(np.float32)
    data, cost, energy = core.encode_calibrated("rtq3", w, factor, 24, 1.1, 2)
    for i, row in enumerate(w):
        alone = core.encode_calibrated("rtq3", row[None], factor, 24, 1.1, 2)
        size = len(data) // len(w)
        assert np.array_equal(alone[0], data[i * size : (i + 1) * size])
        assert (alone[1][0], alone[2][0]) == (cost[i], energy[i])


@pytest.mark.parametrize("name", TRELLIS)
def test_every_instruction_set_writes_the_same_bytes(name: str) -> None:
    cols = 608
    x, r = correlated_inputs(cols, seed=4), rotation(cols)
    factor = core.InputFactor.make(
        (r @ (x.T @ x / len(x)) @ r.T).astype(np.float32)[None], cols, 0.01
    )
    w = np.random.default_rng(5).standard_normal((4, cols)).astype(np.float32)
    alone = core.InputFactor.make(
        (r @ (x.T @ x / len(x)) @ r.T).astype(np.float32)[None], cols, 0.01, n_threads=1
    )
    assert np.array_equal(
        core.encode_calibrated(name, w, factor, 8, 1.1)[0],
        core.encode_calibrated(name, w, alone, 8, 1.1)[0],
    )
    results = [
        core.encode_calibrated(name, w, factor, 24, 1.1, 2, vector_bits=bits)
        for bits in (128, 256, 512)
    ]
    for data, cost, energy in results[1:]:
        assert (
            np.array_equal(data, results[0][0])
            and np.array_equal(cost, results[0][1])
            and np.array_equal(energy, results[0][2])
        )


def test_hostile_moments_and_arguments() -> None:
    w = np.ones((2, 64), np.float32)
    with pytest.raises(core.ConversionError, match="not finite"):
        core.InputFactor.make(np.full((1, 64, 64), np.nan, np.float32), 64)
    with pytest.raises(core.ConversionError, match="positive definite"):
        core.InputFactor.make((np.eye(64) + 100 * (1 - np.eye(64))).astype(np.float32)[None], 64)
    with pytest.raises(core.ArgumentError):
        core.InputFactor.make(np.zeros((1, 64, 32), np.float32), 64)
    dead = core.InputFactor.make(
        np.zeros((1, 64, 64), np.float32), 64
    )  # an input that is always zero
    data, cost, _ = core.encode_calibrated("rtq3", w, dead, 16, 1.1)
    assert np.isfinite(core.decode("rtq3", data, 2, 64)).all() and np.isfinite(cost).all()
    data, cost, _ = core.encode_calibrated("rtq3", 0 * w, dead, 16, 1.1)
    assert not core.decode("rtq3", data, 2, 64).any() and not cost.any()
    for bad in (
        {"survivors": 0},
        {"scale": 0.0},
        {"scale": -1.0},
        {"passes": 0},
        {"format": "q8_0"},
    ):
        arguments = {
            "format": "rtq3",
            "weights": w,
            "factor": dead,
            "survivors": 4,
            "scale": 1.0,
        } | bad
        with pytest.raises(core.ArgumentError):
            core.encode_calibrated(**arguments)
    with pytest.raises(core.ConversionError, match="value 3 of row 1 is nan"):
        core.encode_calibrated(
            "rtq3",
            np.where(np.arange(128).reshape(2, 64) == 67, np.nan, w).astype(np.float32),
            dead,
            4,
            1.0,
            tensor="t",
        )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    checkpoint = TinyLlama(
        folder / "tiny", layers=2, embd=64, heads=2, kv_heads=1, head_dim=32, ff=96
    ).path
    path = folder / "tiny.gguf"
    write_plan(make_plan(open_source(checkpoint), PlanOptions("f32")), path)
    return path


def test_collected_moments_are_those_of_the_inputs(tiny: Path, tmp_path: Path) -> None:
    model = core.Model.load(str(tiny))
    tokens = [int(t) for t in np.random.default_rng(2).integers(0, model.n_vocab, 48)]
    collected = {
        name: m
        for m in text_moments(tiny, tokens, tmp_path, chunk=16).every()
        for name in m.tensors
    }
    names = {t.name for t in core.GGUFFile(str(tiny)).tensors if len(t.shape) == 2}
    assert names - {"token_embd.weight"} <= set(collected) <= names
    assert collected["blk.0.attn_q.weight"] is collected["blk.0.attn_v.weight"]

    tensors = {t.name: t for t in core.GGUFFile(str(tiny)).tensors}
    embedding = core.decode("f32", tensors["token_embd.weight"].data, model.n_vocab, 64)
    x = embedding[tokens].astype(np.float64)
    x = x / np.sqrt(
        (x**2).mean(axis=1, keepdims=True) + core.read_spec(str(tiny)).params["rms_eps"]
    )
    x = x * core.decode("f32", tensors["blk.0.attn_norm.weight"].data, 1, 64)
    z = x @ rotation(64).T
    found = collected["blk.0.attn_q.weight"]
    assert found.n_tokens == 48 and found.width == 64
    assert np.allclose(found.values[0], z.T @ z / 48, atol=1e-4 * np.abs(z.T @ z / 48).max())
    assert np.allclose(found.power, (x**2).mean(axis=0), rtol=1e-4)
    assert np.allclose(found.peak, np.abs(x).max(axis=0), rtol=1e-4)
    assert collected["blk.1.ffn_down.weight"].values.shape == (1, 96, 96)


def test_moments_do_not_depend_on_memory_threads_or_the_way_through_a_file(
    tiny: Path, tmp_path: Path
) -> None:
    tokens = list(range(3, 51))
    whole = whole_moments(tiny, tokens, chunk=16)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    some = text_moments(tiny, tokens, scratch, 150_000, chunk=16, n_threads=2)
    for moments in some.every():
        assert np.array_equal(moments.values, whole[moments.tensors].values)
    some.save(MomentWriter(tmp_path / "saved.npz"))
    saved = MomentFile(tmp_path / "saved.npz")
    for names, moments in whole.items():
        read = saved.of(names[-1])
        assert (
            read is not None
            and read.tensors == names
            and np.array_equal(read.values, moments.values)
        )
    assert saved.of("nothing") is None
    with pytest.raises(core.ArgumentError, match="other channel scales"):
        MomentFile(tmp_path / "saved.npz", "folded otherwise")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(core.ModelFileError, match="bad.npz"):
        MomentFile(tmp_path / "bad.npz")


@pytest.mark.parametrize("cols", [32, 256, 352, 512])
def test_a_diagonal_is_dyadic_in_the_rotated_basis(cols: int) -> None:
    power = np.random.default_rng(3).lognormal(0, 1, cols)
    r = rotation(cols)
    assert np.allclose(
        full_matrix(dyadic_moments(power), cols), r @ np.diag(power) @ r.T, atol=1e-5 * power.max()
    )


def test_both_kinds_of_importance_matrix(tmp_path: Path) -> None:
    power = np.arange(1, 65, dtype=np.float32)
    old = (
        struct.pack("<ii", 1, 4)
        + b"blk0"
        + struct.pack("<ii", 5, 64)
        + (power * 5).astype("<f4").tobytes()
    )
    (tmp_path / "old.dat").write_bytes(old + struct.pack("<i", 5) + struct.pack("<i", 4) + b"text")
    writer = core.GGUFWriter(str(tmp_path / "new.gguf"))
    writer.add("general.type", "string", "imatrix")
    writer.add_tensor("blk0.in_sum2", [64], "f32")
    writer.add_tensor("blk0.counts", [1], "f32")
    writer.write_tensor("blk0.in_sum2", np.frombuffer((power * 7).tobytes(), np.uint8))
    writer.write_tensor("blk0.counts", np.frombuffer(np.float32([7]).tobytes(), np.uint8))
    writer.finish()
    for name in ("old.dat", "new.gguf"):
        found = read_imatrix(tmp_path / name)
        moments = found.of("blk0")
        assert (
            isinstance(moments, InputMoments)
            and np.allclose(moments.power, power)
            and found.of("other") is None
        )
    for cut in range(0, len(old), 7):
        (tmp_path / "cut.dat").write_bytes(old[:cut])
        with pytest.raises(core.ModelFileError, match="cut.dat"):
            read_imatrix(tmp_path / "cut.dat")
    (tmp_path / "nan.dat").write_bytes(old[:-4] + struct.pack("<f", float("nan")))
    with pytest.raises(core.ModelFileError, match="not finite"):
        read_imatrix(tmp_path / "nan.dat")


@pytest.mark.parametrize("name", TRELLIS)
@pytest.mark.parametrize("preset", [None, "normal", "best"])
def test_which_search_codes_what_has_no_moments(name: str, preset: str | None) -> None:
    """The search is exact where there is a preset.

    For RTQ5, whose exact search takes sixteen times as long as the fast one, it is exact for the
    preset best alone.
    """
    w = np.random.default_rng(6).standard_normal((4, 544)).astype(np.float32)
    info = next(info for info in core.formats() if info.name == name)
    fast, exact = core.encode(name, w, fast=True), core.encode(name, w)
    assert not np.array_equal(fast, exact)
    got = Encoder(None, PRESETS[preset] if preset else None).encode(info, w, "t")
    is_fast = preset is None or (name == "rtq5" and preset == "normal")
    assert np.array_equal(got, fast if is_fast else exact)


class Lender:
    """A MomentSource that gives moments to one asker at a time: those of before must be gone."""

    def __init__(self, inputs: list[tuple[str, ...]], cols: int) -> None:
        self._inputs, self._cols = inputs, cols
        self._lent: weakref.ref[InputMoments] | None = None
        self.asked: list[str] = []

    def of(self, tensor: str) -> InputMoments | None:
        assert self._lent is None or self._lent() is None, tensor
        names = next((names for names in self._inputs if tensor in names), None)
        if names is None:
            return None
        self.asked.append(tensor)
        n = self._cols
        found = InputMoments(
            names, n, np.eye(n, dtype=np.float32)[None], np.ones(n), None, 1000, None
        )
        self._lent = weakref.ref(found)
        return found


def test_moments_are_let_go_before_the_next_are_made() -> None:
    """Also where the allocation asks about formats without moments in between; tensors that share an input ask once."""
    cols = 64
    inputs = [("q", "k"), ("down",), ("experts[0]",), ("experts[1]",), ("experts",)]
    lender = Lender(inputs, cols)
    encoder = Encoder(lender, PRESETS["normal"])
    by_name = {info.name: info for info in core.formats()}

    def tensor(name: str, *shape: int) -> SourceTensor:
        return SourceTensor(name, (cols, *shape), "f32", lambda first, last: None, name)  # type: ignore[arg-type, return-value]

    for name in ("q", "k", "down", "unknown", "q"):
        for form in ("f16", "q8_0", "rtq2", "f16", "rtq3", "q8_0"):
            encoder.prepare(tensor(name, 8), by_name[form])
            assert encoder.is_slow == (form.startswith("rtq") and name != "unknown")
    for part in (0, 1, 2):
        encoder.prepare(tensor("experts", 8, 3), by_name["rtq3"], part)
        assert encoder.is_slow
    encoder.finish()
    assert lender.of("q") is not None
    assert lender.asked == ["q", "down", "q", "experts[0]", "experts[1]", "experts", "q"]
