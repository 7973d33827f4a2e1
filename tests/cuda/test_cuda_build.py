"""The CUDA kernels compile for two architectures, and no hot one spills registers or does without tensor cores."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import check_cuda_resources as tool
import count_cuda_instructions as counter

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# The checker must find this: an array with indices that only the device knows lies in local memory.
BAD_KERNEL = """
struct Walk {
  const int* from;
  int* to;
  __device__ void operator()() const {
    int table[64] = {};
    for (int i = 0; i < 64; ++i) table[from[i] & 63] += i;
    to[threadIdx.x] = table[from[threadIdx.x] & 63];
  }
};
template <class Kernel>
__global__ void run_kernel(const Kernel kernel) { kernel(); }
void launch(Walk walk) { run_kernel<Walk><<<1, 32>>>(walk); }
"""

# And this: sums that are touched before their product is waited for.
EARLY_KERNEL = """
struct Early {
  int* to;
  __device__ void operator()() const {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    int c[4] = {};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int i = 0; i < 2; ++i) {
      asm volatile("{ .reg .pred p; setp.ne.b32 p, 1, 0;"
                   "wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {%0,%1,%2,%3}, {%4,%4,%4,%4}, %5, p; }"
                   : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(7), "l"(64ull) : "memory");
      c[1] += threadIdx.x;
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    to[threadIdx.x] = c[1];
#endif
  }
};
template <class Kernel>
__global__ void run_kernel(const Kernel kernel) { kernel(); }
void launch(Early early) { run_kernel<Early><<<1, 128>>>(early); }
"""


@pytest.fixture(scope="module")
def nvcc() -> str:
    """The compiler, where it is there and new enough."""
    path = tool.find_nvcc()
    if path is None:
        pytest.skip("nvcc is not installed")
    version = re.search(
        r"release (\d+)\.(\d+)",
        subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout,
    )
    if version is None or (int(version[1]), int(version[2])) < (12, 4):
        pytest.skip(f"nvcc 12.4 or newer is needed, this is {version[0] if version else 'unknown'}")
    return path


def check_instructions_per_weight(nvcc: str) -> None:
    """Integer instructions bind RTQ3 where memory is fast."""
    few, many = counter.count_all(nvcc, ("matmul_rtq.cu",))
    rows = {(r.format, r.tokens, r.arch, r.in_bulk): r.counts for r in few}
    assert {code for counts in rows.values() for code in counts.unknown} == set()
    for name, most in (("rtq3", 1.5), ("rtq4", 1.95), ("rtq2", 2.1)):
        for arch, in_bulk in (("80", False), ("90a", False), ("90a", True)):
            assert 1 < rows[name, 8, arch, in_bulk].per_weight("integer") < most, (name, arch)
    for in_bulk in (False, True):
        sums = rows["rtq3", 8, "90a", in_bulk]
        assert sums.per_chunk["tensor"] == 24  # three tables, eight products
        assert sums.chunks == 2
    assert 1 < rows["rtq3", 16, "90a", True].per_weight("integer") < 1.6
    tiles = {(t.format, t.arch, t.tile.warpgroups): t.tile for t in many}
    assert {code for tile in tiles.values() for code in tile.unknown} == set()
    wide, narrow = tiles["rtq3", "90a", True], tiles["rtq3", "90a", False]
    assert wide.units["tensor"] == 8
    assert wide.products == narrow.products == 1
    assert 2 * sum(wide.units.values()) < sum(narrow.units.values())  # of as many sums


# One test: of two, each might run in a process of its own and compile the same files.
def test_the_hot_kernels_fit_their_registers_and_counts(nvcc: str) -> None:
    kernels = tool.compile_all(nvcc)
    assert {k.arch for k in kernels} == {f"sm_{a}" for a in tool.ARCHITECTURES}
    assert [f"{k.name} for {k.arch}: {p}" for k in kernels for p in k.problems()] == []
    kinds = {k.kind for k in kernels}
    assert set(tool.TENSOR) <= kinds, "a kernel that must use tensor cores is gone or renamed"
    check_instructions_per_weight(nvcc)


def test_local_memory_and_missing_tensor_cores_are_found(
    nvcc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "walk.cu"
    source.write_text(BAD_KERNEL)
    monkeypatch.setitem(tool.TENSOR, "Walk", tool.HMMA)
    for arch in tool.ARCHITECTURES:
        (kernel,) = tool.compile_file(nvcc, source, arch)
        assert (kernel.kind, kernel.arch) == ("Walk", f"sm_{arch}")
        assert sorted(kernel.problems()) == [
            "256 bytes of local memory",
            "LDL instructions",
            "STL instructions",
            "no tensor-core instructions",
        ]


def test_waits_that_the_compiler_puts_in_are_found(nvcc: str, tmp_path: Path) -> None:
    source = tmp_path / "early.cu"
    source.write_text(EARLY_KERNEL)
    (old,), (new,) = (tool.compile_file(nvcc, source, arch) for arch in ("80", "90a"))
    assert tool.IGMMA in new.opcodes
    assert tool.IGMMA not in old.opcodes
    assert any("C7511" in p for p in new.problems()), new.problems()


# 12.0 has bulk copies, as 9.0a, and no products of warpgroups, as 8.0.
NEWEST = """
#include "cuda/device/matmul_table.h"
namespace hrun::gpu {
const FastMatmul* example(FormatId format) { return find_in(FormatList<RTQ3>{}, format); }
}
"""


def test_the_newest_card_has_both_kinds_of_code(nvcc: str, tmp_path: Path) -> None:
    said = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    if "sm_120" not in said.stdout.split():
        pytest.skip("nvcc does not know 12.0")
    source = tmp_path / "newest.cu"
    source.write_text(NEWEST)
    kernels = tool.compile_file(nvcc, source, "120")
    bare = [k.name for k in kernels if "no tensor-core instructions" in k.problems()]
    assert bare == []
    assert {"MatmulStream", "MatmulTile", "MatmulWarpgroups"} <= {k.kind for k in kernels}
    assert any(k.kind == "MatmulStream" and k.name.endswith(", true>") for k in kernels)


def test_a_build_that_keeps_words_is_read(nvcc: str, tmp_path: Path) -> None:
    """The compiler's launcher, as the build calls it, and code within an object."""
    source, out = tmp_path / "walk.cu", tmp_path / "walk.cu.o"
    source.write_text(BAD_KERNEL)
    command = [ROOT / "cuda/keep_words.sh", nvcc, "-Xptxas=-v", "--no-compress", "-arch=sm_90a"]
    subprocess.run([*command, "-c", source, "-o", out], check=True, capture_output=True)
    (image,) = tool.device_code(out.read_bytes())
    (name,) = image
    assert f"'{name}' for 'sm_90a'" in (tmp_path / "walk.cu.o.words").read_text()
    source.write_text("int broken(")
    assert subprocess.run([*command, "-c", source, "-o", out], capture_output=True).returncode != 0
    assert "error" in (tmp_path / "walk.cu.o.words").read_text()


