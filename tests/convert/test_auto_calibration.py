"""Calibration without a file, and the check of the finished file."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from hrun._core import GGUFFile
from hrun.cli.convert import main
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.auto_text import (
    KINDS,
    AutoText,
    bundled_text,
    open_runtime,
    passages,
    prompts,
)
from hrun.convert.self_check import alike, check, greedy_answers
from hrun.convert.text import chunks_of
from whole_model import whole_differences

pytestmark = pytest.mark.slow

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}<assistant>"
)


def test_a_share_of_every_kind_is_never_calibrated_on() -> None:
    for seen, unseen in ((passages(k, False), passages(k, True)) for k in KINDS):
        assert seen and unseen and not set(seen) & set(unseen)
        assert all(len(text) > 40 for text in (*seen, *unseen))
    assert len(prompts(True)) == 12 and len({*prompts(True), *prompts(False)}) == 96


@pytest.mark.parametrize("template", [CHATML, None])
def test_the_same_tokens_for_any_threads(
    template: str | None, tiny_model: Callable[..., Path]
) -> None:
    path = tiny_model(tied=False, chat_template=template)
    texts = [AutoText(2048, n_threads) for n_threads in (1, 2)]
    first, second = (text.tokens(lambda: path) for text in texts)
    assert list(first) == list(second)
    assert 1800 < len(first) < 7000 and texts[0].n_own >= 1000


def test_greedy_answers_are_compared_to_the_first_difference() -> None:
    assert alike([1, 2, 3, -1], [1, 2, 3, -1]) == 4
    assert alike([1, 2, 3, -1], [1, 2, 4, 3]) == 2
    assert alike([1, 2], [1, 2, 3]) == 2 and alike([], [1]) == 0


def test_a_model_is_like_itself(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(tied=False, chat_template=CHATML)
    found = check(open_source(path), path, tmp_path, 1 << 30)
    assert found.mean_divergence == 0 and found.same_top == found.greedy_alike == 1
    assert found.n_tokens > 1000 and not list(tmp_path.iterdir())


def test_the_check_gives_what_both_models_give_whole(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The source does not answer itself, and yet the answers are compared as if it had."""
    path = tiny_model(tied=False, chat_template=CHATML, n_embd=256, n_heads=4)
    coded = tmp_path / "coded.gguf"
    write_plan(make_plan(open_source(path), PlanOptions("q4_0")), coded)
    found = check(open_source(path), coded, tmp_path, 1 << 30)
    with open_runtime(path, 2, 4) as source, open_runtime(coded, 2, 4) as file:
        wanted, answers = greedy_answers(source), greedy_answers(file)
        tokens = array("i", bundled_text(file.tokenizer, held_out=True))
        for question, answer in answers:
            tokens.extend([*question, *(token for token in answer if token >= 0)])
        first = file.tokenizer.bos_id if file.tokenizer.adds_bos else None
    whole = whole_differences(path, coded, chunks_of(tokens, first), 64)
    assert found.n_tokens == whole.n_tokens
    assert found.mean_divergence == whole.divergence.mean() > 0
    assert found.same_top == whole.same_top
    same = sum(alike(a, b) for (_, a), (_, b) in zip(wanted, answers))
    assert found.greedy_alike == same / sum(len(answer) for _, answer in answers) < 1


def convert(source: Path, out: Path, *arguments: str) -> int:
    return main([str(source), "-o", str(out), "--calibrate-tokens", "1024", "-t", "2", *arguments])


def test_rotated_formats_calibrate_themselves_and_say_what_became_of_the_model(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tiny_model(tied=False, n_embd=128, n_ff=256), tmp_path / "out.gguf"
    assert convert(source, out, "--type", "rtq3") == 0
    said = capsys.readouterr().err
    assert "the model's own answers" in said and "without calibration" not in said
    line = re.search(r"on (\d+) tokens of unseen text.*source ([\d.]+), same first", said)
    assert line, said
    stored = GGUFFile(str(out)).metadata
    assert stored["hrun.check.tokens"] == int(line[1]) > 1000
    assert stored["hrun.check.mean_kld"] == pytest.approx(float(line[2]), abs=6e-5)
    assert 0 < stored["hrun.check.same_top"] <= 1 and 0 <= stored["hrun.check.greedy_alike"] <= 1
    # Measurements of this file say nothing about a file that is made of it.
    assert convert(out, tmp_path / "again.gguf", "--type", "f16", "--no-check") == 0
    assert not [k for k in GGUFFile(str(tmp_path / "again.gguf")).metadata if "hrun.check" in k]

    plain = tmp_path / "plain.gguf"
    assert convert(source, plain, "--type", "rtq3", "--calibrate", "none", "--no-check") == 0
    assert "own answers" not in capsys.readouterr().err
    assert "hrun.check.tokens" not in GGUFFile(str(plain)).metadata


def test_strict(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tiny_model(tied=False), tmp_path / "out.gguf"
    assert convert(source, out, "--type", "q8_0", "--strict", "100") == 0
    capsys.readouterr()
    assert convert(source, out, "--type", "q8_0", "--strict", "0") == 3
    assert "is above 0" in capsys.readouterr().err.splitlines()[-1]
    assert GGUFFile(str(out)).metadata["hrun.check.mean_kld"] > 0


def test_a_model_that_cannot_be_run_is_converted_with_a_warning(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.gguf"
    known = tiny_model(tied=False, n_embd=128, n_ff=256).read_bytes()
    assert known.count(b"gpt2") == 1
    source.write_bytes(known.replace(b"gpt2", b"what"))
    assert convert(source, tmp_path / "a.gguf", "--type", "rtq3") == 0
    said = capsys.readouterr().err
    assert "warning: hrun cannot run this model" in said and "what" in said
    assert convert(source, tmp_path / "b.gguf", "--type", "rtq3", "--calibrate", "auto") == 1
    assert convert(source, tmp_path / "c.gguf", "--type", "q8_0", "--strict") == 3
