"""GGUF files byte by byte, so that tests can get any one of them wrong.

Written from the format's specification with ``struct`` alone: neither hrun's writer nor the gguf package would let a test
write a file that lies.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "string": 8, "array": 9,
         "u64": 10, "i64": 11, "f64": 12}  # fmt: skip
CODES = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q",
         "i64": "q", "f64": "d"}  # fmt: skip
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12
BLOCKS = {
    F32: (1, 4),
    F16: (1, 2),
    Q4_0: (32, 18),
    Q8_0: (32, 34),
    Q4_K: (256, 144),
    41: (256, 110),
}  # values, bytes


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def scalar(type_name: str, value: object) -> bytes:
    if type_name == "string":
        return text(value)  # type: ignore[arg-type]
    return struct.pack("<" + CODES[type_name], value)


def array(element: str, values: Iterable[object]) -> bytes:
    values = list(values)
    return struct.pack("<IQ", TYPES[element], len(values)) + b"".join(
        scalar(element, v) for v in values
    )


@dataclass
class Entry:
    key: bytes
    type_id: int
    payload: bytes

    def build(self) -> bytes:
        return text(self.key) + struct.pack("<I", self.type_id) + self.payload


@dataclass
class Tensor:
    name: bytes
    dims: Sequence[int]  # GGUF order
    format: int = F32
    data: bytes | None = None  # None: zeros of the right size
    offset: int | None = None  # None: after the tensor before
    n_dims: int | None = None

    @property
    def bytes(self) -> bytes:
        if self.data is not None:
            return self.data
        values, block = BLOCKS[self.format]
        count = 1
        for d in self.dims:
            count *= d
        return bytes(count // values * block)

    def info(self, offset: int) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        return text(self.name) + struct.pack(f"<I{len(self.dims)}QIQ", n_dims, *self.dims, self.format,
                                             offset if self.offset is None else self.offset)  # fmt: skip


@dataclass
class File:
    """A file under construction; the fields say what the header claims, None the truth."""

    entries: list[Entry] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    n_entries: int | None = None
    n_tensors: int | None = None
    alignment: int = 32  # of the layout; general.alignment is an entry like any other
    tail: bytes = b""

    # ---- metadata

    def entry(self, key: str) -> Entry:
        return next(e for e in self.entries if e.key == key.encode())

    def remove(self, key: str) -> File:
        self.entries = [e for e in self.entries if e.key != key.encode()]
        return self

    def raw(self, key: str | bytes, type_id: int, payload: bytes) -> File:
        """Sets a key to any bytes, in its old place if it has one."""
        new = Entry(key.encode() if isinstance(key, str) else key, type_id, payload)
        for i, e in enumerate(self.entries):
            if e.key == new.key:
                self.entries[i] = new
                return self
        self.entries.append(new)
        return self

    def set(self, key: str | bytes, type_name: str, value: object) -> File:
        return self.raw(key, TYPES[type_name], scalar(type_name, value))

    def set_array(self, key: str, element: str, values: Iterable[object]) -> File:
        return self.raw(key, TYPES["array"], array(element, values))

    # ---- tensors

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name.encode())

    def remove_tensor(self, name: str) -> File:
        self.tensors.remove(self.tensor(name))
        return self

    def add_tensor(
        self, name: str | bytes, dims: Sequence[int], format: int = F32, **rest: object
    ) -> File:
        self.tensors.append(
            Tensor(name.encode() if isinstance(name, str) else name, list(dims), format, **rest)
        )  # type: ignore[arg-type]
        return self

    # ---- bytes

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_entries = len(self.entries) if self.n_entries is None else self.n_entries
        return self.magic + struct.pack("<IQQ", self.version, n_tensors % 2**64, n_entries % 2**64)

    def metadata(self) -> bytes:
        return b"".join(e.build() for e in self.entries)

    def table(self) -> bytes:
        out, offset = b"", 0
        for t in self.tensors:
            out += t.info(offset)
            offset += len(t.bytes) + -len(t.bytes) % self.alignment
        return out

    def head(self) -> bytes:
        """All that comes before the tensor data, without its padding."""
        return self.header() + self.metadata() + self.table()

    def build(self) -> bytes:
        head = self.head()
        head += bytes(-len(head) % self.alignment)
        return (
            head
            + b"".join(t.bytes + bytes(-len(t.bytes) % self.alignment) for t in self.tensors)
            + self.tail
        )


N_VOCAB, WIDTH, HEADS, KV_HEADS, FF, LAYERS = 64, 64, 4, 2, 96, 2


def ones(n: int) -> bytes:
    return struct.pack(f"<{n}f", *[1.0] * n)


def container() -> File:
    """The smallest file with everything in it."""
    return File().set("general.architecture", "string", "llama").add_tensor("x", [32, 2])


def model() -> File:
    """A sound Llama model with a byte-pair tokenizer."""
    f = File()
    f.set("general.architecture", "string", "llama").set("general.name", "string", "tiny")
    for key, value in (("block_count", LAYERS), ("context_length", 128), ("embedding_length", WIDTH), ("feed_forward_length", FF),
                       ("attention.head_count", HEADS), ("attention.head_count_kv", KV_HEADS),
                       ("rope.dimension_count", WIDTH // HEADS), ("vocab_size", N_VOCAB)):  # fmt: skip
        f.set(f"llama.{key}", "u32", value)
    f.set("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5).set(
        "llama.rope.freq_base", "f32", 10000.0
    )
    letters = [chr(ord("!") + i) for i in range(N_VOCAB - 4)]
    f.set("tokenizer.ggml.model", "string", "gpt2").set("tokenizer.ggml.pre", "string", "gpt-2")
    f.set_array("tokenizer.ggml.tokens", "string", [*letters, "AB", "ABC", "<bos>", "<eos>"])
    f.set_array("tokenizer.ggml.token_type", "i32", [1] * (N_VOCAB - 2) + [3, 3])
    f.set_array("tokenizer.ggml.merges", "string", ["A B", "AB C"])
    f.set("tokenizer.ggml.bos_token_id", "u32", N_VOCAB - 2).set(
        "tokenizer.ggml.eos_token_id", "u32", N_VOCAB - 1
    )
    f.add_tensor("token_embd.weight", [WIDTH, N_VOCAB], Q8_0).add_tensor(
        "output_norm.weight", [WIDTH], data=ones(WIDTH)
    )
    kv = WIDTH * KV_HEADS // HEADS
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            f.add_tensor(f"blk.{layer}.{name}.weight", [WIDTH], data=ones(WIDTH))
        for name, dims in (("attn_q", [WIDTH, WIDTH]), ("attn_k", [WIDTH, kv]), ("attn_v", [WIDTH, kv]), ("attn_output", [WIDTH, WIDTH]),
                           ("ffn_gate", [WIDTH, FF]), ("ffn_up", [WIDTH, FF]), ("ffn_down", [FF, WIDTH])):  # fmt: skip
            f.add_tensor(f"blk.{layer}.{name}.weight", dims, Q8_0)
    return f


def sentencepiece_model() -> File:
    """The same with a SentencePiece vocabulary: an unknown token, 256 byte tokens, some pieces."""
    f = model().remove("tokenizer.ggml.merges").remove("tokenizer.ggml.pre")
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
    f.set("tokenizer.ggml.model", "string", "llama").set("llama.vocab_size", "u32", len(tokens))
    f.set_array("tokenizer.ggml.tokens", "string", tokens)
    f.set_array("tokenizer.ggml.token_type", "i32", [2, 3, 3] + [6] * 256 + [1] * 5)
    f.set_array("tokenizer.ggml.scores", "f32", [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0])
    f.set("tokenizer.ggml.bos_token_id", "u32", 1).set("tokenizer.ggml.eos_token_id", "u32", 2)
    f.tensor("token_embd.weight").dims = [WIDTH, len(tokens)]
    return f
