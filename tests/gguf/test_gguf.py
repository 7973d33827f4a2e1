"""The container against an independent one: what hrun writes the gguf package reads, and the other way round."""

from __future__ import annotations

import errno
import math
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gguf_bytes as g
from hrun import _core
from make_tiny_models import TinyConfig, weights

INTEGERS = {"u8": (0, 2**8 - 1), "i8": (-(2**7), 2**7 - 1), "u16": (0, 2**16 - 1), "i16": (-(2**15), 2**15 - 1), "u32": (0, 2**32 - 1),
            "i32": (-(2**31), 2**31 - 1), "u64": (0, 2**64 - 1), "i64": (-(2**63), 2**63 - 1)}  # fmt: skip
GGML_FORMATS = [f for f in _core.formats() if f.id < 0x1000]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def scalars(type_name: str) -> st.SearchStrategy[object]:
    if type_name in INTEGERS:
        low, high = INTEGERS[type_name]
        return st.integers(low, high)
    return {
        "f32": st.floats(width=32, allow_nan=False),
        "f64": st.floats(allow_nan=False),
        "bool": st.booleans(),
        "string": TEXTS,
    }[type_name]


SCALAR_TYPES = [*INTEGERS, "f32", "f64", "bool", "string"]
VALUES = st.sampled_from(SCALAR_TYPES).flatmap(
    lambda t: (
        st.tuples(st.just(t), scalars(t))
        | st.tuples(st.just(f"array<{t}>"), st.lists(scalars(t), max_size=5))
    )
)
METADATA = st.dictionaries(TEXTS.filter(bool).map(lambda k: "x." + k), VALUES, max_size=8)


def random_blocks(info: _core.FormatInfo, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, rows * info.row_bytes(cols), dtype=np.uint8)


# ---- hrun writes


@given(metadata=METADATA, alignment=st.sampled_from([1, 8, 32, 256]))
@settings(max_examples=60, deadline=None)
def test_written_metadata_reads_back_here_and_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict, alignment: int
) -> None:
    path = tmp_path_factory.mktemp("metadata") / "x.gguf"
    with _core.GGUFWriter(path, alignment) as writer:
        for key, (type_name, value) in metadata.items():
            writer.add(key, type_name, value)
    here = _core.GGUFFile(path)
    own = {} if alignment == 32 else {"general.alignment": ("u32", alignment)}
    assert here.metadata == {k: v for k, (_, v) in {**own, **metadata}.items()}
    assert here.metadata_types == {k: t for k, (t, _) in {**own, **metadata}.items()}
    assert (
        here.version == 3
        and here.alignment == alignment
        and here.tensors == []
        and here.unused_bytes == 0
    )
    fields = gguf.GGUFReader(path).fields
    for key, (_, value) in metadata.items():
        if value == []:  # the package gives the parts of an empty array no value
            continue
        assert fields[key].contents() == value, key


def test_written_tensors_read_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    shapes = {
        f.name: (f.block_values * (1 if f.block_values == 256 else 8), 3)
        for f in GGML_FORMATS
        if f.name.upper() in gguf.GGMLQuantizationType.__members__
    }
    blocks = {
        f.name: random_blocks(f, 3, shapes[f.name][0], i)
        for i, f in enumerate(GGML_FORMATS)
        if f.name in shapes
    }
    with _core.GGUFWriter(path) as writer:
        writer.add("general.architecture", "string", "llama")
        for name, shape in shapes.items():
            writer.add_tensor(f"t.{name}", shape, name)
        for name, data in blocks.items():
            writer.write_tensor(f"t.{name}", data)
    there = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for info in GGML_FORMATS:
        if info.name.upper() not in gguf.GGMLQuantizationType.__members__:  # newer than gguf-py
            continue
        tensor = there[f"t.{info.name}"]
        assert tensor.tensor_type.value == info.id and tensor.tensor_type.name.lower() == info.name
        assert tuple(tensor.shape.tolist()) == shapes[info.name]
        assert np.array_equal(tensor.data.view(np.uint8).reshape(-1), blocks[info.name])


