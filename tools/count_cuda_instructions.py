#!/usr/bin/env python3
"""Count the instructions per weight of the kernels that decode tokens, in their machine code, and say what binds them.

    python tools/count_cuda_instructions.py [--end-columns 4096] [--formats rtq3 q4_k]

For each format the loop of the kernel for few tokens is found in the compiled code: of the ways through it that load all weights
the one with the fewest instructions, which is that of one token where no row ends.  Instructions are counted by the unit that runs
them, per weight and lane (a warp instruction does 32).  `ends` is what the end of a row tile adds, at rows of so many columns.

The speed that is predicted takes the longest of five times per multiprocessor and chunk of 16 x 256 weights: its bytes at nine tenths of
the card's bandwidth, integer operations at 64 lanes per cycle, multiplications of integers likewise, all instructions at four per cycle, and
products of the tensor cores.  Nothing is said of latencies: it is a bound, and "of bandwidth" is its share of those nine tenths.
Where instructions bind, the prediction is for long rows.  The RTX 4090 runs the code for 8.0.

Of the kernels for many tokens the loop over 256 columns is counted, where no slot of sums ends.  Their speed is the same bound without
memory: cycles of a multiprocessor for 128 rows and 128 tokens, of which warps that wait for each other reach perhaps two thirds.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import check_cuda_resources as resources

ARCHITECTURES = resources.ARCHITECTURES
SOURCES = ("matmul_rtq.cu", "matmul_groups.cu", "matmul_k_quants.cu", "matmul_float.cu")
WARP = 32
CHUNK = 16 * 256  # weights

# The unit of an instruction, by the lowest nine bits of its opcode (the three above say where operands come from).
UNITS = {
    "integer": {
        0x002: "MOV", 0x003: "P2R", 0x004: "R2P", 0x007: "SEL", 0x008: "FSEL", 0x009: "FMNMX",
        0x00B: "FSETP", 0x00C: "ISETP", 0x00F: "VIMNMX3", 0x010: "IADD3", 0x011: "LEA",
        0x012: "LOP3", 0x013: "IABS", 0x016: "PRMT", 0x017: "IMNMX", 0x019: "SHF", 0x01C: "PLOP3",
        0x036: "VIADD", 0x03E: "F2FP", 0x045: "I2FP", 0x046: "VIADDMNMX", 0x048: "VIMNMX",
    },
    "multiply": {0x024: "IMAD", 0x026: "IDP", 0x025: "IMAD.WIDE", 0x027: "IMAD.HI"},
    "float": {
        0x020: "FMUL", 0x021: "FADD", 0x023: "FFMA", 0x030: "HADD2", 0x031: "HFMA2",
        0x032: "HMUL2", 0x035: "HFMA2.MMA", 0x102: "FCHK", 0x104: "F2F", 0x105: "F2I",
        0x106: "I2F", 0x108: "MUFU",
    },
    "memory": {
        0x03B: "LDSM", 0x180: "LD", 0x181: "LDG", 0x182: "LDC", 0x184: "LDS", 0x185: "ST",
        0x186: "STG", 0x188: "STS", 0x189: "SHFL", 0x192: "MEMBAR", 0x1A7: "SYNCS", 0x1A8: "ATOMG",
        0x1AE: "LDGSTS", 0x1BA: "UBLKCP", 0x1C6: "FENCE",
    },
    "tensor": {0x037: "IMMA", 0x03C: "HMMA", 0x1F1: "IGMMA"},
    "other": {
        0x005: "CS2R", 0x02F: "ELECT", 0x082: "UMOV", 0x083: "UP2UR", 0x086: "VOTEU",
        0x087: "USEL", 0x08C: "UISETP", 0x090: "UIADD3", 0x091: "ULEA", 0x092: "ULOP3",
        0x099: "USHF", 0x0A4: "UIMAD", 0x0A5: "UIMAD.WIDE", 0x0B9: "ULDC", 0x0CA: "R2UR",
        0x118: "NOP", 0x119: "S2R", 0x11A: "DEPBAR", 0x11D: "BAR", 0x141: "BSYNC", 0x142: "BREAK",
        0x144: "CALL", 0x145: "BSSY", 0x146: "YIELD", 0x147: "BRA", 0x148: "WARPSYNC",
        0x14D: "EXIT", 0x1AF: "LDGDEPBAR", 0x1C2: "R2UR", 0x1C3: "S2UR",
        0x1C5: "WARPGROUP",
    },
}  # fmt: skip
UNIT = {code: unit for unit, codes in UNITS.items() for code in codes}
BRA, BRX, EXIT, BAR, LDG, UBLKCP = 0x147, 0x149, 0x14D, 0x11D, 0x181, 0x1BA
LDGSTS, IGMMA = 0x1AE, 0x1F1
TENSOR = frozenset(UNITS["tensor"])


@dataclass(frozen=True)
class Card:
    """What a card does per second, and per cycle and multiprocessor."""

    name: str
    arch: str  # whose code it runs
    multiprocessors: int
    gigahertz: float
    gigabytes: float  # per second, by the data sheet
    int8_products: float  # of mma.sync, per cycle
    warpgroup_products: float = 0  # of wgmma

    def cycles(self, count: Counts, chunk_bytes: float) -> dict[str, float]:
        """Cycles per chunk of each thing that may bind, for one multiprocessor of many."""
        bandwidth = 0.9 * self.gigabytes / self.gigahertz / self.multiprocessors
        return {
            "memory": chunk_bytes / bandwidth,
            "integer": count.per_chunk["integer"] * WARP / 64,
            "multiply": count.per_chunk["multiply"] * WARP / 64,
            "issue": sum(count.per_chunk.values()) / 4,
            "tensor": count.per_chunk["tensor"] * 16 * 8 * 32 / self.int8_products,
        }

    def cycles_of_tile(self, tile: Tile) -> dict[str, float]:
        """Cycles of a multiprocessor for 256 columns of 128 rows and 128 tokens."""
        blocks = 128 * 128 / (tile.rows * tile.tokens)
        warps = blocks * tile.warps
        products = 128 * 128 * 256 * tile.products
        rate = self.warpgroup_products if tile.warpgroups else self.int8_products
        return {
            "integer": tile.units["integer"] * warps * WARP / 64,
            "multiply": tile.units["multiply"] * warps * WARP / 64,
            "issue": sum(tile.units.values()) * warps / 4,
            "tensor": products / rate,
        }


# mma.sync reaches some 62 % of what wgmma does on Hopper.
CARDS = (
    Card("H200", "90a", 132, 1.83, 4800, 2540, 4096),
    Card("RTX 4090", "80", 128, 2.52, 1008, 1024),
)


def is_hopper_or_newer(arch: str) -> bool:
    """Of "80", "90a" and the like."""
    return int(arch.rstrip("af")) >= 90


@dataclass(frozen=True)
class Instruction:
    at: int
    low: int
    high: int

    @property
    def code(self) -> int:
        return self.low & 0x1FF

    @property
    def conditional(self) -> bool:
        """Has it a predicate, before it or, of a branch, among its operands?"""
        return self.low >> 12 & 15 != 7 or (self.code == BRA and self.high >> 23 & 31 != 7)

    def target(self, arch: str) -> int:
        """Of a branch.  From 9.0 on the lowest byte of the distance, which is in words, lies apart."""
        distance = (self.high << 64 | self.low) >> 34 & (1 << 48) - 1
        if distance >> 47:
            distance -= 1 << 48
        if is_hopper_or_newer(arch):
            distance = distance << 8 | self.low >> 16 & 255
        return self.at + 16 + 4 * distance

    @property
    def weight_bytes(self) -> int:
        """The bytes that a lane loads, of weights alone: their loads leave out the first cache."""
        passes_by = self.code == LDG and self.high >> 20 & 7 == 5
        return 16 if passes_by and self.high >> 9 & 7 == 6 else 0


@dataclass(frozen=True)
class Block:
    """Instructions without a branch but the last."""

    instructions: tuple[Instruction, ...]
    next: tuple[int, ...]  # addresses of blocks

    @cached_property
    def weight_loads(self) -> int:
        return sum(i.weight_bytes > 0 or i.code == UBLKCP for i in self.instructions)

    @cached_property
    def barriers(self) -> int:
        return sum(i.code == BAR for i in self.instructions)


def instructions_of(code: bytes) -> list[Instruction]:
    return [Instruction(i, *struct.unpack_from("<QQ", code, i)) for i in range(0, len(code), 16)]


def blocks_of(code: bytes, arch: str) -> dict[int, Block]:
    """Address -> block."""
    found = instructions_of(code)
    jumps = {i.at: i.target(arch) for i in found if i.code == BRA}
    ends = {i.at for i in found if i.code in (BRA, BRX, EXIT)}
    starts = sorted({0, *jumps.values(), *(at + 16 for at in ends)} & {i.at for i in found})
    blocks = {}
    for start, end in zip(starts, [*starts[1:], len(code)], strict=True):
        own = tuple(found[start // 16 : end // 16])
        last, after = own[-1], [end] if end < len(code) else []
        if last.code in (EXIT, BRX):
            after = after if last.conditional else []
        elif last.code == BRA:
            after = ([*after] if last.conditional else []) + [jumps[last.at]]
        blocks[start] = Block(own, tuple(after))
    return blocks


def loops_of(blocks: dict[int, Block]) -> Iterator[tuple[int, set[int]]]:
    """The head and the blocks of every loop; loops with one head are one."""
    before: dict[int, list[int]] = {}
    for at, block in blocks.items():
        for n in block.next:
            before.setdefault(n, []).append(at)
    back: dict[int, set[int]] = {}
    state: dict[int, int] = {}
    stack = [(0, iter(blocks[0].next))]
    state[0] = 1
    while stack:
        at, rest = stack[-1]
        n = next(rest, None)
        if n is None:
            state[at] = 2
            stack.pop()
        elif state.get(n) == 1:
            back.setdefault(n, set()).add(at)
        elif n not in state:
            state[n] = 1
            stack.append((n, iter(blocks[n].next)))
    for head, tails in back.items():
        body, todo = {head}, list(tails)
        while todo:
            at = todo.pop()
            if at not in body:
                body.add(at)
                todo += before.get(at, [])
        yield head, body


Worth = Callable[[Block], int]


def weights_in(block: Block) -> int:
    """The loads of weights in it."""
    return block.weight_loads


def products_in(block: Block) -> int:
    """The products of tensor cores in it, and the copies to shared memory."""
    return sum(i.code in TENSOR or i.code == LDGSTS for i in block.instructions)


# How good a way through a loop is, less is better: weights that are not loaded, then instructions.
Cost = tuple[int, int]


def best_way(
    blocks: dict[int, Block], head: int, body: set[int], barriers: int, worth: Worth = weights_in
) -> list[int] | None:
    """The blocks of the best way once round, with so many barriers; None where there is none.

    worth: what of a block must not be left out.
    """
    order: list[int] = []  # of the blocks, each before those that lead to it
    seen: set[int] = set()
    stack = [(head, iter(blocks[head].next))]
    seen.add(head)
    while stack:
        at, rest = stack[-1]
        n = next((n for n in rest if n in body and n not in seen), None)
        if n is None:
            order.append(at)
            stack.pop()
        else:
            seen.add(n)
            stack.append((n, iter(blocks[n].next)))
    place = {at: i for i, at in enumerate(order)}
    # (block, barriers from it on) -> cost, next block
    ways: dict[tuple[int, int], tuple[Cost, int]] = {}
    for at in order:
        block = blocks[at]
        own = (-worth(block), len(block.instructions))
        for n in range(barriers + 1):
            choices = [((0, 0), head)] if head in block.next and n == block.barriers else []
            for to in block.next:
                rest_key = (to, n - block.barriers)
                if to in body and place[to] < place[at] and rest_key in ways:
                    choices.append((ways[rest_key][0], to))
            if choices:
                cost, to = min(choices)
                ways[at, n] = ((own[0] + cost[0], own[1] + cost[1]), to)
    if (head, barriers) not in ways:
        return None
    way, left = [head], barriers
    while True:
        at = way[-1]
        to = ways[at, left][1]
        left -= blocks[at].barriers
        if to == head:
            return way
        way.append(to)


@dataclass(frozen=True)
class Counts:
    """Warp instructions of a kernel's loop, by unit."""

    chunks: float  # of 16 x 256 weights, once round
    once_round: Counter[str]
    end: int  # what the end of a row tile adds, for most warps
    unknown: frozenset[int]  # opcodes

    @property
    def per_chunk(self) -> dict[str, float]:
        return {u: self.once_round[u] / self.chunks for u in UNITS}

    def per_weight(self, unit: str) -> float:
        """Of a lane."""
        return self.per_chunk[unit] * WARP / CHUNK


