"""hrun: chat with a language model in the terminal, or ask it one thing.

hrun                                 chat with the demo model
hrun model.gguf                      chat with a model: a file, USER/MODEL[:TYPE] of Hugging Face or a short name
hrun model.gguf "Who wrote Emma?"    one answer
cat notes.txt | hrun -p "Sum up:"    one answer about a text
hrun -no-cnv -p "Once upon a time"   continue a text

hrun run | pull | list | rm | show | serve | convert | edit | ladder | embed | bench | perplexity | completion: see hrun help COMMAND
"""

from __future__ import annotations

import argparse
import math
import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import hrun
from hrun.cli.answer_view import AnswerView
from hrun.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Parser,
    add_model_options,
    add_sampling_options,
    complain,
    load,
    run,
)
from hrun.cli.generation import generation_options, shown, timings_line
from hrun.cli.models import HUB_NAME, resolve
from hrun.cli.options import add_flags
from hrun.cli.texts import read_text, system_message, unescaped
from hrun.errors import printable
from hrun.grammar import Grammar, grammar_of

_EPILOG = """\
Without -p and -f, text from a pipe is the prompt, and a terminal is a chat; with -p it follows the prompt after an empty
line (< /dev/null: none).  A prompt goes through the model's chat template and is answered once; where the model has none,
or with -no-cnv, it is continued as plain text.  The generated text alone is written to stdout.
In a chat: /help lists the commands, Ctrl-C stops an answer, a second one (or Ctrl-D) leaves.
Exit code 0; 1 after an error, 2 for a wrong flag, 130 after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    return run("hrun", _main, make_parser(), argv)


class _Parser(Parser):
    """Words may stand between flags."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


# Flags of llama.cpp that guides tell people to type and that change nothing here, and how many values each takes.
_WITHOUT_MEANING: tuple[tuple[tuple[str, ...], str | int], ...] = (
    (("-fa", "--flash-attn"), "?"), (("--jinja",), 0), (("--no-mmap",), 0), (("--mlock",), 0), (("--no-warmup",), 0),
    (("--no-perf",), 0),
)  # fmt: skip


class _Ignored(argparse.Action):
    def __call__(self, parser: Any, options: Any, values: Any, flag: str | None = None) -> None:
        if isinstance(values, str) and values not in ("on", "off", "auto", "0", "1"):
            parser.error(f"argument {flag}: '{values}' is not on, off or auto")
        print(f"hrun: {flag} is of llama.cpp and changes nothing here", file=sys.stderr)


def make_parser() -> Parser:
    parser = _Parser(
        prog="hrun",
        usage="hrun [MODEL [PROMPT ...]] [flags]",
        description=__doc__,
        epilog=_EPILOG,
    )
    add_model_options(parser)
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="MODEL [PROMPT]",
        help="a model as above, unless -m or -hf names one, and what to ask it",
    )
    for names, takes in _WITHOUT_MEANING:
        add(*names, dest="ignored", action=_Ignored, nargs=takes, help=argparse.SUPPRESS)
    add_flags(parser, "hf_repo", "ctx_size", "predict")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "-p", "--prompt", metavar="TEXT", help="the prompt (\\n, \\t, \\\\ are understood)"
    )
    prompt.add_argument(
        "-f", "--file", metavar="FILE", help="read the prompt from a file; - is stdin"
    )
    system = parser.add_mutually_exclusive_group()
    system.add_argument(
        "-sys", "--system-prompt", metavar="TEXT", help="the system message of a chat"
    )
    system.add_argument(
        "-sysf", "--system-prompt-file", metavar="FILE", help="the same from a file"
    )
    add(
        "--no-escape",
        dest="escape",
        action="store_false",
        help="leave backslashes in -p, -sys and -r alone",
    )
    add("-e", "--escape", dest="escape", action="store_true", default=True, help=argparse.SUPPRESS)
    add(
        "-cnv",
        "--conversation",
        dest="conversation",
        action="store_true",
        default=None,
        help="chat through the model's template; in a terminal -p is the first message, and the chat goes on",
    )
    add(
        "-no-cnv",
        "--no-conversation",
        dest="conversation",
        action="store_false",
        help="plain text, no chat template",
    )
    add(
        "--no-history",
        dest="history",
        action="store_false",
        help="keep neither the lines typed nor the last chat (else in ~/.local/state/hrun, for you alone)",
    )
    add("--resume", action="store_true", help="go on with the last chat in a terminal")
    add("-st", "--single-turn", action="store_true", help="exit after one answer")
    add(
        "-mli",
        "--multiline-input",
        action="store_true",
        help="Enter begins a new line, Alt-Enter sends",
    )
    add(
        "-r",
        "--reverse-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop before this text; may be repeated",
    )
    add(
        "-co",
        "--color",
        choices=["on", "off", "auto"],
        default="auto",
        help="colours in the chat (default auto)",
    )
    add(
        "--raw",
        dest="markdown",
        action="store_false",
        help="show answers as they come, without their markdown and with what the model thinks (a pipe always gets them so)",
    )
    add("--simple-io", action="store_true", help="no line editing in the chat")
    add(
        "--display-prompt",
        dest="display_prompt",
        action="store_true",
        default=False,
        help="write the prompt before its continuation",
    )
    add("--no-display-prompt", dest="display_prompt", action="store_false", help="do not (default)")
    add(
        "--show-timings",
        dest="show_timings",
        action="store_true",
        default=None,
        help="speeds and seed on stderr (default in a chat)",
    )
    add("--no-show-timings", dest="show_timings", action="store_false", help=argparse.SUPPRESS)
    add_flags(parser, "verbose")
    add_flags(parser, "version")
    group = add_sampling_options(
        parser, "Defaults are the model file's recommendations, else those shown."
    )
    group.add_argument(
        "-l",
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID(+/-)BIAS",
        help="e.g. 15043+1 or 15043-inf; may be repeated",
    )
    group.add_argument("--ignore-eos", action="store_true", help="never end by itself")
    add_grammar_flags(group)
    return parser


