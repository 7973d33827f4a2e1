"""The README's table of architectures, from the registry and from what the oracle tests compare.

PYTHONPATH=python:tests/support python tests/oracles/architecture_table.py
"""

from __future__ import annotations

from test_oracle_encoders import THEIRS
from test_oracle_llama_cpp import DIFFERENT

from hrun import _core
from tiny_encoders import ENCODERS
from tiny_transformers import TINY


def table() -> str:
    lines = [
        "| architecture | Hugging Face classes | same logits as transformers or, where it has no class (*), as its equations | "
        "its GGUF in llama.cpp |",
        "|---|---|---|---|",
    ]
    for architecture in _core.architectures():
        if not architecture.causal:
            continue
        names = [name for name, tiny in TINY.items() if tiny.architecture == architecture.name]
        same = [name for name in names if name not in DIFFERENT]
        shared = (
            "same logits"
            if len(same) == len(names)
            else (
                f"same logits, but for {', '.join(name for name in names if name in DIFFERENT)}"
                if same
                else f"other logits: {DIFFERENT[names[0]]}"
            )
        )
        classes = ", ".join(architecture.hf_classes)
        names = [f"{name}*" if TINY[name].reference else name for name in names]
        lines.append(f"| `{architecture.name}` | {classes} | {', '.join(names)} | {shared} |")
    return "\n".join(lines)


def encoder_table() -> str:
    lines = [
        "| encoder | Hugging Face classes | same vectors as transformers or, where it has no class (*), as its equations | "
        "files of llama.cpp's converter |",
        "|---|---|---|---|",
    ]
    for architecture in _core.architectures():
        if architecture.causal:
            continue
        names = [n for n, tiny in ENCODERS.items() if tiny.architecture == architecture.name]
        theirs = ", ".join(name for name in names if name in THEIRS)
        shared = f"same vectors: {theirs}" if theirs else "not compared"
        names = [f"{name}*" if ENCODERS[name].reference else name for name in names]
        classes = ", ".join(architecture.hf_classes)
        lines.append(f"| `{architecture.name}` | {classes} | {', '.join(names)} | {shared} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), encoder_table(), sep="\n\n")
