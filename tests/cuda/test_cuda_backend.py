"""The CUDA backend, its kernels run on the CPU (cuda/emulation): the whole of it but the hardware.

Its numeric contract: the same activations, rounded the same way; block sums exact; fp32 sums in another, fixed order.
So logits differ from the CPU's by rounding, a millionth, until an activation lies so near the middle between two int8 codes
that it falls to the other side: one code of 127 is then off by one, which a model of 256 columns shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hrun import Runtime, _core
from hrun.errors import DeviceError, OutOfMemoryError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("emulated_cuda")]
IDS = np.random.default_rng(3).integers(0, 96, 25).tolist()  # three tiles of eight tokens and one
WIDE = {"n_embd": 256, "n_ff": 512, "n_ctx": 1024}
FORMATS = [f.name for f in _core.formats() if f.encodable]


def logits(
    path: Path, ids: list[int], chunk: int = 512, n_ctx: int = 128, **options: object
) -> np.ndarray:
    """Returns the logits of every position, from a fresh model and session."""
    model = _core.Model.load(str(path), **options)
    return _core.Session(model, n_ctx, n_batch=chunk).forward(ids, "all")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over the largest logit."""
    return float(np.abs(a - b).max() / np.abs(b).max())


ROUNDING, ONE_CODE = 2e-6, 5e-3


def check(got: np.ndarray, expected: np.ndarray) -> None:
    """Checks that every token is within the effect of one code, and that the first token, or any
    three, are equal up to rounding.
    """
    assert distance(got, expected) < ONE_CODE
    assert (
        distance(got[0], expected[0]) < ROUNDING
        or sorted(distance(g, e) for g, e in zip(got, expected))[2] < ROUNDING
    )


def one_by_one(path: Path, ids: list[int], **options: object) -> np.ndarray:
    """Goes token by token, as text is generated: from the third on, passes come from a recorded
    graph.
    """
    session = _core.Session(_core.Model.load(str(path), **options), 600)
    return np.concatenate([session.forward([i], "last") for i in ids])


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_cpu(name: str, tiny_model) -> None:
    path = tiny_model(format=name, **WIDE)
    check(logits(path, IDS, device="cuda"), logits(path, IDS, device="cpu"))


@pytest.mark.parametrize("rotation", ["weight", "activation-float"])
@pytest.mark.parametrize("name", ["itq3_s", "rtq2", "rtq3", "rtq4", "rtq5", "rtq6"])
def test_other_ways_with_rotated_formats(name: str, rotation: str, tiny_model) -> None:
    path = tiny_model(format=name, **WIDE)
    got = logits(path, IDS, device="cuda", rotated_matmul=rotation)
    assert (
        distance(got, logits(path, IDS, device="cpu", rotated_matmul=rotation)) < 2e-3
    )  # weights and activations in fp16


