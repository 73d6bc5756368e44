"""Pickled archives, read without running them.

The field's .npz files hold Python dictionaries pickled inside object arrays. NumPy reads those with the standard
unpickler, which runs whatever program the pickle is. Here the opcodes that build containers, numbers, strings and NumPy
arrays are interpreted as data, and every other one is refused.

A `pickle.Unpickler` with its own `find_class` and `persistent_load` would be shorter, but a file can crash it (a deeply
nested tuple as a dictionary key overflows the C stack), make it allocate without limit (one memo index takes
gigabytes), and set attributes of whatever `find_class` returned; none of these passes through the two methods.
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

MAX_BYTES = 4 << 30  # of an unpacked entry; the largest published one takes 0.7 GiB
MAX_OBJECTS = 1_000_000  # containers, numbers and strings in one file
MAX_OPCODES = 2 * MAX_OBJECTS  # one to create an object, one to store it


def read_npz(path, key: str) -> Any:
    """The object pickled under `key` of an .npz file: dicts, lists, tuples, numbers, strings and NumPy arrays.

    Numeric arrays are read-only. Strings of Python 2, which may be text or bytes, are decoded as Latin-1. Raises
    DataError for another kind of file, a missing key, an entry that would unpack to more than MAX_BYTES or than a file
    of its size should, and anything but plain data.
    """
    with guarded(path, f"plain data pickled under {key!r}"), zipfile.ZipFile(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            entries = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:10])
            raise DataError(f"expected an entry {key!r}, found {entries or 'none'}")
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
    """Read the .npy header; DataError unless it declares pickled objects."""
    magic = file.read(8)
    width = {1: 2, 2: 4, 3: 4}.get(magic[6]) if len(magic) == 8 and magic[:6] == b"\x93NUMPY" else None
    if width is None:
        raise DataError("no NumPy array")
    header = file.read(min(10_000, int.from_bytes(file.read(width), "little")))
    if not re.search(rb"'descr': *'\|O", header):
        raise DataError(f"another kind of array ({header[:80].decode('latin1').strip()})")


def _weigh(value: Any) -> None:
    """DataError if the value, written out in full, is too large.

    A pickle may refer to one array or list in a thousand places, and to a list inside itself.
    """
    todo, objects, size = [value], 1, 0
    while todo:
        item = todo.pop()
        if isinstance(item, np.ndarray):
            size += item.nbytes
        children = item.values() if isinstance(item, dict) else item if isinstance(item, (list, tuple)) else ()
        children = item.flat if isinstance(item, np.ndarray) and item.dtype.hasobject else children
        objects += len(children)
        if size > MAX_BYTES or objects > MAX_OBJECTS:
            raise DataError(f"more than {MAX_BYTES} bytes or {MAX_OBJECTS} objects")
        todo.extend(children)


@dataclass(frozen=True)
class Name:
    """Stands for a class or function that a pickle names: `make`, our own function, is called instead."""

    make: Callable


@dataclass(eq=False)
class Pending:
    """An object between the opcode that creates it and the one that fills it: `fill(state)` gives the result."""

    fill: Callable
    memo: list[int] = field(default_factory=list)  # indices in the memo that will refer to the result


def read_pickle(file: BinaryIO, names: dict[str, Callable] | None = None, persistent: Callable | None = None) -> Any:
    """The plain data that a pickle (protocols 0–4) describes; DataError for any other opcode or name.

    names: "module name" of classes and functions to allow besides NumPy's, with the function to call instead of each.
    persistent: called for a persistent id, a reference to something outside the pickle.
    """
    names = NAMES | (names or {})
    stack: list = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    created = 0  # bytes of arrays and byte strings

    def since_mark() -> list:
        mark = marks.pop()
        items = stack[mark:]
        del stack[mark:]
        return items

    def top(kind: type):
        if not isinstance(stack[-1], kind):
            raise DataError(f"an opcode for a {kind.__name__} applied to a {type(stack[-1]).__name__}")
        return stack[-1]

    def put(target: dict, items: list) -> dict:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a deeply nested tuple crashes the process; large integers can be chosen to share one hash.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**64):
                raise DataError(f"a dictionary key that is a {type(key).__name__}")
            target[key] = value
        return target

    def tally(value: Any) -> Any:
        """The value that a call created; DataError if calls create far more than the file holds, as by reuse."""
        nonlocal created
        created += value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0
        if created > 8 * file.tell() + (1 << 20):  # None takes one byte in a file and eight in an array
            raise DataError("arrays that use one piece of the file many times")
        return value

    for name, argument in _opcodes(file):
        match name:
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE" | "PUT":
                place = len(memo) if argument is None else argument
                if not 0 <= place < 2**32:
                    raise DataError("a memo index beyond any file")
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
                reference = argument if argument is not None else f"{stack.pop(-2)} {stack.pop()}"
                if reference not in names:
                    raise DataError(f"the name {reference.replace(' ', '.')!r}, which plain data has no use for")
                stack.append(Name(names[reference]))
            case "REDUCE":
                arguments = stack.pop()
                function = top(Name)
                stack[-1] = tally(function.make(*arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], dict):  # attributes of an OrderedDict, which no reader needs
                    continue
                pending = top(Pending)
                stack[-1] = tally(pending.fill(state))
                memo.update(dict.fromkeys(pending.memo, stack[-1]))
            case "BINPERSID" if persistent:
                stack.append(persistent(stack.pop()))
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case _:
                raise DataError(f"the opcode {name}, which plain data has no use for")
    raise DataError(f"more than {MAX_OPCODES:,} opcodes")


def _opcodes(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    """The names and arguments of at most MAX_OPCODES opcodes."""
    for _ in range(MAX_OPCODES):
        instruction = pickletools.code2op.get(file.read(1).decode("latin1"))
        if instruction is None:
            raise DataError("a byte that is no opcode, or an unexpected end")
        if instruction.name == "STRING":
            yield instruction.name, _quoted(file.readline())
        else:
            yield instruction.name, instruction.arg and instruction.arg.reader(file)


def _quoted(line: bytes) -> str:
    """A string of protocol 0, such as 'like\\x20this'; pickletools reads ASCII only."""
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
    raise DataError("an array whose data do not fit its shape")


def _bytes(data: bytes | str) -> bytes:
    """Bytes again, where Python 2 wrote them as a string that was read as text."""
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
    "_codecs encode": _encode,  # bytes in protocol 2,
    "__builtin__ bytes": lambda: b"",  # and empty bytes
}
# NumPy 2 names them so.
NAMES |= {name.replace(".core", "._core"): make for name, make in NAMES.items() if ".core" in name}
