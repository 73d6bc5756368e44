"""MATLAB, HDF5 and CDF files: what was written is read, by a process whose end costs no more than an error."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from scipy.io import savemat

from mixste.data import DataError
from mixste.data.readers import foreign
from mixste.data.readers.foreign import CAMERAS, read_foreign

needs_cdflib = pytest.mark.skipif(importlib.util.find_spec("cdflib") is None, reason="cdflib is not installed")
needs_h5py = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="h5py is not installed")

RNG = np.random.default_rng(0)
POSE = RNG.normal(0, 1000, (1, 7, 96))
VIEWS = {"annot2": RNG.normal(0, 1000, (5, 1, 17, 2)), "univ_annot3": RNG.normal(0, 1000, (5, 1, 17, 3))}
VALID = np.array([1, 1, 0, 1, 0])[:, None]


def write_cdf(path, name="Pose", values=POSE):
    from cdflib.cdfwrite import CDF

    file = CDF(path, cdf_spec={"Compressed": 0}, delete=True)
    about = {"Variable": name, "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True, "Var_Type": "zVariable"}
    file.write_var(about | {"Dim_Sizes": list(values.shape[1:])}, var_data=values.astype(np.float32))
    file.close()
    return path


def write_matlab_5(path, cameras=14):
    """A cell of (frames, values) for each camera, as annot.mat has it; the first value of each is its camera."""
    arrays = {}
    for name, values in (("annot2", 56), ("univ_annot3", 84)):
        arrays[name] = np.empty((cameras, 1), dtype=object)
        for camera in range(cameras):
            arrays[name][camera, 0] = np.arange(3.0 * values).reshape(3, values)
            arrays[name][camera, 0][0, 0] = camera
    savemat(path, arrays, do_compression=True)
    return path


def write_matlab_7(path, **more):
    """HDF5 behind MATLAB's user block."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in (VIEWS | {"valid_frame": VALID} | more).items():
            if values is not None:
                file[name] = values
    return path


@needs_cdflib
def test_cdf(tmp_path):
    [[pose]] = read_foreign("cdf", [write_cdf(tmp_path / "Walking 1.cdf")])
    assert pose.dtype == np.float32
    np.testing.assert_allclose(pose.reshape(7, 96), POSE[0], rtol=1e-6)


def test_matlab_5_by_camera(tmp_path):
    [arrays] = read_foreign("annot", [write_matlab_5(tmp_path / "annot.mat")])
    assert [array[0, 0] for array in arrays] == [camera for camera in CAMERAS for _ in range(2)]
    assert [array.shape for array in arrays] == [(3, 56), (3, 84)] * len(CAMERAS)
    np.testing.assert_array_equal(arrays[-1].ravel()[1:], np.arange(3 * 84)[1:])


@needs_h5py
def test_matlab_7(tmp_path):
    [[pixels, poses, valid]] = read_foreign("annot_data", [write_matlab_7(tmp_path / "annot_data.mat")])
    np.testing.assert_allclose(pixels, VIEWS["annot2"], rtol=1e-6)
    np.testing.assert_allclose(poses, VIEWS["univ_annot3"], rtol=1e-6)
    np.testing.assert_array_equal(valid, VALID)


@needs_h5py
def test_many_files_are_read_in_their_order_by_one_process(tmp_path, monkeypatch):
    started = []

    class Counted(subprocess.Popen):
        def __init__(self, command, **options):
            started.append(command)
            super().__init__(command, **options)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    paths = [write_matlab_7(tmp_path / f"{n}.mat", valid_frame=VALID + n) for n in (2, 0, 1)]
    assert [valid[0, 0] for *_, valid in read_foreign("annot_data", paths)] == [3, 1, 2]
    assert len(started) == 1


@needs_h5py
def test_the_file_that_fails_is_named_after_those_before_it_are_read(tmp_path):
    whole, broken = write_matlab_7(tmp_path / "whole.mat"), tmp_path / "broken.mat"
    broken.write_bytes(whole.read_bytes()[:700])
    arrays = read_foreign("annot_data", [whole, broken])
    assert len(next(arrays)) == 3
    with pytest.raises(DataError, match=r"broken\.mat: expected a MATLAB 7\.3 file .*, found a file that can"):
        next(arrays)


