"""Damaged files of every format: a reader gives a result or its own error, soon and in little memory.

Seeds are fixed. HDF5, MATLAB and CDF files, which are read in a process of their own, are damaged in the tests of their
data sets.
"""

import io
import json
import lzma
import re
import time
import warnings
import zipfile
from pathlib import Path

import licensed
import numpy as np
import pytest
import test_checkpoints as authors
import test_open_mocap as mocap
import test_pose2sim as qualisys
import torch
from safetensors.torch import save_file
from test_pickles import Python2

from mixste.checkpoints import CheckpointError, load_checkpoint
from mixste.data import DataError, load
from mixste.data.readers import asf_amc, bvh
from mixste.data.readers.detections import LAYOUTS
from mixste.data.readers.formats import read
from mixste.data.sources import human36m, humaneva, mpi_inf_3dhp, open_people, pose2sim
from mixste.io.pickles import read_npz
from mixste.model import MixSTE
from mixste.wild.lift import lift_clip
from mixste.wild.outputs import Lifted, write_npz

resource = pytest.importorskip("resource", reason="this system does not tell a process's memory")

FILES = 1000  # of each format, or as many as
SECONDS = 2  # of processor time allow
ONE_FILE = 10  # seconds that one may take at most
MEMORY = 600 << 20  # bytes that one may take at most
NUMBERS = (
    b"nan",
    b"-1",
    b"0",
    b"1e999",
    b"1e300",
    b"-1e30",
    b"1" * 5_000,
    b"1000000000000",
    b'"x"',
    b"null",
    b"[]",
    b"{}",
)


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """One to four damages: bits, bytes, cuts, parts inserted, repeated, left out or swapped, other numbers."""
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 4])):
        # Half of them near the beginning, where formats keep their headers.
        place = int(rng.integers(rng.choice([len(data), min(len(data), 512)]) + 1))
        start, length = int(rng.integers(len(data) + 1)), int(rng.choice([1, 8, 64, 4096]))
        match rng.integers(8):
            case 0:
                data[place : place + 1] = bytes([byte ^ (1 << rng.integers(8)) for byte in data[place : place + 1]])
            case 1:
                data[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\1", b"\xff\xff\xff\x7f"])
            case 2:
                del data[place if rng.random() < 0.3 else -length :]
            case 3:
                data[place:place] = rng.bytes(length)
            case 4:
                data[place:place] = data[start : start + length] * int(rng.choice([1, 2, 100]))
            case 5:
                del data[place : place + length]
            case 6:
                data[place : place + length], data[start : start + length] = (
                    data[start : start + length],
                    data[place : place + length],
                )
            case 7:
                numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data[:20_000]))
                if numbers:
                    number = numbers[rng.integers(len(numbers))]
                    data[number.start() : number.end()] = NUMBERS[rng.integers(len(NUMBERS))]
    return bytes(data)


