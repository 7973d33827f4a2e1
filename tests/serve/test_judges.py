"""Judges that no one here wrote, as far as what they need is on this machine; tests/judges has all of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrun import Runtime
from live import Live

JUDGES = Path(__file__).resolve().parents[1] / "judges"


def judge_named(name: str):
    spec = importlib.util.spec_from_file_location(f"judge_{name}", JUDGES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def folder_in(variable: str, why: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no {why}")
    return Path(os.environ[variable])


def test_llama_cpps_cases_of_its_chat_parser() -> None:
    root = folder_in("HRUN_LLAMA_CPP", "checkout of llama.cpp")
    triples = judge_named("chat_triples")
    if not (root / "tests" / "test-chat.cpp").exists():
        pytest.skip("the checkout has no tests")
    agree, _, differ = triples.judge(root)
    assert triples.unexpected(differ) == []
    assert sum(agree.values()) >= 200 or len(triples.cases_of(root)) < 250  # of another version


def test_json_schema_test_suite(serve_path: Path) -> None:
    pytest.importorskip("jsonschema")
    pytest.importorskip("llguidance", reason="needs the extra hrun[grammar]")
    root = folder_in("HRUN_JSON_SCHEMA_SUITE", "checkout of JSON-Schema-Test-Suite")
    schemas = judge_named("json_schemas")
    with Runtime(serve_path, n_ctx=512, n_threads=1) as runtime:
        verdict = schemas.judge(schemas.cases_of(root / "tests" / "draft2020-12"), runtime)
    assert verdict.faults == [] and verdict.n_schemas > 400 and verdict.n_answers > 50


def test_openais_and_anthropics_clients(serve_path: Path) -> None:
    pytest.importorskip("openai", reason="needs the package openai")
    pytest.importorskip("anthropic", reason="needs the package anthropic")
    with Live(Runtime(serve_path, n_ctx=512, n_threads=1)) as live:
        subprocess.run(
            [sys.executable, str(JUDGES / "sdk_clients.py"), f"http://127.0.0.1:{live.port}"],
            check=True, timeout=120,
        )  # fmt: skip
