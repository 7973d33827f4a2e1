"""Files that appear under their name complete or not at all, and scratch folders.

Both are locked while their process lives.  Files that a killed process left behind are removed by the next
one that writes to the same name, or makes a scratch folder in the same place.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from hrun.errors import ArgumentError

_active: set[Path] = set()  # of this process
_numbers = itertools.count()


def checked_output(output: Path, inputs: Iterable[Path] = ()) -> Path:
    """The real path to write.  Raises ArgumentError for an output that is an input, not a file, or in no folder."""
    real = Path(os.path.realpath(output))
    if not real.parent.is_dir():
        raise ArgumentError(f"{output}: the folder {real.parent} does not exist")
    try:
        status = real.stat()
    except FileNotFoundError:
        return real
    except OSError as error:
        raise ArgumentError(f"{output}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ArgumentError(f"{output}: exists and is not a regular file")
    for path in inputs:
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), status):
                raise ArgumentError(
                    f"{output}: is also read as input ({path}); choose another output"
                )
    return real


class PartialFile:
    """A temporary file beside its destination, at ``path``: empty at first, and locked.

    ``finish`` flushes it to disk and gives it its name, in one step; ``discard`` removes it, and does nothing after
    ``finish``.  As a context it discards.  Raises ArgumentError as :func:`checked_output` does, and OSError.
    """

    def __init__(self, output: Path, inputs: Iterable[Path] = ()) -> None:
        self.output = checked_output(output, inputs)
        _clean(self.output.parent, re.escape(self.output.name) + r"\.partial-(\d{1,9})")
        self.path = self.output.with_name(f"{self.output.name}.partial-{os.getpid()}")
        if self.path in _active:
            raise ArgumentError(f"{output}: is already being written by this process")
        self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
        _active.add(self.path)
        _lock(self._fd)

    def finish(self) -> None:
        os.fsync(self._fd)
        os.replace(self.path, self.output)
        self._close()
        _sync_folder(self.output.parent)

    def discard(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._close()

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
        _active.discard(self.path)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def write_text(path: Path, text: str) -> None:
    """The whole text under this name, with the permissions of what was there, or what was there.  Raises OSError."""
    data = text.encode()
    if path.exists() and not path.is_file():  # a pipe, a terminal
        path.write_bytes(data)
        return
    with PartialFile(path) as partial:
        if partial.output.exists():
            partial.path.chmod(stat.S_IMODE(partial.output.stat().st_mode))
        with open(partial.path, "wb") as out:
            out.write(data)
        partial.finish()


@contextlib.contextmanager
def work_folder(output: Path, job: str) -> Iterator[Path]:
    """A folder beside ``output``, removed with all it holds on leaving.

    What a killed process kept in its own is in it where ``job`` is the same; otherwise it is
    removed.  Raises ArgumentError where this process has one already, OSError.
    """
    real = Path(os.path.realpath(output))
    path = real.with_name(f"{real.name}.work-{os.getpid()}")
    if path in _active:
        raise ArgumentError(f"{output}: is already being written by this process")
    abandoned = _abandoned(real.parent, re.escape(real.name) + r"\.work-(\d{1,9})")
    taken = next((left for left in abandoned if _job_of(left) == job), None)
    _active.add(path)
    try:
        for left in abandoned:
            if left != taken:
                _remove(left)
        if taken is not None:
            taken.rename(path)
        path.mkdir(0o700, exist_ok=True)
        (path / _JOB).write_text(job)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        _active.discard(path)
        raise
    try:
        _lock(fd)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)
        _active.discard(path)


_JOB = "job"


def _job_of(folder: Path) -> str | None:
    try:
        return (folder / _JOB).read_text()
    except (OSError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, removed with all it holds on leaving.  Raises OSError."""
    _clean(parent, r"\.hrun-scratch-(\d{1,9})-\d{1,9}")
    while True:
        path = parent / f".hrun-scratch-{os.getpid()}-{next(_numbers)}"
        _active.add(path)
        try:
            path.mkdir(0o700)
            break
        except FileExistsError:  # of a process in another container
            _active.discard(path)
        except BaseException:
            _active.discard(path)
            raise
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _lock(fd)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if fd >= 0:
            os.close(fd)
        _active.discard(path)


def _lock(fd: int) -> None:
    with contextlib.suppress(OSError):  # a file system without locks: the process id has to do
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clean(folder: Path, pattern: str) -> None:
    """Removes our files and folders of this name, with the process id as group 1, whose process is gone."""
    for path in _abandoned(folder, pattern):
        _remove(path)


def _abandoned(folder: Path, pattern: str) -> list[Path]:
    """Returns the files and folders that _clean() removes."""
    name, found = re.compile(pattern), []
    for entry in os.scandir(folder):
        match = name.fullmatch(entry.name)
        if match is None or Path(entry.path) in _active or _is_alive(int(match[1])):
            continue
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid() and not _is_locked(
                entry.path
            ):
                found.append(Path(entry.path))
    return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # ours would be in _active: an earlier process had this number
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(path: str) -> bool:
    """Does a living process hold the lock, perhaps in another container, where process ids differ?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:  # some network file systems cannot; the rename itself has happened
        pass
    finally:
        os.close(fd)