@pytest.mark.parametrize(
    ("kind", "write", "expected"),
    [
        pytest.param(
            "cdf",
            lambda path: write_cdf(path, name="Other"),
            "a CDF file with the variable Pose, found .*Pose",
            marks=needs_cdflib,
        ),
        ("annot", lambda path: savemat(path, {"annot2": np.zeros(3)}), "a MATLAB 5 file with annot2"),
        (
            "annot",
            lambda path: write_matlab_5(path, cameras=8),
            "a MATLAB 5 file .* of 14 cameras, found .*8 is out",
        ),
        pytest.param(
            "annot_data",
            lambda path: write_matlab_7(path, valid_frame=None),
            "a MATLAB 7.3 file .*, found .*valid_frame is missing",
            marks=needs_h5py,
        ),
        ("annot", lambda path: path.write_bytes(b"some text " * 100), "found a file that cannot be read"),
        pytest.param(
            "annot_data",
            lambda path: path.write_bytes(b"some text " * 100),
            "found a file that cannot be read",
            marks=needs_h5py,
        ),
    ],
)
def test_other_files_are_refused_in_a_sentence(kind, write, expected, tmp_path):
    path = tmp_path / ("a.cdf" if kind == "cdf" else "a.mat")
    write(path)
    with pytest.raises(DataError, match=expected) as error:
        list(read_foreign(kind, [path]))
    assert str(error.value).startswith(f"{path}: expected ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", foreign.LIBRARIES)
def test_a_missing_library_is_told_with_the_command_that_installs_it(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=f"expected the package {foreign.LIBRARIES[kind][0]} .* -m pip install"):
        next(read_foreign(kind, [tmp_path / "a"]))


@needs_h5py
@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual", "huge", "group"])
def test_hdf5_leads_to_no_other_file(tmp_path, kind):
    """HDF5 can refer to any file of the disk, which a file from outside could so copy into results."""
    import h5py

    path, secret, shape = write_matlab_7(tmp_path / "a.mat", annot2=None), tmp_path / "secret", (5, 1, 17, 2)
    with h5py.File(secret, "w") as file:
        file["annot2"] = np.ones(shape)
    with h5py.File(path, "r+") as file:
        if kind == "external link":
            file["annot2"] = h5py.ExternalLink(secret, "annot2")
        elif kind == "soft link":
            file["annot2"] = h5py.SoftLink("/univ_annot3")
        elif kind == "external storage":
            file.create_dataset("annot2", shape, "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape, "f8")
            layout[:] = h5py.VirtualSource(secret, "annot2", shape)
            file.create_virtual_dataset("annot2", layout)
        elif kind == "huge":
            file.create_dataset("annot2", (10**9, 1, 17, 2), "f8", chunks=(1000, 1, 17, 2))
        else:
            file.create_group("annot2")
    with pytest.raises(DataError, match=r"a\.mat: expected a MATLAB 7\.3 file .*, found .*annot2"):
        list(read_foreign("annot_data", [path]))


@pytest.mark.skipif(foreign.resource is None, reason="this system has no limits")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("while True: pass", r"crashed its reader \(status -"),
        ("time.sleep(60)", "takes longer than 1 s"),
        ("bytearray(foreign_memory)", "cannot be read .MemoryError"),
        ("os.abort()", r"crashed its reader \(status -6"),
        ("sys.exit('first line\\nlast line')", "found last line$"),
    ],
)
def test_a_library_that_loops_waits_fills_the_memory_or_crashes(fault, message, tmp_path, monkeypatch):
    """As the real ones do on damaged files, here played by a module of cdflib's name."""
    monkeypatch.setattr(foreign, "CPU_SECONDS", 1)
    monkeypatch.setattr(foreign, "SECONDS", 1 if "sleep" in fault else 30)
    fault = fault.replace("foreign_memory", str(foreign.MEMORY))
    (tmp_path / "cdflib.py").write_text(f"import os, sys, time\n\n\ndef CDF(path):\n    {fault}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        list(read_foreign("cdf", [tmp_path / "Photo.cdf"]))
    assert str(error.value).startswith(f"{tmp_path / 'Photo.cdf'}: expected a CDF file with the variable Pose, found ")


def test_the_script_starts_without_the_package():
    """Importing PyTorch would take longer than reading a file."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print([m for m in sys.modules if m in ('mixste', 'torch')])"
    done = subprocess.run([sys.executable, "-P", "-c", code, foreign.__file__], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
