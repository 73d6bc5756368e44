"""Writes the licensed benchmarks' files as they are published, from motions that may be passed on.

Same keys, types, nesting and quirks: unlabelled subjects, 2D clips that run on, frames without ground truth. `motion`
is whatever moves: (subject, name, frames) -> (frames, 17, 3) metres, Z up, human36m order.
"""

import functools
import zlib
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

import mixste.data
from mixste.data.cameras import published
from mixste.data.sources import synthetic

ACTIONS = (
    *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting"),
    *("SittingDown", "Smoking", "Waiting", "WalkDog", "Walking", "WalkTogether"),
)
PEOPLE = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
KEPT = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)  # the dropped ones, the other way round
# Joints of the 15- and 17-joint layouts, as places in human36m order.
HUMANEVA15 = (0, 8, 11, 12, 13, 14, 15, 16, 4, 5, 6, 1, 2, 3, 10)
DHP17 = (10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9)
DHP28 = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)


@functools.cache
def _performed(action: str) -> np.ndarray:
    return synthetic.perform("S1", action, "1")


def synthetic_motion(subject: str, name: str, frames: int) -> np.ndarray:
    action = name.split(" ")[0]
    whole = _performed({"Jog": "Walking", "Box": "Greeting"}.get(action, action))
    start = zlib.crc32(f"{subject} {name}".encode())  # so that no two clips are alike
    return whole[np.arange(start, start + frames) % len(whole)] * (0.9 + start % 100 / 500)


def open_motion(root):
    """Real people for `motion`: a stretch of an HDM05 or CMU recording for each clip, in turn."""
    # One camera's view is enough: its axes are turned upright and moved to where the licensed cameras look.
    clips = [clip for clip in mixste.data.load("open-people", root).clips if clip.camera == "C1" and len(clip) >= 60]

    def motion(subject: str, name: str, frames: int) -> np.ndarray:
        place = zlib.crc32(f"{subject} {name}".encode())
        poses = clips[place % len(clips)].poses
        x, y, z = np.moveaxis(poses - poses[:1, :1], -1, 0)
        start = place % (len(poses) - frames + 1)
        return np.stack([x, z, 1 - y], axis=-1)[start : start + frames]

    return motion


def seen_from(world: np.ndarray, orientation, translation) -> np.ndarray:
    """Camera axes, in float64: the inverse rotation of what lies between the point and the camera."""
    w, x, y, z = orientation
    matrix = Rotation.from_quat([x, y, z, w]).as_matrix()
    return (np.float64(world) - np.array(translation) / 1000) @ matrix  # row vectors: the transpose of the inverse


def on_screen(camera: np.ndarray, lens: dict) -> np.ndarray:
    """Pixels, by the textbook's formula for radial and tangential distortion as VideoPose3D reads it."""
    (fx, fy), (cx, cy) = lens["focal_length"], lens["center"]
    (k1, k2, k3), (p1, p2) = lens["radial_distortion"], lens["tangential_distortion"]
    x, y = (np.clip(camera[..., axis] / camera[..., 2], -1, 1) for axis in (0, 1))
    r2 = x * x + y * y
    scale = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
    return np.stack([fx * (x * scale + p1 * r2) + cx, fy * (y * scale + p2 * r2) + cy], axis=-1)


def noisy(pixels: np.ndarray, extra: int, seed: int) -> np.ndarray:
    """What a detector makes of it, on a few frames more than have ground truth."""
    rng = np.random.default_rng(seed)
    longer = np.concatenate([pixels, np.repeat(pixels[-1:], extra, axis=0)])
    return (longer + rng.normal(0, 3, longer.shape)).astype(np.float32)


