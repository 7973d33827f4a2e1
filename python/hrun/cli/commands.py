"""The commands, and the places of their parsers."""

from __future__ import annotations

# Command -> the function that makes its parser: for completion in shells and for the documentation.
PARSERS = {
    "hrun": "hrun.cli.chat:make_parser",
    "hrun-serve": "hrun.serve.cli:make_parser",
    "hrun-convert": "hrun.cli.convert:make_parser",
    "hrun-inspect": "hrun.cli.inspect:make_parser",
    "hrun-perplexity": "hrun.cli.perplexity:make_parser",
    "hrun-bench": "hrun.cli.bench:make_parser",
    "hrun-edit": "hrun.cli.edit:make_parser",
    "hrun-embed": "hrun.cli.embed:make_parser",
    "hrun-ladder": "hrun.cli.ladder:make_parser",
}


# Word of hrun -> the command whose flags it takes.
SAME = {
    "run": "hrun", "serve": "hrun-serve", "convert": "hrun-convert", "show": "hrun-inspect",
    "perplexity": "hrun-perplexity", "bench": "hrun-bench", "edit": "hrun-edit", "embed": "hrun-embed",
    "ladder": "hrun-ladder",
}  # fmt: skip
