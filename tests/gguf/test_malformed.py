"""Every malformed file gets its stated outcome: a typed exception with a message that helps, soon, in little memory."""

from __future__ import annotations

import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from malformed_cases import CASES, CONTROLS, NOT_HERE, Case, Control

import gguf_bytes as g
from hrun import _core

pytestmark = pytest.mark.slow

SECONDS = 0.05
EXTRA_BYTES = 16 * 2**20


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def within_limits(file_bytes: int, call: Callable[[], object]) -> object:
    """Runs `call` under the limits of time and of address space beyond the mapped file.

    A limit on address space counts memory that is reserved and never touched, which a resident size does not.  Time is the
    processor's, and the best of three: the machine may be busy.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if Path("/proc/self/statm").exists():
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + file_bytes + EXTRA_BYTES, hard))
    try:
        result, best = None, float("inf")
        for _ in range(3):
            start = time.process_time()
            result = call()
            best = min(best, time.process_time() - start)
            if best < SECONDS:
                return result
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    pytest.fail(f"took {best:.3f} s")


def write(path: Path, built: g.File | bytes) -> bytes:
    data = built if isinstance(built, bytes) else built.build()
    path.write_bytes(data)
    return data


def refused(path: Path, error: str, file_bytes: int) -> str:
    """Plans the model of a bad file and returns the message."""

    def plan() -> Exception | None:
        try:
            _core.read_spec(path)
        except (_core.Error, MemoryError) as raised:
            return raised
        return None

    raised = within_limits(file_bytes, plan)
    assert type(raised).__name__ == error, repr(raised)
    message = str(raised)
    assert str(path) in message, f"does not name the file: {message}"
    assert re.search(r"[\x00-\x1f\x7f-\x9f]", message) is None, f"control bytes: {message!r}"
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_refused(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    data = write(path, case.build())
    message = refused(path, case.error, len(data))
    for said in case.says:
        assert said in message, f"{said!r} is not in: {message}"


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: c.id)
def test_accepted(control: Control, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    data = write(path, control.build())
    file = within_limits(len(data), lambda: _core.GGUFFile(path))
    assert isinstance(file, _core.GGUFFile)
    plan = (
        None if control.container_only else within_limits(len(data), lambda: _core.read_spec(path))
    )
    warnings = plan.warnings if isinstance(plan, _core.ModelSpec) else []
    assert file.file_bytes == len(data)
    if control.warns:
        assert any(control.warns in w for w in warnings), warnings
    else:
        assert warnings == []


def test_every_case_has_its_own_id() -> None:
    ids = [c.id for c in CASES + CONTROLS]
    assert [i for i in ids if ids.count(i) > 1] == []


def test_catalogue_is_complete() -> None:
    covered = {
        i.split("-")[0] for i in [*(c.id for c in CASES), *(c.id for c in CONTROLS), *NOT_HERE]
    }
    covered |= {
        "A17",
        "B40",
        "C74",
        "F126",
        "F127",
        "F128",
        *(f"G{n}" for n in range(133, 144)),
    }  # below, or in NOT_HERE as ranges
    catalogue = {f"{letter}{n}" for letter, first, last in (("A", 1, 20), ("B", 19, 50), ("C", 51, 79), ("D", 80, 108), ("E", 109, 125),
                                                           ("F", 126, 131), ("G", 132, 143)) for n in range(first, last + 1)}  # fmt: skip
    assert catalogue - covered == set()


# ---- Whole ranges of prefixes


def test_truncated_anywhere_before_the_data_A17_B40_C74(tmp_path: Path) -> None:
    file = g.model()
    head = file.head()
    in_header, in_metadata = len(file.header()), len(file.header() + file.metadata())
    path = tmp_path / "model.gguf"
    path.write_bytes(head)
    for n in reversed(range(len(head))):
        os.truncate(path, n)
        with pytest.raises(_core.ModelFileError) as caught:
            _core.GGUFFile(path)
        message = str(caught.value)
        assert str(path) in message
        if n < in_header:
            assert (
                "empty" in message
                or "too short" in message
                or f"ends at byte {n} inside the header" in message
            ), (n, message)
        elif n < in_metadata:
            assert re.search(
                r"metadata \d+|metadata count|tensor count|cannot fit in the remaining", message
            ), (n, message)
        else:
            assert re.search(r"tensor \d+ of 20|past the end", message), (n, message)


def test_truncated_in_the_data(tmp_path: Path) -> None:
    data = g.model().build()
    begin = len(data) - sum(len(t.bytes) + -len(t.bytes) % 32 for t in g.model().tensors)
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    for n in range(len(data) - 1, begin, -97):
        os.truncate(path, n)
        with pytest.raises(_core.ModelFileError, match=f"{n} bytes"):
            _core.GGUFFile(path)


# ---- The file system


def test_special_files(tmp_path: Path) -> None:
    fifo, loop, directory = tmp_path / "fifo", tmp_path / "loop", tmp_path / "directory"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    directory.mkdir()
    here = os.getcwd()
    os.chdir(tmp_path)  # the name of a socket is at most 107 bytes long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        os.chdir(here)
        for path, says in ((fifo, "is a FIFO"), (loop, "symbolic links"), (directory, "is a directory"), (tmp_path / "socket", "is a socket"),
                           (Path("/dev/zero"), "is a device"), (tmp_path / "absent", "no such file"),
                           (tmp_path / "a\x1b[2Jb", "no such file")):  # fmt: skip
            with pytest.raises(_core.ModelFileError) as caught:
                _core.GGUFFile(path)
            message = str(caught.value)
            assert says in message and repr(str(path))[1:-1].replace("\\x1b", "\\x1b") in message
            assert "\x1b" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, g.model())
    path.chmod(0)
    with pytest.raises(_core.ModelFileError, match="permission denied"):
        _core.GGUFFile(path)


def test_symlink_is_followed_and_file_names_need_not_be_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.gguf"))
    write(path, g.model())
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    assert _core.GGUFFile(link).path == str(link)
    assert _core.GGUFFile(os.fsencode(path)).path == str(path)


def test_file_that_grows_while_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, g.model())
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab") as out:
            while not stop.is_set():
                out.write(bytes(64))
                out.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        opened = 0
        for _ in range(200):
            try:
                opened += len(_core.GGUFFile(path).tensors)
            except _core.ModelFileError as error:
                assert "changed while it was being opened" in str(error)
    finally:
        stop.set()
        thread.join()
    assert opened % len(g.model().tensors) == 0


# ---- Tensor data, F126 to F129

NO_HALF_SCALE = {"mxfp4", "nvfp4", "iq1_m"}  # other kinds of scale, or scattered over the block


@pytest.mark.parametrize("bits", [0x7E00, 0xFC00, 0x7C00], ids=["nan", "-inf", "inf"])
@pytest.mark.parametrize(
    "info",
    [f for f in _core.formats() if f.block_values > 1 and f.name not in NO_HALF_SCALE],
    ids=lambda f: f.name,
)
def test_bad_scale_is_found(info: _core.FormatInfo, bits: int, tmp_path: Path) -> None:
    """Covers F126, F127 and F128: a scale that is not finite, in any quantized format."""
    rows, cols = 3, 512
    blocks = np.zeros((rows, cols // info.block_values, info.block_bytes), np.uint8)
    # The test does not know where a format keeps its scale, so it tries every byte pair of one
    # block.
    path = tmp_path / "x.gguf"
    places = range(0, info.block_bytes - 1, 2)
    with _core.GGUFWriter(path) as writer:
        for at in places:
            writer.add_tensor(f"x{at}", (cols, rows), info.name)
        for at in places:
            bad = blocks.copy()
            bad[2, 1] = 0x11  # codes that are not zero, so that infinity shows
            bad[2, 1, at : at + 2] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)
            writer.write_tensor(f"x{at}", bad.reshape(-1))
    found = []
    for tensor in _core.GGUFFile(path).tensors:
        try:
            tensor.verify()
        except _core.ModelFileError as error:
            found.append(str(error))
    assert found, "no byte pair of a block is a scale"
    for message in found:
        assert re.search(
            r"tensor 'x\d+': value \d+ of row 2 is -?(nan|inf) \(block 1 of the row", message
        )


# ---- Loading


def test_loading_refuses_what_planning_refuses(tmp_path: Path) -> None:
    """Nothing reaches a backend before the whole file passed: the same error, from the same place."""
    path = tmp_path / "model.gguf"
    for case in CASES:
        write(path, case.build())
        outcomes = []
        for call in (_core.read_spec, _core.Model.load):
            with pytest.raises(_core.Error) as caught:
                call(str(path))
            outcomes.append((type(caught.value), str(caught.value)))
        assert outcomes[0] == outcomes[1], case.id


def test_data_at_odd_addresses_gives_the_same_logits(tmp_path: Path) -> None:
    """general.alignment may be 1: no kernel may rely on more."""
    logits = []
    for alignment in (32, 1):
        rng = np.random.default_rng(0)
        file = g.model()
        if alignment == 1:
            file.set("general.alignment", "u32", 1).set("general.name", "string", "odd")
            file.alignment = 1
        for tensor in file.tensors:
            weights = rng.standard_normal(
                tensor.dims[::-1] if len(tensor.dims) > 1 else (1, *tensor.dims)
            ).astype(np.float32)
            tensor.data = _core.encode(
                "f32" if tensor.format == g.F32 else "q8_0", weights
            ).tobytes()
        path = tmp_path / f"{alignment}.gguf"
        write(path, file)
        if alignment == 1:
            assert {t.offset % 2 for t in _core.GGUFFile(path).tensors} == {1}
        session = _core.Session(_core.Model.load(str(path)), 16)
        logits.append(session.forward(np.arange(8, dtype=np.int32), "all"))
    assert np.isfinite(logits[0]).all() and np.array_equal(logits[0], logits[1])