def write_human36m(
    folder: Path, motion=synthetic_motion, frames: int = 12, actions=ACTIONS, detectors=("gt", "cpn_ft_h36m_dbb")
):
    """data_3d_h36m.npz and data_2d_h36m_<detector>.npz. Returns {subject: {name: (frames, 17, 3) world}}."""
    calibration, worlds, projections = published("human36m"), {}, {}
    for subject in PEOPLE:
        for number, name in enumerate([f"{action}{take}" for action in actions for take in ("", " 1")]):
            if (subject, name) == ("S11", "Directions"):
                continue
            world = motion(subject, name, frames + number % 3).astype(np.float32)
            worlds.setdefault(subject, {})[name] = world
            projections.setdefault(subject, {})[name] = [
                on_screen(seen_from(world, **pose), calibration["intrinsics"][camera])
                for camera, pose in zip(calibration["camera_order"], calibration["extrinsics"][subject], strict=True)
            ]
    positions = {s: {name: with_dropped(world) for name, world in clips.items()} for s, clips in worlds.items()}
    np.savez_compressed(folder / "data_3d_h36m.npz", positions_3d=positions)
    symmetry = [[4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]]
    metadata = {"layout_name": "h36m", "num_joints": 17, "keypoints_symmetry": symmetry}
    for detector in detectors:
        keypoints = {
            subject: {
                name: [
                    view.astype(np.float32) if detector == "gt" else noisy(view, extra=2, seed=camera)
                    for camera, view in enumerate(views)
                ]
                for name, views in clips.items()
            }
            for subject, clips in projections.items()
        }
        if detector != "gt":
            keypoints["S2"] = {"Directions": [np.zeros((5, 17, 2), np.float32)] * 4}  # without ground truth
        np.savez_compressed(folder / f"data_2d_h36m_{detector}.npz", positions_2d=keypoints, metadata=metadata)
    return worlds


def with_dropped(world: np.ndarray) -> np.ndarray:
    """(frames, 17, 3) among the 32 recorded joints; the others lie far off, so that none can be mistaken for one."""
    full = np.full((len(world), 32, 3), 1e3, np.float32)
    full[:, KEPT] = world
    return full


def write_human36m_originals(folder: Path, worlds: dict) -> None:
    """S*/MyPoseFeatures/D3_Positions/*.cdf, with the originals' names of two actions."""
    from cdflib.cdfwrite import CDF

    for subject, clips in worlds.items():
        place = folder / subject / "MyPoseFeatures" / "D3_Positions"
        place.mkdir(parents=True)
        for name, world in clips.items():
            original = name.replace("Photo", "TakingPhoto").replace("WalkDog", "WalkingDog")
            pose = (with_dropped(world) * 1000).reshape(1, len(world), 96)
            file = CDF(place / f"{original}.cdf", cdf_spec={"Compressed": 0}, delete=True)
            file.write_var(
                {
                    "Variable": "Pose",
                    "Data_Type": 44,  # CDF_FLOAT
                    "Num_Elements": 1,
                    "Rec_Vary": True,
                    "Dim_Sizes": list(pose.shape[1:]),
                    "Var_Type": "zVariable",
                },
                var_data=pose,
            )
            file.close()


def write_humaneva(folder: Path, motion=synthetic_motion, frames: int = 12, detector: str = "gt") -> dict:
    """data_3d_humaneva15.npz and its keypoints. Returns {person: {name: (frames, 15, 3) world, NaN where lost}}."""
    calibration, worlds, projections = published("humaneva"), {}, {}
    lens = {
        "focal_length": (790, 800),
        "center": (310, 250),
        "radial_distortion": (-0.2, 0.1, 0),
        "tangential_distortion": (0, 0),
    }
    for split, takes in (("Train", ("1 chunk0", "1 chunk2")), ("Validate", ("1 chunk0", "1 chunk1", "1 chunk4"))):
        for subject in ("S1", "S2", "S3"):
            for action in ("Walking", "Jog", "Box"):
                for number, take in enumerate(takes):
                    name, person = f"{action} {take}", f"{split}/{subject}"
                    world = motion(subject, name, frames + number).astype(np.float32)[:, HUMANEVA15]
                    projections.setdefault(person, {})[name] = [
                        noisy(on_screen(seen_from(world, **pose), lens), extra=number, seed=camera)
                        for camera, pose in enumerate(calibration["extrinsics"][subject])
                    ]
                    if take == "1 chunk4":  # tracking lost: from start to end in one, for two frames in others
                        world[:, :] = np.nan
                    elif take == "1 chunk1":
                        world[4:6, 3] = np.nan
                    worlds.setdefault(person, {})[name] = world
    projections["Unlabeled/S4"] = {"Walking 1 chunk0": [np.zeros((5, 15, 2), np.float32)] * 3}
    np.savez_compressed(folder / "data_3d_humaneva15.npz", positions_3d=worlds)
    symmetry = [[2, 3, 4, 8, 9, 10], [5, 6, 7, 11, 12, 13]]
    metadata = {"layout_name": "humaneva15", "num_joints": 15, "keypoints_symmetry": symmetry}
    path = folder / f"data_2d_humaneva15_{detector}.npz"
    np.savez_compressed(path, positions_2d=projections, metadata=metadata)
    return worlds


