"""Judges that no one here wrote, as far as what they need is on this machine; tests/judges has all of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llama_cpp_build
from hrun import Runtime
from live import Live

pytestmark = pytest.mark.slow

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
    root = llama_cpp_build.source()
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


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_clients_of_openai_and_anthropic(serve_path: Path, name: str) -> None:
    pytest.importorskip(name, reason=f"needs the package {name}")
    with Live(Runtime(serve_path, n_ctx=512, n_threads=1)) as live:
        run("sdk_clients.py", f"http://127.0.0.1:{live.port}", name)


def test_litellm_and_langchain(serve_path: Path) -> None:
    for package in ("litellm", "langchain_openai"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    with Live(Runtime(serve_path, n_ctx=2048, n_threads=1)) as live:
        run("agent_clients.py", f"http://127.0.0.1:{live.port}", LITELLM_LOCAL_MODEL_COST_MAP="True")  # fmt: skip


def test_lm_evaluation_harness(serve_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the package lm-eval[api]")
    found = tmp_path / "found.json"
    with Live(Runtime(serve_path, n_ctx=512, n_threads=1)) as live:
        run("lm_eval_ask.py", f"http://127.0.0.1:{live.port}", str(found), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))  # fmt: skip
    run("lm_eval_check.py", str(serve_path), str(found))


def run(name: str, *arguments: str, **environment: str) -> None:
    """Runs a judge in a process of its own."""
    subprocess.run(
        [sys.executable, str(JUDGES / name), *arguments],
        check=True, timeout=300, env=os.environ | environment,
    )  # fmt: skip
