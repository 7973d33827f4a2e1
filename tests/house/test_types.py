"""A type checker finds wrong names and types in a user's code before it runs, and finds nothing in
code that is right.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hrun
from hrun import options
from hrun._core import samplers

PACKAGE = Path(hrun.__file__).resolve().parents[1]
SOURCE = Path(__file__).resolve().parents[2] / "python"
CACHE = SOURCE.parent / "build" / "mypy"  # a second run reads what changed

RIGHT = """
import asyncio
from collections.abc import Iterator
from hrun import Generation, ModelFileError, Piece, Runtime
from hrun.options import GenerateOptions, Sampling

def use(rt: Runtime, flag: bool) -> None:
    one: Generation = rt.generate("a", max_tokens=5, temperature=0.5, top_k=3, stop=["x"])
    ids: Generation = rt.generate([1, 2, 3], seed=1)
    many: list[Generation] = rt.generate(["a", "b"], max_tokens=5)
    pieces: Iterator[Piece] = rt.generate("a", stream=True)
    either: Generation | Iterator[Piece] = rt.generate("a", stream=flag)
    ask = [{"role": "user", "content": "Hi"}]
    answer: Generation = rt.chat(ask, min_p=0.1, template_variables={"x": 1})
    streamed: Iterator[Piece] = rt.chat(ask, stream=True, max_tokens=5)
    rt.chat(ask, json_schema={"type": "object"})
    rt.generate("a", choice=["x", "y"])
    text: str = one.text + answer.text
    kept: Sampling = {"temperature": 0.1}
    whole: GenerateOptions = {"max_tokens": 3, "top_p": 0.9}
    rt.generate("a", **whole)
    rt.generate("a", max_tokens=3, **kept)

async def later(rt: Runtime) -> Generation:
    async for piece in rt.astream("a", max_tokens=3):
        print(piece.text)
    await rt.achat([{"role": "user", "content": "Hi"}], seed=1, max_tokens=3)
    return await rt.agenerate("a", max_tokens=3)

try:
    use(Runtime("x.gguf", n_ctx=5), True)
except ModelFileError as error:
    print(str(error))
"""
# Each line, alone in a coroutine with rt and ask, is an error.
WRONG = [
    'rt.generate("hi", max_tokenz=5)',
    'rt.generate("hi", temperature="hot")',
    'rt.generate("hi", stop=5)',
    'rt.generate("hi", max_tokens="5")',
    'rt.generate("hi", stream=True).text',
    'rt.generate("hi", tools=[])',
    "rt.chat(ask, max_new_tokens=5)",
    "rt.chat(ask, echo=True)",
    'rt.chat(ask, top_k="40")',
    "rt.chat(5)",
    'rt.generate("a", regex=5)',
    'await rt.agenerate("hi", max_tokenz=5)',
    'rt.astream("hi", temperature="hot")',
    "await rt.achat(ask, parse_special=True)",
    'Runtime("m.gguf", n_contxt=5)',
]


def test_the_options_are_those_of_the_registry() -> None:
    kinds = {"int": "int", "float": "float"}
    names = {row.name: kinds[row.type] for row in samplers()}
    found = {k: getattr(v, "__forward_arg__", v) for k, v in options.Sampling.__annotations__.items()}  # fmt: skip
    assert found == names


@pytest.mark.slow
def test_a_type_checker_finds_what_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "right.py").write_text(RIGHT)
    head = "from hrun import Runtime\nask = [{'role': 'user', 'content': 'Hi'}]\nasync def f(rt: Runtime) -> None:\n"
    lines = [f"    {line}" for line in WRONG]
    (tmp_path / "wrong.py").write_text(head + "\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache"),
         "right.py", "wrong.py"],
        cwd=tmp_path, capture_output=True, text=True, env={"MYPYPATH": str(PACKAGE), "PATH": ""},
    )  # fmt: skip
    assert "right.py" not in done.stdout, done.stdout
    first = head.count("\n") + 1
    found = {int(n) - first for n in re.findall(r"^wrong\.py:(\d+): error", done.stdout, re.M)}
    missed = [line for i, line in enumerate(WRONG) if i not in found]
    assert not missed, done.stdout + done.stderr


@pytest.mark.slow
def test_the_package_is_typed() -> None:
    """mypy --strict finds nothing in hrun itself."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(CACHE), str(SOURCE / "hrun")],
        capture_output=True, text=True, env={"MYPYPATH": str(SOURCE), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
