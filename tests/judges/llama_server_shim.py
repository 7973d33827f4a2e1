"""Stands where llama-server's tests look for their server: takes its flags and runs hrun-serve.

HRUN_JUDGE_MODEL is the model, whichever the tests name: their own are downloads.
"""

from __future__ import annotations

import os
import sys

# Flags with a value that mean the same here, and those that are dropped: with a value, without one.
SAME = {
    "--host", "--port", "--temp", "--seed", "--batch-size", "--threads", "--alias", "--parallel", "--n-predict", "--api-key",
    "--pooling", "--chat-template", "--chat-template-file", "--reasoning-format", "--cors-origins",
}  # fmt: skip
VALUE = {
    "--hf-repo", "--hf-file", "--model", "--model-url", "--ubatch-size", "--n-gpu-layers", "-fa", "--tags", "--cache-ram",
    "--reasoning", "--media-path",
}  # fmt: skip
SWITCHES = {"--no-ui", "--slots"}
ALONE = {
    "--offline", "--cont-batching", "--embedding", "--reranking", "--metrics", "--kv-unified", "--swa-full",
    "--no-slots", "--jinja", "--no-jinja", "--verbose", "--no-mmproj", "--no-cache-idle-slots",
}  # fmt: skip


def translated(flags: list[str]) -> list[str]:
    """hrun-serve's flags.  A flag that neither has is an error."""
    out: list[str] = []
    values: dict[str, str] = {}
    rest = iter(flags)
    for flag in rest:
        if flag in SAME:
            values[flag] = next(rest)
            out += [flag, values[flag]]
        elif flag == "--ctx-size":  # llama-server shares it among its slots
            values[flag] = next(rest)
        elif flag in VALUE:
            next(rest)
        elif flag in SWITCHES:
            out.append(flag)
        elif flag not in ALONE:
            raise SystemExit(f"llama_server_shim: {flag} has no counterpart")
    if "--ctx-size" in values:
        n = int(values["--ctx-size"]) // int(values.get("--parallel", 1))
        out += ["--ctx-size", str(n)]
    return out


if __name__ == "__main__":
    command = [sys.executable, "-m", "hrun.serve", "-m", os.environ["HRUN_JUDGE_MODEL"]]
    os.execv(
        sys.executable, command + translated(sys.argv[1:]) + ["--public-metrics", "--any-model"]
    )