def test_steps_from_a_graph_equal_steps_without(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(format="rtq3", **WIDE)
    recorded = one_by_one(path, IDS[:9], device="cuda")
    check(recorded, logits(path, IDS[:9], device="cpu"))
    monkeypatch.setenv("HRUN_CUDA_GRAPHS", "0")
    assert np.array_equal(one_by_one(path, IDS[:9], device="cuda"), recorded)


@pytest.mark.parametrize(("name", "before"), [("rtq3", 240), ("q4_k", 0), ("f16", 0)])
def test_chunks_change_no_bit(name: str, before: int, tiny_model) -> None:
    """Chunks have one token, some, or all: past a border of attention's splits, in the kernels for
    few tokens and for many.
    """
    model = _core.Model.load(str(tiny_model(format=name, n_layers=1, **WIDE)), device="cuda")
    prefix, ids = (IDS * 10)[:before], IDS[:21]

    def cut(chunk: int) -> np.ndarray:
        session = _core.Session(model, 300, n_batch=300)
        if prefix:
            session.forward(prefix, "none")
        return np.concatenate(
            [session.forward(ids[i : i + chunk], "all") for i in range(0, len(ids), chunk)]
        )

    expected = cut(21)
    for chunk in (1, 4, 16):
        assert np.array_equal(cut(chunk), expected), chunk


def test_sequences_of_a_batch_change_no_bit(tiny_model) -> None:
    """The engine mixes prompts and steps of several sequences in one pass; each has the bits of itself alone."""
    path = str(tiny_model(format="rtq3", n_layers=1, **WIDE))
    prompts = [IDS[:n] for n in (3, 20, 7)]
    with Runtime(path, device="cuda", n_ctx=128) as runtime:
        options = {"max_tokens": 5, "temperature": 0.0, "logprobs": 2, "ignore_eos": True}
        together = runtime.generate(prompts, **options)
        for prompt, answer in zip(prompts, together):
            alone = runtime.generate(prompt, **options)
            assert alone.tokens == answer.tokens and alone.logprobs == answer.logprobs


def test_a_graph_that_cannot_be_made_changes_nothing(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(format="rtq3", **WIDE)
    recorded = one_by_one(path, IDS[:6], device="cuda")
    monkeypatch.setenv("HRUN_EMULATED_FAIL", "end_capture")
    assert np.array_equal(one_by_one(path, IDS[:6], device="cuda"), recorded)


def launches(log: Path) -> list[str]:
    """The names of what ran since the last call: kernels, and "graph" for each one that was replayed."""
    names = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    log.write_text("")
    return names


def test_a_graph_that_cannot_run_is_an_error(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    session = _core.Session(_core.Model.load(str(tiny_model()), device="cuda"), 64)
    for i in IDS[:4]:
        session.forward([i], "last")
    monkeypatch.setenv("HRUN_EMULATED_FAIL", "run")
    with pytest.raises(DeviceError, match="graph"):
        session.forward([IDS[4]], "last")
    # A kernel without room for its stack fails like this.
    monkeypatch.setenv("HRUN_EMULATED_FAIL", "launch")
    with pytest.raises(OutOfMemoryError):
        session.forward(IDS, "last")


def test_memory_that_cannot_be_had_leaves_no_graph_in_freed_memory(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test decodes, then reads a prompt that does not fit, then decodes on: the old graph knows
    scratch that is gone.
    """
    path = tiny_model(format="rtq3", **WIDE)
    model = _core.Model.load(str(path), device="cuda")
    session, undisturbed = _core.Session(model, 600), _core.Session(model, 600)
    other = _core.Session(model, 600)
    expected = [undisturbed.forward([i], "last") for i in IDS[:9]]
    for i, e in zip(IDS[:5], expected):
        assert np.array_equal(session.forward([i], "last"), e)
    monkeypatch.setenv("HRUN_EMULATED_FAIL", "allocation")
    with pytest.raises(OutOfMemoryError, match="free"):
        other.forward(IDS * 8, "last")
    monkeypatch.delenv("HRUN_EMULATED_FAIL")
    for i, e in zip(IDS[5:9], expected[5:]):
        assert np.array_equal(session.forward([i], "last"), e)
    with pytest.raises(OutOfMemoryError):  # the tokens of a batch
        monkeypatch.setenv("HRUN_EMULATED_FAIL", "allocation")
        _core.Session(model, 4096).forward(IDS * 20, "last")


def test_penalties_keep_the_graphs(
    tiny_model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each token adds an edit of the logits; the edits' memory on the device grows only now and
    then.
    """
    log = tmp_path / "launches"
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))
    model = _core.Model.load(str(tiny_model(format="q8_0", **WIDE)), device="cuda")
    session = _core.Session(model, 200)
    sampler = _core.Sampler(seed=3, repeat_penalty=1.3, repeat_last_n=-1, temperature=1.0, top_k=0)
    tokens = IDS[:3]
    for _ in range(5):
        tokens = [session.next(tokens, sampler)]
    launches(log)
    for _ in range(30):
        tokens = [session.next(tokens, sampler)]
    assert launches(log).count("graph") == 30


def test_graphs_outlive_what_grows(tiny_model) -> None:
    """A longer prompt in between moves the scratch that a recorded graph knows."""
    path = tiny_model(format="q4_k", **WIDE)
    model = _core.Model.load(str(path), device="cuda")
    plain = _core.Session(_core.Model.load(str(path), device="cpu"), 600)
    session, other = _core.Session(model, 600), _core.Session(model, 600)
    for _ in range(2):
        for i in IDS[:4]:
            assert distance(session.forward([i], "last"), plain.forward([i], "last")) < ONE_CODE
        other.forward(IDS * 2, "last")
    (
        session.forward(IDS * 10, "none"),
        plain.forward(IDS * 10, "none"),
    )  # past 256 positions: another graph
    for i in IDS[:4]:
        assert distance(session.forward([i], "last"), plain.forward([i], "last")) < ONE_CODE
    session.truncate(7), plain.truncate(7)
    for i in IDS[:4]:
        assert distance(session.forward([i], "last"), plain.forward([i], "last")) < ONE_CODE


def test_run_to_run_the_same_bits(tiny_model) -> None:
    """Each launch of the emulation draws another order of its threads and blocks."""
    path = tiny_model(format="rtq3", **WIDE)
    first = logits(path, IDS, device="cuda")
    assert np.array_equal(logits(path, IDS, device="cuda"), first)


def test_layers_on_both(tiny_model) -> None:
    path = tiny_model(format="rtq3", n_layers=3, **WIDE)
    on_cpu = logits(path, IDS, device="cpu")
    for n in range(5):
        model = _core.Model.load(str(path), device="cuda", n_gpu_layers=n)
        assert ("CUDA0" in model.description) == (n > 0)
        assert ("cpu" in model.description) == (n < 4)
        check(_core.Session(model, 64).forward(IDS, "all"), on_cpu)
        check(one_by_one(path, IDS[:4], device="cuda", n_gpu_layers=n), on_cpu[:4])


def test_too_large_a_model_says_so(tiny_model) -> None:
    code = (
        "import sys; from hrun import Runtime; from hrun.errors import OutOfMemoryError\n"
        "try: Runtime(sys.argv[1], device='cuda', n_gpu_layers=99)\n"
        "except OutOfMemoryError as e: print(e)\n"
        "print(Runtime(sys.argv[1], device='cpu').generate('a', max_tokens=2).finish_reason)\n"
    )
    for room in ("20000", "400000"):  # the weights; the cache
        done = subprocess.run(
            [sys.executable, "-c", code, str(tiny_model(format="q8_0"))], env={**os.environ, "HRUN_EMULATED_BYTES": room},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        message, after = done.stdout.strip().splitlines()
        assert "MiB free" in message and "-ngl" in message and after in ("length", "stop")


def test_as_many_layers_as_fit(tiny_model) -> None:
    """Without -ngl, a model that is too large is shared between card and CPU, and its description
    says so.
    """
    path = str(tiny_model(format="q8_0", n_layers=6, n_embd=256, n_ff=512, n_vocab=600))
    code = "import sys; from hrun import Runtime; r = Runtime(sys.argv[1], device='cuda'); r.generate('a', max_tokens=2); print(r.description)"
    seen = []
    for room in (100_000, 8_000_000, 10_000_000, 100_000_000):
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            env={**os.environ, "HRUN_EMULATED_BYTES": str(room)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout)
    assert "CUDA0" not in seen[0] and "cpu" not in seen[3]
    for shared in seen[1:3]:
        assert "CUDA0" in shared and "cpu" in shared
    assert len(set(seen)) == 4
    said = run_hrun(
        "-m", path, "-p", "a", "-n", "1", "--device", "cuda", HRUN_EMULATED_BYTES="10000000"
    )
    assert "of 6 layers fit" in said.stderr and said.returncode == 0


def test_a_device_that_is_not_there(tiny_model) -> None:
    with pytest.raises(DeviceError, match=r"'cuda7' cannot be had; possible: auto, CUDA0, cpu"):
        _core.Model.load(str(tiny_model()), device="cuda7")
    with pytest.raises(DeviceError, match=r"no device 'gpu'.*CUDA0"):
        _core.Model.load(str(tiny_model()), device="gpu")


def test_a_card_is_found_by_its_number(tiny_model) -> None:
    """The second card is CUDA1 even where the first card is too old."""
    path = str(tiny_model())
    for device, name in (("cuda1", "CUDA1"), ("auto", "CUDA1"), ("cuda", None)):
        code = f"from hrun import Runtime; r = Runtime({path!r}, device={device!r}); r.generate('a', max_tokens=2); print(r.description)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "HRUN_EMULATED_INDEX": "1", "HRUN_DEVICE": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (
            (done.returncode == 0 and name in done.stdout)
            if name
            else "'cuda' cannot be had; possible: auto, CUDA1, cpu" in done.stderr
        )


def run_hrun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hrun.cli.chat", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_library(tiny_model, tmp_path: Path) -> None:
    """An install without CUDA runs on the CPU, and says why it does where a GPU was asked for."""
    absent = str(tmp_path / "libhrun_cuda.so")
    listed = run_hrun("--list-devices", HRUN_CUDA_LIBRARY=absent)
    assert (
        listed.returncode == 0
        and "cpu:" in listed.stdout
        and "without its CUDA backend" in listed.stderr
    )
    asked = run_hrun(
        "-m", str(tiny_model()), "-p", "a", "-n", "1", "--device", "cuda", HRUN_CUDA_LIBRARY=absent
    )
    assert (
        asked.returncode != 0
        and "device 'cuda' cannot be had" in asked.stderr
        and asked.stdout == ""
    )
    wished = run_hrun(
        "-m",
        str(tiny_model()),
        "-p",
        "a",
        "-n",
        "1",
        "-ngl",
        "3",
        HRUN_CUDA_LIBRARY=absent,
        HRUN_DEVICE="",
    )
    assert wished.returncode == 0 and "no layers go to a GPU" in wished.stderr
    Path(absent).write_text("no library")
    broken = run_hrun(
        "-m", str(tiny_model()), "-p", "a", "--device", "cuda", HRUN_CUDA_LIBRARY=absent
    )
    assert broken.returncode != 0 and "cannot be opened" in broken.stderr


def site_without_cuda(folder: Path) -> Path:
    """Makes a folder of packages with this hrun, less its own CUDA backend."""
    package = Path(_core.__file__).parent
    (folder / "hrun").mkdir(parents=True)
    for entry in package.iterdir():
        if entry.name != "libhrun_cuda.so":
            (folder / "hrun" / entry.name).symlink_to(entry)
    return folder


def test_the_backend_is_found_in_a_package_of_its_own(tmp_path: Path) -> None:
    site = site_without_cuda(tmp_path / "site")
    environment = {"PYTHONPATH": str(site), "HRUN_CUDA_LIBRARY": ""}
    without = run_hrun("--list-devices", **environment)
    assert without.returncode == 0 and "the package hrun-cuda13 or hrun-cuda12" in without.stderr
    assert str(site / "hrun" / "libhrun_cuda.so") in without.stderr

    older, newer = site / "hrun_cuda12", site / "hrun_cuda13"
    newer.mkdir()
    (newer / "libhrun_cuda.so").write_text("no library")
    broken = run_hrun("--list-devices", **environment)
    assert broken.returncode == 0 and "cannot be opened" in broken.stderr
    assert str(newer) in broken.stderr

    older.mkdir()  # one of the two suffices
    (older / "libhrun_cuda.so").symlink_to(os.environ["HRUN_CUDA_LIBRARY"])
    found = run_hrun("--list-devices", **environment)
    assert found.returncode == 0 and "CUDA0: emulated" in found.stdout
    assert "cannot be opened" not in found.stderr


def test_the_devices_are_listed() -> None:
    listed = run_hrun("--list-devices")
    assert (
        listed.returncode == 0
        and "CUDA0: emulated" in listed.stdout
        and "MiB free" in listed.stdout
    )


def test_the_demo_model_says_the_same() -> None:
    texts = {}
    for device in ("cpu", "cuda"):
        with Runtime(device=device, n_ctx=256) as runtime:
            texts[device] = runtime.generate("Once upon a time", max_tokens=8, temperature=0).text
    assert texts["cuda"] == texts["cpu"]


def test_an_error_leaves_the_process_alive(tiny_model) -> None:
    model = _core.Model.load(str(tiny_model()), device="cuda")
    with pytest.raises(OutOfMemoryError, match="context"):
        _core.Session(model, 1 << 40 >> 10, type_k="f32")
    assert _core.Session(model, 64).forward(IDS, "last").shape[0] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "top_k": 0},
        {"repeat_penalty": 1.3, "presence_penalty": 0.2},
    ],
)
def test_tokens_drawn_on_the_device(options: dict[str, float], tiny_model) -> None:
    """The device draws what the CPU's sampler draws from the device's logits, and both generators stand alike after it."""
    path = tiny_model(format="q8_0", **WIDE)
    model = _core.Model.load(str(path), device="cuda")
    drawn, read = _core.Session(model, 64), _core.Session(model, 64)
    bias = {5: 2.0, 9: float("-inf")}
    device, host = (_core.Sampler(seed=11, logit_bias=bias, **options) for _ in range(2))
    a = b = IDS[:3]
    for _ in range(6):
        a = [drawn.next(a, device)]
        b = [host.sample_logits(read.forward(b, "last")[0])]
        assert a == b
    assert device.sample(drawn) == host.sample(
        read
    )  # from logits that stayed on the device until now
