"""Commands in the README and in docs/ work as printed."""

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


SHELL = ["chat", "ladder", "edit"]
PYTHON = {
    "python-guide": "",
    "llama-compat": "",
    "gguf-types": "",
    "rtq-decoder": "",
    "langchain": "langchain_community",
}


def run(command: list[str], folder: Path = ROOT, **variables: str) -> str:
    """stdout of a command with the installed ones on the path; it must succeed and say something."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).strip()
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_tour_command(command):
    """Runs each line of the tour."""
    run(["bash", "-euo", "pipefail", "-c", command])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHELL if name in BLOCKS])
def test_shell_example(name, tmp_path):
    run(["bash", "-euo", "pipefail", "-c", BLOCKS[name]], OUT=str(tmp_path))


@pytest.mark.parametrize("name", [name for name in PYTHON if name in BLOCKS])
def test_python_examples(name):
    if PYTHON[name]:
        pytest.importorskip(PYTHON[name], reason=f"{PYTHON[name]} is not installed")
    run([sys.executable, "-c", BLOCKS[name]])


def test_every_block_is_run():
    elsewhere = {"install", "test", "tour", "python", "serve", "serve-python"}
    assert set(BLOCKS) - elsewhere <= {*SHELL, *PYTHON}


def test_python_example():
    assert "4096)" in run([sys.executable, "-c", BLOCKS["python"]])


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_documentation_builds(tmp_path):
    """The build is strict: no link leads nowhere."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    pytest.importorskip("starlette", reason="needs the extra hrun[serve]")
    run([sys.executable, "tools/build_docs.py", str(tmp_path)])
    flags = (tmp_path / "reference" / "flags" / "index.html").read_text(encoding="utf-8")
    assert "--cache-type-k" in flags and "--drain-timeout" in flags
    assert "max_tokens" in (tmp_path / "reference" / "api" / "index.html").read_text(
        encoding="utf-8"
    )
