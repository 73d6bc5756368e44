"""Pickled archives, read without unpickling them.

The field's .npz files hold Python dictionaries pickled inside object arrays, and NumPy reads those only by running
whatever program the pickle is. Here the pickle is read as data, by a small machine that knows the instructions which
build containers, numbers, strings and NumPy arrays. It calls nothing that the file names and refuses all else.
"""

import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixste.data import DataError

MAX_BYTES = 4 << 30  # that an entry may unpack to; the largest published one takes 0.7 GiB
MAX_OBJECTS = 1_000_000  # containers, numbers and strings in one file


def read_npz(path, key: str) -> Any:
    """The object pickled under `key` of an .npz file: dicts, lists, tuples, numbers, strings and NumPy arrays.

    Numeric arrays come read-only. Raises DataError for a file that is none, a key it lacks, an entry that would unpack
    to more than MAX_BYTES, and anything but plain data.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{key}.npy" not in archive.namelist():
                held = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:10])
                raise DataError(f"no entry of that name among its entries: {held or 'none'}")
            entry = archive.getinfo(f"{key}.npy")
            if entry.file_size > MAX_BYTES:
                raise DataError(f"{entry.file_size} bytes when unpacked; at most {MAX_BYTES} are read")
            with archive.open(entry) as file:
                _expect_object_array(file)
                value = read_pickle(file)
                _weigh(value)
    except FileNotFoundError:
        raise DataError(f"{path}: expected an .npz file, found no such file") from None
    except Exception as error:  # whatever zipfile, its decompressors and pickletools make of bytes that are not theirs
        raise DataError(f"{path}: expected plain data pickled under {key!r}, found {_said(error)}") from None
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


def _said(error: Exception) -> str:
    said = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split())[:300]  # it may quote the file


def _expect_object_array(file: BinaryIO) -> None:
    """Move past the .npy header; raise DataError unless it announces pickled objects."""
    magic = file.read(8)
    width = {1: 2, 2: 4, 3: 4}.get(magic[6]) if len(magic) == 8 and magic[:6] == b"\x93NUMPY" else None
    if width is None:
        raise DataError("no NumPy array")
    header = file.read(min(10_000, int.from_bytes(file.read(width), "little")))
    if not re.search(rb"'descr': *'\|O", header):
        raise DataError(f"another kind of array ({header[:80].decode('latin1').strip()})")


def _weigh(value: Any) -> None:
    """DataError if the value, written out in full, is more than a reader can hold.

    A pickle may name one array or list in a thousand places, and lists inside themselves.
    """
    todo, objects, size = [value], 1, 0
    while todo:
        item = todo.pop()
        if isinstance(item, np.ndarray):
            size += item.nbytes
        held = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
        held = item.flat if isinstance(item, np.ndarray) and item.dtype.hasobject else held
        objects += len(held)
        if size > MAX_BYTES or objects > MAX_OBJECTS:
            raise DataError(f"more than {MAX_BYTES} bytes or {MAX_OBJECTS} objects")
        todo.extend(held)


@dataclass(frozen=True)
class Name:
    """What stands where a pickle names a class or function: `make` is ours, and is called in its place."""

    make: Callable


@dataclass(eq=False)
class Pending:
    """An object between the instruction that makes it and the one that fills it: `fill(state)` gives the result."""

    fill: Callable
    memo: list[int] = field(default_factory=list)  # places to be told the result


def read_pickle(file: BinaryIO, names: dict[str, Callable] | None = None, persistent: Callable | None = None) -> Any:
    """The plain data that a pickle (protocols 2–4) describes; DataError for any other instruction or name.

    names: of classes and functions to allow besides NumPy's, as "module name", with what to call in their place.
    persistent: what to call for a reference to something outside the pickle.
    """
    names = NAMES | (names or {})
    stack: list = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    entries = 0  # of object arrays

    def since_mark() -> list:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def top(kind: type):
        if not isinstance(stack[-1], kind):
            raise DataError(f"an instruction for a {kind.__name__} given a {type(stack[-1]).__name__}")
        return stack[-1]

    def put(target: dict, items: list) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):  # to hash tuples nested deep enough ends the process
                raise DataError(f"a dictionary key that is a {type(key).__name__}")
            target[key] = value

    for instruction, argument, position in pickletools.genops(file):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[instruction.name])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                value = stack.pop()
                top(list).append(value)
            case "APPENDS":
                values = since_mark()
                top(list).extend(values)
            case "SETITEM":
                pair = [stack.pop(-2), stack.pop()]
                put(top(dict), pair)
            case "SETITEMS":
                pairs = since_mark()
                put(top(dict), pairs)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                place = len(memo) if argument is None else argument
                memo[place] = stack[-1]
                if isinstance(stack[-1], Pending):
                    stack[-1].memo.append(place)
            case "BINGET" | "LONG_BINGET":
                if isinstance(memo[argument], Pending):
                    raise DataError(f"an object used before it is filled, at byte {position}")
                stack.append(memo[argument])
            case "GLOBAL" | "STACK_GLOBAL":
                name = argument if argument is not None else f"{stack.pop(-2)} {stack.pop()}"
                if name not in names:
                    raise DataError(f"the name {name.replace(' ', '.')!r}, which plain data has no use for")
                stack.append(Name(names[name]))
            case "REDUCE":
                arguments = stack.pop()
                function = top(Name)
                stack[-1] = function.make(*arguments)
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], dict):  # attributes of an OrderedDict, which no reader wants
                    continue
                pending = top(Pending)
                stack[-1] = value = pending.fill(state)
                entries += value.size if isinstance(value, np.ndarray) and value.dtype.hasobject else 0
                if entries > MAX_OBJECTS:
                    raise DataError(f"object arrays of more than {MAX_OBJECTS} entries")
                for place in pending.memo:
                    memo[place] = value
            case "BINPERSID" if persistent is not None:
                stack.append(persistent(stack.pop()))
            case name:
                raise DataError(f"the pickle instruction {name}, which plain data has no use for, at byte {position}")
    raise DataError("a pickle that does not end")


def _array(state: Any) -> np.ndarray:
    match state:
        case (_, tuple(shape), np.dtype() as dtype, bool(fortran), bytes(data)) if not dtype.hasobject:
            if len(data) == math.prod(shape) * dtype.itemsize:
                return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        case (_, tuple(shape), np.dtype() as dtype, bool(fortran), list(data)) if dtype.hasobject:
            if len(data) == math.prod(shape):
                array = np.empty(len(data), dtype=object)
                for place, value in enumerate(data):
                    array[place] = value
                return array.reshape(shape, order="F" if fortran else "C")
    raise DataError("an array whose contents do not fit its shape")


def _dtype(code: str, *_) -> Pending:
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|O[48]|[SU][1-9]\d{0,3}", code):
        raise DataError(f"an array of {code!r}")
    dtype = np.dtype("O" if code[0] == "O" else code)

    def fill(state: Any) -> np.dtype:
        match state:
            case (_, "<" | ">" | "|" as order, None, None, None, *_):
                return dtype if order == "|" else dtype.newbyteorder(order)
        raise DataError("an array of structures")

    return Pending(fill)


def _scalar(dtype: np.dtype, data: bytes) -> np.generic:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or len(data) != dtype.itemsize:
        raise DataError("a scalar whose bytes do not fit its type")
    return np.frombuffer(data, dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def _never(*_) -> None:
    raise DataError("a class called as a function")


NAMES: dict[str, Callable] = {
    "numpy.core.multiarray _reconstruct": lambda kind, shape, code: Pending(_array),
    "numpy.core.multiarray scalar": _scalar,
    "numpy ndarray": _never,
    "numpy dtype": _dtype,
    "_codecs encode": _encode,  # how protocol 2 writes bytes,
    "__builtin__ bytes": lambda: b"",  # and empty ones
}
# The same since NumPy 2.
NAMES |= {name.replace(".core", "._core"): make for name, make in NAMES.items() if ".core" in name}
