"""What every reader of a file from outside goes through: its faults told in one sentence, its size bounded.

Limits are checked against what a file declares before anything is allocated, and against what it holds while it is
read. No file is trusted with either.
"""

import contextlib
import json
import math
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mixste.io import DataError

MAX_FILE = 512 << 20  # bytes of a text file; a million frames of one person as JSON take a third of it
MAX_MEMORY = 4 << 30  # bytes that JSON may take as Python objects
MAX_UNPACKED = 2 << 30  # bytes of all arrays that are read from one file
# A small file that unpacks to a large one is a mistake or an attack: numbers of real clips halve at best.
MAX_RATIO, SMALL = 50, 512 << 20
MAX_COLUMNS = 2_000  # of a table; a whole body with scores takes 400


@contextlib.contextmanager
def guarded(path, expected: str, error: type[ValueError] = DataError) -> Iterator[None]:
    """Turn whatever goes wrong in the block into an error of one line: "PATH: expected EXPECTED, found …".

    An `error` or DataError that is raised in the block is a sentence already and only gets the path in front, unless it
    begins with it. ImportError and KeyboardInterrupt pass.
    """
    # Bytes of a file's name that are no text stay, for the console to show.
    shown = "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "?" for c in str(path))
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError:
        raise error(f"{shown}: expected {expected}, found no such file or folder") from None
    except (error, DataError) as sentence:
        said = str(sentence)
        raise error(
            shown + one_line(said.removeprefix(str(path)) if said.startswith(str(path)) else f": {said}")
        ) from None
    except Exception as fault:  # parsers raise anything on bytes that are not theirs, MemoryError and SystemError too
        raise error(f"{shown}: expected {expected}, found {reason(fault)}") from None


def reason(fault: Exception) -> str:
    """What went wrong, in a few words: the fault's own message, where it means something to a reader."""
    match fault:
        case MemoryError():
            return "more than fits the memory"
        case RecursionError():
            return "parts nested too deep"
        case EOFError():
            return "an end too early"
        case OSError(strerror=str(said)):
            return one_line(said, 200)
        case ValueError() if "integer string conversion" in str(fault):
            return "a number of thousands of digits"
    return one_line(f"{type(fault).__name__}: {fault}", 200)


def one_line(said: object, limit: int = 400) -> str:
    """A message on one line of at most `limit` printable characters: it may quote the file."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(said)[: 10 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def read_bytes(path, limit: int = MAX_FILE) -> bytes:
    """The contents of a file of at most `limit` bytes; DataError for a larger one, also one that does not end."""
    with open(path, "rb") as file:
        content = file.read(min(limit, Path(path).stat().st_size) + 1)
        content += file.read(limit + 1 - len(content))  # devices and pipes do not say how much they hold
    if len(content) > limit:
        raise DataError(f"{path}: expected at most {limit:,} bytes, found more")
    return content


def read_json(path):
    """The content of a JSON file in UTF-8. Raises DataError for anything else, or more than memory should hold."""
    with guarded(path, "JSON"):
        content = read_bytes(path)
        # At most: what CPython takes for a number or short text and its place, and for a list or dictionary.
        memory = 40 * content.count(b",") + 240 * (content.count(b"[") + content.count(b"{"))
        if memory > MAX_MEMORY:
            raise DataError(f"expected at most {MAX_MEMORY:,} bytes of numbers and lists, found more")
        return json.loads(content.decode("utf-8-sig"))


def check_table(path) -> None:
    """DataError for a table of more than MAX_COLUMNS columns or MAX_FILE bytes, which would take a parser minutes."""
    with guarded(path, "a table"), open(path, "rb") as file:
        if Path(path).stat().st_size > MAX_FILE:
            raise DataError(f"expected at most {MAX_FILE:,} bytes, found more")
        for _ in range(5):  # some programs write several lines of headings
            line = file.readline(1 << 20)
            columns = 1 + max(line.count(separator) for separator in (b",", b";", b"\t"))
            if columns > MAX_COLUMNS or len(line) == 1 << 20:
                raise DataError(f"expected at most {MAX_COLUMNS:,} columns, found {columns:,} or more")


def array_names(path) -> list[str]:
    """The names of what an .npz file holds; DataError for another file."""
    with guarded(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(
    path, keys: Collection[str] | None = None, expected: str = "plain arrays in an .npz or .npy file"
) -> dict[str, np.ndarray]:
    """The plain arrays of an .npz file by name, or the one of an .npy file under the name "".

    keys: which to read, as far as the file holds them; None: all. expected: what to call the file in errors. Raises
    DataError for pickled objects and structures, and where the file is no such file, damaged, or unpacks to more than
    a file of its size should.
    """
    with guarded(path, expected), open(path, "rb") as file:
        size = Path(path).stat().st_size
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            return {"": read_array(file, size)}
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            entries = {name: entry for name, entry in entries.items() if keys is None or name in keys}
            check_unpacked(sum(entry.file_size for entry in entries.values()), size)
            arrays = {}
            for name, entry in entries.items():
                with guarded(name, "a plain array"), archive.open(entry) as member:
                    arrays[name] = read_array(member, entry.file_size)
            return arrays


def check_unpacked(unpacked: int, size: int, limit: int = MAX_UNPACKED) -> None:
    """DataError if a file of `size` bytes says that it unpacks to more than `limit`, or than such a file should."""
    limit = min(limit, max(SMALL, MAX_RATIO * size))
    if unpacked > limit:
        raise DataError(f"expected at most {limit:,} bytes when unpacked, found {unpacked:,}")


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    """The plain array in .npy format that a file of `size` bytes is. Raises DataError, and what NumPy raises.

    Memory is taken only for a shape that the file has the bytes for.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"expected an .npy file of version 1 or 2, found {version[0]}")
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the file is Python 2's
        shape, fortran, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "?biufcSU" or dtype.itemsize == 0:
        raise DataError(f"expected plain numbers or texts, found {one_line(dtype, 60)}")
    says, rest = f"a header that says {dtype} of shape {one_line(shape, 60)}", size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise DataError(f"expected the bytes of {says}, found {rest:,}")
    if 0 in shape and max(shape) > MAX_COLUMNS:  # a loop over it would not end
        raise DataError(f"expected numbers, found {says}")
    array = np.empty(math.prod(shape), dtype)  # its pages are taken as they are filled
    target, place = memoryview(array.view(np.uint8)), 0
    while place < rest:
        block = file.read(min(1 << 20, rest - place))
        if not block:
            raise DataError(f"expected the bytes of {says}, found {place:,}")
        target[place : place + len(block)] = block
        place += len(block)
    check_text(array)
    return array.reshape(shape, order="F" if fortran else "C")


def check_text(array: np.ndarray) -> None:
    """DataError if an array of text holds numbers that are no characters, of which Python would make broken strings."""
    if array.dtype.kind == "U" and (array.view(array.dtype.byteorder + "u4") > sys.maxunicode).any():
        raise DataError("expected text, found numbers that are no characters")