def test_own_formats_and_many_dimensions_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    info = next(f for f in _core.formats() if f.name == "rtq3")
    shape = (288, 2, 3, 2)  # a row with a tail
    data = random_blocks(info, 12, 288)
    writer = _core.GGUFWriter(path)
    writer.add_tensor("a", shape, "rtq3")
    writer.add_tensor("b", [7], "f32")
    size = writer.file_bytes
    writer.write_tensor("a", data)
    writer.write_tensor("b", np.ones(7, np.float32).view(np.uint8))
    writer.finish()
    writer.finish()  # harmless
    writer.abort()  # after finish() too
    file = _core.GGUFFile(path)
    a, b = file.tensors
    assert (a.name, a.shape, a.format, a.format_id, a.n_bytes) == (
        "a",
        shape,
        "rtq3",
        info.id,
        len(data),
    )
    assert np.array_equal(a.data, data) and b.data.view(np.float32).tolist() == [1.0] * 7
    assert a.offset % 32 == 0 and b.offset == a.offset + len(data) + -len(data) % 32
    assert file.file_bytes == size == path.stat().st_size and file.unused_bytes == 0


# ---- the gguf package writes


def test_metadata_of_every_type_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    expected: dict[str, tuple[str, object]] = {"general.architecture": ("string", "llama")}
    names = {"u": "uint", "i": "int", "f": "float"}
    for type_name, ends in [*INTEGERS.items(), ("f32", (-1.5, math.inf)), ("f64", (0.1, -1e300))]:
        for end, value in zip(("low", "high"), ends):
            getattr(writer, f"add_{names[type_name[0]]}{type_name[1:]}")(
                f"{type_name}.{end}", value
            )
            expected[f"{type_name}.{end}"] = (type_name, value)
    writer.add_bool("yes", True)
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, 2.0])
    writer.add_array("bools", [True, False])
    writer.add_array("strings", ["a", "ü€𝄞", " "])
    writer.add_string("text", "two\nlines")
    expected |= {"yes": ("bool", True), "ints": ("array<i32>", [1, -2, 3]), "floats": ("array<f32>", [0.5, 2.0]),
                 "bools": ("array<bool>", [True, False]), "strings": ("array<string>", ["a", "ü€𝄞", " "]),
                 "text": ("string", "two\nlines")}  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = _core.GGUFFile(path)
    assert file.metadata == {k: v for k, (_, v) in expected.items()}
    assert file.metadata_types == {k: t for k, (t, _) in expected.items()}
    assert file.metadata is file.metadata


