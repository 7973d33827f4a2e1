"""Calibrated formats against llama.cpp's with an importance matrix: mean KL divergence to F16 on text that nobody saw.

    python tools/compare_quality.py CHECKPOINT CALIBRATION_TEXT TEXT --llama-bin DIR [--ours rtq3:best,...] [--theirs IQ3_S,...]

CHECKPOINT is a Hugging Face folder or a GGUF file, which is then the reference as it is.  Every contestant calibrates on CALIBRATION_TEXT and codes the matrices of the layers in one
format, llama.cpp's with --pure; embedding and head stay F16 for all.  The importance matrix is llama-imatrix's, of the whole
text; hrun uses the whole text too.  Scores are hrun-perplexity's, at a context of 256.  An entry of --ours is FORMAT:PRESET,
or BITS:PRESET for an allocation of that many bits per weight, or SIZEMB:PRESET for one of whole files of that many megabytes, or
the path of a file that is there.  With --whole nothing stays F16: llama.cpp's formats are its own mixtures, and files are compared
by their size.  With --judge llama the scores are llama-perplexity's: what hrun coded is read back to F16 for it, rotation undone,
and so is the source in the first row, which shows what the judge's own rounding costs.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from quality import bits_per_weight, find, run

NUMBER = r"(-?[0-9.]+(?:e-?[0-9]+)?)"
OURS = "rtq2:best,rtq3:normal,rtq3:best,3.25:best,rtq4:best"
THEIRS = "IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS,Q4_K_S"


class Judge:
    """Scores of models against the logits of one, kept in a file of `folder`."""

    def __init__(self, folder: Path, text: Path, ctx: int, chunks: int, llama_bin: Path | None):
        self._folder, self._llama = folder, llama_bin
        self._base = folder / "base.kld"
        self._text = ["-f", text, "-c", str(ctx), "--chunks", str(chunks)]
        self._command = llama_bin / "llama-perplexity" if llama_bin else "hrun-perplexity"

    def reference(self, model: Path) -> None:
        run(self._command, "-m", model, *self._text, "--kl-divergence-base", self._base)

    def score(self, model: Path, is_ours: bool) -> tuple[float, float, float, float]:
        """Mean, median and 99 % of the KL divergence; share of equal first choices, in percent."""
        readable = model
        if self._llama and is_ours:
            readable = self._folder / "read-back.gguf"
            run("hrun-convert", model, "-o", readable, "--type", "f16", "--pure", "--no-check")
        text = self._text if self._llama else []
        base = ["--kl-divergence-base", self._base, "--kl-divergence"]
        out = run(self._command, "-m", readable, *text, *base)
        mean, median, tail = (
            find(rf"{what}\s+KLD\s*:\s*{NUMBER}", out) for what in ("Mean", "Median", r"99\.0%")
        )
        return mean, median, tail, find(rf"Same top p\s*:\s*{NUMBER}", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument(
        "--llama-bin",
        type=Path,
        help="folder of llama-imatrix, llama-quantize and llama-perplexity; without it, hrun's rows only",
    )
    parser.add_argument("--judge", choices=("hrun", "llama"), default="hrun")
    parser.add_argument(
        "--whole",
        action="store_true",
        help="embedding and head are coded too; compare by file size",
    )
    parser.add_argument("--ours", default=OURS)
    parser.add_argument("--theirs", default=THEIRS)
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=100)
    args = parser.parse_args()
    if args.judge == "llama" and not args.llama_bin:
        parser.error("--judge llama wants --llama-bin")

    print(
        "| coding | file, MB | bpw layers | mean KL divergence | median | 99 % | same top token |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        reference, model = Path(folder) / "f16.gguf", Path(folder) / "model.gguf"
        if args.checkpoint.is_dir():
            run("hrun-convert", args.checkpoint, "-o", reference, "--type", "f16")
        else:
            reference = args.checkpoint
        kept = [] if args.whole else ["--token-embedding-type", "f16"]
        if args.llama_bin:
            os.environ["LD_LIBRARY_PATH"] = (
                f"{args.llama_bin}:{os.environ.get('LD_LIBRARY_PATH', '')}"
            )
        by_llama = args.llama_bin if args.judge == "llama" else None
        judge = Judge(Path(folder), args.text, args.ctx, args.chunks, by_llama)
        judge.reference(reference)

        def score(name: str, file: Path = model, is_ours: bool = True) -> None:
            mean, median, tail, top = judge.score(file, is_ours)
            size, bits = file.stat().st_size / 1e6, bits_per_weight(file)[1]
            print(
                f"| {name} | {size:.1f} | {bits:.2f} | {mean:.5f} | {median:.5f} | {tail:.4f} | {top:.1f} % |",
                flush=True,
            )
            if file == model:
                model.unlink()

        if by_llama:
            score("the source, read back", reference)
        theirs = [name for name in args.theirs.split(",") if name]
        if args.llama_bin and theirs:
            matrix = Path(folder) / "imatrix.gguf"
            run(
                args.llama_bin / "llama-imatrix",
                "-m",
                reference,
                "-f",
                args.calibration,
                "-o",
                matrix,
                "-c",
                "512",
            )
            for name in theirs:
                run(
                    args.llama_bin / "llama-quantize",
                    "--imatrix",
                    matrix,
                    "--allow-requantize",
                    *([] if args.whole else ["--pure", *kept]),
                    reference,
                    model,
                    name,
                )
                score(f"llama.cpp {name}", is_ours=False)
        moments = Path(folder) / "moments.npz"
        for entry in filter(None, args.ours.split(",")):
            if Path(entry).is_file():
                score(f"hrun {Path(entry).name}", Path(entry))
                continue
            what, preset = entry.split(":")
            if what.endswith("MB"):
                kind = ["--target-size", f"{int(float(what[:-2]) * 1e6 / 1024)}K"]
            else:
                kind = ["--target-bpw", what] if what[0].isdigit() else ["--type", what]
            calibration = (
                ["--moments", moments]
                if moments.exists()
                else ["--calibrate-tokens", "0", "--save-moments", moments]
            )
            run(
                "hrun-convert",
                args.checkpoint,
                "-o",
                model,
                *kind,
                "--preset",
                preset,
                *kept,
                "--calibrate",
                args.calibration,
                *calibration,
            )
            score(f"hrun {what} {preset}")


if __name__ == "__main__":
    main()
