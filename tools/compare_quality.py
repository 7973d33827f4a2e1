"""Calibrated formats against llama.cpp's with an importance matrix: mean KL divergence to F16 on text that nobody saw.

    python tools/compare_quality.py CHECKPOINT CALIBRATION_TEXT TEXT --llama-bin DIR [--ours rtq3:best,...] [--theirs IQ3_S,...]

CHECKPOINT is a Hugging Face folder or a GGUF file, which is then the reference as it is.  Every contestant calibrates on CALIBRATION_TEXT and codes the matrices of the layers in one
format, llama.cpp's with --pure; embedding and head stay F16 for all.  The importance matrix is llama-imatrix's, of the whole
text; hrun uses the whole text too.  Scores are hrun-perplexity's, at a context of 256.  An entry of --ours is FORMAT:PRESET,
or BITS:PRESET for an allocation of that many bits per weight, or SIZEMB:PRESET for one of whole files of that many megabytes.  With
--whole nothing stays F16: llama.cpp's formats are its own mixtures, and files are compared by their size.  Prints a Markdown
table.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument(
        "--llama-bin",
        type=Path,
        help="folder of llama-imatrix and llama-quantize; without it, hrun's rows only",
    )
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

    print(
        "| coding | file, MB | bpw layers | mean KL divergence | median | 99 % | same top token |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        reference, base, model = (
            Path(folder) / "f16.gguf",
            Path(folder) / "base.kld",
            Path(folder) / "model.gguf",
        )
        if args.checkpoint.is_dir():
            run("hrun-convert", args.checkpoint, "-o", reference, "--type", "f16")
        else:
            reference = args.checkpoint
        kept = [] if args.whole else ["--token-embedding-type", "f16"]
        run(
            "hrun-perplexity",
            "-m",
            reference,
            "-f",
            args.text,
            "-c",
            str(args.ctx),
            "--chunks",
            str(args.chunks),
            "--kl-divergence-base",
            base,
        )

        def score(name: str) -> None:
            out = run(
                "hrun-perplexity", "-m", model, "--kl-divergence-base", base, "--kl-divergence"
            )
            mean, median, tail = (
                find(rf"{what}\s+KLD\s*:\s*{NUMBER}", out) for what in ("Mean", "Median", r"99\.0%")
            )
            top = find(rf"Same top p\s*:\s*{NUMBER}", out)
            print(
                f"| {name} | {model.stat().st_size / 1e6:.1f} | {bits_per_weight(model)[1]:.2f} | {mean:.5f} | {median:.5f} | {tail:.4f} | {top:.1f} % |",
                flush=True,
            )
            model.unlink()

        if args.llama_bin:
            os.environ["LD_LIBRARY_PATH"] = (
                f"{args.llama_bin}:{os.environ.get('LD_LIBRARY_PATH', '')}"
            )
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
            for name in filter(None, args.theirs.split(",")):
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
                score(f"llama.cpp {name}")
        moments = Path(folder) / "moments.npz"
        for entry in filter(None, args.ours.split(",")):
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