def count_loop(code: bytes, arch: str, loads_per_chunk: int) -> Counts:
    """Counts the loop that loads weights and multiplies them; raises ValueError where there is none.

    A bulk copy brings a chunk; of other loads a chunk takes so many.
    """
    blocks = blocks_of(code, arch)
    candidates = []
    for head, body in loops_of(blocks):
        inside = [i for at in body for i in blocks[at].instructions]
        if any(blocks[at].weight_loads for at in body) and any(i.code in TENSOR for i in inside):
            candidates.append((len(inside), head, body))
    if not candidates:
        raise ValueError("no loop loads weights and multiplies them")
    _, head, body = min(candidates, key=lambda c: c[:2])
    way = best_way(blocks, head, body, 0)
    if way is None:
        raise ValueError("each way round the loop has a barrier")
    on_it = [i for at in way for i in blocks[at].instructions]
    loads = sum(i.weight_bytes > 0 for i in on_it)
    chunks = sum(i.code == UBLKCP for i in on_it) + loads / loads_per_chunk
    if chunks == 0:
        raise ValueError("the way round the loop loads no weights")
    ending = best_way(blocks, head, body, 1)
    end = 0
    if ending is not None:
        end = sum(len(blocks[at].instructions) for at in ending) - len(on_it)
    counts = Counter(UNIT.get(i.code, "other") for i in on_it)
    unknown = frozenset(i.low & 0xFFF for i in on_it if i.code not in UNIT)
    return Counts(chunks, counts, end, unknown)


