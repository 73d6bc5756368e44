"""Files are replaced atomically, and a failed write is one sentence."""

import errno
import os
import resource
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mixste.io.files import readable, replacing

BIG = {"a": torch.zeros(200_000), "b": torch.zeros(1000)}  # 0.8 MiB
WRITERS = {
    "torch": lambda path: torch.save(BIG, path),
    "torch, many small": lambda path: torch.save({str(i): torch.zeros(1000) for i in range(200)}, path),
    "safetensors": lambda path: save_file(BIG, path),
    "numpy": lambda path: np.save(path, BIG["a"].numpy()),
    "text": lambda path: path.write_text("0" * 800_000),
}


@pytest.fixture
def disk(tmp_path):
    """A file system of 0.5 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_with_the_file_and_the_space(disk, name):
    path = disk / "new" / "x.npy"
    with pytest.raises(OSError, match="No space") as raised, replacing(path) as temporary:
        WRITERS[name](temporary)
    assert raised.value.errno == errno.ENOSPC
    assert str(raised.value) == (
        f"could not write {path}: No space left on device (512 KiB free, more than that needed)"
    )
    assert list(path.parent.iterdir()) == []


def test_the_earlier_file_stays_and_says_what_the_next_needs(disk):
    path = disk / "x.pt"
    path.write_bytes(bytes(300 * 1024))
    with pytest.raises(OSError, match=r"\(212 KiB free, 300 KiB needed\)"), replacing(path) as temporary:
        torch.save(BIG, temporary)
    with pytest.raises(OSError, match=r"\(212 KiB free, 7\.0 MiB needed\)"), replacing(path, 7 * 2**20) as temporary:
        torch.save(BIG, temporary)
    assert [(left.name, left.stat().st_size) for left in disk.iterdir()] == [("x.pt", 300 * 1024)]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_over_the_limit_of_its_size_is_one_sentence(tmp_path, name):
    """What anyone can try, without a disk to fill."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300 * 1024, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as raised, replacing(tmp_path / "x.npy") as temporary:
            WRITERS[name](temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(raised.value) == f"could not write {tmp_path / 'x.npy'}: File too large"
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_not_taken_for_the_disks(tmp_path):
    for error in (RuntimeError("of the model"), ValueError("of the figure")):
        with pytest.raises(type(error), match=str(error)), replacing(tmp_path / "x"):
            raise error
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder"
    with pytest.raises(IsADirectoryError, match=r"could not write .*: Is a dir"), replacing(folder) as temporary:
        temporary.write_text("x")
    assert [left.name for left in tmp_path.iterdir()] == ["folder"]


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "x.txt"
    with replacing(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
        assert temporary.parent == path.parent  # one file system, or os.replace would not be atomic
        assert temporary.suffix == path.suffix  # by which np.savez and Matplotlib choose the format
    assert path.read_text() == "first"
    with replacing(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_interrupted_write_keeps_the_earlier_file(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("earlier")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half of the new o")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        write()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("x")
        assert os.umask(umask) == umask  # which is read by setting it, and set back
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_a_long_name(tmp_path):
    """The temporary name must not exceed the 255 bytes that `path` itself may have."""
    path = tmp_path / ("x" * 251 + ".txt")
    with replacing(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(FileExistsError, match=r"^could not write .*x/y: File exists$"), replacing(tmp_path / "x" / "y"):
        pass


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"walk", "walk"), ("gång".encode(), "gång"), (b"g\xe5ng", "g\\xe5ng"), (b"a\xff\xfe", "a\\xff\\xfe")],
)
def test_file_names_become_text(name, text):
    assert readable(os.fsdecode(name)) == text
    text.encode("utf-8")