@pytest.mark.parametrize("alignment", [32, 4096])
def test_tensors_from_elsewhere(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    rng = np.random.default_rng(0)
    arrays = {
        "f32": rng.standard_normal((3, 5, 7)).astype(np.float32),
        "f16": rng.standard_normal((2, 9)).astype(np.float16),
    }
    blocks = {
        f.name: random_blocks(f, 4, 256)
        for f in GGML_FORMATS
        if f.block_values > 1 and f.name.upper() in gguf.GGMLQuantizationType.__members__
    }
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    for name, data in blocks.items():
        writer.add_tensor(
            name, data.reshape(4, -1), raw_dtype=gguf.GGMLQuantizationType[name.upper()]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = _core.GGUFFile(path)
    assert file.alignment == alignment
    tensors = {t.name: t for t in file.tensors}
    assert tensors["f32"].shape == (7, 5, 3) and tensors["f16"].shape == (9, 2)
    for name, array in arrays.items():
        assert tensors[name].format == name and tensors[name].data.tobytes() == array.tobytes()
    for name, data in blocks.items():
        assert tensors[name].format == name and tensors[name].shape == (256, 4)
        assert np.array_equal(tensors[name].data, data)
        assert tensors[name].offset % alignment == 0


# ---- reading


def test_data_is_the_file_itself(tiny_model: Callable[..., Path]) -> None:
    file = _core.GGUFFile(tiny_model(format="f32"))
    first, second = file.tensors[0], file.tensors[0]
    assert first.data.ctypes.data == second.data.ctypes.data, "a copy"
    assert not first.data.flags.writeable
    data, name = file.tensors[3].data, file.tensors[3].name
    expected = dict(weights(TinyConfig(format="f32")))[name]
    del file, first, second  # the array keeps the file mapped
    assert data.tobytes() == expected.tobytes()


def test_text_that_is_not_utf8_is_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(
        g.container()
        .set("name", "string", b"caf\xe9")
        .set_array("list", "string", ["a", b"\xff"])
        .build()
    )
    file = _core.GGUFFile(path)
    assert file.metadata["name"] == b"caf\xe9" and file.metadata["list"] == ["a", b"\xff"]
    copy = tmp_path / "copy.gguf"
    with _core.GGUFWriter(copy) as writer:
        for key, value in file.metadata.items():
            writer.add(key, file.metadata_types[key], value)
    assert _core.GGUFFile(copy).metadata == file.metadata


def test_unused_bytes_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    built = g.container()
    built.tail = bytes(2**20)
    path.write_bytes(built.build())
    assert _core.GGUFFile(path).unused_bytes == 2**20


@pytest.mark.parametrize("tail", [0, 1000])
def test_itq3_s_of_the_public_fork_is_recognised(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "x.gguf"
    built = (
        g.File().add_tensor("a", [256, 2], 41).add_tensor("b", [32]).add_tensor("c", [512, 4], 41)
    )
    built.tail = bytes(tail)
    path.write_bytes(built.build())
    a, b, c = _core.GGUFFile(path).tensors
    own = next(f for f in _core.formats() if f.name == "itq3_s")
    assert (a.format, a.format_id, a.file_format_id, a.n_bytes) == ("itq3_s", own.id, 41, 220)
    assert (c.format, c.n_bytes) == ("itq3_s", 880) and b.format == "f32"


def test_id_41_with_the_sizes_of_q1_0_is_not_itq3_s(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    q1_0 = (
        g.File()
        .add_tensor("a", [512, 8], 41, data=bytes(512 * 8 // 128 * 18))
        .add_tensor("b", [512, 8], 41, data=bytes(576))
    )
    path.write_bytes(q1_0.build())
    assert [(t.format, t.n_bytes) for t in _core.GGUFFile(path).tensors] == [
        ("q1_0", 576),
        ("q1_0", 576),
    ]


def test_large_vocabulary_opens_at_once(tmp_path: Path) -> None:
    n = 150_000
    letters = [chr(0x4E00 + i) for i in range(1000)]
    pairs = [(letters[i % 1000], letters[i // 1000]) for i in range(n - 1000)]
    tokens = [*letters, *(a + b for a, b in pairs)]
    path = tmp_path / "x.gguf"
    f = (
        g.model()
        .set_array("tokenizer.ggml.tokens", "string", tokens)
        .set_array("tokenizer.ggml.token_type", "i32", [1] * n)
    )
    f.set("llama.vocab_size", "u32", n).set_array(
        "tokenizer.ggml.merges", "string", [f"{a} {b}" for a, b in pairs]
    )
    f.tensor("token_embd.weight").dims = [g.WIDTH, n]
    path.write_bytes(f.build())

    def best(call: Callable[[], object]) -> float:
        """Seconds of the processor, not of the clock: the machine may be busy."""
        seconds = []
        for _ in range(3):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        return min(seconds)

    assert best(lambda: _core.GGUFFile(path)) < 0.1
    assert best(lambda: _core.read_spec(path)) < 0.2
    assert len(_core.GGUFFile(path).metadata["tokenizer.ggml.tokens"]) == n


# ---- writing goes wrong


def test_full_disk_is_reported() -> None:
    writer = _core.GGUFWriter("/dev/full")
    with pytest.raises(
        _core.ConversionError,
        match=rf"'/dev/full': {os.strerror(errno.ENOSPC)} \(errno {errno.ENOSPC}\)",
    ):
        writer.finish()
    writer.abort()
    assert Path("/dev/full").exists()


def test_file_size_limit_is_reported_before_the_data(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = _core.GGUFWriter(path)
    writer.add_tensor("x", (1024, 1024), "f32")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(_core.ConversionError, match=rf"x.gguf': {os.strerror(errno.EFBIG)}"):
            writer.write_tensor("x", np.zeros(4 * 2**20, np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.abort()
    assert not path.exists()


@pytest.mark.parametrize(
    "path, says", [("absent/x.gguf", "No such file or directory"), (".", "Is a directory")]
)
def test_path_that_cannot_be_written(tmp_path: Path, path: str, says: str) -> None:
    with pytest.raises(_core.ConversionError, match=f"cannot create '.*': {says}"):
        _core.GGUFWriter(tmp_path / path)


def test_an_unfinished_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(KeyboardInterrupt), _core.GGUFWriter(path) as writer:
        writer.add_tensor("x", (32,), "f32")
        assert path.exists()
        raise KeyboardInterrupt
    assert not path.exists()
    writer = _core.GGUFWriter(path)
    del writer
    assert not path.exists()


def test_abort_removes_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    writer = _core.GGUFWriter(path)
    path.unlink()
    path.write_text("another")
    writer.abort()
    assert path.read_text() == "another"


def test_wrong_use_of_the_writer(tmp_path: Path) -> None:
    writer = _core.GGUFWriter(tmp_path / "x.gguf")

    def refuses(says: str, call: Callable[..., object], *arguments: object) -> None:
        with pytest.raises(_core.ArgumentError, match=says):
            call(*arguments)

    for type_name, value in (("u8", 256), ("u8", -1), ("i8", 128), ("u64", 2**64), ("i64", 2**63), ("i64", -(2**63) - 1), ("u32", 1.5), ("u32", "1"),
                             ("u32", True), ("bool", 1), ("string", 1), ("f32", "x"), ("string", "a\0b"), ("string", "\ud800"),
                             ("array<u8>", [1, 256]), ("array<string>", [1]), ("nothing", 1), ("array<array>", []), ("array", [])):  # fmt: skip
        refuses("key 'k'", writer.add, "k", type_name, value)
    writer.add("k", "u8", 1)
    refuses("given twice", writer.add, "k", "u8", 1)
    for key in ("", "a\0b", "k" * 70000):
        refuses("is not a key", writer.add, key, "u8", 1)
    refuses("general.alignment", writer.add, "general.alignment", "u32", 64)
    for name in ("", "n" * 64, "a\nb"):
        refuses("is not a tensor name", writer.add_tensor, name, (32,), "f32")
    for shape in ((), (1,) * 5):
        refuses("dimensions", writer.add_tensor, "x", shape, "f32")
    for shape in ((0,), (2**40, 2**40), (2**63, 1)):
        refuses("empty or too large", writer.add_tensor, "x", shape, "f32")
    refuses("33 values", writer.add_tensor, "x", (33,), "q8_0")
    refuses("unknown format 'q9'", writer.add_tensor, "x", (32,), "q9")
    writer.add_tensor("x", (32,), "f32")
    writer.add_tensor("y", (32,), "f32")
    refuses("declared twice", writer.add_tensor, "x", (32,), "f32")
    data = np.zeros(128, np.uint8)
    refuses("expected 'x'", writer.write_tensor, "y", data)
    refuses("64 bytes, 128 were declared", writer.write_tensor, "x", data[:64])
    writer.write_tensor("x", data)
    refuses("header", writer.add, "z", "u8", 1)
    refuses("header", writer.add_tensor, "z", (32,), "f32")
    refuses("1 of 2 tensors are missing, the next is 'y'", writer.finish)
    writer.write_tensor("y", data)
    refuses("all 2 declared", writer.write_tensor, "y", data)
    writer.finish()
    refuses("finished", writer.write_tensor, "y", data)
    assert len(_core.GGUFFile(tmp_path / "x.gguf").tensors) == 2


def test_the_writer_holds_no_tensor(tmp_path: Path) -> None:
    """The test writes 64 MiB through an address space that has room for 24 more."""
    n, rows = 16, 1024
    writer = _core.GGUFWriter(tmp_path / "x.gguf")
    for i in range(n):
        writer.add_tensor(f"t{i}", (1024, rows), "f32")
    data = np.zeros(4 * 1024 * rows, np.uint8)
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc to know the size of the address space")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS,
        (int(statm.read_text().split()[0]) * resource.getpagesize() + 24 * 2**20, hard),
    )
    try:
        for i in range(n):
            writer.write_tensor(f"t{i}", data)
        writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert (tmp_path / "x.gguf").stat().st_size > n * data.nbytes


# ---- plans


def test_plan_of_a_tiny_model(tiny_model: Callable[..., Path]) -> None:
    plan = _core.read_spec(tiny_model(n_layers=3, tied=False))
    assert plan.architecture == "llama" and plan.warnings == []
    expected = {"n_layers": 3, "n_embd": 64, "n_vocab": 300, "n_ff": 96, "n_heads": 4, "n_kv_heads": 2, "k_dim": 16, "v_dim": 16, "n_rot": 16,
                "n_ctx_train": 256, "rope_base": 10000.0, "rope_scaling": "none", "rope_factor": 1.0, "tied_head": False}  # fmt: skip
    assert expected.items() <= plan.params.items()
    assert plan.params["rms_eps"] == np.float32(1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("info", [f for f in _core.formats() if f.encodable], ids=lambda f: f.name)
def test_every_writable_format_makes_a_sound_model(
    tiny_model: Callable[..., Path], info: _core.FormatInfo
) -> None:
    path = tiny_model(format=info.name, n_embd=256, n_ff=256, n_layers=1)
    assert _core.read_spec(path).warnings == []
    file = _core.GGUFFile(path)
    for tensor in file.tensors:
        tensor.verify()
        assert tensor.format == ("f32" if len(tensor.shape) == 1 else info.name)


def test_a_rope_factor_without_a_type_is_linear(tmp_path: Path) -> None:
    def scaling(**keys: tuple[str, Any]) -> tuple[str, float]:
        f = g.model()
        for name, (kind, value) in keys.items():
            f.set(f"llama.rope.{name.replace('__', '.')}", kind, value)
        path = tmp_path / "model.gguf"
        path.write_bytes(f.build())
        params = _core.read_spec(path).params
        return params["rope_scaling"], params["rope_factor"]

    four, none = ("f32", 4.0), ("f32", 0.0)
    assert scaling(scaling__factor=four) == ("linear", 4.0)
    assert scaling(scale_linear=four) == ("linear", 4.0)
    assert scaling(scaling__type=("string", "linear"), scale_linear=four) == ("linear", 4.0)
    assert scaling(scaling__type=("string", "none"), scaling__factor=four)[0] == "none"
    assert scaling(scaling__factor=none)[0] == "none"
    assert scaling(scale_linear=none)[0] == "none"
    assert scaling(scaling__factor=none, scale_linear=four)[0] == "none"  # the newer key counts


def test_plan_reads_rope_scalings(tiny_model: Callable[..., Path]) -> None:
    context = {"original_max_position_embeddings": 64}
    linear = _core.read_spec(tiny_model(rope_scaling={"type": "linear", "factor": 4.0})).params
    assert (linear["rope_scaling"], linear["rope_factor"]) == ("linear", 4.0)
    yarn = _core.read_spec(
        tiny_model(rope_scaling={"type": "yarn", "factor": 4.0, **context})
    ).params
    assert (
        yarn["rope_scaling"],
        yarn["rope_original_ctx"],
        yarn["yarn_beta_fast"],
        yarn["rope_attn_factor"],
    ) == ("yarn", 64.0, 32.0, 1.0)
    llama3 = tiny_model(
        rope_scaling={
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            **context,
        }
    )
    assert _core.read_spec(llama3).warnings == []
    factors = next(
        t for t in _core.GGUFFile(llama3).tensors if t.name == "rope_freqs.weight"
    ).data.view(np.float32)
    assert factors[0] == 1.0 and factors[-1] == 8.0


def test_models_with_biases_and_a_head_dimension_of_their_own(
    tiny_model: Callable[..., Path],
) -> None:
    plan = _core.read_spec(tiny_model(biases=True, head_dim=32, format="f32"))
    assert plan.warnings == [] and plan.params["k_dim"] == 32


def test_architectures_describe_their_tensors() -> None:
    llama = next(a for a in _core.architectures() if a.name == "llama")
    assert llama.hf_classes[0] == "LlamaForCausalLM" and llama.rope == "interleaved"
    rules = {rule.role: rule for rule in llama.tensors}
    assert len(rules) == len(llama.tensors)
    q = rules["attn_q"]
    assert (q.gguf_name, q.hf_name) == (
        "blk.{}.attn_q.weight",
        "model.layers.{}.self_attn.q_proj.weight",
    )
    assert q.per_layer and q.required and not q.vector and q.transform == "interleave_q_heads"
    assert rules["attn_q_bias"].vector and not rules["attn_q_bias"].required
    assert (
        not rules["output"].required
        and not rules["rope_freqs"].required
        and rules["rope_freqs"].hf_name == ""
    )
    for rule in llama.tensors:
        assert ("{}" in rule.gguf_name) == rule.per_layer
        assert rule.hf_name == "" or ("{}" in rule.hf_name) == rule.per_layer


def test_descriptions_of_architectures_are_consistent() -> None:
    everyone = _core.architectures()
    assert len({a.name for a in everyone}) == len(everyone)
    for name, n in Counter(name for a in everyone for name in a.hf_classes).items():
        # A configuration that lists experts tells two architectures of one class apart.
        of_class = [a for a in everyone if name in a.hf_classes]
        routed = [a for a in of_class if any(rule.role == "router" for rule in a.tensors)]
        assert n == 1 or (n == 2 and len(routed) == 1), name
    for architecture in everyone:
        roles = [rule.role for rule in architecture.tensors]
        # A layer of Nemotron H is a mixer or a feed: the one norm it has goes by one name.
        either = {"attn_norm", "ffn_norm"} if "nemotron_h" in architecture.name else set()
        names = [rule.gguf_name for rule in architecture.tensors if rule.role not in either]
        assert len(set(roles)) == len(roles), architecture.name
        assert len(set(names)) == len(names), architecture.name
        for rule in architecture.tensors:
            assert ("{}" in rule.gguf_name) == rule.per_layer
            for name in filter(None, rule.hf_name.split("|")):
                stacked = name.count("{}") > rule.per_layer
                assert name.count("{}") == rule.per_layer + stacked and (
                    rule.slices in ("experts", "states_beside", "wkv_shifts") or not stacked
                )
        keys = [rule.key for rule in architecture.config]
        assert len(set(keys)) == len(keys)


VOCABULARIES = [
    "deepseek-coder",
    "deepseek-llm",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "starcoder",
]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_vocabularies_are_sound(
    vocabulary: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """A check that is too strict would refuse models that people have: nothing is wrong here but the absence of tensors."""
    source = _core.GGUFFile(vocabulary(name))
    path = tmp_path / "x.gguf"
    with _core.GGUFWriter(path) as writer:
        writer.add("general.architecture", "string", "llama")
        for key in (
            "block_count",
            "context_length",
            "embedding_length",
            "feed_forward_length",
            "attention.head_count",
        ):
            writer.add(f"llama.{key}", "u32", 1 if key.endswith("count") else 32)
        writer.add("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5)
        for key, value in source.metadata.items():
            if key.startswith("tokenizer."):
                writer.add(key, source.metadata_types[key], value)
        writer.add_tensor("x", (1,), "f32")
        writer.write_tensor("x", np.zeros(4, np.uint8))
    with pytest.raises(_core.ModelFileError, match="'token_embd.weight' is missing"):
        _core.read_spec(path)