@dataclass(frozen=True)
class Tile:
    """The kernel for many tokens: what a warp does for 256 columns, and the shape of a block of threads."""

    rows: int
    tokens: int
    warps: int
    warpgroups: bool
    units: Counter[str]
    products: float  # of tensor cores, for each that is needed
    unknown: frozenset[int]


def count_tile(code: bytes, arch: str, rows: int, tokens: int) -> Tile:
    """Counts the loop of a kernel for many tokens; raises ValueError where there is none."""
    blocks = blocks_of(code, arch)
    loops = []
    for head, body in loops_of(blocks):
        codes = [i.code for at in body for i in blocks[at].instructions]
        if BAR in codes and any(c in TENSOR for c in codes):
            loops.append((len(codes), head, body))
    if not loops:
        raise ValueError("no loop multiplies behind a barrier")
    _, head, body = min(loops, key=lambda c: c[:2])
    ways = (best_way(blocks, head, body, barriers, products_in) for barriers in (1, 2))
    way = next((w for w in ways if w), None)
    if way is None:
        raise ValueError("no way round the loop has one or two barriers")
    on_it = [i for at in way for i in blocks[at].instructions]
    warps, wide = 8, any(i.code == IGMMA for i in on_it)
    # 64 x tokens x 32 of a warpgroup, or 16 x 8 x 32 of a warp; some take half of the columns.
    each = tokens * 16 * 32 if wide else 16 * 8 * 32
    done = warps * each * sum(i.code in TENSOR for i in on_it)
    return Tile(
        rows, tokens, warps, wide, Counter(UNIT.get(i.code, "other") for i in on_it),
        done / (rows * tokens * 256), frozenset(i.low & 0xFFF for i in on_it if i.code not in UNIT),
    )  # fmt: skip