def add_grammar_flags(group: Any) -> None:
    """llama.cpp's."""
    bound = group.add_mutually_exclusive_group()
    bound.add_argument("--grammar", metavar="TEXT", help="a grammar that answers keep, in GBNF")
    bound.add_argument("--grammar-file", metavar="FILE", help="the same from a file")
    bound.add_argument(
        "-j", "--json-schema", metavar="SCHEMA", help="answers are JSON of this schema; {} for any"
    )
    bound.add_argument("-jf", "--json-schema-file", metavar="FILE", help="the same from a file")


def grammar(options: argparse.Namespace) -> Grammar | None:
    """The grammar that the flags give, if any."""
    schema = options.json_schema
    if options.json_schema_file:
        schema = read_text(options.json_schema_file)
    text = read_text(options.grammar_file) if options.grammar_file else options.grammar
    return grammar_of(json_schema=schema, grammar=text)


def _main(options: argparse.Namespace) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    named = options.model or options.hf_repo
    model = None if named or not options.words else options.words.pop(0)
    if options.words:
        if options.prompt is not None or options.file is not None:
            complain(
                "hrun",
                f"two prompts: '{printable(' '.join(options.words), 60)}' and that of -p or -f",
            )
            return EXIT_USAGE
        options.prompt, options.escape = " ".join(options.words), False
    prompt = _prompt(options)
    options.logit_bias = dict(_bias(text) for text in options.logit_bias)
    if options.escape:
        options.reverse_prompt = [unescaped(text) for text in options.reverse_prompt]
    options.bound = grammar(options)
    if options.hf_repo:
        from hrun.cli.hub import download

        options.model = str(download(options.hf_repo))
    elif model is not None:
        options.model = str(resolve(model))
    elif options.model and HUB_NAME.fullmatch(options.model) and not os.path.exists(options.model):
        raise hrun.ArgumentError(
            f"{options.model}: no such file; a model of Hugging Face is named without -m: hrun {options.model}"
        )
    # Somebody types: a chat goes on after -p only where that is asked for.
    typed = _is_terminal(sys.stdin) and (prompt is None or bool(options.conversation))
    if prompt is None and (not typed or options.conversation is False):
        return _no_prompt("give -p TEXT or -f FILE")
    if options.resume and not typed:
        complain("hrun", "--resume goes on with a chat in a terminal (with -p: -cnv -p TEXT)")
        return EXIT_USAGE
    with load(options, options.ctx_size, options.verbose) as runtime:
        chat = options.conversation
        if chat is None:
            asked = options.single_turn or system_message(options) is not None
            chat = asked or runtime.tokenizer.chat_template is not None
        if typed and (prompt is None or not options.single_turn):
            from hrun.cli.terminal import Terminal

            return Terminal(runtime, options, plain=not chat).run(prompt)
        if chat and not (prompt or "").strip():
            return _no_prompt("it is empty")
        if chat and runtime.tokenizer.chat_template is None:
            name = runtime.model_path
            return complain(
                "hrun", f"{name} has no chat template; -no-cnv without -sys continues plain text"
            )
        return _once(runtime, options, prompt or "", chat)


