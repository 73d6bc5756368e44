"""What torch.save writes, read as data, in its format since PyTorch 1.6 and in the one before.

Not by torch.load(weights_only=True): it refuses the NumPy random state in published checkpoints, and a file of a
hundred bytes can make it allocate any amount of memory (`bytearray(n)`).
"""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mixste.io import DataError
from mixste.io.pickles import Name, Pending, read_pickle

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
DTYPES = {"Double": torch.double, "Float": torch.float, "Half": torch.half, "BFloat16": torch.bfloat16}
DTYPES |= {"Long": torch.long, "Int": torch.int, "Short": torch.short, "Char": torch.int8, "Byte": torch.uint8}


def read_archive(path: Path) -> object:
    """The object in a file: containers, numbers, strings, NumPy arrays, and dense tensors on the CPU.

    Tensors of one storage share memory, as they did. Raises DataError for anything else; for damaged files also the
    errors of `zipfile` and PyTorch, see `guarded`.
    """
    with open(path, "rb") as file:
        return _read_zip(file) if zipfile.is_zipfile(file) else _read_stream(file)


def _read_zip(file: BinaryIO) -> object:
    """One pickle, and each storage's numbers in an entry of their own."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > file.seek(0, 2):
            raise DataError("an archive that unpacks to more than its size")
        [pickled] = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        folder, storages = pickled.filename.removesuffix("data.pkl") + "data/", {}

        def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
            if key not in storages:
                numbers = bytearray(archive.read(folder + key))
                if len(numbers) != count * dtype.itemsize:
                    raise DataError(f"{len(numbers)} bytes in a storage of {count} numbers")
                storages[key] = _numbers(numbers, dtype)
            return storages[key]

        with archive.open(pickled) as stream:
            return read_pickle(stream, NAMES, _persistent(storage))


def _read_stream(file: BinaryIO) -> object:
    """Five pickles in a row, then the numbers of each storage."""
    size = file.seek(0, 2)
    file.seek(0)
    if read_pickle(file) != MAGIC:
        raise DataError("another kind of file")
    read_pickle(file), read_pickle(file)  # versions of the format and of the system
    storages: dict[str, tuple[bytearray, Tensor]] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in storages:
            size_here = count * dtype.itemsize
            if not 0 <= size_here <= size - sum(len(numbers) for numbers, _ in storages.values()):
                raise DataError(f"a storage of {count} numbers, which are not in the file")
            numbers = bytearray(size_here)
            storages[key] = numbers, _numbers(numbers, dtype)
        return storages[key][1]

    content = read_pickle(file, NAMES, _persistent(storage))
    for key in read_pickle(file):
        numbers, tensor = storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != len(tensor) or file.readinto(numbers) != len(numbers):
            raise DataError(f"{count} numbers in a storage of {len(tensor)}, or an end too early")
    return content


def _persistent(storage: Callable[[str, torch.dtype, int], Tensor]) -> Callable[[tuple], Tensor]:
    """What the pickle's references mean: ("storage", type, key, device, count); older files add None."""

    def of(reference: tuple) -> Tensor:
        match reference:
            case ("storage", Name() as kind, str(key), str(), int(count), *rest) if rest in ([], [None]):
                return storage(key, kind.make(), count)
        raise DataError("a reference to something other than numbers")

    return of


def _numbers(buffer: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)


def _tensor(numbers: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_) -> Tensor:
    if math.prod(shape) > len(numbers):  # PyTorch's own count of them may overflow
        raise DataError(f"a tensor of shape {shape} that repeats a few numbers")
    return numbers.as_strided(shape, stride, offset)  # raises RuntimeError for a view that leaves its storage


# What the names in a pickle stand for. The NumPy RandomState, which the authors shuffle with, is skipped: its names, in
# old and new versions of NumPy, become None.
NAMES = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    **{f"torch {name}Storage": lambda dtype=dtype: dtype for name, dtype in DTYPES.items()},
    **{
        f"numpy.random{name}": lambda *_: Pending(lambda state: None)
        for name in (
            *(" __RandomState_ctor", "._pickle __randomstate_ctor"),
            *("._pickle __bit_generator_ctor", "._mt19937 MT19937"),
        )
    },
}
