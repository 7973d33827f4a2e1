"""Measure what a format costs: bits per weight, perplexity, KL divergence, and answers that stay right.

    python tools/quality.py CHECKPOINT TEXT [--books books.json] [--types f16,q8_0,...] [--chunks 100] [--ctx 512]

CHECKPOINT is a Hugging Face folder.  Each type is converted with `hrun-convert` into a temporary folder, then scored with
`hrun-perplexity` on TEXT, which no calibration has seen; the KL divergence is to the model in F16.  With --books, 100
[author, title] pairs drawn with a fixed seed are asked as "Who wrote TITLE?" (greedy, the model's own chat template); an
answer counts if it names the author.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TYPES = "f16,q8_0,q4_0,iq3_s,itq3_s,rtq3"
NUMBER = r"(-?[0-9.]+(?:e-?[0-9]+)?)"


def run(*command: str | Path) -> str:
    """Output of a command, both streams; raises with them if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def find(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if not match:
        raise SystemExit(f"no match for {pattern!r} in:\n{text}")
    return float(match.group(1))


def bits_per_weight(model: Path) -> tuple[float, float]:
    """Bits per weight of the whole file's tensors, and of the matrices in the layers."""
    from hrun import _core

    total_bits = total = layer_bits = layer = 0
    for tensor in _core.GGUFFile(str(model)).tensors:
        weights = 1
        for n in tensor.shape:
            weights *= n
        total_bits, total = total_bits + 8 * tensor.n_bytes, total + weights
        if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
            layer_bits, layer = layer_bits + 8 * tensor.n_bytes, layer + weights
    return total_bits / total, layer_bits / layer


def share_of_right_answers(model: Path, books: list[list[str]]) -> float:
    from hrun import Runtime

    right = 0
    with Runtime(str(model), n_ctx=512) as runtime:
        for author, title in books:
            answer = runtime.chat(
                [{"role": "user", "content": f"Who wrote {title}?"}], temperature=0, max_tokens=48
            )
            right += author.lower() in answer.text.lower()
    return right / len(books)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--books", type=Path)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--ctx", type=int, default=512)
    args = parser.parse_args()
    books = []
    if args.books:
        pairs = [
            b
            for b in json.loads(args.books.read_text(encoding="utf-8"))
            if b[0] not in ("Anonymous", "Various")
        ]
        books = random.Random(1).sample(pairs, 100)

    print(
        f"| type | bpw layers | bpw file | perplexity | mean KL divergence | same top token |{' right answers |' if books else ''}"
    )
    print(f"|---|---|---|---|---|---|{'---|' if books else ''}")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.kld"
        reference = Path(folder) / "f16.gguf"
        run("hrun-convert", args.checkpoint, "-o", reference, "--type", "f16")
        common = ["-f", args.text, "-c", str(args.ctx), "--chunks", str(args.chunks)]
        run("hrun-perplexity", "-m", reference, *common, "--kl-divergence-base", base)
        for name in args.types.split(","):
            model = Path(folder) / f"{name}.gguf"
            if name != "f16":
                run("hrun-convert", args.checkpoint, "-o", model, "--type", name)
            scores = run("hrun-perplexity", "-m", model, *common)
            compared = run(
                "hrun-perplexity",
                "-m",
                model,
                *common,
                "--kl-divergence-base",
                base,
                "--kl-divergence",
            )
            whole, layers = bits_per_weight(model)
            perplexity = find(rf"PPL = {NUMBER}", scores)
            divergence = find(rf"Mean\s+KLD\s*:\s*{NUMBER}", compared)
            top = find(rf"Same top p\s*:\s*{NUMBER}", compared)
            row = f"| {name} | {layers:.2f} | {whole:.2f} | {perplexity:.3f} | {divergence:.4f} | {top:.1f} % |"
            if books:
                row += f" {100 * share_of_right_answers(model, books):.0f} % |"
            print(row, flush=True)
            model.unlink()
            sys.stdout.flush()


if __name__ == "__main__":
    main()