def _no_prompt(why: str) -> int:
    complain("hrun", f"no prompt: {why}")
    return EXIT_USAGE


def _once(runtime: hrun.Runtime, options: argparse.Namespace, prompt: str, chat: bool) -> int:
    """One completion or one answer: the generated text on stdout, all else on stderr."""
    given = generation_options(runtime, options)
    pieces: Iterator[hrun.Piece]
    messages: list[dict[str, str]] | None = None
    if chat:
        messages = [{"role": "user", "content": prompt}]
        if system := system_message(options):
            messages.insert(0, {"role": "system", "content": system})
        pieces = runtime.chat(messages, stream=True, **given)
        if options.display_prompt:
            print(prompt)
    else:
        pieces = runtime.generate(
            prompt, stream=True, parse_special=True, echo=options.display_prompt, **given
        )
    terminal = _is_terminal(sys.stdout)
    view = _view(runtime, options, messages) if terminal else None
    last, empty = "\n", True
    generation: hrun.Generation | None = None
    try:
        for piece in pieces:
            generation = piece.generation
            if piece.text:
                last, empty = piece.text, False
                text = shown(piece.text) if terminal else piece.text
                sys.stdout.write(view.feed(text) if view else text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if terminal:
            print(view.finish() if view else "")
        return EXIT_INTERRUPTED
    if view is not None:
        sys.stdout.write(view.finish())
    if terminal and not last.endswith("\n"):
        print()
    if generation is not None and empty and options.predict != 0:
        print(f"hrun: {_why_empty(runtime, options, chat, generation)}", file=sys.stderr)
    if options.show_timings and generation is not None:
        print(timings_line(generation), file=sys.stderr)
    return 0


def _view(
    runtime: hrun.Runtime, options: argparse.Namespace, messages: list[dict[str, str]] | None
) -> AnswerView | None:
    """Returns the view that shows the answer in a terminal; None on a dumb terminal."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return None
    colors = options.color == "on" or (options.color == "auto" and "NO_COLOR" not in os.environ)
    if messages is None or not (colors and options.markdown):
        return AnswerView(None, "", False)
    end = runtime.detokenize(runtime.chat_tokens(messages)[-16:])
    return AnswerView(runtime.tokenizer.chat_template, end, True)


def _why_empty(
    runtime: hrun.Runtime, options: argparse.Namespace, chat: bool, generation: hrun.Generation
) -> str:
    if generation.finish_reason != "stop":
        return f"the answer is empty: its {len(generation.tokens)} tokens are no text"
    ended = "the model, or -r," if options.reverse_prompt else "the model"
    cure = "another seed (-s) or wording may help; --ignore-eos forbids it"
    if not chat and runtime.tokenizer.chat_template is not None:
        cure = "it is trained for chats, and plain text asks it nothing: leave -no-cnv out"
    return f"the answer is empty: {ended} ended it at once; {cure}"


def _prompt(options: argparse.Namespace) -> str | None:
    """Returns the prompt from -p, -f or a pipe; text from -p comes before text from a pipe.  None
    where there is no prompt.
    """
    if options.file is not None:
        return read_text(options.file)
    if options.prompt is None:
        return None if sys.stdin is None or _is_terminal(sys.stdin) else read_text("-")
    prompt = unescaped(options.prompt) if options.escape else options.prompt
    piped = _read_slowly() if _is_pipe_or_file(sys.stdin) else ""
    return f"{prompt}\n\n{piped}" if piped else prompt


def _read_slowly() -> str:
    """Reads stdin to its end.  A user who left a pipe open by mistake learns that it is waited for."""
    if not select.select([sys.stdin], [], [], _PATIENCE)[0]:
        print(
            "hrun: waiting for the end of stdin, which follows -p; < /dev/null leaves it out",
            file=sys.stderr,
        )
    return read_text("-")


_PATIENCE = 2.0  # seconds


def _bias(text: str) -> tuple[int, float]:
    """llama.cpp's form: 15043+1, 15043-0.5, 15043-inf."""
    at = next((i for i, c in enumerate(text) if c in "+-"), -1)
    try:
        if at < 1 or math.isnan(value := float(text[at:])):
            raise ValueError
        return int(text[:at]), value
    except ValueError:
        raise hrun.ArgumentError(
            f"--logit-bias '{text}' is not of the form ID+BIAS or ID-BIAS, like 15043+1"
        ) from None


def _is_pipe_or_file(stream: Any) -> bool:
    """Can it hold text that somebody gave?  /dev/null and terminals cannot."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _is_terminal(stream: Any) -> bool:
    try:
        return os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main())
