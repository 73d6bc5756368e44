"""Safe reading of files from outside: every fault becomes one sentence, and sizes are bounded.

The size that a file declares is checked before anything is allocated, and its actual size while it is read.
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
MAX_UNPACKED = 2 << 30  # bytes of all arrays read from one file
# A small file that unpacks to a large one is a mistake or an attack: real clips compress to half their size at best.
MAX_RATIO, SMALL = 50, 512 << 20
MAX_COLUMNS = 2_000  # of a table; whole-body keypoints with scores take 400


@contextlib.contextmanager
def guarded(path, expected: str, error: type[ValueError] = DataError) -> Iterator[None]:
    """Turn any exception in the block into an error of one line: "PATH: expected EXPECTED, found …".

    An `error` or DataError raised in the block is already a sentence and only gets the path as a prefix, unless it has
    it. ImportError and KeyboardInterrupt pass through.
    """
    # Surrogates, which stand for undecodable bytes in a file name, are left for the console to escape.
    printable = "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "?" for c in str(path))
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError:
        raise error(f"{printable}: expected {expected}, found no such file or folder") from None
    except (error, DataError) as sentence:
        message = str(sentence)
        message = message.removeprefix(str(path)) if message.startswith(str(path)) else f": {message}"
        raise error(printable + one_line(message)) from None
    except Exception as fault:  # parsers raise anything on foreign bytes, MemoryError and SystemError included
        raise error(f"{printable}: expected {expected}, found {reason(fault)}") from None


def reason(fault: Exception) -> str:
    """An exception in a few words that a user understands."""
    match fault:
        case MemoryError():
            return "more than fits into memory"
        case RecursionError():
            return "parts nested too deep"
        case EOFError():
            return "an unexpected end of the file"
        case OSError(strerror=str(message)):
            return one_line(message, 200)
        case json.JSONDecodeError(msg="Extra data", lineno=line):
            return f"more in line {line}, after its end: name a file with one JSON value a line .jsonl"
        case json.JSONDecodeError(msg=message, lineno=line, colno=column):
            return f"a syntax error in line {line}, column {column} ({message})"
        case zipfile.BadZipFile():
            return "another file, or an incomplete one"
        case UnicodeDecodeError():
            return "bytes that are not UTF-8"
        case ValueError() if "integer string conversion" in str(fault):
            return "a number of thousands of digits"
    return one_line(f"{type(fault).__name__}: {fault}", 200)


def one_line(message: object, limit: int = 400) -> str:
    """The message on one line of at most `limit` printable characters, since it may quote the file."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(message)[: 10 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def read_bytes(path, limit: int = MAX_FILE) -> bytes:
    """The contents of a file of at most `limit` bytes; DataError for a larger, or endless, one."""
    with open(path, "rb") as file:
        content = file.read(min(limit, Path(path).stat().st_size) + 1)
        content += file.read(limit + 1 - len(content))  # devices and pipes report no size
    if len(content) > limit:
        raise DataError(f"{path}: expected at most {limit:,} bytes, found more")
    return content


def read_json(path, lines: bool = False):
    """The content of a UTF-8 JSON file; lines: the list of the contents of its lines, of which each is JSON.

    Raises DataError for another file, or one that would take MAX_MEMORY.
    """
    with guarded(path, "JSON"):
        content = read_bytes(path)
        # An upper bound: CPython's bytes for a number or short string and its slot, and for a list or dictionary.
        memory = 40 * content.count(b",") + 240 * (content.count(b"[") + content.count(b"{"))
        if memory > MAX_MEMORY:
            raise DataError(f"expected at most {MAX_MEMORY:,} bytes of numbers and lists, found more")
        text = content.decode("utf-8-sig")
        return json.loads("[" + ",\n".join(filter(str.strip, text.split("\n"))) + "]" if lines else text)


def check_table(path) -> None:
    """DataError for a table of more than MAX_COLUMNS columns or MAX_FILE bytes, which would take minutes to parse."""
    with guarded(path, "a table"), open(path, "rb") as file:
        if Path(path).stat().st_size > MAX_FILE:
            raise DataError(f"expected at most {MAX_FILE:,} bytes, found more")
        for _ in range(5):  # some programs write several header lines
            line = file.readline(1 << 20)
            columns = 1 + max(line.count(separator) for separator in (b",", b";", b"\t"))
            if columns > MAX_COLUMNS or len(line) == 1 << 20:
                raise DataError(f"expected at most {MAX_COLUMNS:,} columns, found {columns:,} or more")


def array_names(path) -> list[str]:
    """The names of the arrays in an .npz file; DataError for another file."""
    with guarded(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(
    path, keys: Collection[str] | None = None, expected: str = "plain arrays in an .npz or .npy file"
) -> dict[str, np.ndarray]:
    """The plain arrays of an .npz file by name, or the one of an .npy file under the name "".

    keys: which arrays to read, if present; None: all. expected: what error messages call the file. Raises DataError for
    pickled objects, structured arrays, a damaged or foreign file, and one that unpacks to more than a file of its size
    should.
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
    """DataError if a file of `size` bytes declares more than `limit` bytes unpacked, or than its size permits."""
    limit = min(limit, max(SMALL, MAX_RATIO * size))
    if unpacked > limit:
        raise DataError(f"expected at most {limit:,} bytes when unpacked, found {unpacked:,}")


def read_array(file: BinaryIO, size: int) -> np.ndarray:
    """The plain array in a .npy file of `size` bytes. Raises DataError, and what NumPy raises.

    Memory is allocated only if the file has the bytes for the declared shape.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"expected an .npy file of version 1 or 2, found {version[0]}")
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files of Python 2
        shape, fortran, dtype = read_header(file)
    if dtype.hasobject or dtype.kind not in "?biufcSU" or dtype.itemsize == 0:
        raise DataError(f"expected plain numbers or texts, found {one_line(dtype, 60)}")
    declared, rest = f"{dtype} of shape {one_line(shape, 60)}", size - file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != rest:
        raise DataError(f"expected the bytes of {declared}, as the header declares, found {rest:,}")
    if 0 in shape and max(shape) > MAX_COLUMNS:  # a loop over it would not end
        raise DataError(f"expected numbers, found a header that declares {declared}")
    array = np.empty(math.prod(shape), dtype)  # the system allocates its pages as they are filled
    target, place = memoryview(array.view(np.uint8)), 0
    while place < rest:
        block = file.read(min(1 << 20, rest - place))
        if not block:
            raise DataError(f"expected the bytes of {declared}, as the header declares, found {place:,}")
        target[place : place + len(block)] = block
        place += len(block)
    check_text(array)
    return array.reshape(shape, order="F" if fortran else "C")


def check_text(array: np.ndarray) -> None:
    """DataError if an array of text holds code points beyond Unicode, of which NumPy would make broken strings."""
    if array.dtype.kind == "U" and (array.view(array.dtype.byteorder + "u4") > sys.maxunicode).any():
        raise DataError("expected text, found numbers that are not Unicode characters")
