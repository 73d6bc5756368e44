"""MATLAB, HDF5 and CDF files, read in a separate process.

Their libraries trust the offsets and sizes in a file: a damaged one can make them loop, exhaust the memory or crash. So
this file also runs as a script that reads with limits on time and memory and writes plain arrays to its output;
whatever happens to it, the caller gets an error message. It imports nothing of the package, to start fast. On a system
without such limits (Windows) it is only killed if it takes too long.
"""

import contextlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np

try:
    import resource
except ImportError:
    resource = None

CPU_SECONDS = 60  # per file; a sequence of MPI-INF-3DHP takes 2
SECONDS = 300  # wall time per file, for slow disks
MEMORY = 4 << 30  # bytes; a sequence of MPI-INF-3DHP takes 1 GiB
# As in `mixste.io.guard`: a chunked data set may declare any size.
MAX_RATIO, SMALL = 50, 512 << 20
LIBRARIES = {"cdf": ("cdflib", "human36m"), "annot": ("scipy", ""), "annot_data": ("h5py", "mpi-inf-3dhp")}  # extras
CAMERAS = (0, 1, 2, 4, 5, 6, 7, 8)  # the field's choice of MPI-INF-3DHP's fourteen
EXPECTED = {
    "cdf": "a CDF file with the variable Pose",
    "annot": "a MATLAB 5 file with annot2 and univ_annot3 of 14 cameras",
    "annot_data": "a MATLAB 7.3 file with annot2, univ_annot3 and valid_frame",
}


def read_foreign(kind: str, paths: list[Path]) -> Iterator[list[np.ndarray]]:
    """The float32 arrays of each file.

    kind: "cdf" for the variable Pose; "annot" for annot2 and univ_annot3 of each of CAMERAS in turn, in MATLAB 5 files;
    "annot_data" for annot2, univ_annot3 and valid_frame, in MATLAB 7.3 files. Raises DataError for a file without these
    arrays, and if the library that reads it is not installed.
    """
    from mixste.io import DataError
    from mixste.io.install import install

    library, extra = LIBRARIES[kind]
    if importlib.util.find_spec(library) is None:
        raise DataError(
            f"{paths[0]}: expected the package {library} to read it with, found it not installed: {install(extra)}"
        )
    command = [sys.executable, "-P", __file__, str(CPU_SECONDS), kind, *map(str, paths)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as reader,
    ):
        stream = SimpleNamespace(read=reader.stdout.read)  # NumPy would seek in a file object
        for path in paths:
            alarm = threading.Timer(SECONDS, reader.kill)
            alarm.start()
            try:
                [count] = np.lib.format.read_array(stream)
                arrays = [np.lib.format.read_array(stream) for _ in range(count)]
            except Exception:  # NumPy's, of a truncated stream
                status = reader.wait()
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else f"one that crashed its reader (status {status})"
                if alarm.finished.is_set():
                    reason = f"one that takes longer than {SECONDS} s"
                raise DataError(f"{path}: expected {EXPECTED[kind]}, found {reason[:300]}") from None
            finally:
                alarm.cancel()
            yield arrays


def _read(kind: str, path: str) -> list[np.ndarray]:
    if kind == "cdf":
        import cdflib

        return [cdflib.CDF(Path(path)).varget("Pose")]
    if kind == "annot":
        from scipy.io import loadmat

        variables = loadmat(path, variable_names=["annot2", "univ_annot3"])
        return [variables[name][camera, 0] for camera in CAMERAS for name in ("annot2", "univ_annot3")]
    import h5py

    with h5py.File(path) as file:
        return [_stored(file, name, h5py) for name in ("annot2", "univ_annot3", "valid_frame")]


def _stored(file, name: str, h5py) -> np.ndarray:
    """The numbers of a data set stored in this file itself: HDF5 can also refer to other files on the disk."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing, or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is not stored in this file, but in others")
    if dataset.size * dataset.dtype.itemsize > max(SMALL, MAX_RATIO * Path(file.filename).stat().st_size):
        raise ValueError(f"{name} declares shape {dataset.shape}, too large for the size of the file")
    return dataset[:]


def _main(seconds: str, kind: str, *paths: str) -> None:
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(ValueError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for path in paths:
        if resource:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + int(seconds), hard))
        try:
            arrays = [np.asarray(array, dtype=np.float32) for array in _read(kind, path)]
        except Exception as error:
            sys.exit(f"a file that cannot be read ({type(error).__name__}: {' '.join(str(error).split())})")
        out = io.BytesIO()  # NumPy wants a file with a position, which a pipe is not
        for array in (np.array([len(arrays)]), *arrays):
            np.lib.format.write_array(out, array, allow_pickle=False)
        sys.stdout.buffer.write(out.getbuffer())


if __name__ == "__main__":
    _main(*sys.argv[1:])
