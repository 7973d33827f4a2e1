#!/usr/bin/env python3
"""Compile the CUDA kernels and fail where a hot one spills registers, uses local memory, waits for products of warpgroups
where it did not ask to, or does without tensor cores.

    python tools/check_cuda_resources.py [--arch 80 --arch 90a] [--table]

Two sources: what ptxas says of each kernel (registers, spills, stack), and the instructions in the compiled code (opcodes of
local loads and stores and of the matrix units), read from the ELF sections of the objects, since cuobjdump is not part of every
toolkit.  A kernel is hot unless ``COLD`` names it.  A file is compiled for one architecture at a time, and not at all where a
current build with -DHRUN_CUDA_WORDS=ON has done so.  With ccache on the PATH a second run takes a second.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from build_emulated import is_current

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [
    "-std=c++20",
    "--fmad=false",
    "--expt-relaxed-constexpr",
    "-Xptxas=-v",
    "-Xcudafe=--diag_suppress=20012",
]
ARCHITECTURES = ("80", "90a")

# Kernels that may use local memory, and why.
COLD = {
    "Pack": "runs once per upload",
    "PackChunks": "runs once per upload",
    "MatmulPlain": "any format without a fast kernel: a block is decoded into an array",
    "DecodeRows": "a few rows of the embedding per pass: a block is decoded into an array",
}
COLD_FILES = {
    "pack_weight.cu",
    "rows.cu",
}  # nothing else in them multiplies matrices; compiling them takes longest

# Kernels that are nothing without tensor cores: opcode (the lowest 12 bits of an instruction, sm_80 to sm_120).
HMMA, IMMA, IGMMA = 0x23C, 0x237, 0xDF1
TENSOR = {
    "MatmulStream": IMMA,
    "MatmulTile": IMMA,
    "MatmulWarpgroups": IGMMA,
    "MatmulFloats": HMMA,
    "Multiply": HMMA,
    "FewQueries": HMMA,
    "ManyQueries": HMMA,
    "WideAttention": HMMA,
    "CodedAttention": IMMA,
}
LOCAL = {0x983: "LDL", 0x387: "STL"}
EM_CUDA = 190


def kind_of(name: str) -> str:
    """The name of a kernel's struct: MatmulStream for hrun::gpu::MatmulStream<hrun::RTQ3, 8>."""
    return re.sub(r"<.*", "", name).split("::")[-1]


@dataclass(frozen=True)
class Kernel:
    """One kernel compiled for one architecture; sizes in bytes per thread."""

    name: str  # hrun::gpu::MatmulStream<hrun::RTQ3, 8>
    file: str
    arch: str  # sm_90a
    registers: int
    stack: int
    spills: int
    opcodes: frozenset[int]
    injected: frozenset[str] = (
        frozenset()
    )  # what ptxas says of products of warpgroups: C7510 and its like

    @property
    def kind(self) -> str:
        """The name of its struct."""
        return kind_of(self.name)

    def has_code(self) -> bool:
        """Is it more than an empty shell for its architecture?"""
        if self.kind == "MatmulWarpgroups":
            return self.arch == "sm_90a"
        copies_in_bulk = self.kind == "MatmulStream" and self.name.endswith(", true>")
        return not copies_in_bulk or int(re.sub(r"\D", "", self.arch)) >= 90

    def problems(self) -> list[str]:
        """Returns the faults that a hot kernel must not have."""
        found = []
        if self.kind not in COLD:
            if self.spills:
                found.append(f"{self.spills} bytes of register spills")
            if self.stack:
                found.append(f"{self.stack} bytes of local memory")
            found += [
                f"{name} instructions" for code, name in LOCAL.items() if code in self.opcodes
            ]
        found += [f"ptxas has put in waits ({code})" for code in sorted(self.injected)]
        if self.kind in TENSOR and self.has_code() and TENSOR[self.kind] not in self.opcodes:
            found.append("no tensor-core instructions")
        return found


