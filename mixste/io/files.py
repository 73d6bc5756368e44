"""Writing files so that a reader never meets half of one."""

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
    """A temporary path beside `path` to write to; it takes the place of `path` when the block ends without an error.

    Whatever goes wrong, `path` keeps what it held and nothing else stays behind. A disk that is full, or refuses to be
    written to for another reason, raises OSError with one sentence that names the file and, if it is full, the space
    needed: also where the library that writes has an error of its own for it, as PyTorch and safetensors have. needed:
    bytes, where they are known: of this file, and of those that will follow.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # 0600, of mkstemp and libraries that write as it does, would keep a team from reading each other's results.
        temporary.chmod(0o666 & ~_umask())
        with open(temporary, "r+b") as file:  # Windows syncs only what it may write to
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        if number := _errno(error, temporary):
            cause = error
            while cause:  # a writer in there would keep the file open, and the disk full
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
    """The system's number for why a file could not be written; None if that is not what went wrong."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if by_rust := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return int(by_rust[1])
    if temporary and isinstance(error, OSError | RuntimeError):  # NumPy and PyTorch do not say why: ask the disk again
        try:
            with open(temporary, "ab") as file:
                file.write(bytes(2**20))
                file.flush()
                os.fsync(file.fileno())
        except OSError as again:
            return again.errno
    return None


def _refused(path: Path, temporary: Path | None, number: int, needed: int) -> OSError:
    """The error of a file that the system does not take, of the class that Python has for its number."""
    sentence = f"could not write {path}: {os.strerror(number)}"
    if number == errno.ENOSPC:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        room = shutil.disk_usage(folder).free + _size(temporary)
        needed = needed or _size(path)  # as much as its last version, if there was one
        sentence += f" ({_bytes(room)} free, {_bytes(needed) if needed > room else 'more than that'} needed)"
    failure = type(OSError(number, ""))(sentence)
    failure.errno = number  # without strerror, the sentence is all that is printed
    return failure


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0


def _bytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def readable(name: str) -> str:
    """A file's name as text that every format can hold: bytes that are no UTF-8 become \\xe9 and the like."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
