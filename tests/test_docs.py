"""Commands in the README work as printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from test_house import ROOT, load_tool

BLOCKS = load_tool("readme_command").commands()
COMMANDS = [line for line in BLOCKS["tour"].splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_tour_command(command):
    """Each line of the tour, with the installed commands on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_python_example():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS["python"]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "(2, 4096)" in done.stdout or "4096)" in done.stdout


def test_install_and_test_commands_are_named():
    assert "pip install ." in BLOCKS["install"] and "pytest" in BLOCKS["test"]
