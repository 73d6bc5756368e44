import gzip
import io
import lzma
import os
import pickle
import random
import struct
import zipfile

import licensed
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mixste.data import DataError
from mixste.io import pickles
from mixste.io.pickles import Name, read_npz, read_pickle

PLAIN = {
    "S1": {"Directions 1": [np.zeros((3, 17, 2), np.float32), np.asfortranarray(np.arange(6.0).reshape(2, 3))]},
    "empty": [np.zeros((0, 3)), {}, [], (), "", np.array([], dtype=object)],
    "numbers": [
        0,
        -1,
        255,
        70_000,
        2**31,
        -(2**40),
        1.5,
        True,
        False,
        None,
        np.float32(3),
        np.int64(-3),
        np.bool_(True),
    ],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, "ü")),
    "arrays": [np.arange(3, dtype=">f8"), np.array(["abc", "d"]), np.array([b"xy"]), np.array([True]), np.float64(0.1)],
    "nested": np.array([1, {"a": np.ones(2)}, None], dtype=object),
    7: "a number for a key",
}


def same(a, b) -> bool:
    """Equal in value, type and, for arrays, dtype and shape, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and all(map(same, a.ravel().tolist(), b.ravel().tolist()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(same, a.values(), b.values()))
    return a == b or (a != a and b != b)


def pickled(value, protocol: int) -> bytes:
    return pickle.dumps(value, protocol=protocol)


def write(path, data: bytes, descr: str = "|O", key: str = "data", compression=zipfile.ZIP_DEFLATED) -> None:
    """An .npz file whose only entry is an .npy header and these bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + data)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_data_comes_back_as_it_went_in(protocol, tmp_path):
    write(tmp_path / "a.npz", pickled(np.array(PLAIN, dtype=object), protocol))
    assert same(read_npz(tmp_path / "a.npz", "data"), PLAIN)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves(save, tmp_path):
    save(tmp_path / "a.npz", data=PLAIN, other=[1, 2])
    assert same(read_npz(tmp_path / "a.npz", "data"), PLAIN)


def test_names_of_old_numpy():
    """Archives of before NumPy 2 say numpy.core where new ones say numpy._core."""
    data = pickled({"a": np.arange(3), "b": np.float32(2)}, 2)
    assert b"numpy._core" in data
    old = data.replace(b"numpy._core", b"numpy.core")
    assert same(read_pickle(io.BytesIO(old)), {"a": np.arange(3), "b": np.float32(2)})


