import io
import json
import struct
import tokenize
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from mixste.data import DataError
from mixste.io import guard
from mixste.io.guard import MAX_COLUMNS, array_names, check_table, guarded, read_arrays, read_bytes, read_json

FAULTS = [
    *(MemoryError(), RecursionError("deep"), SystemError("error return"), OverflowError("too large"), EOFError()),
    *(
        zlib.error("Error -3"),
        zipfile.BadZipFile("bad\nmagic"),
        struct.error("unpack"),
        tokenize.TokenError("EOF", (1, 2)),
    ),
    *(
        ValueError("x" * 10_000),
        KeyError("a"),
        OSError(5, "Input/output error"),
        ValueError("ends in a break\r\n\x1b[1m"),
    ),
]


def test_damaged_archives_and_other_encodings_are_told_in_plain_words(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"found another file, or an incomplete one$"):
        read_arrays(tmp_path / "a.npz")
    (tmp_path / "a.json").write_text("{}", encoding="utf-16")
    with pytest.raises(DataError, match=r"expected JSON, found bytes that are not UTF-8$"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_a_parser_raises_is_one_short_line(fault):
    with pytest.raises(DataError, match=r"^a\.npz: expected numbers, found \S") as error, guarded("a.npz", "numbers"):
        raise fault
    assert len(str(error.value)) < 350
    assert str(error.value).isprintable()


def test_a_sentence_keeps_its_words_and_names_its_file_once():
    class OwnError(ValueError): ...

    for said in ("expected a, found b", "two  gaps.json: expected a, found b", "two  gaps.json, frame 1: expected a"):
        with pytest.raises(OwnError) as error, guarded("two  gaps.json", "anything", OwnError):
            raise DataError(said)
        assert str(error.value) == (said if said.startswith("two") else f"two  gaps.json: {said}")
    with pytest.raises(KeyboardInterrupt), guarded("a", "b"):
        raise KeyboardInterrupt


def test_json(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": [1, 2.5, None]}).encode())
    assert read_json(file) == {"a": [1, 2.5, None]}
    for content, found in {
        "[" * 100_000: "nested too deep",
        "1" * 5_000: "thousands of digits",
        "[1,\n 2": r"a syntax error in line 2, column 3 \(Expecting",
        "[1]\n[2]": r"more in line 2, after its end: name a file with one JSON value a line \.jsonl",
        "[[]," * 20_000_000: "found more",
    }.items():
        file.write_text(content)
        with pytest.raises(DataError, match=rf"a\.json: expected .*{found}"):
            read_json(file)
    with pytest.raises(DataError, match="found no such file"):
        read_json(tmp_path / "b.json")


def test_a_file_without_end():
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(DataError, match="at most 1,000 bytes, found more"):
        read_bytes("/dev/zero", 1000)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_as_numpy_saves_them(save, tmp_path):
    arrays = {
        "a": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "b": np.array(3),
        "c": np.array(["x", "ü"]),
        "d": np.zeros((0, 17, 2), ">f4"),
        "e": np.array([b"x"]),
        "f": np.arange(400_000.0),
    }
    save(tmp_path / "a.npz", **arrays)
    read = read_arrays(tmp_path / "a.npz")
    assert list(read) == list(arrays) == array_names(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    assert list(read_arrays(tmp_path / "a.npz", ("b", "z"))) == ["b"]
    np.save(tmp_path / "b.npy", arrays["a"])
    np.testing.assert_array_equal(read_arrays(tmp_path / "b.npy")[""], arrays["a"])


def npy(descr="<f8", shape="(2, 3)", data=bytes(48)) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "content",
    [
        npy(shape="(1000000000000, 17, 2)"),
        npy(shape="(1000000000000, 0, 2)", data=b""),
        npy(shape="(-2, -3)"),
        npy(shape="((((((2"),
        npy(shape="(" * 3_000),
        npy(shape=f"({'9' * 5_000}, 3)"),
        npy(data=bytes(47)),
        npy("|O"),
        npy("|S0", data=b""),
        npy([("a", "<f8")]),
        npy("\n\x00"),
        npy("<U2", data=b"\xff" * 48),
        npy(">U2", data=b"\x00\x11\x00\x00" * 12),
        npy()[:20],
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"PK\x03\x04",
        b"",
    ],
    ids=range(17),
)
def test_no_memory_is_taken_for_what_a_header_says(content, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("keypoints.npy", content)
    for file, bytes_ in {"a.npy": content, "a.npz": packed.getvalue()}.items():
        (tmp_path / file).write_bytes(bytes_)
        tracemalloc.start()
        with pytest.raises(DataError, match=rf"{file}: .*expected .*found") as error:
            read_arrays(tmp_path / file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SMALL", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 18))
    with pytest.raises(DataError, match=r"at most 1,048,576 bytes when unpacked, found 2,097,280"):
        read_arrays(tmp_path / "a.npz")
    assert list(read_arrays(tmp_path / "a.npz", ("b",))) == []


def test_tables(tmp_path):
    file = tmp_path / "a.csv"
    for head in (",".join(f"p{n}_x" for n in range(10**6)), "a;b\n" + ";" * MAX_COLUMNS, "x" * (2 << 20)):
        file.write_text(head + "\n1,2\n")
        with pytest.raises(DataError, match=r"a\.csv: expected at most 2,000 columns"):
            check_table(file)
    file.write_text(",".join("abc") + "\n1,2,3\n")
    check_table(file)
