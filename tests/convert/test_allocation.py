"""The dynamic programme of the bit allocation against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from hrun import ArgumentError, ModelFileError, _core
from hrun.convert.allocate import (
    Budget,
    Choice,
    Sensitivity,
    allocate,
    allocate_again,
    candidates,
    load_allocation,
    measure,
    sizes_and_losses,
)
from hrun.convert.loss_meter import Changed, Measured
from hrun.convert.source import SourceTensor

pytestmark = pytest.mark.slow


def problem(n: int, seed: int) -> list[Sensitivity]:
    random = np.random.default_rng(seed)
    items = []
    for i in range(n):
        n_values = int(random.integers(1, 20)) * 4096
        choices = tuple(
            Choice(f"f{bits}", n_values * bits // 8, float(4.0**-bits * random.uniform(0.7, 1.4)))
            for bits in (2, 3, 4, 8, 16)
        )
        items.append(Sensitivity(f"t{i}", n_values, float(random.lognormal(0, 2)), choices))
    return items


@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_all_combinations_is_found(seed: int) -> None:
    items = problem(5, seed)
    bits = np.random.default_rng(seed + 100).uniform(2.1, 9)
    budget = int(sum(item.n_values for item in items) * bits / 8)
    best = min(
        sum(i.loss_per_error * c.error for i, c in zip(items, combination))
        for combination in itertools.product(*(i.choices for i in items))
        if sum(c.n_bytes for c in combination) <= budget
    )
    found = allocate(items, budget)
    loss = sum(
        i.loss_per_error * c.error
        for i in items
        for c in i.choices
        if c.format == found.formats[i.tensor]
    )
    assert (
        found.n_bytes <= budget
        and found.bits_per_weight <= bits
        and found.loss == pytest.approx(loss)
    )
    assert loss == pytest.approx(best)


def test_the_smallest_and_too_small(tmp_path: Path) -> None:
    items = problem(6, 3)
    least = sum(min(c.n_bytes for c in i.choices) for i in items)
    assert set(allocate(items, least).formats.values()) == {"f2"}
    assert set(allocate(items, 100 * least).formats.values()) == {"f16"}
    with pytest.raises(ArgumentError, match=f"smallest formats take {least}"):
        allocate(items, least - 1)
    allocate(items, 2 * least).save(tmp_path / "plan.json")
    assert load_allocation(tmp_path / "plan.json") == allocate(items, 2 * least)
    for text in (
        "",
        "[]",
        "{}",
        '{"formats": []}',
        '{"formats": {"a": 1}}',
        '{"formats": {"a": "b"}, "sensitivities": [{}]}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ModelFileError, match="bad.json"):
            load_allocation(tmp_path / "bad.json")


def test_other_sizes_from_what_was_measured(tmp_path: Path) -> None:
    """Each row of the table is what an allocation of that size gives, and a kept plan gives it again."""
    items = problem(6, 5)
    n_values = sum(item.n_values for item in items)
    kept = allocate(items, 4 * n_values // 8)
    rows = sizes_and_losses(kept, fixed_bytes=1000)
    assert len(rows) > 8
    assert all(a[0] < b[0] and a[1] < b[1] and a[2] > b[2] for a, b in itertools.pairwise(rows)), (
        rows
    )
    kept.save(tmp_path / "plan.json")
    loaded = load_allocation(tmp_path / "plan.json")
    tensors = [
        SourceTensor(item.tensor, (item.n_values,), "f32", lambda first, last: np.zeros(0), "")
        for item in items
    ]
    for n_bytes, _, loss in rows:
        again = allocate_again(
            loaded, Budget(tensors, n_bytes - 1000, 1000), tmp_path / "plan.json"
        )
        assert again.n_bytes == n_bytes - 1000 and again.loss == pytest.approx(loss)
    other = SourceTensor("t9", (4096,), "f32", lambda first, last: np.zeros(0), "")
    with pytest.raises(ArgumentError, match="plan.json: nothing was measured for tensor 't9'"):
        allocate_again(loaded, Budget([*tensors, other], 1 << 30, 0), tmp_path / "plan.json")


class ErrorMeter:
    """Takes the place of a LossMeter: the loss of a tensor is the relative error of its rows."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def losses(
        self, tensors: Sequence[str], change: Callable[[str], Changed]
    ) -> dict[str, Measured]:
        out = {}
        for name in tensors:
            kept, pieces = change(name)
            coded = np.concatenate(list(pieces))
            assert coded.shape == self.weights.shape
            self.error = np.square(coded - self.weights).sum() / np.square(self.weights).sum()
            out[name] = Measured(kept, float(self.error))
        return out


@pytest.mark.parametrize(("outside", "least", "most"), [(False, 0.05, 0.1), (True, 0.003, 0.008)])
def test_tables_are_measured_at_four_bits(outside: bool, least: float, most: float) -> None:
    """A layer's matrix is measured at 2 bits; a table has every trellis format as a choice and is measured at 4 bits."""
    weights = np.random.default_rng(1).standard_normal((200, 576)).astype(np.float32)
    tensor = SourceTensor("t", (576, 200), "f32", lambda first, last: weights[first:last], "")
    trellis = {info.name for info in _core.formats() if info.trellis}
    assert trellis < {info.name for info in candidates(tensor, outside)}
    meter = ErrorMeter(weights)
    (found,) = measure([tensor], lambda name: outside, None, meter, 2)  # type: ignore[arg-type]
    assert least < meter.error < most
    # This loss is linear in the error, so that every choice is expected to lose what it does.
    for choice in found.choices:
        assert found.loss_per_error * choice.error == pytest.approx(choice.error, rel=0.1)
