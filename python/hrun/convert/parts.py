"""A model a part at a time: mostly a layer, more where layers share keys, and the head as the last.

Memory holds one part's weights.  The states that leave a part, one for each token, lie on disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrun import _core

from .data_file import DataFile
from .encoding import Encoder
from .plan import PlanOptions, make_plan
from .source import Source
from .write import encode_tensor, encoding_pool, file_metadata

Floats = npt.NDArray[np.float32]

_LAYER = re.compile(r"blk\.(\d{1,9})\.")


def layer_of(tensor: str) -> int | None:
    """Returns the number of the layer that a tensor belongs to; None for those outside the layers."""
    match = _LAYER.match(tensor)
    return int(match[1]) if match else None


class PartFile:
    """A GGUF from which one part after the other can be loaded.

    With ``options`` it is a scratch file with the tensors of one part, coded as they say, and holes
    in place of the others; without, the source's own file.  Raises UnsupportedModelError where
    hrun cannot run the model, OSError, ConversionError.
    """

    def __init__(
        self,
        source: Source,
        path: Path | None = None,
        options: PlanOptions | None = None,
        n_threads: int = 0,
    ) -> None:
        self._source, self._n_threads = source, n_threads or len(os.sched_getaffinity(0))
        self._plan = make_plan(source, options) if options is not None else None
        self.path = path if path is not None else source.path
        if self._plan is not None:
            writer = _core.GGUFWriter(str(self.path))
            for entry in file_metadata(self._plan):
                writer.add(entry.key, entry.type, entry.value)
            for planned in self._plan.tensors:
                writer.add_tensor(
                    planned.tensor.name, list(planned.tensor.shape), planned.format.name
                )
            writer.finish_with_holes()
        self._head = source.head if source.head is not None else source.embedding
        self._places = {
            t.name: (t.offset, t.n_bytes, t.format) for t in _core.GGUFFile(str(self.path)).tensors
        }
        self._held: int | None = None
        self.parts: list[tuple[int, int]] = []
        if self._plan is not None:  # vectors outside the layers say how the model computes
            self._write(None)
        self.parts = _core.model_parts(str(self.path))

    @property
    def head_part(self) -> int:
        return len(self.parts) - 1

    def part_of(self, tensor: str) -> int:
        """The part that multiplies with the tensor: an embedding that is the head belongs to the head."""
        if (layer := layer_of(tensor)) is not None:
            return next((i for i, (_, end) in enumerate(self.parts) if layer < end), self.head_part)
        return self.head_part if tensor == self._head else 0

    def is_tied(self, tensor: str) -> bool:
        """Is the tensor both the embedding and the head?"""
        return self._source.head is None and tensor == self._source.embedding

    def hold(self, part: int) -> None:
        """The tensors of this part, and no others, are in the file."""
        if self._plan is not None and self._held != part:
            self._held = None
            self._write(part)
            self._held = part

    def _write(self, part: int | None) -> None:
        """The tensors of this part, or of none, and holes."""
        assert self._plan is not None
        size = self.path.stat().st_size
        os.truncate(self.path, min(offset for offset, _, _ in self._places.values()))
        os.truncate(self.path, size)
        with encoding_pool(self._n_threads) as pool, open(self.path, "r+b") as file:
            for planned in self._plan.tensors:
                if not self._needs(planned.tensor.name, len(planned.tensor.shape), part):
                    continue
                data = encode_tensor(
                    planned, pool, self._n_threads, lambda n, name: None, Encoder()
                )
                file.seek(self._places[planned.tensor.name][0])
                file.write(data.data)

    def _needs(self, name: str, n_dims: int, part: int | None) -> bool:
        if layer_of(name) is not None:
            return part is not None and self.part_of(name) == part
        if n_dims == 1 or (name == self._head and part == self.head_part):
            return True
        return part == 0 and name != self._source.head

    def load(self, part: int) -> LoadedPart:
        self.hold(part)
        return LoadedPart(
            _core.Model.load(str(self.path), n_threads=self._n_threads, layers=self.parts[part])
        )

    @contextmanager
    def replaced(self, tensor: str, pieces: Iterable[Floats]) -> Iterator[None]:
        """Other values, rows [some, cols] after rows, in the place of a held tensor of a scratch file."""
        assert self._plan is not None
        offset, n_bytes, format_name = self._places[tensor]
        kept = self.path.with_name("kept")
        _copy(self.path, offset, kept, 0, n_bytes)
        try:
            with open(self.path, "r+b") as file:
                file.seek(offset)
                for values in pieces:
                    file.write(np.asarray(_core.encode(format_name, values, tensor=tensor)).data)
            yield
        finally:
            _copy(kept, 0, self.path, offset, n_bytes)
            kept.unlink()


def _copy(source: Path, at: int, target: Path, target_at: int, n_bytes: int) -> None:
    """Bytes from one file to another, 16 MiB at a time."""
    with open(source, "rb") as read, open(target, "r+b" if target.exists() else "xb") as write:
        read.seek(at)
        write.seek(target_at)
        while n_bytes > 0 and (data := read.read(min(n_bytes, 16 << 20))):
            write.write(data)
            n_bytes -= len(data)


class LoadedPart:
    """A part in memory.  States are float32 [tokens, width]; the first part takes none."""

    def __init__(self, model: _core.Model) -> None:
        self.model = model
        self.width: int = model.state_width
        self._session: _core.Session | None = None

    def _ready(self, n_tokens: int) -> _core.Session:
        if self._session is None or self._session.n_ctx < n_tokens:
            self._session = None  # before the next one is made
            self._session = _core.Session(self.model, n_tokens, n_batch=n_tokens)
        self._session.truncate(0)
        return self._session

    def run(
        self,
        tokens: Sequence[int],
        states: Floats | None,
        observer: _core.Observer | None = None,
        keeps: bool = True,
    ) -> Floats | None:
        """Runs a text of its own through the part and returns the states that leave it; None where
        they are not kept.
        """
        out = np.empty((len(tokens), self.width), np.float32) if keeps else None
        self._ready(len(tokens)).forward(list(tokens), "none", observer, states, out)
        return out

    def logits(
        self,
        tokens: Sequence[int],
        states: Floats | None,
        observer: _core.MomentCollector | None = None,
    ) -> Floats:
        """float32 [tokens, vocabulary], of the head."""
        found = self._ready(len(tokens)).forward(list(tokens), "all", observer, states)
        assert found is not None
        return found


class StateWriter:
    """Appends states to a file that gets its name on finish()."""

    def __init__(self, path: Path) -> None:
        self._path, self._partial = path, path.with_name(f"{path.name}.new")
        self._file = open(self._partial, "wb")

    def add(self, states: Floats) -> None:
        self._file.write(np.ascontiguousarray(states).data)

    def finish(self) -> None:
        self._file.close()
        os.replace(self._partial, self._path)

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class StateReader:
    """States that a StateWriter wrote."""

    def __init__(self, path: Path, width: int) -> None:
        self._file, self._width = DataFile(path, str(path)), width

    def rows(self, first: int, n: int) -> Floats:
        return self._file.read(4 * first * self._width, (n, self._width), np.float32)


def run_to_head(
    file: PartFile,
    texts: Sequence[Sequence[int]],
    folder: Path,
    report: Callable[[int, int, str], None] | None = None,
    what: str = "",
    observer: _core.Observer | None = None,
) -> StateReader:
    """Runs the texts through all parts but the head; the states that enter it are in the order of the texts.

    ``folder``: for the states, which stay there; no others may be in it.  Raises hrun.Error, OSError.
    """
    states: StateReader | None = None
    for part in range(file.head_part):
        loaded, at = file.load(part), 0
        with StateWriter(folder / f"states-{part + 1}") as out:
            for number, text in enumerate(texts):
                if report is not None:
                    report(part * len(texts) + number, file.head_part * len(texts), what)
                came = states.rows(at, len(text)) if states is not None else None
                left = loaded.run(text, came, observer)
                assert left is not None
                out.add(left)
                at += len(text)
            out.finish()
        width = loaded.width
        del loaded  # before the next one is made
        states = StateReader(folder / f"states-{part + 1}", width)
        (folder / f"states-{part}").unlink(missing_ok=True)
    assert states is not None  # a model has layers
    return states
