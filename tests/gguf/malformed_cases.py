"""Malformed files and what opening or planning them must say.

Numbered as in the catalogue that the reader was written against: A header and file, B metadata, C tensor table,
D hyper-parameters against tensors, E tokenizer, F tensor data, G split files.  Controls are files that look odd and must load.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import gguf_bytes as g
from gguf_bytes import FF, N_VOCAB, WIDTH, File, Tensor, container, model, sentencepiece_model

FILE, UNSUPPORTED = "ModelFileError", "UnsupportedModelError"
HUGE, TOP = 2**64 - 1, 2**63
NAN, INF = float("nan"), float("inf")

# Cases of the catalogue that have no test here, and why.
NOT_HERE = {
    "A19": "special files need the file system: test_special_files",
    "A20": "a race: test_file_that_grows_while_it_is_opened",
    "B49": "hrun has no option that overrides metadata",
    "D103": "no architecture with experts yet; D102 refuses the count",
    "E121-pre": "pre-tokenizers are known to hrun.tokenizer, which is tested there",
    "E122": "tokenizers with a charsmap (T5, UGM) are refused by name, E121",
    "E125": "templates are rendered in Python and tested there",
    "F130": "only seen while generating",
    "F131": "a property of kernels: their contract tests decode every bit pattern",
    "G133-G140": "test_split_files.py",
    "G141-G143": "inputs of the converter, tested there",
}


@dataclass(frozen=True)
class Case:
    id: str
    build: Callable[[], File | bytes]
    error: str
    says: tuple[str, ...]  # all of these stand in the message


@dataclass(frozen=True)
class Control:
    id: str
    build: Callable[[], File | bytes]
    warns: str = ""  # stands in one of the plan's warnings
    container_only: bool = False  # opens, but is no model


def edit(base: Callable[[], File], change: Callable[[File], object]) -> Callable[[], File]:
    def build() -> File:
        f = base()
        change(f)
        return f

    return build


def bad(
    case: str,
    change: Callable[[File], object],
    *says: str,
    error: str = FILE,
    base: Callable[[], File] = model,
) -> Case:
    return Case(case, edit(base, change), error, says)


def raw(case: str, data: bytes, *says: str, error: str = FILE) -> Case:
    return Case(case, lambda: data, error, says)


def key(case: str, name: str, type_name: str, value: object, *says: str, error: str = FILE) -> Case:
    return bad(case, lambda f: f.set(name, type_name, value), name, *says, error=error)


def llama(
    case: str, name: str, type_name: str, value: object, *says: str, error: str = FILE
) -> Case:
    return key(case, f"llama.{name}", type_name, value, *says, error=error)


def attributes(**values: object) -> Callable[[File], None]:
    def change(f: File) -> None:
        for name, value in values.items():
            setattr(f, name, value)

    return change


def tensor(name: str, **values: object) -> Callable[[File], None]:
    def change(f: File) -> None:
        for attribute, value in values.items():
            setattr(f.tensor(name), attribute, value)

    return change


SAFETENSORS = (
    struct.pack("<Q", 64)
    + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(64)
    + bytes(4)
)

HEADER = [
    raw("A1", b"", "empty"),
    raw("A2", b"GGU", "3 bytes", "24 bytes"),
    raw("A3", b"GGUF", "byte 4", "header"),
    raw("A4", b"FUGG" + bytes(60), "46 55 47 47"),
    raw("A4-random", b"\x1b[2J" + bytes(60), "1b 5b 32 4a"),
    *(raw(f"A5-{magic}", magic.encode()[::-1] + bytes(60), magic, "convert the original model again") for magic in ("ggml", "ggjt", "ggmf")),
    raw("A6-safetensors", SAFETENSORS, "safetensors", "hrun-convert"),
    raw("A6-zip", b"PK\x03\x04" + bytes(60), "zip archive", "hrun-convert"),
    raw("A6-pickle", b"\x80\x02}q\x00." + bytes(60), "pickle"),
    raw("A6-elf", b"\x7fELF" + bytes(60), "ELF"),
    raw("A6-gzip", b"\x1f\x8b" + bytes(60), "gzip"),
    raw("A7-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer", "not downloaded"),
    raw("A7-html", b"\n<!DOCTYPE html><html><title>404</title></html>", "HTML"),
    bad("A8", attributes(version=0), "version 0", "2 or 3"),
    bad("A9", attributes(version=1), "version 1", "2 or 3", error=UNSUPPORTED),
    bad("A11", attributes(version=4), "version 4", "newer", error=UNSUPPORTED),
    *(bad(f"A12-{n:#x}", attributes(n_tensors=n), "tensor count", str(n), "bytes") for n in (HUGE, TOP)),
    *(bad(f"A13-{n:#x}", attributes(n_entries=n), "metadata count", str(n), "bytes") for n in (HUGE, TOP)),
    *(raw(f"A14-{n:#x}", b"GGUF" + struct.pack("<IQQ", 3, n, 0) + bytes(40), "tensor count", str(n), "64 bytes") for n in (2**40, 2**32, 2**61)),
    *(raw(f"A15-{n:#x}", b"GGUF" + struct.pack("<IQQ", 3, 0, n) + bytes(40), "metadata count", str(n), "64 bytes") for n in (2**40, 2**32, 2**61)),
    raw("A16", b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian", "little-endian", error=UNSUPPORTED),
]  # fmt: skip


def first_key_length(length: int) -> Callable[[], bytes]:
    def build() -> bytes:
        data = model().build()
        return data[:24] + struct.pack("<Q", length) + data[32:]

    return build


def claims_string(length_beyond_rest: int | None = None, length: int = 0) -> Callable[[], bytes]:
    """A last entry 'x' whose string claims `length` bytes, or some more than the file has left."""

    def build() -> bytes:
        f = File().raw("x", g.TYPES["string"], b"")
        data = f.build() + bytes(64)
        data = data[: 24 + 8 + 1 + 4]
        claimed = length if length_beyond_rest is None else 16 + length_beyond_rest
        return data + struct.pack("<Q", claimed % 2**64) + bytes(16)

    return build


def claims_array(element: int, count: int, rest: int = 64) -> Callable[[File], object]:
    return lambda f: f.raw(
        "x", g.TYPES["array"], struct.pack("<IQ", element, count % 2**64) + bytes(rest)
    )


METADATA = [
    *(Case(f"B{n}", first_key_length(length), FILE, ("metadata 0", str(length), "past the end")) for n, length in ((19, HUGE), (20, TOP))),
    Case("B21", lambda: first_key_length(len(model().build()) - 31)(), FILE, ("metadata 0", "past the end")),
    bad("B22", lambda f: f.raw(b"", 4, bytes(4)), "empty key", "byte"),
    bad("B23", lambda f: f.set(b"k" * 70000, "u32", 1), "70000 bytes", "65535"),
    bad("B24", lambda f: f.set(b"a\0b", "u32", 1), "a\\x00b", "zero byte"),
    bad("B25", lambda f: f.set(b"a\xff\xfeb", "u32", 1), "a\\xff\\xfeb", "UTF-8"),
    bad("B26", lambda f: f.entries.append(f.entries[3]), "llama.context_length", "twice", "3 and"),
    *(bad(f"B27-{t}", lambda f, t=t: f.raw("x", t, bytes(64)), "'x'", f"unknown value type {t}", "0 to 12") for t in (13, 255, 2**32 - 1)),
    bad("B28", lambda f: f.raw("x", 7, b"\x07"), "'x'", "boolean", "is 7", "0 or 1"),
    bad("B28-array", lambda f: f.raw("x", 9, struct.pack("<IQ", 7, 3) + b"\x00\x01\x02"), "'x'", "boolean 2", "is 2", "0 or 1"),
    Case("B29", claims_string(length=HUGE - 3), FILE, ("'x'", str(HUGE - 3), "past the end")),
    Case("B30", claims_string(1), FILE, ("'x'", "17 bytes", "past the end")),
    Case("B31", claims_string(length=2**30), FILE, ("'x'", str(2**30), "past the end")),
    key("B32", "general.architecture", "string", "lla\0ma", "zero byte"),
    key("B32-template", "tokenizer.chat_template", "string", "{{ x }}\0{{ y }}", "zero byte"),
    bad("B34", claims_array(77, 1), "'x'", "unknown array element type 77"),
    bad("B35", claims_array(4, HUGE), "'x'", str(HUGE), "u32", "cannot fit"),
    bad("B36", claims_array(10, 2**61), "'x'", str(2**61), "u64", "cannot fit"),
    bad("B37", claims_array(8, 2**30), "'x'", str(2**30), "string", "cannot fit"),
    bad("B38", lambda f: f.raw("x", 9, struct.pack("<IQ", 9, 1) + g.array("u8", [1])), "'x'", "nested arrays", error=UNSUPPORTED),
    bad("B39", lambda f: f.raw("x", 9, struct.pack("<IQ", 9, 1) * 10000), "'x'", "nested arrays", error=UNSUPPORTED),
    *(key(f"B{n}", "general.alignment", "u32", a, f"is {a}", "power of two", "65536")
      for n, a in (("41", 0), ("42", 13), ("43", 2**31), ("43-2^20", 2**20), ("43-2^17", 2**17))),
    *(key(f"B44-{t}", "general.alignment", t, v, f"type {t}", "u32") for t, v in (("i32", 32), ("u64", 32), ("string", "32"))),
    bad("B45", lambda f: f.set_array("general.alignment", "u32", [32]), "general.alignment", "type array", "u32"),
    bad("B46", lambda f: f.remove("general.architecture"), "general.architecture", "missing"),
    key("B47", "general.architecture", "u32", 7, "u32", "string"),
    bad("B47-empty", lambda f: f.set("general.architecture", "string", ""), "architecture ''", "not supported", error=UNSUPPORTED),
    bad("B47-long", lambda f: f.set("general.architecture", "string", "x" * 2**20), "architecture 'xxx", "...", "supported: llama", error=UNSUPPORTED),
    bad("B48", lambda f: f.set("general.architecture", "string", "foo\x1b[2J"), "architecture 'foo\\x1b[2J'", "supported: llama", error=UNSUPPORTED),
]  # fmt: skip


def add(name: str | bytes, dims: list[int], **rest: object) -> Callable[[File], object]:
    return lambda f: f.add_tensor(name, dims, **rest)  # type: ignore[arg-type]


def claim(case: str, dims: list[int], *says: str, format: int = g.F32) -> Case:
    return bad(case, add("x", dims, format=format, data=bytes(64)), "'x'", *says)


def swap_order(f: File) -> None:
    f.tensors[-1], f.tensors[-2] = f.tensors[-2], f.tensors[-1]


def laid_out_at_one() -> File:
    f = model()
    f.alignment = 1
    f.tensors.insert(1, Tensor(b"odd", [3]))
    return f


TABLE = [
    bad("C51", add("n" * 80, [32]), "80 bytes", "63"),
    bad("C51-64", add("n" * 64, [32]), "64 bytes", "63"),
    bad("C52", add("", [32]), "tensor 20", "empty name"),
    *(bad(f"C53-{code}", add(b"a" + bytes([code]) + b"[2J", [32]), "tensor 20", f"a\\x{code:02x}[2J", f"control byte {code}") for code in (0, 10, 27, 127)),
    bad("C53-utf8", add(b"a\xff", [32]), "tensor 20", "a\\xff", "UTF-8"),
    bad("C54", add("output_norm.weight", [32]), "output_norm.weight", "twice", "1 and 20"),
    *(bad(f"C{n}", add("x", [1] * min(d, 5), n_dims=d, data=b""), "'x'", f"{d} dimensions", "1 to 4")
      for n, d in (("55", 0), ("56", 5), ("57", 1_000_000), ("57-max", 2**32 - 1))),
    claim("C58", [HUGE], "dimension 0", str(HUGE)),
    claim("C58-second", [32, HUGE - 1], "dimension 1", str(HUGE - 1)),
    bad("C59", tensor("blk.0.attn_k.weight", dims=[WIDTH, 0]), "blk.0.attn_k.weight", "is empty", "[64, 32]"),
    claim("C60", [4 * (2**31 - 1), 4 * (2**31 - 1)], "too large"),
    claim("C61", [4194305, 4194305, 211106198978564], "too large"),
    claim("C62", [2**61, 3], "too large"),
    claim("C62-f32", [2**62], "too large"),
    claim("C63", [4, 2**30 - 1, 2**30 + 1], "too large"),
    bad("C64", lambda f: [f.add_tensor(n, [TOP - 64], g.F16, data=bytes(32)) for n in ("x", "y")], "'x'", "too large"),
    *(claim(f"C65-{i}", [32], str(i), "removed", format=i) for i in (4, 5, 31, 32, 33)),
    *(claim(f"C65-{i}", [32], "unknown format", str(i), format=i) for i in (43, 4711, 2**32 - 1)),
    claim("C66", [33], "33 values", "q4_0", "32", format=g.Q4_0),
    claim("C66-k", [WIDTH], "64 values", "q4_k", "256", format=g.Q4_K),
    bad("C67", tensor("blk.1.ffn_down.weight", offset=HUGE), "blk.1.ffn_down.weight", str(HUGE), "not a multiple of 32"),
    bad("C67-aligned", tensor("blk.1.ffn_down.weight", offset=2**64 - 32), "blk.1.ffn_down.weight", "outside the file"),
    bad("C67-far", tensor("blk.1.ffn_down.weight", offset=2**40), "blk.1.ffn_down.weight", str(2**40), "outside the file"),
    bad("C68", tensor("blk.1.ffn_up.weight", offset=17), "blk.1.ffn_up.weight", "17 is not a multiple of 32"),
    bad("C69", tensor("blk.1.ffn_up.weight", offset=32), "overlap", "blk.1.ffn_up.weight", "token_embd.weight"),
    bad("C69-same", tensor("blk.1.ffn_up.weight", offset=0), "overlap", "blk.1.ffn_up.weight", "token_embd.weight"),
    bad("C71", tensor("blk.1.ffn_down.weight", data=bytes(4096)), "blk.1.ffn_down.weight", "end after the file", "download"),
    bad("C72", tensor("blk.1.ffn_down.weight", offset=2**64 - 4096), "blk.1.ffn_down.weight", "outside the file"),
    Case("C73", laid_out_at_one, FILE, ("data offset", "not a multiple of 32", "general.alignment")),
    Case("C75", lambda: model().head(), FILE, ("token_embd.weight", "download")),
    Case("C76", lambda: model().build()[:-1], FILE, ("blk.1.ffn_down.weight", "end after the file")),
    bad("C79", attributes(n_tensors=10), "is missing"),
    bad("C79-1", attributes(n_tensors=1), "is missing"),
]  # fmt: skip

SHAPES = [
    bad("D80", lambda f: f.remove_tensor("token_embd.weight"), "'token_embd.weight' is missing"),
    bad("D81", lambda f: f.remove_tensor("blk.1.ffn_up.weight"), "'blk.1.ffn_up.weight' is missing", "1 of 2 layers"),
    bad("D83", tensor("blk.0.attn_q.weight", dims=[WIDTH, 32]), "blk.0.attn_q.weight", "[64, 32]", "[64, 64]"),
    bad("D83-norm", tensor("blk.0.attn_norm.weight", dims=[WIDTH // 2], data=None), "blk.0.attn_norm.weight", "[32]", "[64]"),
    bad("D83-3d", tensor("blk.0.attn_q.weight", dims=[WIDTH, 32, 2]), "blk.0.attn_q.weight", "[64, 32, 2]", "[64, 64]"),
    bad("D84", tensor("blk.0.ffn_up.weight", dims=[FF, WIDTH]), "blk.0.ffn_up.weight", "[96, 64]", "[64, 96]", "transposed"),
    bad("D85", tensor("token_embd.weight", dims=[WIDTH, 60]), "token_embd.weight", "60 rows", "64 tokens"),
    bad("D85-head", add("output.weight", [WIDTH, 60], format=g.Q8_0), "output.weight", "[64, 60]", "[64, 64]"),
    bad("D85-format", tensor("output_norm.weight", format=g.Q8_0, data=None), "output_norm.weight", "q8_0", "f32, f16 or bf16"),
]  # fmt: skip

NUMBERS = [
    llama("D86", "block_count", "u32", 0, "is 0", "1 to 512"),
    *(llama(f"D87-{n}", "block_count", "u32", n, f"is {n}", "1 to 512") for n in (513, 2**32 - 1)),
    bad("D87-more", lambda f: f.set("llama.block_count", "u32", 512), "blk.2.attn_norm.weight", "2 of 512 layers"),
    llama("D88", "attention.head_count", "u32", 0, "is 0"),
    bad("D89", lambda f: f.set("llama.attention.head_count", "u32", 7).set("llama.attention.head_count_kv", "u32", 7),
        "llama.embedding_length", "64", "head_count 7"),
    llama("D90", "attention.head_count_kv", "u32", 0, "is 0"),
    bad("D91", lambda f: f.set("llama.attention.head_count_kv", "u32", 3), "head_count", "4", "multiple of head_count_kv 3"),
    bad("D92", lambda f: f.set("llama.attention.head_count_kv", "u32", 8), "head_count", "4", "multiple of head_count_kv 8"),
    *(bad(f"D93-{k}", lambda f, k=k: f.set_array(f"llama.{k}", "u32", [4, 4, 4]), k, "3 entries", "2 layers")
      for k in ("attention.head_count", "attention.head_count_kv", "feed_forward_length")),
    bad("D93-differs", lambda f: f.set_array("llama.attention.head_count_kv", "u32", [2, 1]), "blk.1.attn_k.weight", "[64, 32]", "[64, 16]"),
    bad("D93-zero", lambda f: f.set_array("llama.attention.head_count", "i32", [4, -4]), "head_count", "-4"),
    bad("D93-text", lambda f: f.set_array("llama.attention.head_count", "string", ["4", "4"]), "head_count", "array<string>", "unsigned integer"),
    *(llama(f"D94-{n}", "embedding_length", "u32", n, f"is {n}", "1 to 1048576") for n in (0, 2**32 - 1)),
    llama("D95", "feed_forward_length", "u32", 0, "is 0"),
    bad("D95-tensor", lambda f: f.set("llama.feed_forward_length", "u32", 128), "blk.0.ffn_gate.weight", "[64, 96]", "[64, 128]"),
    llama("D96", "context_length", "u32", 0, "is 0"),
    *(llama(f"D98-{n}", "rope.dimension_count", "u32", n, f"is {n}", "16") for n in (0, 15, 17, 18)),
    *(llama(f"D99-{v}", "rope.freq_base", "f32", v, "is") for v in (0.0, -1.0, NAN, INF)),
    *(llama(f"D100-{v}", "rope.scaling.type", "string", v, f"'{v}'", "none, linear, yarn", error=UNSUPPORTED) for v in ("foo", "longrope")),
    *(llama(f"D101-{v}", "rope.scaling.factor", "f32", v, "is") for v in (-4.0, NAN, INF)),
    bad("D101-missing", lambda f: f.set("llama.rope.scaling.type", "string", "yarn"), "llama.rope.scaling.factor", "missing"),
    bad("D101-yarn", lambda f: f.set("llama.rope.scaling.type", "string", "yarn").set("llama.rope.scaling.factor", "f32", 4.0)
        .set("llama.rope.scaling.original_context_length", "u32", 0), "original_context_length", "is 0"),
    bad("D102", lambda f: f.set("llama.expert_count", "u32", 8).set("llama.expert_used_count", "u32", 9), "expert_used_count", "1 to 8"),
    bad("D102-tensors", lambda f: f.set("llama.expert_count", "u32", 8).set("llama.expert_used_count", "u32", 2), "ffn_gate_inp.weight", "missing"),
    llama("D102-used", "expert_used_count", "u32", 2, "is 2"),
    llama("D102-shared", "expert_shared_count", "u32", 2, "is 2", error=UNSUPPORTED),
    *(llama(f"D104-{t}", "block_count", t, v, "unsigned integer") for t, v in (("string", "2"), ("f32", 2.0), ("bool", True), ("i64", -2))),
    bad("D104-array", lambda f: f.set_array("llama.block_count", "u32", [2]), "llama.block_count", "array<u32>", "unsigned integer"),
    bad("D106", lambda f: f.remove("llama.attention.layer_norm_rms_epsilon"), "layer_norm_rms_epsilon", "missing"),
    *(llama(f"D106-{v}", "attention.layer_norm_rms_epsilon", "f32", v, "is") for v in (0.0, -1e-5, NAN, INF)),
    *(llama(f"D107-{n}", "attention.key_length", "u32", n, f"is {n}", "4096") for n in (0, 4097, 2**32 - 1)),
    *(llama(f"D107-v-{n}", "attention.value_length", "u32", n, f"is {n}", "4096") for n in (0, 4097)),
    *(llama(f"D108-{n}", "attention.sliding_window", "u64", n, f"is {n}", "0 to 2147483648") for n in (2**31 + 1,)),
    *(bad(f"D-missing-{k}", lambda f, k=k: f.remove(f"llama.{k}"), f"llama.{k}", "missing")
      for k in ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")),
    bad("D-norm-of-qk", add("blk.0.attn_q_norm.weight", [16]), "blk.0.attn_q_norm.weight", "wrong results", error=UNSUPPORTED),
    bad("D-adapter", lambda f: f.set("general.type", "string", "adapter"), "general.type", "adapter", error=UNSUPPORTED),
]  # fmt: skip


def tokens_with(index: int, value: object) -> list[object]:
    letters: list[object] = [chr(ord("!") + i) for i in range(N_VOCAB - 4)] + [
        "AB",
        "ABC",
        "<bos>",
        "<eos>",
    ]
    letters[index] = value
    return letters


def ggml(
    case: str, name: str, type_name: str, value: object, *says: str, error: str = FILE
) -> Case:
    return key(case, f"tokenizer.ggml.{name}", type_name, value, *says, error=error)


def ggml_array(
    case: str,
    name: str,
    element: str,
    values: list[object],
    *says: str,
    base: Callable[[], File] = model,
) -> Case:
    return bad(
        case,
        lambda f: f.set_array(f"tokenizer.ggml.{name}", element, values),
        f"tokenizer.ggml.{name}",
        *says,
        base=base,
    )


def byte_token(index: int, value: str) -> Callable[[File], object]:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        "▁",
        "a",
        "b",
        "ab",
        "▁a",
    ]
    tokens[index] = value
    return lambda f: f.set_array("tokenizer.ggml.tokens", "string", tokens)


def no_bytes(f: File) -> None:
    f.set_array("tokenizer.ggml.token_type", "i32", [2, 3, 3] + [1] * 261)


def fewer_bytes(f: File) -> None:
    f.set_array("tokenizer.ggml.token_type", "i32", [2, 3, 3] + [6] * 200 + [1] * 61)


TOKENIZER = [
    bad("E109", lambda f: f.remove("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens", "missing"),
    ggml_array("E109-numbers", "tokens", "u32", [1, 2, 3], "array<u32>", "array<string>"),
    ggml("E109-string", "tokens", "string", "abc", "must be an array"),
    ggml_array("E109-none", "tokens", "string", [], "0 tokens"),
    ggml_array("E110", "token_type", "i32", [1] * 10, "10 entries", "64 tokens"),
    ggml_array("E110-u8", "token_type", "u8", [1] * N_VOCAB, "array<u8>", "array<i32>"),
    ggml_array("E111-short", "scores", "f32", [0.0] * 5, "5 entries", "264 tokens", base=sentencepiece_model),
    ggml_array("E111-narrow", "scores", "u8", [0] * 264, "array<u8>", "array<f32>", base=sentencepiece_model),
    ggml_array("E111-nan", "scores", "f32", [0.0] * 5 + [NAN] + [0.0] * 258, "entry 5", "NaN", base=sentencepiece_model),
    bad("E111-missing", lambda f: f.remove("tokenizer.ggml.scores"), "tokenizer.ggml.scores", "missing", base=sentencepiece_model),
    ggml_array("E112", "token_type", "i32", [1] * 7 + [99] + [1] * (N_VOCAB - 8), "token 7", "type 99"),
    ggml_array("E112-negative", "token_type", "i32", [1] * 7 + [-1] + [1] * (N_VOCAB - 8), "token 7", "type -1"),
    ggml_array("E116", "tokens", "string", tokens_with(7, "x" * 2**20), "token 7", "1048576 bytes", "65535"),
    bad("E116-claim", lambda f: f.raw("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + g.text("a") + struct.pack("<Q", 2**31 + 5) + bytes(64)),
        "tokenizer.ggml.tokens", "string 1 of 3", str(2**31 + 5), "past the end"),
    bad("E117", lambda f: f.remove("tokenizer.ggml.merges"), "tokenizer.ggml.merges", "missing"),
    *(ggml_array(f"E118-{n}", "merges", "string", ["A B", m], "merge 1", f"'{m}'")
      for n, m in (("space", "AB"), ("left", " B"), ("right", "A "), ("three", "A B C"), ("empty", ""))),
    ggml_array("E118-type", "merges", "u32", [1, 2], "array<u32>", "array<string>"),
    ggml("E119-text", "bos_token_id", "string", "<s>", "unsigned integer"),
    *(bad(f"E120-{t}", byte_token(255, t), "token 255", f"'{t}'", "<0x00> to <0xFF>", base=sentencepiece_model)
      for t in ("<0x-1>", "<0xZZ>", "<0x100>", "<0x1>", "")),
    bad("E120-fewer", fewer_bytes, "200 of the 256", base=sentencepiece_model),
    bad("E120-none", no_bytes, "0 of the 256", base=sentencepiece_model),
    ggml("E121", "model", "string", "foo", "'foo'", "gpt2, llama", error=UNSUPPORTED),
    bad("E121-missing", lambda f: f.remove("tokenizer.ggml.model"), "tokenizer.ggml.model", "missing"),
]  # fmt: skip


def with_value(value: float) -> bytes:
    return g.ones(WIDTH - 1) + struct.pack("<f", value)


DATA = [
    *(bad(f"F129-{v}", tensor("blk.1.ffn_norm.weight", data=with_value(v)), "blk.1.ffn_norm.weight", "value 63", "finite") for v in (NAN, INF, -INF)),
    bad("F129-freqs", add("rope_freqs.weight", [8], data=struct.pack("<8f", *[1.0] * 7, 0.0)), "rope_freqs.weight", "value 7", "positive"),
    bad("F129-bias", add("blk.0.attn_q.bias", [WIDTH], data=with_value(NAN)), "blk.0.attn_q.bias", "value 63", "finite"),
]  # fmt: skip

SPLIT = [
    bad(
        f"G132-{n}",
        lambda f, n=n: f.set("split.no", "u16", 1).set("split.count", "u16", n),
        "part 2",
        f"{n} files",
        "whose name ends in '-00001-of-",
    )
    for n in (2, 65535)
]

CASES = [*HEADER, *METADATA, *TABLE, *SHAPES, *NUMBERS, *TOKENIZER, *DATA, *SPLIT]


def aligned(alignment: int) -> Callable[[File], None]:
    def change(f: File) -> None:
        f.alignment = alignment
        f.set("general.alignment", "u32", alignment)

    return change


def fork_file() -> File:
    """ITQ3_S as the public fork writes it: type id 41."""
    return File().add_tensor("a", [256, 2], 41).add_tensor("b", [32]).add_tensor("c", [512, 4], 41)


CONTROLS = [
    Control("valid", model),
    Control("valid-sentencepiece", sentencepiece_model),
    Control("A10", edit(model, attributes(version=2))),
    Control("A18", File, container_only=True),
    Control("B33", edit(model, lambda f: f.set("general.name", "string", b"caf\xe9 \x1b[2J"))),
    Control("B50", edit(model, lambda f: f.set("Llama.block_count", "u32", 9).set("llama.block_count ", "u32", 9))),
    Control("C59-unused", edit(model, lambda f: f.add_tensor("empty", [WIDTH, 0])), "1 tensor is not used: empty"),
    Control("C59-huge", edit(model, lambda f: f.add_tensor("empty", [2**62, 2**62, 2**62, 0], data=b"")), "empty"),
    Control("C70", edit(model, lambda f: setattr(f.tensor("blk.1.ffn_up.weight"), "data", f.tensor("blk.1.ffn_up.weight").bytes + bytes(64)))),
    Control("C77", edit(model, lambda f: f.add_tensor("short", [8])), "short"),
    Control("C78", edit(model, attributes(tail=bytes(2**20)))),
    Control("C-alignment-1", edit(model, aligned(1))),
    Control("C-alignment-65536", edit(container, aligned(65536)), container_only=True),
    Control("C-order", edit(model, swap_order)),
    Control("C-id-41-is-itq3_s", fork_file, container_only=True),
    Control("D82", edit(model, lambda f: [f.add_tensor(n, [32]) for n in ("a", "b", "c")]), "3 tensors are not used: a, b, c"),
    Control("D89-key-length", edit(model, lambda f: f.set("llama.attention.key_length", "u32", 16).set("llama.attention.value_length", "u32", 16))),
    Control("D93", edit(model, lambda f: f.set_array("llama.attention.head_count_kv", "u32", [2, 2]).set_array("llama.feed_forward_length", "i32", [FF, FF]))),
    # A head of keys less in the second layer, and a narrower feed-forward block.
    Control("D93-per-layer", edit(model, lambda f: [
        f.set_array("llama.attention.head_count_kv", "u32", [2, 1]).set_array("llama.feed_forward_length", "u32", [FF, 64]),
        *(f.remove_tensor(f"blk.1.{n}.weight").add_tensor(f"blk.1.{n}.weight", dims)
          for n, dims in (("attn_k", [WIDTH, 16]), ("attn_v", [WIDTH, 16]), ("ffn_gate", [WIDTH, 64]), ("ffn_up", [WIDTH, 64]),
                          ("ffn_down", [64, WIDTH])))])),
    Control("D97", edit(model, lambda f: f.set("llama.context_length", "u32", 2**32 - 1))),
    *(Control(f"D105-{t}", edit(model, lambda f, t=t: f.set("llama.block_count", t, 2).set("llama.embedding_length", t, WIDTH))) for t in ("u8", "u64", "u16", "i32", "i64")),
    *(Control(f"D108-{n}", edit(model, lambda f, n=n: f.set("llama.attention.sliding_window", "u32", n))) for n in (0, 32, 128)),
    Control("D-norm-f16", edit(model, tensor("output_norm.weight", format=g.F16, data=struct.pack(f"<{WIDTH}e", *[1.0] * WIDTH)))),
    Control("D-biases", edit(model, lambda f: [f.add_tensor(f"blk.{layer}.attn_v.bias", [32]) for layer in (0, 1)])),
    Control("D-rope-freqs", edit(model, lambda f: f.add_tensor("rope_freqs.weight", [8], data=g.ones(8)))),
    Control("D-untied", edit(model, lambda f: f.add_tensor("output.weight", [WIDTH, N_VOCAB], g.Q8_0))),
    Control("E113", edit(model, lambda f: f.set_array("tokenizer.ggml.tokens", "string", tokens_with(5, "!"))), "1 token has the same text"),
    Control("E114", edit(model, lambda f: f.set_array("tokenizer.ggml.tokens", "string", tokens_with(5, "")))),
    Control("E115", edit(model, lambda f: f.set_array("tokenizer.ggml.tokens", "string", tokens_with(5, b"\xff\xfe")))),
    *(Control(f"D101-{t}-0", edit(model, lambda f, t=t: (t and f.set("llama.rope.scaling.type", "string", t), f.set("llama.rope.scaling.factor", "f32", 0.0)))) for t in ("", "linear", "yarn")),
    *(Control(f"E118-{n}", edit(model, lambda f, m=m: f.set_array("tokenizer.ggml.merges", "string", ["A B", m])), w)
      for n, m, w in (("unknown", "A <nope>", "1 of 2 merges ignored"), ("product", "B A", "'BA' is not a token"), ("duplicate", "A B", "1 merges appear twice"))),
    *(Control(f"E119-{n}", edit(model, lambda f, n=n, v=v: f.set(f"tokenizer.ggml.{n}_token_id", "u32", v)), f"{n}_token_id' is {v}, the vocabulary has 64 tokens")
      for n, v in (("bos", 64), ("eos", 50000), ("unknown", 64), ("eot", 64), ("padding", 2**32 - 2))),
    *(Control(f"E119-none-{v}", edit(model, lambda f, t=t, v=v: f.set("tokenizer.ggml.eos_token_id", t, v))) for t, v in (("i32", -1), ("u32", 2**32 - 1))),
    Control("E119-negative", edit(model, lambda f: f.set("tokenizer.ggml.eos_token_id", "i32", -7)), "is -7"),
    Control("E123", edit(model, lambda f: f.set("llama.vocab_size", "u32", 100)), "vocab_size' is 100, the vocabulary has 64 tokens"),
    Control("E119-no-ids", edit(model, lambda f: f.remove("tokenizer.ggml.bos_token_id").remove("tokenizer.ggml.eos_token_id"))),
    Control("E120-unknown", edit(sentencepiece_model, lambda f: (no_bytes(f), f.set("tokenizer.ggml.unknown_token_id", "u32", 0)))),
    Control("E124-type", edit(model, lambda f: f.set("tokenizer.chat_template", "u32", 7)), "tokenizer.chat_template"),
    Control("E124-size", edit(model, lambda f: f.set("tokenizer.chat_template", "string", "x" * 10 * 2**20))),
    *(Control(f"G132-{n}", edit(model, lambda f, n=n: f.set("split.no", "u16", 0).set("split.count", "u16", n))) for n in (0, 1)),
]  # fmt: skip
