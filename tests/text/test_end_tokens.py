"""Tests the tokens that end a generation: names, roles and lists of the file; control tokens as
stop strings.
"""

from __future__ import annotations

from typing import Any

import pytest

from hrun import Tokenizer
from hrun.end_tokens import END_NAMES
from hrun.generation import Answer, Job
from hrun.tokenizer import BYTE, CONTROL, NORMAL, USER_DEFINED


def made(*names: str, kind: int = CONTROL, **changes: Any) -> Tokenizer:
    """A vocabulary of bytes, from id 0 on, then "ab", then the names from 257 on."""
    tokens = [*(f"<0x{b:02X}>" for b in range(256)), "ab", *names]
    values: dict[str, Any] = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * len(tokens),
        "token_type": [BYTE] * 256 + [NORMAL] + [kind] * len(names),
        "add_space_prefix": False,
        "add_bos_token": False,
        **changes,
    }
    return Tokenizer({f"tokenizer.ggml.{k}": v for k, v in values.items()}, "ends.gguf")


def ends(tokenizer: Tokenizer) -> set[str]:
    return {tokenizer.tokens[i] for i in tokenizer.end_ids}


HARMONY = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]


@pytest.mark.parametrize(
    ("names", "roles", "want"),
    [
        (HARMONY, {"eos": 261}, {"<|return|>", "<|call|>"}),
        (HARMONY, {"eos": 261, "eot": 260}, {"<|return|>", "<|call|>"}),  # written by a converter
        (HARMONY[:5], {}, {"<|return|>"}),
        (["<|end|>", "<|flush|>", "<|calls|>"], {}, {"<|flush|>", "<|calls|>"}),
        (["<|end|>", "<|endoftext|>"], {"eos": 258}, {"<|end|>", "<|endoftext|>"}),  # Phi 3
        (["x", "y", "z", "v", "w"], {"eos": 257, "eot": 258, "eom": 259}, {"x", "y", "z"}),
        (["x", "y", "z"], {"fim_pad": 257, "fim_rep": 258, "fim_sep": 259}, {"x", "y", "z"}),
        (["x", "y"], {"bos": 257, "padding": 258, "unknown": 258}, set()),
        (["</s>"], {}, {"</s>"}),
        (["<turn|>", "<|tool_response>", "<eos>"], {}, {"<turn|>", "<|tool_response>", "<eos>"}),
        (["<|im_start|>", "<|user|>"], {}, set()),
    ],
)
def test_names_and_roles(names: list[str], roles: dict[str, int], want: set[str]) -> None:
    assert ends(made(*names, **{f"{role}_token_id": i for role, i in roles.items()})) == want


@pytest.mark.parametrize("n", range(5))
def test_a_list_of_any_length(n: int) -> None:
    names = [f"<e{i}>" for i in range(5)]
    tokenizer = made(*names, eos_token_id=257, eos_token_ids=[257 + i for i in range(n)])
    assert ends(tokenizer) == set(names[: max(n, 1)])


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED])
@pytest.mark.parametrize("name", sorted(END_NAMES))
def test_an_end_stored_with_another_type(name: str, kind: int) -> None:
    tokenizer = made(name, kind=kind)
    assert tokenizer.end_ids == {257} and tokenizer.is_control(257)
    assert 257 not in tokenizer.encode(f"a{name}b")  # a user's text stays text
    assert tokenizer.encode(f"a{name}", parse_special=True)[-1] == 257


def test_html_is_no_end() -> None:
    assert made("</s>", kind=USER_DEFINED).end_ids == frozenset()
    assert made("</s>", kind=USER_DEFINED, eos_token_id=257).end_ids == {257}


# ---- control tokens as stop strings


def answer(stops: list[str], *fed: str) -> tuple[str, bool]:
    tokenizer = made("<|im_start|>", "<|user|>")
    job = Job(
        prompt=[1], prompt_text="", max_tokens=9, seed=0, sampling={}, logit_bias={}, stops=stops,
        strip_space=False, logprobs=None, grammar=None, era=None,
    )  # fmt: skip
    got = Answer(job, tokenizer)
    ids = [tokenizer.tokens.index(t) if t in tokenizer.tokens else ord(t) for t in fed]
    text = ""
    for i in ids:
        text += got.feed(i).text
        if got.stopped:
            break
    last = got.finish("length")
    assert last.generation is not None and last.generation.text == text + last.text
    assert (last.finish_reason == "stop") == got.stopped
    return last.generation.text, got.stopped


@pytest.mark.parametrize(
    ("stops", "fed", "want", "stopped"),
    [
        (["<|im_start|>"], ["ab", "<|im_start|>", "c"], "ab", True),
        (["<|im_start|>"], ["ab", "<|user|>", "c"], "abc", False),
        (["\n<|im_start|>"], ["ab", "\n", "<|im_start|>"], "ab", True),
        (["\n<|im_start|>u"], ["\n", "<|im_start|>", "v"], "\nv", False),
        (["<|im_start|>u"], ["a", "<|im_start|>", "u", "x"], "a", True),
        (["<|im_start|><|user|>"], ["a", "<|im_start|>", "<|user|>"], "a", True),
        (["<|im_start|><|user|>"], ["a", "<|im_start|>", "b", "<|user|>", "c"], "abc", False),
        (["<|im_start|>x"], ["a", "<|im_start|>"], "a", False),
        (["bc"], ["b", "<|im_start|>", "c"], "", True),  # in what is shown
        (["<|im"], [*"x<|im"], "x", True),
    ],
)
def test_control_tokens_in_stop_strings(
    stops: list[str], fed: list[str], want: str, stopped: bool
) -> None:
    assert answer(stops, *fed) == (want, stopped)