# A loop of 9.0: the shortest way skips the loads, and one has a barrier.
MOV, LDG, IMMA, BAR, BRA, EXIT = 0x802, 0x981, 0x237, 0xB1D, 0x947, 0x94D
LOOP = [
    ("start", MOV, None),
    ("head", BRA, "work"),  # if nothing is left to load
    ("", LDG, None),
    ("", LDG, None),
    ("work", IMMA, None),
    ("", IMMA, None),
    ("", BRA, "next"),  # if no row ends
    ("", MOV, None),
    ("", MOV, None),
    ("", BAR, None),
    ("next", MOV, None),
    ("", BRA, "head"),
    ("", EXIT, None),
]


def encoded(program: list[tuple[str, int, str | None]]) -> bytes:
    """Machine code of 9.0; every branch has a predicate."""
    at = {name: 16 * i for i, (name, _, _) in enumerate(program) if name}
    code = b""
    for i, (_, opcode, target) in enumerate(program):
        low, high = opcode | 7 << 12, 7 << 23 if opcode == BRA else 0
        if opcode == LDG:  # sixteen bytes, past the first cache
            high = 5 << 20 | 6 << 9
        if target:
            words = (at[target] - 16 * i - 16) // 4
            both = (words & 255) << 16 | (words >> 8 & (1 << 48) - 1) << 34
            low = low & ~(15 << 12) | both & (1 << 64) - 1
            high |= both >> 64
        code += struct.pack("<QQ", low, high)
    return code


def test_the_way_through_a_loop_loads_all_weights() -> None:
    counts = counter.count_loop(encoded(LOOP), "90a", loads_per_chunk=2)
    assert counts.chunks == 1
    assert counts.once_round == {"memory": 2, "tensor": 2, "integer": 1, "other": 3}
    assert counts.end == 3
    assert counts.unknown == set()
    without = [i for i in LOOP if i[1] != LDG]
    with pytest.raises(ValueError, match="no loop loads weights"):
        counter.count_loop(encoded(without), "90a", loads_per_chunk=2)
    always = [i for i in LOOP if i[2] != "next"]
    with pytest.raises(ValueError, match="has a barrier"):
        counter.count_loop(encoded(always), "90a", loads_per_chunk=2)


def test_what_is_cold_exists() -> None:
    text = "".join(p.read_text() for p in (ROOT / "cuda").rglob("*.[ch]*"))
    assert [name for name in tool.COLD if not re.search(rf"struct {name}\b", text)] == []
    assert [
        name for name in tool.COLD_FILES if not (ROOT / "cuda" / "kernels" / name).exists()
    ] == []


@pytest.mark.parametrize(
    ("nvcc_version", "cards", "expected"),
    [
        ("13.0", "", "80;90a;120"),
        ("12.4", "", "80;90a"),  # does not know 12.0
        ("13.0", "8.9\n", "89"),
        ("13.0", "9.0\n8.0\n9.0\n", "80;90a"),
        ("13.0", "9.0\n", "80-virtual;90a"),  # PTX for whatever card comes later
        ("12.8", "11.0\n", "80;90a;120"),  # knows 12.0, but not 11.0
        ("13.0", "11.0\n", "110"),
        ("13.0", "12.1\n", "120"),  # runs the code of 12.0
        ("12.4", "12.0\n8.6\n", "86"),
        ("12.4", "12.0\n", "80;90a"),
        ("13.0", "7.5\n", "80;90a;120"),  # too old to be used
    ],
)
def test_the_build_is_for_the_cards_that_are_here(
    tmp_path: Path, nvcc_version: str, cards: str, expected: str
) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    script = tmp_path / "ask.cmake"
    script.write_text(f'''include("{ROOT}/cuda/architectures.cmake")
hrun_cuda_architectures(found {nvcc_version} "{cards}")
message("${{found}}")
''')
    assert (
        subprocess.run(
            [cmake, "-P", script], capture_output=True, text=True, check=True
        ).stderr.strip()
        == expected
    )
