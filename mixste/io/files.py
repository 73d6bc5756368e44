"""Atomic writes: a reader never sees half a file."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path, needed: int = 0) -> Iterator[Path]:
    """A temporary path next to `path` to write to; it replaces `path` when the block ends without an error.

    If anything fails, `path` keeps its previous content and the temporary file is removed. A full disk, or any other
    failure of the file system, raises OSError with one sentence that names the file and, on a full disk, the space
    needed, even where the writing library raises an error of its own, as PyTorch and safetensors do.
    needed: bytes of this file and of those that will follow, if known.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp, and libraries that do the same, create the file with mode 0600, unreadable for a team.
        temporary.chmod(0o666 & ~_umask())
        with open(temporary, "r+b") as file:  # Windows can only sync a file that is open for writing
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if number := _errno(error, temporary):
            cause = error
            while cause:  # a writer in one of these frames would keep the file open, and the disk full
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__context__
            raise _refused(path, temporary, number, needed) from error
        if isinstance(error, OSError):
            raise OSError(f"could not write {path}: {error}") from error
        raise
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def _errno(error: Exception, temporary: Path | None) -> int | None:
    """The errno of a failed write; None if the error has another cause."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if by_rust := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return int(by_rust[1])
    if temporary and isinstance(error, OSError | RuntimeError):  # NumPy and PyTorch hide the errno: write again
        try:
            with open(temporary, "ab") as file:
                file.write(bytes(2**20))
                file.flush()
                os.fsync(file.fileno())
        except OSError as again:
            return again.errno
    return None


def _refused(path: Path, temporary: Path | None, number: int, needed: int) -> OSError:
    """The OSError of a failed write, in the subclass that Python has for its errno."""
    sentence = f"could not write {path}: {os.strerror(number)}"
    if number == errno.ENOSPC:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        room = shutil.disk_usage(folder).free + _size(temporary)
        needed = needed or _size(path)  # the size of its previous version, if any
        sentence += f" ({_bytes(room)} free, {_bytes(needed) if needed > room else 'more than that'} needed)"
    failure = type(OSError(number, ""))(sentence)
    failure.errno = number  # without strerror, only the sentence is printed
    return failure


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0


def _bytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def readable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 become escapes such as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