def sections(elf: bytes) -> dict[str, bytes]:
    """Name -> contents of a 64-bit little-endian ELF image."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_bytes, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    entries = [struct.unpack_from("<IIQQQQ", elf, table + i * entry_bytes) for i in range(count)]
    _, _, _, _, names_offset, names_bytes = entries[names_at]
    names = elf[names_offset : names_offset + names_bytes]
    return {
        names[e[0] : names.index(b"\0", e[0])].decode(): elf[e[4] : e[4] + e[5]]
        for e in entries
        if e[1] == 1
    }


def device_code(data: bytes) -> list[dict[str, bytes]]:
    """The device images in an object file, in their order: mangled kernel name -> instructions of 16 bytes."""
    images = []
    at = data.find(b"\x7fELF")
    while at >= 0:
        if struct.unpack_from("<H", data, at + 18)[0] == EM_CUDA:
            found = sections(data[at:]).items()
            images.append({n[len(".text.") :]: c for n, c in found if n.startswith(".text.")})
        at = data.find(b"\x7fELF", at + 4)
    return images


def opcodes_of(code: bytes) -> frozenset[int]:
    """The lowest twelve bits of every instruction."""
    return frozenset(
        struct.unpack_from("<H", code, i)[0] & 0xFFF for i in range(0, len(code) - 15, 16)
    )


def demangle(names: list[str]) -> dict[str, str]:
    """Mangled -> readable, without the noise that all kernels share."""
    if not shutil.which("c++filt"):
        return {n: n for n in names}
    text = subprocess.run(
        ["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.split("\n")
    short = [
        re.sub(r"\s+>", ">", re.sub(r"\(anonymous namespace\)::|^.*?run_kernel<", "", t))
        for t in text
    ]
    return {n: s[:-1] if s.endswith(">") else s for n, s in zip(names, short, strict=False)}


def built_object(source: Path, arch: str) -> tuple[bytes, str] | None:
    """What a build with HRUN_CUDA_WORDS has made of a kernel file for this architecture alone, and what ptxas said."""
    pattern = f"build/*/cuda/CMakeFiles/hrun_cuda.dir/kernels/{source.name}.o"
    for path in ROOT.glob(pattern) if source.parent == ROOT / "cuda" / "kernels" else ():
        words = path.with_name(path.name + ".words")
        if not words.exists() or not is_current(path):
            continue
        data, said = path.read_bytes(), words.read_text()
        if len(device_code(data)) == 1 and f"for 'sm_{arch}'" in said:
            return data, said
    return None


@functools.cache
def compile_object(nvcc: str, source: Path, arch: str) -> tuple[bytes, str]:
    """The device code of a file and what ptxas said; raises RuntimeError with the compiler's words."""
    built = built_object(source, arch)
    if built is not None:
        return built
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / (source.stem + ".cubin")
        command = [nvcc, *FLAGS, "--cubin", "-I", str(ROOT), "-I", str(ROOT / "cpp")]
        command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}", str(source), "-o", str(out)]
        if shutil.which("ccache"):
            command.insert(0, "ccache")
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")
        return out.read_bytes(), done.stdout + done.stderr


def compile_file(nvcc: str, source: Path, arch: str) -> list[Kernel]:
    """All kernels of one file; raises RuntimeError with the compiler's words."""
    data, said = compile_object(nvcc, source, arch)
    (image,) = device_code(data)
    pattern = re.compile(
        r"Compiling entry function '(\S+)' for '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        re.S,
    )
    found = pattern.findall(said)
    unknown = {m[0] for m in found} - image.keys()
    if unknown or (image and not found):
        raise RuntimeError(f"{source.name}: of {len(found)} kernels there is no code for {unknown}")
    injected: dict[str, set[str]] = {}
    for code, mangled in re.findall(r"\((C75\d\d)\).* in (?:the )?function '(\S+)'", said):
        injected.setdefault(mangled, set()).add(code)
    readable = demangle([m[0] for m in found])
    return [
        Kernel(
            readable[mangled],
            source.name,
            compiled_for,
            int(registers),
            int(stack),
            int(stores) + int(loads),
            opcodes_of(image[mangled]),
            frozenset(injected.get(mangled, ())),
        )
        for mangled, compiled_for, stack, stores, loads, registers in found
    ]


def find_nvcc() -> str | None:
    """nvcc on the PATH or in CUDACXX; None where there is none."""
    return shutil.which(os.environ.get("CUDACXX", "nvcc"))


def compile_all(nvcc: str, architectures: tuple[str, ...] = ARCHITECTURES) -> list[Kernel]:
    """All kernels but those of ``COLD_FILES``."""
    sources = [p for p in (ROOT / "cuda" / "kernels").glob("*.cu") if p.name not in COLD_FILES]
    # Matmuls take longest, though most of their text is in headers.
    sources.sort(key=lambda p: (not p.name.startswith("matmul_"), -p.stat().st_size))
    with ThreadPoolExecutor(2) as pool:
        parts = pool.map(
            lambda task: compile_file(nvcc, *task), [(p, a) for p in sources for a in architectures]
        )
        return [kernel for part in parts for kernel in part]


def main() -> int:
    """Print problems; 1 if there are any, 2 without nvcc."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--arch", action="append", help=f"compute capability; default: {', '.join(ARCHITECTURES)}"
    )
    parser.add_argument("--table", action="store_true", help="also print what every kernel uses")
    args = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("nvcc was not found", file=sys.stderr)
        return 2
    kernels = compile_all(nvcc, tuple(args.arch or ARCHITECTURES))
    if args.table:
        for k in sorted(kernels, key=lambda k: (k.file, k.name, k.arch)):
            print(f"{k.file:20} {k.arch:7} {k.registers:4} registers {k.stack:5} B local  {k.name}")
    failed = 0
    for k in kernels:
        for problem in k.problems():
            print(f"{k.file}: {k.name} for {k.arch}: {problem}")
            failed = 1
    print(f"{len(kernels)} kernels checked", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
