"""How far coded KV caches are from an fp16 one, and llama.cpp's from its own: KL divergence of the next token.

  python tools/cache_quality.py MODEL.gguf TEXT [TEXT ...] -c 1024 --chunks 4 --peer path/to/llama-perplexity
  python tools/cache_quality.py MODEL.gguf --write-texts FOLDER

The second form writes texts of four kinds: prose; questions with the model's own answers; code, which is hrun's own; many
languages.
The second half of each chunk is scored, by hrun-perplexity and by llama-perplexity alike.  The ratios are those of the
divergences on the same text: rtq4/rtq3 to q4_0, rtq8/rtq8 to q8_0, rtq3/rtq2 to q4_0.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAIRS = [("rtq8", "rtq8"), ("rtq4", "rtq4"), ("rtq4", "rtq3"), ("rtq3", "rtq2")]
PEERS = ["q8_0", "q4_0"]
RATIOS = [("rtq8/rtq8", "q8_0"), ("rtq4/rtq3", "q4_0"), ("rtq3/rtq2", "q4_0")]


def output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def divergence(text: str) -> float:
    found = re.search(r"(?:KL divergence|Mean\s+KLD)[^:]*:?\s+(-?[\d.]+(?:e-?\d+)?)", text)
    if not found:
        raise SystemExit(f"no divergence in\n{text[-2000:]}")
    return float(found.group(1))


def ours(options: argparse.Namespace, text: str, folder: Path) -> dict[str, float]:
    base = folder / "ours.bin"
    command = [
        sys.executable, "-m", "hrun.cli.perplexity", "-m", options.model, "-c", str(options.ctx_size),
        "--chunks", str(options.chunks), "-t", str(options.threads), "--kl-divergence-base", str(base),
    ]  # fmt: skip
    output_of([*command, "-f", text])
    return {
        f"{k}/{v}": divergence(output_of([*command, "--kl-divergence", "-ctk", k, "-ctv", v]))
        for k, v in options.pairs
    }


def theirs(options: argparse.Namespace, text: str, folder: Path) -> dict[str, float]:
    base = folder / "theirs.bin"
    command = [
        options.peer, "-m", options.model, "-f", text, "-c", str(options.ctx_size), "-b", str(options.ctx_size),
        "--chunks", str(options.chunks), "-t", str(options.threads), "--kl-divergence-base", str(base), "-fa", "on",
    ]  # fmt: skip
    output_of(command)
    return {
        kind: divergence(output_of([*command, "--kl-divergence", "-ctk", kind, "-ctv", kind]))
        for kind in PEERS
    }


def write_texts(model: str, folder: Path) -> None:
    from hrun.convert.auto_text import own_text
    from hrun.tokenizer import Tokenizer

    root = Path(__file__).resolve().parents[1]
    texts = root / "tests/data/text"
    decode = Tokenizer.from_gguf(model).decode
    kinds = {
        "prose": (texts / "valid.txt").read_text(),
        "chat": "\n".join(decode(ids) for ids in own_text(Path(model), 6000)),
        "code": "\n".join(p.read_text() for p in sorted((root / "python/hrun/serve").glob("*.py"))),
        "languages": (texts / "languages.txt").read_text()
        + (root / "python/hrun/convert/texts/languages.txt").read_text().replace("%%", ""),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in kinds.items():
        (folder / f"{kind}.txt").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("text", nargs="*")
    parser.add_argument("--write-texts", type=Path, metavar="FOLDER")
    parser.add_argument("-c", "--ctx-size", type=int, default=1024)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--peer", help="llama-perplexity of llama.cpp")
    parser.add_argument(
        "--pairs",
        type=lambda text: [tuple(p.split("/")) for p in text.split(",")],
        default=PAIRS,
        help="keys/values, with commas between",
    )
    options = parser.parse_args()
    if options.write_texts is not None:
        write_texts(options.model, options.write_texts)
    for text in options.text:
        with tempfile.TemporaryDirectory() as folder:
            found = ours(options, text, Path(folder))
            if options.peer:
                found |= theirs(options, text, Path(folder))
        print(f"{Path(options.model).name}, {Path(text).name}, {options.ctx_size} positions")
        for name, value in found.items():
            print(f"  {name:10} {value:.6f}")
        for name, peer in RATIOS:
            if name in found and peer in found:
                print(f"  {name} to {peer}: {found[name] / found[peer]:.3f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
