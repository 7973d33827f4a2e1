"""Several devices share the layers of a model (emulated GPUs): the bits are those of one device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import Runtime, _core
from hrun.errors import DeviceError

pytestmark = pytest.mark.usefixtures("emulated_cuda")
IDS = np.random.default_rng(5).integers(0, 96, 15).tolist()
TINY = {"n_ctx": 128, "n_layers": 4}


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRUN_DEVICE", "")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRUN_EMULATED_DEVICES", "2")


def logits(path: Path, **options: object) -> tuple[str, np.ndarray]:
    """(where the layers are, logits of a prompt in two chunks and of tokens one by one, which graphs replay)."""
    model = _core.Model.load(str(path), **options)
    session = _core.Session(model, 128)
    rows = [session.forward(IDS[:9], "all"), session.forward(IDS[9:11], "all")]
    rows += [session.forward([i], "last") for i in IDS[11:]]
    return model.description, np.concatenate(rows)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["rtq3", "q8_0", "f16"])
def test_two_gpus_have_the_bits_of_one(name: str, tiny_model) -> None:
    path = tiny_model(format=name, **TINY)
    _, one = logits(path, device="cuda0")
    where, two = logits(path, device="cuda0,cuda1")
    assert where.startswith("layers 0 to ") and "CUDA0" in where and "CUDA1" in where
    assert "cpu" not in where and same_bits(two, one)
    where, turned = logits(path, device="cuda1, CUDA0")
    assert where.index("CUDA1") < where.index("CUDA0") and same_bits(turned, one)


@pytest.mark.usefixtures("two_gpus")
def test_some_layers_on_the_cpu_and_some_on_each_gpu(tiny_model) -> None:
    path = tiny_model(format="rtq3", **TINY)
    for n in (0, 1, 2, 4, 5):
        _, one = logits(path, device="cuda0", n_gpu_layers=n)
        where, two = logits(path, device="cuda0,cuda1", n_gpu_layers=n)
        assert ("cpu" in where) == (n < 5) and same_bits(two, one)
        assert ("CUDA0" in where and "CUDA1" in where) == (n >= 2)


def test_more_gpus_than_layers(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRUN_EMULATED_DEVICES", "7")
    path = tiny_model(format="q8_0", **TINY)
    _, one = logits(path, device="cuda0")
    where, many = logits(path, device=",".join(f"cuda{i}" for i in range(7)))
    assert "CUDA6" in where and same_bits(many, one)


@pytest.mark.usefixtures("two_gpus")
def test_text_of_two_gpus_is_that_of_one(tiny_model) -> None:
    """The engine: several sequences in a batch, tokens drawn on the device that has the head."""
    path = str(tiny_model(format="rtq3", **TINY))
    answers = []
    for device in ("cuda0", "cuda0,cuda1"):
        with Runtime(path, device=device, n_ctx=128) as runtime:
            options = {"max_tokens": 6, "temperature": 0.9, "seed": 3, "logprobs": 2}
            some = runtime.generate([IDS[:3], IDS, IDS[:7]], ignore_eos=True, **options)
            answers.append([(a.tokens, a.logprobs) for a in some])
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_a_second_gpu_where_one_is_too_small(
    tiny_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With enough memory, the second is not even asked for its own."""
    path = tiny_model(format="q8_0", **TINY)
    where, expected = logits(path, device="auto")
    assert "CUDA0" in where and "CUDA1" not in where
    room = 64e6
    while "CUDA1" not in where:
        room *= 0.85
        monkeypatch.setenv("HRUN_EMULATED_BYTES", str(int(room)))
        where = _core.Model.load(str(path), device="auto").description
    assert "CUDA0" in where and "cpu" not in where
    assert same_bits(logits(path, device="auto")[1], expected)


def test_a_context_is_made_on_the_chosen_device_alone(
    tiny_model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HRUN_EMULATED_DEVICES", "8")
    log = tmp_path / "launches"
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))
    for device, number in (("auto", "0"), ("cuda", "0"), ("cuda5", "5")):
        log.write_text("")
        logits(tiny_model(format="q8_0"), device=device)
        assert {line.split()[0] for line in log.read_text().splitlines()} == {number}
    log.write_text("")
    assert len(_core.devices(free_memory=False)[0]) == 9 and log.read_text() == ""
    names = [d.name for d in _core.devices()[0]]
    assert names == [*(f"CUDA{i}" for i in range(8)), "cpu"]
    assert log.read_text().split("\n")[:8] == [f"{i} context" for i in range(8)]


@pytest.mark.usefixtures("two_gpus")
def test_names_that_cannot_be(tiny_model) -> None:
    path = str(tiny_model())
    for device, message in (
        ("cuda0,cuda2", r"'cuda2' cannot be had; possible: auto, CUDA0, CUDA1, cpu"),
        ("cuda0,cuda:0", r"'cuda:0' is named twice"),
        ("cuda0,cpu", r"no device 'cpu'"),
        ("cuda0,", r"no device ''"),
        ("cuda-1", r"no device 'cuda-1'; possible: auto, CUDA0, CUDA1, cpu"),
        ("cuda99999999999", r"no device 'cuda99999999999'"),
    ):
        with pytest.raises(DeviceError, match=message):
            _core.Model.load(path, device=device)


def test_devices_say_their_kind() -> None:
    devices, _ = _core.devices()
    assert [(d.kind, d.index) for d in devices] == [("CUDA", 0), ("cpu", 0)]
