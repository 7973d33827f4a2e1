"""The NEON tiers, cross-compiled and run under qemu-user: the bits of the scalar tier, and of this machine's.

    cmake --preset aarch64 && cmake --build --preset aarch64 --target test_tiers_agree
    cmake --preset dev && cmake --build --preset dev --target test_tiers_agree

build what is run here; Debian's packages are g++-aarch64-linux-gnu and qemu-user.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CROSS = ROOT / "build/aarch64/tests/cpp/test_tiers_agree"
HOST = ROOT / "build/dev/tests/cpp/test_tiers_agree"


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def under_qemu() -> str:
    if not CROSS.exists():
        pytest.skip(
            f"no {CROSS.relative_to(ROOT)}: cmake --preset aarch64 && cmake --build --preset aarch64 --target test_tiers_agree"
        )
    if not shutil.which("qemu-aarch64"):
        pytest.skip("qemu-aarch64 is not installed")
    return output_of(["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu", str(CROSS)])


def test_the_neon_tiers_give_the_bits_of_the_scalar_tier(under_qemu: str) -> None:
    tiers = re.findall(r"tier (\w+): 0 of (\d+) results differ", under_qemu)
    assert [name for name, _ in tiers] == ["neon", "neoni8mm"] and all(
        int(n) > 100 for _, n in tiers
    )


def test_scalar_results_are_the_same_on_both_architectures(under_qemu: str) -> None:
    if platform.machine() != "x86_64" or not HOST.exists():
        pytest.skip(f"no {HOST.relative_to(ROOT)}")
    assert output_of([str(HOST)]).splitlines()[0] == under_qemu.splitlines()[0]
