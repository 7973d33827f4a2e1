"""Calibration a part of the model at a time: the same numbers as of the whole model, in the memory of a layer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hrun
from hrun import _core
from hrun.cli.convert import main
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.calibrate import float_bytes, part_file
from hrun.convert.compare import TextReader, read_and_compare
from hrun.convert.key_tables import BALANCE, MEAN, with_key_tables
from hrun.convert.loss_meter import LossMeter
from hrun.convert.parts import PartFile
from hrun.convert.quick_copy import ITSELF, memory_bound, writer_type
from hrun.convert.text import CHUNK_TOKENS
from hrun.convert.text_moments import TextMoments
from tiny_hf import TinyLlama
from whole_model import (
    matrices,
    same_moments,
    text_moments,
    whole_differences,
    whole_key_tables,
    whole_log_probabilities,
    whole_moments,
)

pytestmark = pytest.mark.slow

CHUNK = 32
TOKENS = np.random.default_rng(3).integers(3, 300, 6 * CHUNK).tolist()
PACKAGE = Path(hrun.__file__).resolve().parents[1]
# Grouped experts, latent attention, shared keys with vectors of each layer, recurrent layers of each kind.
KINDS = [
    "llama", "llama 3", "gpt2", "qwen3moe", "gpt-oss", "gemma3", "gemma3n", "gemma4, small", "gemma4, experts",
    "deepseek3", "deepseek2, lite", "qwen35", "qwen3next", "nemotron h", "granite 4 h", "lfm2", "falcon h1", "mamba",
    "rwkv 7",
]  # fmt: skip


def converted(kind: str, folder: Path) -> Path:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    from tiny_transformers import write_checkpoint

    write_checkpoint(kind, folder / "hf")
    out = folder / "whole.gguf"
    source = open_source(folder / "hf")
    write_plan(make_plan(source, PlanOptions("f32", pure=True)), out)
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    source = TinyLlama(
        folder / "hf", layers=3, embd=64, heads=2, kv_heads=1, head_dim=32, ff=96
    ).path
    write_plan(make_plan(open_source(source), PlanOptions("f32")), folder / "tiny.gguf")
    return folder / "tiny.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    path = converted(kind, tmp_path)
    whole = whole_moments(path, TOKENS)
    names = matrices(path)
    (tmp_path / "scratch").mkdir()
    parts = text_moments(path, TOKENS, tmp_path / "scratch")
    found = {m.tensors: m for m in parts.every()}
    assert set(found) == {key for key in whole if any(k.split("[")[0] in names for k in key)}
    for key, moments in found.items():
        assert same_moments(moments, whole[key]), key
    # Every matrix that is multiplied has its moments, whole or slice by slice.
    seen = {name.split("[")[0] for key in found for name in key}
    read = {"token_embd.weight", "position_embd.weight", "per_layer_token_embd.weight"}
    narrow = {t.name for t in _core.GGUFFile(str(path)).tensors if t.shape[0] % 32}
    # Nor have vectors any, and what nobody reads in the first layer of RWKV 7.
    others = r"bias|conv|ssm_a|ssm_d|ssm_norm|time_mix_lerp|blk\.0\.time_mix_v[12]"
    taps = {name for name in names if re.search(others, name)}
    assert set(names) - seen <= read | narrow | taps


@pytest.mark.parametrize("kind", ["llama 3", "gemma4, small", "deepseek3", "nemotron h"])
def test_a_scratch_file_with_a_part_at_a_time_gives_the_same(kind: str, tmp_path: Path) -> None:
    path = converted(kind, tmp_path)
    (tmp_path / "work").mkdir()
    file = part_file(open_source(tmp_path / "hf"), tmp_path / "work")
    assert file.path == tmp_path / "work" / "parts.gguf"
    moments = TextMoments(file, TOKENS, matrices(path), 1 << 30, tmp_path / "work", chunk=CHUNK)
    whole = whole_moments(path, TOKENS)
    found = {m.tensors: m for m in moments.every()}
    assert found and found.keys() <= whole.keys()
    assert all(same_moments(m, whole[key]) for key, m in found.items())


@pytest.mark.parametrize(
    "kind", ["llama 3", "gpt2", "gemma3n", "gemma4, small", "qwen35", "falcon h1"]
)
def test_tables_of_keys_are_those_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    """By way of a scratch file too; chunks are cut where the model has fewer positions."""
    path = converted(kind, tmp_path)
    (tmp_path / "work").mkdir()
    tokens = np.random.default_rng(4).integers(3, 90, 2 * CHUNK_TOKENS).tolist()
    n = min(CHUNK_TOKENS, _core.read_spec(str(path)).params["n_ctx_train"])
    texts = [tokens[:n], tokens[CHUNK_TOKENS : CHUNK_TOKENS + n]]
    whole = whole_key_tables(path, texts)
    hf = open_source(tmp_path / "hf")
    for source, file in (
        (open_source(path), PartFile(open_source(path))),
        (hf, part_file(hf, tmp_path / "work")),
    ):
        found = with_key_tables(source, file, tokens, None, tmp_path / "work")
        entries = {entry.key: entry.value for entry in found.metadata}
        for i, key in enumerate((MEAN, BALANCE)):
            want = np.concatenate([tables[i] for tables in whole])
            assert want.size and np.array_equal(np.float32(entries[key]), want)
        assert set(os.listdir(tmp_path / "work")) <= {"parts.gguf"}


@pytest.mark.parametrize("kind", ["llama 3", "gemma4, small", "deepseek3", "lfm2"])
def test_models_are_compared_as_the_whole_ones_would_be(kind: str, tmp_path: Path) -> None:
    path, coded = converted(kind, tmp_path), tmp_path / "coded.gguf"
    write_plan(make_plan(open_source(path), PlanOptions("q4_0")), coded)
    texts = [TOKENS[:31], TOKENS[40:80]]
    want = whole_differences(path, coded, texts)
    for name in ("states", "scratch"):
        (tmp_path / name).mkdir()
    file = part_file(open_source(tmp_path / "hf"), tmp_path / "scratch")
    reference = TextReader(file, texts, tmp_path / "states")
    for _ in range(2):  # the reference has read for any number of files
        own = PartFile(open_source(coded))
        found = read_and_compare(reference, own, texts, tmp_path / "scratch")
        assert np.array_equal(found.divergence, want.divergence) and want.divergence.min() > 0
        assert (found.n_tokens, found.same_top) == (want.n_tokens, want.same_top)
        assert found.perplexity == pytest.approx(want.perplexity, rel=1e-12)  # sums of other steps
        reference.release()


def test_parts_cover_the_model_and_keep_shared_keys_together(tiny: Path, tmp_path: Path) -> None:
    assert _core.model_parts(str(tiny)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    path = converted("gemma4, small", tmp_path)  # layers 3 to 5 read the keys of 1 and 2
    assert _core.model_parts(str(path)) == [(0, 1), (1, 6), (6, 7)]
    with pytest.raises(_core.ArgumentError, match="layer 3 reads the keys of layer 1"):
        _core.Model.load(str(path), layers=(3, 4))
    for bad in ((-1, 2), (2, 2), (0, 9)):
        with pytest.raises(_core.ArgumentError, match="the model has 6 and then the head"):
            _core.Model.load(str(path), layers=bad)


def test_what_a_part_refuses(tiny: Path) -> None:
    width = _core.Model.load(str(tiny)).state_width
    states = np.zeros((4, width), np.float32)
    first, middle, head = (
        _core.Session(_core.Model.load(str(tiny), layers=part), 8)
        for part in ((0, 1), (1, 2), (3, 4))
    )
    with pytest.raises(_core.ArgumentError, match="embed the tokens, and take no states"):
        first.forward([1] * 4, "none", states=states)
    with pytest.raises(_core.ArgumentError, match="take the states that the layer before gave"):
        middle.forward([1] * 4, "none")
    with pytest.raises(_core.ArgumentError, match="have no head"):
        middle.forward([1] * 4, "last", states=states)
    with pytest.raises(_core.ArgumentError, match=r"states of 4 tokens are \[4, 64\], found"):
        head.forward([1] * 4, "all", states=states[:, :32].copy())
    assert head.forward([1] * 4, "all", states=states).shape == (4, 320)
    with pytest.raises(_core.ArgumentError, match="the session stands at 4"):
        head.forward([1] * 4, "all", states=states)


def test_less_memory_is_more_passes_over_a_layer_not_over_the_text(
    tiny: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    file = PartFile(open_source(tiny))
    moments = TextMoments(
        file, TOKENS, matrices(tiny), 150_000, tmp_path, chunk=CHUNK,
        report=lambda done, total, what: said.append(what),
    )  # fmt: skip
    whole = whole_moments(tiny, TOKENS)
    assert all(same_moments(m, whole[m.tensors]) for m in moments.every())
    assert list(dict.fromkeys(said)) == [f"calibrate, part {i} of 4" for i in (1, 2, 3, 4)]
    assert len(said) > 4 * (len(TOKENS) // CHUNK + 1)


def test_moments_of_parts_that_are_coded_are_removed(tiny: Path, tmp_path: Path) -> None:
    file, names = PartFile(open_source(tiny)), [n for n in matrices(tiny) if "blk" in n]
    moments = TextMoments(file, TOKENS, names, 1 << 30, tmp_path, chunk=CHUNK, keeps=False)
    whole = {n: m for key, m in whole_moments(tiny, TOKENS).items() for n in key}
    for name in names:
        found = moments.of(name)
        assert found is not None and same_moments(found, whole[name])
        assert sum(p.name.startswith("moments") for p in tmp_path.iterdir()) == 1
        assert sum(p.name.startswith("states") for p in tmp_path.iterdir()) == 1
    assert moments.of("blk.0.attn_norm.weight") is None and moments.progress == (3, 3)


def test_work_goes_on_where_it_was_cut_off(tiny: Path, tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    file, n = PartFile(open_source(tiny)), 0

    def report(done: int, total: int, what: str) -> None:
        nonlocal n
        n += 1
        if n == 10:  # within the second part
            raise Cut

    first = TextMoments(file, TOKENS, matrices(tiny), 1 << 30, tmp_path, chunk=CHUNK, report=report)
    with pytest.raises(Cut):
        list(first.every())
    second = TextMoments(file, TOKENS, matrices(tiny), 1 << 30, tmp_path, chunk=CHUNK)
    assert second.progress == (1, 4)
    whole = whole_moments(tiny, TOKENS)
    found = {m.tensors: m for m in second.every()}
    assert found.keys() == whole.keys()
    assert all(same_moments(m, whole[key]) for key, m in found.items())


@pytest.mark.parametrize("tied", [False, True])
def test_losses_are_those_of_the_whole_model(tied: bool, tmp_path: Path) -> None:
    """Each matrix in turn is halved, also where the measurement is cut off and goes on."""
    kind = "llama 3" if tied else "llama"
    path = converted(kind, tmp_path)
    source = open_source(path)
    options = PlanOptions("q8_0", tensor_types=[("", "q8_0")])
    plain = tmp_path / "plain.gguf"
    write_plan(make_plan(source, options), plain)
    chunks = [TOKENS[:24], TOKENS[40:72]]
    reference = whole_log_probabilities(plain, chunks)
    names = matrices(path)
    tensors = {t.name: t for t in source.tensors}

    def halved(name: str) -> np.ndarray:
        return 0.5 * tensors[name].read_rows(0, tensors[name].rows)

    calls: list[str] = []

    def change(name: str) -> tuple[object, list[np.ndarray]]:
        calls.append(name)
        if len(calls) == 12:
            raise InterruptedError
        return len(calls), np.array_split(halved(name), 3)

    (tmp_path / "work").mkdir()

    def meter() -> LossMeter:
        file = PartFile(source, tmp_path / "work" / "measured.gguf", options)
        return LossMeter(file, chunks, tmp_path / "work")

    with pytest.raises(InterruptedError):
        meter().losses(names, change)
    found = meter().losses(names, change)
    assert list(found) == names and len(calls) < 2 * len(names)
    patched = tmp_path / "patched.gguf"
    for name in names:
        patched.write_bytes(plain.read_bytes())
        place = next(t for t in _core.GGUFFile(str(patched)).tensors if t.name == name)
        offset = place.offset
        with open(patched, "r+b") as out:
            out.seek(offset)
            out.write(np.asarray(_core.encode("q8_0", halved(name), tensor=name)).data)
        rows = whole_log_probabilities(patched, chunks)
        terms = (reference - rows) * np.exp(reference)
        want = float(terms.sum(axis=1, dtype=np.float64).mean())
        assert found[name].loss == pytest.approx(want, rel=1e-6, abs=1e-12), name
    assert plain.stat().st_size == (tmp_path / "work" / "measured.gguf").stat().st_size


MEASURED = """
import sys
from importlib import import_module
from pathlib import Path
main = import_module(sys.argv[1]).main
import hrun.convert.read_gguf, hrun.convert.read_hf, hrun.convert.allocate, hrun.tokenizer, concurrent.futures
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
before = peak()
assert main(sys.argv[2:]) == 0
print(peak() - before)
"""


def peak_of(command: str, *arguments: object) -> int:
    """Bytes of memory that a command in a process of its own takes beyond what it starts with."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, f"hrun.cli.{command}", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("fold", ["never", "always"])
