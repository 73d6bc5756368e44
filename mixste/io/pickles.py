"""Pickled archives, read without unpickling them.

The field's .npz files hold Python dictionaries pickled inside object arrays, and NumPy reads those only by running
whatever program the pickle is. Here the pickle is read as data, by a small machine that knows the instructions which
build containers, numbers, strings and NumPy arrays. It calls nothing that the file names and refuses all else.
"""

import codecs
import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixste.io import DataError
from mixste.io.guard import check_text, check_unpacked, guarded

MAX_BYTES = 4 << 30  # that an entry may unpack to; the largest published one takes 0.7 GiB
MAX_OBJECTS = 1_000_000  # containers, numbers and strings in one file
MAX_INSTRUCTIONS = 2 * MAX_OBJECTS  # to make and place them


def read_npz(path, key: str) -> Any:
    """The object pickled under `key` of an .npz file: dicts, lists, tuples, numbers, strings and NumPy arrays.

    Numeric arrays come read-only. Python 2 does not tell texts from bytes: its strings come as texts, Latin-1. Raises
    DataError for a file that is none, a key it lacks, an entry that would unpack to more than MAX_BYTES or than a file
    of its size should, and anything but plain data.
    """
    with guarded(path, f"plain data pickled under {key!r}"), zipfile.ZipFile(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            held = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:10])
            raise DataError(f"expected an entry {key!r}, found {held or 'none'}")
        entry = archive.getinfo(f"{key}.npy")
        check_unpacked(entry.file_size, Path(path).stat().st_size, MAX_BYTES)
        with archive.open(entry) as file:
            try:
                _expect_object_array(file)
                value = read_pickle(file)
                _weigh(value)
            except DataError as error:
                raise DataError(f"expected plain data pickled under {key!r}, found {error}") from None
        return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


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
    """The plain data that a pickle (protocols 0–4) describes; DataError for any other instruction or name.

    names: of classes and functions to allow besides NumPy's, as "module name", with what to call in their place.
    persistent: what to call for a reference to something outside the pickle.
    """
    names = NAMES | (names or {})
    stack: list = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    made = 0  # bytes

    def since_mark() -> list:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def top(kind: type):
        if not isinstance(stack[-1], kind):
            raise DataError(f"an instruction for a {kind.__name__} given a {type(stack[-1]).__name__}")
        return stack[-1]

    def put(target: dict, items: list) -> dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # To hash tuples nested deep enough ends the process; larger integers can be made to have one hash.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**64):
                raise DataError(f"a dictionary key that is a {type(key).__name__}")
            target[key] = value
        return target

    def weighed(value: Any) -> Any:
        """What a call made, unless calls make much more of the file than it holds, by using one text many times."""
        nonlocal made
        made += value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0
        if made > 8 * file.tell() + (1 << 20):  # of None, one byte there, an array makes a place of eight
            raise DataError("arrays that use one piece of it many times")
        return value

    for name, argument in _instructions(file):
        match name:
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE" | "PUT":
                place = len(memo) if argument is None else argument
                if not 0 <= place < 2**32:
                    raise DataError("a place in its memory beyond any file")
                memo[place] = stack[-1]
                if isinstance(stack[-1], Pending):
                    stack[-1].memo.append(place)
            case "BINGET" | "LONG_BINGET" | "GET":
                if isinstance(memo[argument], Pending):
                    raise DataError("an object used before it is filled")
                stack.append(memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "INT" | "LONG" | "LONG1" | "BINFLOAT" | "FLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "UNICODE":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BINSTRING" | "SHORT_BINSTRING" | "STRING":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "LIST":
                stack.append(since_mark())
            case "DICT":
                stack.append(put({}, since_mark()))
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
            case "GLOBAL" | "STACK_GLOBAL":
                called = argument if argument is not None else f"{stack.pop(-2)} {stack.pop()}"
                if called not in names:
                    raise DataError(f"the name {called.replace(' ', '.')!r}, which plain data has no use for")
                stack.append(Name(names[called]))
            case "REDUCE":
                arguments = stack.pop()
                function = top(Name)
                stack[-1] = weighed(function.make(*arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], dict):  # attributes of an OrderedDict, which no reader wants
                    continue
                pending = top(Pending)
                stack[-1] = weighed(pending.fill(state))
                memo.update(dict.fromkeys(pending.memo, stack[-1]))
            case "BINPERSID" if persistent:
                stack.append(persistent(stack.pop()))
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case _:
                raise DataError(f"the instruction {name}, which plain data has no use for")
    raise DataError(f"more than {MAX_INSTRUCTIONS:,} instructions")


def _instructions(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """The names and arguments of at most MAX_INSTRUCTIONS instructions."""
    for _ in range(MAX_INSTRUCTIONS):
        instruction = pickletools.code2op.get(file.read(1).decode("latin1"))
        if instruction is None:
            raise DataError("a byte that is no instruction, or an end too early")
        if instruction.name == "STRING":
            yield instruction.name, _quoted(file.readline())
        else:
            yield instruction.name, instruction.arg and instruction.arg.reader(file)


def _quoted(line: bytes) -> str:
    """A string as Python 2's protocol 0 has it, 'like\\x20this'; pickletools reads it as ASCII only."""
    line = line.removesuffix(b"\n")
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[:1] != line[-1:]:
        raise DataError("a string without its quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _array(state: Any) -> np.ndarray:
    match state:
        case (_, tuple(shape), np.dtype() as dtype, bool(fortran), bytes() | str() as data) if not dtype.hasobject:
            data = _bytes(data)
            if len(shape) <= 32 and len(data) == math.prod(shape) * dtype.itemsize:
                array = np.frombuffer(data, dtype)
                check_text(array)
                return array.reshape(shape, order="F" if fortran else "C")
        case (_, tuple(shape), np.dtype() as dtype, bool(fortran), list(data)) if dtype.hasobject:
            if len(shape) <= 32 and len(data) == math.prod(shape):
                array = np.empty(len(data), dtype=object)
                for place, value in enumerate(data):
                    array[place] = value
                return array.reshape(shape, order="F" if fortran else "C")
    raise DataError("an array whose contents do not fit its shape")


def _bytes(data: bytes | str) -> bytes:
    """What Python 2 wrote as a string and was read as a text, as bytes again."""
    return data.encode("latin1") if isinstance(data, str) else data


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


def _scalar(dtype: np.dtype, data: bytes | str) -> np.generic:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or len(data) != dtype.itemsize:
        raise DataError("a scalar whose bytes do not fit its type")
    array = np.frombuffer(_bytes(data), dtype)
    check_text(array)
    return array[0]


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
