"""Commands in the README work as printed."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
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


def test_server(tmp_path):
    """The two commands, and OpenAI's client where it is installed; on a free port."""
    pytest.importorskip("starlette", reason="needs the extra hrun[serve]")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shell = BLOCKS["serve"].replace("8080", port) + "\necho\n"
    client = BLOCKS["serve-python"].replace("8080", port)
    has_client = importlib.util.find_spec("openai") is not None
    if has_client:
        (tmp_path / "client.py").write_text(client)
        shell += f"{sys.executable} {tmp_path}/client.py\n"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill %1; wait' EXIT\n{shell}"],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    answer, _, streamed = done.stdout.strip().partition("\n")
    assert "Jane Austen" in json.loads(answer)["choices"][0]["message"]["content"]
    assert not has_client or streamed.strip()


def test_install_and_test_commands_are_named():
    assert "pip install ." in BLOCKS["install"] and "pytest" in BLOCKS["test"]