PROBE = """
#include <cstdio>
#include "cuda/device/tile_of_products.h"
using namespace hrun;
int main() {
  Formats::for_each([]<class F>() {
    if constexpr (requires { gpu::Packed<F>::kLoads; }) {
      using Tile = gpu::TileOfProducts<F, false, false>;
      using Wide = gpu::TileOfProducts<F, false, true>;
      std::printf("%.*s %d %d %d %d %d %d\\n", static_cast<int>(F::kName.size()), F::kName.data(),
                  gpu::Packed<F>::kLoads, gpu::kChunkBytes<F>, Tile::kRows, Tile::kTokens,
                  Wide::kRows, Wide::kTokens);
    }
  });
}
"""


@dataclass(frozen=True)
class PackedFormat:
    """As the headers have it."""

    loads: int  # of sixteen bytes by a lane, of a chunk
    chunk_bytes: int
    tile: tuple[int, int]  # rows and tokens of a block of threads, by mma.sync
    wide_tile: tuple[int, int]  # by products of warpgroups


def packed_formats(folder: Path) -> dict[str, PackedFormat]:
    """By the formats' names."""
    source, program = folder / "probe.cpp", folder / "probe"
    source.write_text(PROBE)
    root = resources.ROOT
    command = ["c++", "-std=c++20", "-I", root, "-I", root / "cpp", source, "-o", program]
    subprocess.run(list(map(str, command)), check=True)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in said.splitlines():
        name, *numbers = line.split()
        loads, size, *shapes = map(int, numbers)
        found[name] = PackedFormat(loads, size, (shapes[0], shapes[1]), (shapes[2], shapes[3]))
    return found