def _dhp_view(motion, subject: str, name: str, camera: int, frames: int, size=(2048, 2048)) -> tuple[np.ndarray, ...]:
    """Pixels and millimetres in camera axes, float64: a person 3 m before a camera at the height of the hips."""
    world = np.float64(motion(subject, name, frames)[:, DHP17])
    turn = Rotation.from_euler("z", 45 * camera, degrees=True).as_matrix()
    x, y, z = np.moveaxis((world - world[:1, 14:15]) @ turn.T, -1, 0)
    pose = np.stack([x, -z, y + 3], axis=-1)
    pixels = pose[..., :2] / pose[..., 2:] * 1497 + np.array(size) / 2
    return pixels, pose * 1000


def write_mpi_inf_3dhp(folder: Path, motion=synthetic_motion, frames: int = 12) -> tuple[dict, dict]:
    """data_train_3dhp.npz and data_test_3dhp.npz. Returns what is in them."""
    train, test = {}, {}
    for subject in range(1, 9):
        for take in (1, 2):
            views = {}
            for camera in (0, 1, 2, 4, 5, 6, 7, 8):
                pixels, pose = _dhp_view(motion, f"S{subject}", "Walking", camera, frames + take)
                views[str(camera)] = {"data_2d": pixels.astype(np.float32), "data_3d": pose.astype(np.float32)}
            train[f"S{subject} Seq{take}"] = [views, 25 * take]
    for number in range(1, 7):
        size = (1920, 1080) if number > 4 else (2048, 2048)
        pixels, pose = _dhp_view(motion, f"S{number}", "Greeting", number, frames + number, size)
        valid = (np.arange(len(pose)) % (number + 1) != 1).astype(np.float64)
        pose[valid == 0] = 0  # without ground truth
        test[f"TS{number}"] = {"data_2d": pixels, "data_3d": pose, "valid": valid}
    np.savez_compressed(folder / "data_train_3dhp.npz", data=train)
    np.savez_compressed(folder / "data_test_3dhp.npz", data=test)
    return train, test


def write_mpi_inf_3dhp_originals(folder: Path, train: dict, test: dict, suffix: str = "") -> None:
    """S*/Seq*/annot.mat (MATLAB 5: cells of fourteen cameras, 28 joints) and TS*/annot_data.mat (MATLAB 7.3, HDF5)."""
    import h5py
    from scipy.io import savemat

    for name, (views, _) in train.items():
        place = folder / Path(*name.split(" "))
        place.mkdir(parents=True)
        frames = len(views["0"]["data_3d"])
        cells = {"annot2": np.empty((14, 1), object), "univ_annot3": np.empty((14, 1), object)}
        for camera in range(14):
            view = views.get(str(camera))
            for key, held, axes in (("annot2", "data_2d", 2), ("univ_annot3", "data_3d", 3)):
                full = np.full((frames, 28, axes), -1e4)
                if view is not None:
                    full[:, DHP28] = view[held]
                cells[key][camera, 0] = full.reshape(frames, -1)
        about = {"cameras": np.arange(14, dtype=np.uint8)[None], "frames": np.arange(frames, dtype=np.uint16)[:, None]}
        savemat(place / "annot.mat", about | cells | {"annot3": cells["univ_annot3"]}, do_compression=True)
    for name, view in test.items():
        place = folder / suffix / name
        place.mkdir(parents=True)
        with h5py.File(place / "annot_data.mat", "w", userblock_size=512) as file:
            file["annot2"], file["univ_annot3"] = view["data_2d"][:, None], view["data_3d"][:, None]
            file["annot3"] = view["data_3d"][:, None] * 1.1
            file["valid_frame"] = view["valid"][:, None]
            file["activity_annotation"] = np.ones((len(view["valid"]), 1))


def mutations(original: Path | bytes, count: int, seed: int = 0):
    """The file's bytes, damaged in `count` ways: cut short, bits flipped, numbers blown up, parts copied elsewhere."""
    whole = original if isinstance(original, bytes) else original.read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(count):
        data = bytearray(whole)
        if rng.random() < 0.1:
            del data[rng.integers(len(data)) :]
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            # Half of them near either end, where formats keep their headers.
            near = rng.choice([len(data), min(len(data), 1024)])
            place = int(rng.integers(max(1, near)))
            place = len(data) - place if rng.random() < 0.3 else place
            match rng.integers(4):
                case 0:
                    data[place : place + 1] = rng.bytes(1)
                case 1:
                    data[place : place + 1] = bytes([byte ^ (1 << rng.integers(8)) for byte in data[place : place + 1]])
                case 2:
                    data[place : place + 4] = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"][rng.integers(3)]
                case 3:
                    start, length = rng.integers(len(data) + 1), rng.integers(1, 64)
                    data[place : place + length] = data[start : start + length]
        yield bytes(data)