class Python2(pickle._Pickler):
    """Writes what Python 2 did: texts and bytes alike as strings."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012, it is the class's own way

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        if self.proto == 0:
            quoted = repr(data)[1:].encode("ascii")
            self.write(b"S" + quoted + b"\n")
        elif len(data) < 256:
            self.write(b"U" + bytes([len(data)]) + data)
        else:
            self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python_2(protocol, tmp_path):
    value = {
        "S1": {"Sitting 1": np.arange(12, dtype="<f4").reshape(2, 3, 2), "it's": [np.float64(0.1), 2**40, -1, 1.5]},
        "caf\xe9": (None, True, False, np.asfortranarray(np.arange(600.0).reshape(2, 300)), "x" * 300),
        7: np.array([1, {"a": np.arange(3)}], dtype=object),
    }
    out = io.BytesIO()
    Python2(out, protocol).dump(np.array(value, dtype=object))
    program = out.getvalue().replace(b"numpy._core", b"numpy.core")
    write(tmp_path / "a.npz", program, descr="|O8" if protocol else "|O")
    assert same(read_npz(tmp_path / "a.npz", "data"), value)
    if protocol == 0:
        by_hand = b"(lp0\nL12L\naVa\\u0416\np1\nag1\na(dp2\nS'k'\nF0.5\nsa."
        assert same(read_pickle(io.BytesIO(by_hand)), [12, "aЖ", "aЖ", {"k": 0.5}])


scalars = (
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text() | st.binary()
)
arrays = hnp.arrays(
    st.sampled_from(["<f4", ">f8", "i2", "u1", "?"]), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
)
plain = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(-(2**63), 2**63), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(plain, st.sampled_from([2, 3, 4]))
def test_any_plain_data(value, protocol):
    assert same(read_pickle(io.BytesIO(pickled(value, protocol))), value)


def test_one_object_in_two_places():
    shared = np.arange(4.0)
    read = read_pickle(io.BytesIO(pickled([shared, shared, [shared]], 4)))
    assert read[0] is read[1] is read[2][0]


class Runs:
    """Pickles as a call, made when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Fills:
    """Pickles as a call that is given a state."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return np.zeros, (1,), self.state


def attacks(marker) -> dict:
    touch = f"touch {marker}"
    return {
        "system": Runs(os.system, touch),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Runs(getattr, Name, "mro"),
        "import": Runs(__import__, "os"),
        "open": Runs(open, str(marker), "w"),
        "class": random.Random(0),
        "function": os.system,
        "ndarray called": Runs(np.ndarray, (2**40,), "f8"),
        "numpy.load": Runs(np.load, str(marker)),
        "state": Fills({"a": 1}),
        "encode elsewhere": Runs(__import__("codecs").encode, "a", "rot13"),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", attacks("x"))
def test_nothing_runs(name, protocol, tmp_path):
    marker = tmp_path / "ran"
    data = pickled(np.array({"S1": {"Walking": attacks(marker)[name]}}, dtype=object), protocol)
    write(tmp_path / "a.npz", data)
    with pytest.raises(DataError, match=r"a\.npz: expected plain data pickled under 'data', found"):
        read_npz(tmp_path / "a.npz", "data")
    assert not marker.exists()


def test_the_attacks_would_run(tmp_path):
    """The control: NumPy, told to trust the file, does as it says."""
    write(tmp_path / "a.npz", pickled(np.array(attacks(tmp_path / "ran")["system"], dtype=object), 4))
    with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:
        archive["data"]
    assert (tmp_path / "ran").exists()


REBUILD = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"(",
        b"e.",
        b"\x80\x04N",
        b"\x80\x04Nh\x07.",
        b"\x80\x04]\x94h\x00e.",
        b"\x80\x04Nr\xff\xff\xff\x7f.trailing" + b"",  # one memo entry at a high place takes no memory
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",  # bytes without end
        b"\x80\x04}(" + b")\x85" * 1 + b"Nu.",  # a tuple for a key
        b"cos\nsystem\nN0.",
        b"P1\n.",  # persistent
        b"S'abc\n.",
        b"Sabc\n.",
        b"I" + b"1" * 5_000 + b"\n.",
        b"Np99999999999\n.",
        b"N2.",  # DUP
        b"\x80\x02\x82\x01.",
        REBUILD + b"(K\x01K\x05\x85cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R\x89C\x08" + b"\0" * 8 + b"tb.",
        REBUILD + b"(K\x01K\x01\x85cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R\x89C\x08" + b"\0" * 8 + b"tb.",
        REBUILD + b"(K\x01J\xff\xff\xff\xff\x85cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R\x89C\x00tb.",
        REBUILD + b"Nb.",
        b"cnumpy\ndtype\nX\x05\x00\x00\x00f8,O8\x89\x88\x87R.",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00V8\x89\x88\x87R.",
    ],
)
def test_programs_by_hand(program, tmp_path):
    write(tmp_path / "a.npz", program)
    if b"\xff\xff\xff\x7f" in program:
        assert read_npz(tmp_path / "a.npz", "data") is None
    else:
        with pytest.raises(DataError, match="expected plain data"):
            read_npz(tmp_path / "a.npz", "data")


@pytest.mark.parametrize("value", [np.array(["ab", "c"]), np.array(["ab"], ">U2"), np.str_("ab")])
def test_text_is_of_characters(value):
    program = pickled(value, 4)
    broken = program.replace(value.tobytes()[:4], b"\xff\xff\xff\xff")
    assert same(read_pickle(io.BytesIO(program)), value)
    with pytest.raises(DataError, match="not Unicode characters"):
        read_pickle(io.BytesIO(broken))


def test_deep_nesting_is_no_recursion(tmp_path):
    write(tmp_path / "a.npz", b"\x80\x04" + b")" + b"\x85" * 100_000 + b".")
    value, depth = read_npz(tmp_path / "a.npz", "data"), 0
    while value:
        value, depth = value[0], depth + 1
    assert depth == 100_000


def test_bombs(tmp_path, monkeypatch):
    doubling = b"\x80\x04]\x94" + b"".join(
        b"](h%ch%ce\x94" % (level, level) for level in range(60)
    )  # each list holds the one before twice: 2^60 entries
    write(tmp_path / "laughs.npz", doubling + b".")
    with pytest.raises(DataError, match="objects"):
        read_npz(tmp_path / "laughs.npz", "data")

    write(tmp_path / "itself.npz", b"\x80\x04]\x94h\x00a.")
    with pytest.raises(DataError, match="objects"):
        read_npz(tmp_path / "itself.npz", "data")

    write(tmp_path / "long.npz", b"\x80\x04" + b"N" * 60_000_000 + b".")
    with pytest.raises(DataError, match="more than 2,000,000 opcodes"):  # told after so many, not at the end
        read_npz(tmp_path / "long.npz", "data")

    once = (
        b"c_codecs\nencode\n\x94X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"\x94X\x06\x00\x00\x00latin1\x94"
    )
    write(tmp_path / "often.npz", b"\x80\x04" + once + b"(" + b"h\x00h\x01h\x02\x86R" * 10_000 + b"t.")
    with pytest.raises(DataError, match="many times"):
        read_npz(tmp_path / "often.npz", "data")

    big = np.zeros(1 << 20)
    np.savez_compressed(tmp_path / "shared.npz", data={str(n): [big] for n in range(1000)})
    assert (tmp_path / "shared.npz").stat().st_size < 100_000
    with pytest.raises(DataError, match=r"more than \d+ bytes"):
        read_npz(tmp_path / "shared.npz", "data")

    monkeypatch.setattr(pickles, "MAX_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "zeros.npz", data={"a": np.zeros(1 << 18)})
    with pytest.raises(DataError, match="found 2,097,"):
        read_npz(tmp_path / "zeros.npz", "data")


def test_other_files(tmp_path):
    with pytest.raises(DataError, match=r"no such file"):
        read_npz(tmp_path / "none.npz", "data")
    with pytest.raises(DataError):
        read_npz(tmp_path, "data")
    np.savez(tmp_path / "a.npz", positions=np.zeros(3), names={"a": 1})
    with pytest.raises(DataError, match="expected an entry 'positions_3d', found positions, names"):
        read_npz(tmp_path / "a.npz", "positions_3d")
    with pytest.raises(DataError, match="another kind of array"):
        read_npz(tmp_path / "a.npz", "positions")
    for content in (b"", b"PK\x03\x04", gzip.compress(b"x"), lzma.compress(b"x"), os.urandom(1000)):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"b\.npz"):
            read_npz(tmp_path / "b.npz", "data")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_mutated_archives(compression, tmp_path):
    """1,200 damaged archives: each is read, or refused in a sentence."""
    write(tmp_path / "a.npz", pickled(np.array(PLAIN, dtype=object), 4), compression=compression)
    outcomes = [refused(tmp_path / "a.npz", damaged) for damaged in licensed.mutations(tmp_path / "a.npz", 300)]
    assert True in outcomes


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_mutated_pickles(protocol, tmp_path):
    """1,500 damaged pickles inside whole archives, which no checksum protects."""
    original = pickled(np.array(PLAIN, dtype=object), protocol)
    outcomes = []
    for damaged in licensed.mutations(original, 500):
        write(tmp_path / "a.npz", damaged, compression=zipfile.ZIP_STORED)
        outcomes.append(refused(tmp_path / "a.npz"))
    assert set(outcomes) == {True, False}  # some bytes are only numbers


def refused(path, content: bytes | None = None) -> bool:
    if content is not None:
        path.write_bytes(content)
    try:
        read_npz(path, "data")
        return False
    except DataError as error:
        sentence = str(error)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    return True


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([bytes([op]) for op in range(128)] + [REBUILD, b"\x80\x04", b"h\x00", b"K\x01"]), max_size=30
    )
)
def test_random_programs(parts):
    """Whatever the opcodes: a value of plain types, or DataError and what the tokeniser raises."""
    try:
        value = read_pickle(io.BytesIO(b"".join(parts) + b"."))
    except (DataError, ValueError, LookupError, TypeError, struct.error, pickle.UnpicklingError):
        return
    assert type(value) in {dict, list, tuple, str, bytes, int, float, bool, type(None), np.ndarray} or isinstance(
        value, (np.generic, np.dtype, pickles.Name, pickles.Pending)
    )
