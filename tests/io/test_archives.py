"""Archives against PyTorch's own reader; hostile ones are in tests/test_checkpoints.py and tests/test_fuzz.py."""

import io
import pickle
import zipfile

import pytest
import torch

from mixste.io import DataError
from mixste.io.archives import DTYPES, MAGIC, read_archive

BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])


def save(content, path, legacy):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@BOTH
def test_tensors_are_those_that_pytorch_reads(legacy, tmp_path):
    base = torch.arange(24.0)
    content = {
        "strided": base.view(4, 6).T,
        "offset": base[5:11],
        "expanded": torch.ones(1, 3).expand(1, 3),
        "empty": torch.zeros(0, 5),
        "number": torch.tensor(7),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        **{f"of {dtype}": torch.arange(5).to(dtype) for dtype in DTYPES.values()},
    }
    path = save(content, tmp_path / "a.bin", legacy)
    ours, theirs = read_archive(path), torch.load(path, weights_only=True)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[key].dtype, theirs[key].shape), key
        assert torch.equal(tensor, theirs[key]), key
    ours["offset"][0] = -1.0  # element 5 of the storage: row 5 of its transpose
    assert ours["strided"][5, 0] == -1.0


@BOTH
def test_plain_data_stays(legacy, tmp_path):
    content = {"epoch": 3, "lr": 1e-5, "names": ["a", "b"], "nested": {"none": None, "pair": (1, True)}}
    assert read_archive(save(content, tmp_path / "a.bin", legacy)) == content


def stream(tmp_path, *parts: bytes):
    (tmp_path / "a.bin").write_bytes(b"".join(parts))
    return tmp_path / "a.bin"


def test_a_storage_is_as_large_as_it_says(tmp_path):
    """In the old format the pickle gives the size first: no memory is taken for more than the file has."""
    out = io.BytesIO()
    torch.save(torch.ones(3), out, _use_new_zipfile_serialization=False)
    whole = out.getvalue()
    numbers = torch.ones(3).numpy().tobytes()
    assert whole.endswith(numbers)
    torch.testing.assert_close(read_archive(stream(tmp_path, whole)), torch.ones(3))
    with pytest.raises(DataError, match="3 numbers in a storage of 3, or an end too early"):
        read_archive(stream(tmp_path, whole[:-1]))
    with pytest.raises(DataError, match="4 numbers in a storage of 3"):
        read_archive(stream(tmp_path, whole[: -len(numbers) - 8], (4).to_bytes(8, "little"), numbers, bytes(4)))
    huge = whole.replace(b"K\x03N", b"J\x00\x00\x00\x7fN")
    assert huge != whole
    with pytest.raises(DataError, match="a storage of 2130706432 numbers, which are not in the file"):
        read_archive(stream(tmp_path, huge))


def test_a_storage_in_a_zip_is_as_large_as_it_says(tmp_path):
    path = save(torch.ones(3), tmp_path / "a.bin", legacy=False)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in content.items():
            archive.writestr(name, entry[:-4] if name.endswith("data/0") else entry)
    with pytest.raises(DataError, match="8 bytes in a storage of 3 numbers"):
        read_archive(path)


def test_other_pickles_are_refused(tmp_path):
    with pytest.raises(DataError, match="another kind of file"):
        read_archive(stream(tmp_path, pickle.dumps(MAGIC + 1, 2)))