def test_memory_is_that_of_a_layer(
    tiny_model: Callable[..., Path], tmp_path: Path, fold: str
) -> None:
    """Three times the layers take no more memory; --fold goes by way of a scratch file."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    embd, ff, kv = 256, 768, 64
    peaks = {}
    for n_layers in (2, 6):
        model = tiny_model(
            n_layers=n_layers, n_embd=embd, n_heads=4, n_kv_heads=1, n_ff=ff, n_ctx=512, format="bf16"
        )  # fmt: skip
        peaks[n_layers] = peak_of(
            "convert", model, "-o", tmp_path / "out.gguf", "--target-bpw", 3, "--calibrate", text,
            "--calibrate-tokens", 512, "--fold", fold, "--no-check", "-t", 2,
        )  # fmt: skip
        assert sorted(os.listdir(tmp_path)) == ["out.gguf", "text.txt"]
    layer = 4 * (2 * embd * embd + 2 * embd * kv + 3 * embd * ff)  # 3.0 MB
    moments = 4 * (3 * embd * embd + ff * ff)  # 3.1 MB
    # The peak does not grow by the four layers between and their moments, but by a table of formats
    # for each tensor.
    assert peaks[6] - peaks[2] < 2 * layer, peaks
    assert peaks[6] < 2 * layer + moments + (64 << 20), peaks


@pytest.mark.parametrize("what", ["report", "ladder"])
def test_what_compares_a_model_with_its_source_takes_the_memory_of_a_layer(
    tiny_model: Callable[..., Path], tmp_path: Path, what: str
) -> None:
    """The report runs source and file, and so does each rung of a ladder; tables of keys run the source."""
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 30)
    embd, ff, kv = 256, 768, 64
    common = ("--calibrate", text, "-t", 2)
    peaks = {}
    for n_layers in (2, 10):
        model = tiny_model(
            n_layers=n_layers, n_embd=embd, n_heads=4, n_kv_heads=1, n_ff=ff, n_ctx=512, format="bf16"
        )  # fmt: skip
        if what == "report":
            peaks[n_layers] = peak_of(
                "convert", model, "-o", tmp_path / "out.gguf", "--type", "q8_0", *common,
                "--kv-stats", "--report", tmp_path / "page.html", "--no-check",
            )  # fmt: skip
        else:
            peaks[n_layers] = peak_of(
                "ladder", model, "-o", tmp_path / str(n_layers), "--types", "q8_0", *common,
                "--text", text, "--chunks", 1,
            )  # fmt: skip
    layer = 4 * (2 * embd * embd + 2 * embd * kv + 3 * embd * ff)  # 3.0 MB; 8 of them in BF16: 12.1
    assert peaks[10] - peaks[2] < 2 * layer, peaks
    assert peaks[10] < 2 * layer + (64 << 20), peaks


def test_a_killed_conversion_goes_on(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """A conversion is killed while it calibrates, while it measures and while it codes.

    In the end the file is the same, and nothing is left over.
    """
    text, model = tmp_path / "text.txt", tiny_model(n_layers=4, n_embd=128, n_ff=256)
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    command = [
        sys.executable, "-m", "hrun.cli.convert", model, "--target-bpw", "3", "--calibrate", text,
        "--calibrate-tokens", "2048", "--no-check", "-t", "1",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}

    def run(out: Path, until: str | None) -> set[str]:
        """Returns the names in the work folder at the moment when it holds a file of this name."""
        with open(tmp_path / "err", "w") as err:
            process = subprocess.Popen([*command, "-o", out], env=environment, stderr=err)
        folder = out.with_name(f"{out.name}.work-{process.pid}")
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if until is not None and (folder / until).exists():
                break
            time.sleep(0.001)
        if until is not None:
            process.kill()
        assert process.wait(120) == (0 if until is None else -9)
        return set(os.listdir(folder)) if until is not None else set()

    plain = tmp_path / "plain.gguf"
    run(plain, None)
    (tmp_path / "cut").mkdir()
    out = tmp_path / "cut" / "out.gguf"
    before: set[str] = set()
    for stage in ("moments-1.npz", "changed-2", "coded-9"):
        found = run(out, stage)
        assert len(list(out.parent.glob("*.work-*"))) == 1  # the one before has been taken over
        assert {n for n in before if n.endswith(".npz") or n.startswith("coded-")} <= found
        before = found
    run(out, None)
    assert "going on with an interrupted run" in (tmp_path / "err").read_text()
    assert out.read_bytes() == plain.read_bytes() and os.listdir(out.parent) == ["out.gguf"]


@pytest.mark.parametrize("writer", ["RTQ4", "RTQ2", None])
def test_a_model_that_takes_more_than_its_conversion_is_not_run_whole(
    writer: str | None,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A copy writes the text, in the widest type that there is room for; without room nothing does."""
    model = tiny_model()
    room = 0
    if writer is not None:
        plan = make_plan(open_source(model), PlanOptions(writer.lower(), pure=True))
        room = plan.data_bytes
    monkeypatch.setattr("hrun.convert.quick_copy.room_for_model", lambda source, memory: room)
    if writer is None:
        monkeypatch.setattr("hrun.convert.auto_text.own_text", None)
    else:
        monkeypatch.setattr("hrun.convert.calibrate.float_model", None)
    out = tmp_path / "out.gguf"
    arguments = [str(model), "-o", str(out), "--type", "rtq3", "--calibrate-tokens", "2048"]
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert ("does not write text for it" in err) == (writer is None)
    assert (f"the model's own answers, drawn from it in {writer}" in err) == (writer is not None)
    assert "mean KL divergence from the source" in err and "greedy answers" not in err
    stored = _core.GGUFFile(str(out)).metadata
    assert stored["hrun.check.mean_kld"] > 0 and np.isnan(stored["hrun.check.greedy_alike"])
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_the_bound_is_two_layers_as_floats_their_moments_and_a_gibibyte(
    tiny_model: Callable[..., Path],
) -> None:
    source = open_source(tiny_model(n_layers=3, n_embd=256, n_heads=4, n_kv_heads=1, n_ff=768))
    layer = 4 * (2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 768 + 2 * 256)
    moments = 4 * (256**2 + 768**2)
    assert memory_bound(source, 4 << 30) == 2 * layer + moments + (1 << 30)
    floats = float_bytes(source)
    assert writer_type(source, floats, floats) == ITSELF
    assert writer_type(source, floats, floats - 1) == "rtq4"
    assert writer_type(source, floats, 1000) is None