FLOAT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}


@dataclass(frozen=True)
class Row:
    """One kernel on one architecture."""

    format: str
    tokens: int  # that it has room for
    arch: str
    in_bulk: bool
    chunk_bytes: float
    counts: Counts


@dataclass(frozen=True)
class TileRow:
    """One kernel for many tokens on one architecture."""

    format: str
    arch: str
    tile: Tile


def count_all(nvcc: str, sources: tuple[str, ...] = SOURCES) -> tuple[list[Row], list[TileRow]]:
    """The kernels for few tokens of these files, and those for many, for ``ARCHITECTURES``."""
    rows, tiles = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packed = packed_formats(folder)
        for source in sources:
            path = resources.ROOT / "cuda" / "kernels" / source
            for arch in ARCHITECTURES:
                (image,) = resources.device_code(resources.compile_object(nvcc, path, arch)[0])
                names = resources.demangle(list(image))
                for mangled, code in image.items():
                    row = count_kernel(names[mangled], arch, code, packed)
                    rows += [row] if row else []
                    of_many = count_tile_kernel(names[mangled], arch, code, packed)
                    tiles += [of_many] if of_many else []
    rows.sort(key=lambda r: (r.arch, r.tokens, r.format, r.in_bulk))
    tiles.sort(key=lambda t: (t.format, t.arch, t.tile.warpgroups))
    return rows, tiles


def count_tile_kernel(
    name: str, arch: str, code: bytes, packed: dict[str, PackedFormat]
) -> TileRow | None:
    """None for kernels that are not those of many tokens, are of slices, or are empty here."""
    match = re.search(r"Matmul(Tile|Warpgroups)<(?:hrun::)?(\w+), false>", name)
    if match is None or (match[1] == "Warpgroups" and arch != "90a"):
        return None
    found = packed[match[2].lower()]
    rows, tokens = found.wide_tile if match[1] == "Warpgroups" else found.tile
    try:
        return TileRow(match[2].lower(), arch, count_tile(code, arch, rows, tokens))
    except ValueError as error:
        raise ValueError(f"{name} for {arch}: {error}") from None


def count_kernel(name: str, arch: str, code: bytes, packed: dict[str, PackedFormat]) -> Row | None:
    """None for kernels that are not those of few tokens, or are of slices."""
    match = re.search(r"(MatmulStream|MatmulFloats)<(?:hrun::)?(\w+), (\d+)([\w, ]*)>", name)
    if match is None or match[4].startswith(", true"):
        return None
    in_bulk, format_name = match[4].endswith(", true"), match[2].lower()
    if in_bulk and not is_hopper_or_newer(arch):
        return None
    if match[1] == "MatmulFloats":
        size = FLOAT_BYTES[format_name]
        loads, chunk_bytes, tokens = CHUNK * size // (16 * WARP), CHUNK * size, 8 * int(match[3])
    else:
        found, tokens = packed[format_name], int(match[3])
        loads, chunk_bytes = found.loads, found.chunk_bytes
    try:
        counts = count_loop(code, arch, loads)
    except ValueError as error:
        raise ValueError(f"{name} for {arch}: {error}") from None
    return Row(format_name, tokens, arch, in_bulk, chunk_bytes, counts)