def damaged_file(whole: bytes, rng: np.random.Generator) -> bytes:
    """Damage to a file or, in every other archive, to a file in it, under a checksum that is right."""
    if not whole.startswith(b"PK") or rng.random() < 0.3:
        return damaged(whole, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w") as new:
        hit = rng.integers(len(old.namelist()))
        for number, name in enumerate(old.namelist()):
            new.writestr(name, damaged(old.read(name), rng) if number == hit else old.read(name))
    return out.getvalue()


# --- small whole files, and what reads them ----------------------------------------------------------------------

WALK = np.concatenate([np.random.default_rng(0).uniform(300, 900, (12, 17, 2)), np.full((12, 17, 1), 0.9)], 2)
WALK[:, :5, :2] = WALK[:, :1, :2] + np.arange(5)[:, None]  # a face
NAMES = LAYOUTS["coco17"]


def text(content) -> bytes:
    return json.dumps(content).encode()


def arrays(save=np.savez, **content) -> bytes:
    out = io.BytesIO()
    save(out, **content) if save is not np.save else save(out, content["array"])
    return out.getvalue()


COCO = [{"image_id": f"{k}.jpg", "keypoints": one.ravel().tolist(), "score": 1.5} for k, one in enumerate(WALK)]
MMPOSE = {
    "meta_info": {"keypoint_id2name": {str(k): name for k, name in enumerate(NAMES)}},
    "instance_info": [
        {"frame_id": k, "instances": [{"keypoints": one[:, :2].tolist(), "keypoint_scores": one[:, 2].tolist()}]}
        for k, one in enumerate(WALK)
    ],
}
ANNOTATIONS = {
    "images": [{"id": k, "file_name": f"{k}.jpg", "width": 1920, "height": 1080} for k in range(12)],
    "categories": [{"id": 1, "name": "person", "keypoints": list(NAMES)}],
    "annotations": [{"image_id": k, "category_id": 1, "keypoints": one.ravel().tolist()} for k, one in enumerate(WALK)],
}
AS_COCO = [NAMES.index(name) if name in NAMES else 0 for name in LAYOUTS["mediapipe33"]]
MEDIAPIPE = [[{"x": x / 1920, "y": y / 1080, "z": 0.0, "visibility": 0.9} for x, y, _ in one[AS_COCO]] for one in WALK]
TABLE = "\n".join(
    [",".join(f"{name}_{axis}" for name in NAMES for axis in ("x", "y", "score"))]
    + [",".join(f"{value:.2f}" for value in one.ravel()) for one in WALK]
)
KEYPOINTS = {
    "openpose.json": text([{"people": [{"pose_keypoints_2d": one.ravel().tolist()}]} for one in WALK]),
    "coco.json": text(COCO),
    "mmpose.json": text(MMPOSE),
    "annotations.json": text(ANNOTATIONS),
    "mediapipe.json": text(MEDIAPIPE),
    "table.csv": TABLE.encode(),
    "numbered.csv": ("frame," + TABLE).replace("\n", "\n7,").encode(),
    "arrays.npz": arrays(keypoints=WALK, resolution=[1920, 1080], fps=25.0, joints=np.array(NAMES)),
    "packed.npz": arrays(np.savez_compressed, keypoints=WALK[..., :2], scores=WALK[..., 2], resolution=[1920, 1080]),
    "array.npy": arrays(np.save, array=WALK),
    "custom.npz": arrays(
        positions_2d={"a.mp4": {"custom": [WALK[..., :2]]}},
        metadata={"layout_name": "coco", "video_metadata": {"a.mp4": {"w": 1920, "h": 1080}}},
    ),
}


def lifted(path) -> None:
    layout = "coco17" if path.name in ("packed.npz", "array.npy") else None  # which have no names
    found = lift_clip(read(path, layout=layout, resolution=(1920, 1080)), MODEL)
    assert np.isfinite(found.poses).all()
    assert np.isfinite(found.keypoints).all()


torch.manual_seed(0)
MODEL = MixSTE(frames=9, dim=8, depth=1, heads=1).eval()


def keypoints(name):
    return lambda folder: (put(folder / name, KEYPOINTS[name]), lifted)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def frames(folder):
    for k, one in enumerate(WALK):
        put(folder / "in" / f"a_{k:06}.json", text({"people": [{"pose_keypoints_2d": one.ravel().tolist()}]}))
    return folder / "in" / "a_000003.json", lambda path: lifted(path.parent)


def lifted_clip(folder):
    write_npz(lift_clip(read(put(folder / "k.npz", KEYPOINTS["arrays.npz"])), MODEL), folder / "a.npz")
    return folder / "a.npz", lambda path: Lifted.read(path).poses.sum()


def python_2(folder):
    out = io.BytesIO()
    Python2(out, 2).dump(np.array({"S1": {"Sitting": np.ones((3, 4), "<f4"), "n": [1.5, 2]}}, dtype=object))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("data.npy", header.getvalue() + out.getvalue())
    return folder / "a.npz", lambda path: read_npz(path, "data")


def of_human36m(folder):
    poses = {"S1": {"Photo": np.ones((5, 32, 3), np.float32)}, "S9": {"Photo 1": np.ones((5, 32, 3), np.float32)}}
    np.savez(folder / human36m.POSES, positions_3d=poses)
    return folder / human36m.POSES, lambda path: load("human36m", path.parent)


def of_humaneva(folder):
    licensed.write_humaneva(folder)
    return folder / humaneva.POSES, lambda path: load("humaneva", path.parent)


def of_mpi_inf_3dhp(folder):
    licensed.write_mpi_inf_3dhp(folder)
    return folder / mpi_inf_3dhp.TEST, lambda path: load("mpi_inf_3dhp", path.parent)


def of_pose2sim(folder):
    qualisys.write(folder, qualisys.body(3))
    path = folder / pose2sim.SESSION / "S00_Calibration" / "Calib.qca.txt"
    return path, lambda path: load("pose2sim", folder)


def skeleton(folder):
    motion = mocap.amc(3)

    def reading(path):
        acclaim = asf_amc.read_asf(path.read_text("latin-1"), path.name)
        asf_amc.joints(acclaim, asf_amc.read_amc(motion, acclaim))

    return put(folder / "a.asf", mocap.asf().encode()), reading


def motion(folder):
    acclaim = asf_amc.read_asf(mocap.asf())

    def reading(path):
        assert np.isfinite(asf_amc.joints(acclaim, asf_amc.read_amc(path.read_text("latin-1"), acclaim))).all()

    return put(folder / "a.amc", mocap.amc(20).encode()), reading


def hierarchy(folder):
    def reading(path):
        assert np.isfinite(bvh.joints(bvh.read_bvh(path.read_text("latin-1"), path.name))).all()

    return put(folder / "a.bvh", mocap.bvh_text(20).encode()), reading


def archive(folder):
    return mocap.pack(mocap.SUBJECTS["hdm05"], folder / "a.tar.xz"), open_people.load_people


def plain_archive(folder):
    path = archive(folder)[0]
    return put(folder / "a.tar", lzma.decompress(path.read_bytes())), open_people.load_people


def ours(folder):
    about = {"model": "mixste", "options": json.dumps(MODEL.options)}
    save_file(MODEL.state_dict(), folder / "a.safetensors", about)
    return folder / "a.safetensors", load_checkpoint


def theirs(legacy):
    return lambda folder: (
        authors.write(folder / "a.bin", authors.mixste_file(frames=3, dim=8, depth=1), legacy=legacy),
        load_checkpoint,
    )


FORMATS = {
    **{name: keypoints(name) for name in KEYPOINTS},
    **{"frames": frames, "lifted": lifted_clip, "python 2": python_2, "human36m": of_human36m, "humaneva": of_humaneva},
    **{"mpi_inf_3dhp": of_mpi_inf_3dhp, "pose2sim": of_pose2sim, "asf": skeleton, "amc": motion, "bvh": hierarchy},
    **{"tar.xz": archive, "tar": plain_archive, "safetensors": ours, "bin": theirs(False), "old bin": theirs(True)},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:open-people is without")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "files"
    folder.mkdir()
    path, reading = FORMATS[name](folder)
    reading(path)  # whole, it is read
    whole, rng = path.read_bytes(), np.random.default_rng(22)
    began, refused, number = time.process_time(), 0, 0
    while number < FILES and time.process_time() < began + SECONDS:
        content = damaged_file(whole, rng)
        path.write_bytes(content)
        start, memory = time.process_time(), peak()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reading(path)
            sentence = ""
        except (DataError, CheckpointError) as error:
            sentence = str(error)
            refused += 1
        except Exception as error:
            (tmp_path / "failed").write_bytes(content)
            raise AssertionError(f"file {number}, kept as {tmp_path / 'failed'}") from error
        assert sentence.isprintable()
        assert len(sentence) < 700
        assert time.process_time() - start < ONE_FILE
        assert peak() - memory < MEMORY
        number += 1
    assert refused > number / 10
    assert number >= 10


def peak() -> int:
    """The most memory that the process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
