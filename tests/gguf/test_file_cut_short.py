"""A model file that another program cuts short while hrun uses it ends in ModelFileError, not in a dead process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun._core import ModelFileError

pytestmark = pytest.mark.slow


@pytest.fixture
def model_file(tiny_model, tmp_path: Path) -> Path:
    """A model of several pages whose weights the runtime reads in place."""
    return Path(
        shutil.copy(
            tiny_model(format="f32", n_embd=256, n_ff=512, n_vocab=600), tmp_path / "cut.gguf"
        )
    )


def test_while_it_is_used(model_file: Path) -> None:
    model = _core.Model.load(str(model_file))
    session = _core.Session(model, 32)
    expected = session.forward([1, 2, 3], "last")
    os.truncate(model_file, 8192)
    with pytest.raises(
        ModelFileError, match=r"cut\.gguf.*cannot be read any more from byte \d+ on"
    ):
        session.forward([4], "last")
    assert session.n_past == 3 and np.isfinite(expected).all()
    with pytest.raises(ModelFileError):
        _core.Session(model, 32).forward([1], "last")


def test_while_it_is_loaded(model_file: Path) -> None:
    def cut(done: int, total: int) -> None:
        if done == 1:
            os.truncate(model_file, 8192)

    with pytest.raises(ModelFileError, match="cannot be read any more"):
        _core.Model.load(str(model_file), progress=cut)


def test_while_its_data_are_read(model_file: Path) -> None:
    file = _core.GGUFFile(str(model_file))
    file.check_readable()
    os.truncate(model_file, 8192)
    assert not any(file.tensors[-1].data[-64:])
    with pytest.raises(ModelFileError, match="cannot be read any more"):
        file.check_readable()