def table(rows: list[Row], end_columns: int) -> str:
    """What is counted, as Markdown."""
    lines = [
        "| format | tokens | code | bytes | integer | multiply | float | memory | tensor | other | all | ends |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    chunks_of_warp = max(1, end_columns // 256 // 8)
    for r in rows:
        units = " | ".join(f"{r.counts.per_weight(u):.2f}" for u in UNITS)
        everything = sum(r.counts.per_weight(u) for u in UNITS)
        end = r.counts.end * WARP / CHUNK / chunks_of_warp
        lines.append(
            f"| {r.format}{', bulk' if r.in_bulk else ''} | {r.tokens} | {r.arch} | {r.chunk_bytes / CHUNK:.3f} | {units} | {everything:.2f} | {end:.2f} |"
        )
    return "\n".join(lines)


def predictions(rows: list[Row]) -> str:
    """What cards should do with them, as Markdown."""
    lines = [
        "| format | tokens |" + "".join(f" {c.name} | bound by | of bandwidth |" for c in CARDS)
    ]
    lines.append("|---|--:|" + "--:|---|--:|" * len(CARDS))
    for format_name, tokens in dict.fromkeys((r.format, r.tokens) for r in rows):
        cells = []
        for card in CARDS:
            key = (format_name, tokens, card.arch)
            of_card = [r for r in rows if (r.format, r.tokens, r.arch) == key]
            row = max(of_card, key=lambda r: r.in_bulk)  # which is what the card runs
            cycles = card.cycles(row.counts, row.chunk_bytes)
            bound = max(cycles, key=lambda k: cycles[k])
            weights = CHUNK / cycles[bound] * card.gigahertz * card.multiprocessors
            cells.append(
                f" {weights:.0f} | {bound} | {100 * cycles['memory'] / cycles[bound]:.0f} % |"
            )
        lines.append(f"| {format_name} | {tokens} |" + "".join(cells))
    return "\n".join(lines)


def tile_table(tiles: list[TileRow]) -> str:
    """The kernels for many tokens, as Markdown."""
    lines = [
        "| format | products | tile | a warp | integer | tensor |"
        + "".join(f" {c.name} | bound by |" for c in CARDS)
    ]
    lines.append("|---|---|--:|--:|--:|--:|" + "--:|---|" * len(CARDS))
    for row in tiles:
        tile = row.tile
        cells = []
        for card in CARDS:
            if card.arch != row.arch:
                cells.append(" | |")
                continue
            cycles = card.cycles_of_tile(tile)
            bound = max(cycles, key=lambda k: cycles[k])
            tops = 2 * 128 * 128 * 256 / cycles[bound] * card.gigahertz * card.multiprocessors
            cells.append(f" {tops / 1000:.0f} | {bound} |")
        kind = "wgmma" if tile.warpgroups else "mma.sync"
        lines.append(
            f"| {row.format} | {kind}, {row.arch} | {tile.rows} x {tile.tokens} | {sum(tile.units.values())} | {tile.units['integer']} | {tile.units['tensor']} |"
            + "".join(cells)
        )
    return "\n".join(lines)


def main() -> int:
    """Prints three tables; 1 where an instruction is not known, 2 without nvcc."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--end-columns", type=int, default=4096, help="of a row; default: 4096")
    parser.add_argument("--formats", nargs="+", help="default: all that have a kernel of their own")
    args = parser.parse_args()
    nvcc = resources.find_nvcc()
    if nvcc is None:
        print("nvcc was not found", file=sys.stderr)
        return 2
    rows, tiles = count_all(nvcc)
    if args.formats:
        rows = [r for r in rows if r.format in args.formats]
        tiles = [t for t in tiles if t.format in args.formats]
    print(f"Instructions per weight\n\n{table(rows, args.end_columns)}\n")
    print(f"Predicted, thousand million weights per second\n\n{predictions(rows)}\n")
    print(f"Many tokens: instructions per warp and 256 columns, TOPS\n\n{tile_table(tiles)}")
    unknown = {code for r in rows for code in r.counts.unknown}
    unknown |= {code for t in tiles for code in t.tile.unknown}
    if unknown:
        print(f"counted as other: opcodes {', '.join(map(hex, sorted(unknown)))}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
