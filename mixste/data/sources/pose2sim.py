"""A hundred frames of a real person in four calibrated cameras, with OpenPose's keypoints: the demo of pose2sim 0.6.0.

The package is on PyPI under the BSD 3-Clause licence. Its demo ("BalancingTrial", 60 Hz) has OpenPose's BODY_25B
points and the cameras' calibration. It has no motion capture: the reference poses are triangulated.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mixste.camera import Camera, project, world_to_camera
from mixste.data.clips import Clip, PoseDataset
from mixste.data.multiview import triangulate
from mixste.data.readers.detections import Detections, fill_gaps, follow, to_human36m
from mixste.data.readers.formats import read
from mixste.data.sources.licensed import LARGEST, folder_of
from mixste.io import DataError
from mixste.io.guard import guarded, read_bytes
from mixste.skeleton import human36m

SESSION = Path("Pose2Sim") / "Demo" / "S00_Demo_Session"
TRIAL = "S00_P00_Participant/S00_P00_T01_BalancingTrial"
FPS = 60.0
MAX_CALIBRATION = 1 << 20  # bytes; the demo's is 4 KiB


def load(root=None, keypoints: str = "gt") -> PoseDataset:
    """Four test clips of one person, one per camera; no training clips.

    root: folder with the unpacked wheel. keypoints: "openpose", or "gt" for the projected reference poses. Raises
    DataError for missing or malformed files.
    """
    if keypoints not in ("gt", "openpose"):
        raise DataError(f'expected keypoints "gt" or "openpose", found {keypoints!r}')
    cameras, views = calibration(root), detections(root)
    poses = triangulated(views, cameras)
    clips = []
    for camera, view in zip(cameras, views, strict=True):
        local = world_to_camera(poses, camera.orientation, camera.translation)
        exact = keypoints == "gt"
        clips.append(
            Clip(
                subject="participant",
                action="Balancing",
                camera=camera.name,
                fps=FPS,
                resolution=camera.resolution,
                keypoints=project(local, camera.intrinsics)
                if exact
                else to_human36m(fill_gaps(follow(view)[0]), view.names),
                poses=local,
                intrinsics=camera.intrinsics,
            )
        )
    return PoseDataset(
        name="pose2sim",
        title="demo of pose2sim: one real person, OpenPose, triangulated",
        skeleton=human36m,
        train=[],
        test=clips,
        licence="BSD 3-Clause",
        keypoints=keypoints,
    )


def triangulated(views: list[Detections], cameras: list[Camera]) -> np.ndarray:
    """(frames, 17, 3) world positions, metres: the most prominent person's points, as human36m's joints."""
    points = [follow(view)[0] for view in views]
    if len({len(view) for view in points}) != 1:
        raise DataError(f"expected as many frames of each camera, found {', '.join(str(len(view)) for view in points)}")
    points = np.stack(points)
    return to_human36m(triangulate(points, cameras), views[0].names)


def detections(root=None) -> list[Detections]:
    """OpenPose's keypoints, camera by camera, from folders that `mixste lift` reads too."""
    views = zip(_demo_files(root, f"{TRIAL}/pose/cam*_json", 4), calibration(root), strict=True)
    return [read(folder, "openpose", "body25b", camera.resolution) for folder, camera in views]


def videos(root=None) -> list[Path]:
    """The videos, camera by camera."""
    return _demo_files(root, f"{TRIAL}/videos/cam*.mp4", 4)


def calibration(root=None) -> list[Camera]:
    """The four cameras, from Qualisys' calibration file."""
    [path] = _demo_files(root, "S00_Calibration/Calib.qca.txt", 1)
    with guarded(path, "Qualisys' calibration"):
        root = ElementTree.fromstring(read_bytes(path, MAX_CALIBRATION), ElementTree.XMLParser(target=_Plain()))
        cameras = [_camera(element) for element in root.iter("camera")]
        if len(cameras) != 4:
            raise DataError(f"expected four cameras, found {len(cameras)}")
        return cameras


class _Plain(ElementTree.TreeBuilder):
    """Refuses document types, through which XML can define exponentially growing entities or include other files."""

    def doctype(self, *_) -> None:
        raise DataError("expected XML without a document type, found one")


def _camera(element: ElementTree.Element) -> Camera:
    """Units in the file: millimetres and 1/64 pixel. The matrix's columns are the camera's axes, y up, z backwards."""
    pose = {key: float(value) for key, value in element.find("transform").attrib.items()}
    lens = {key: float(value) for key, value in element.find("intrinsic").attrib.items()}
    image = {key: int(value) for key, value in element.find("fov_video").attrib.items()}
    axes = np.array([[pose[f"r{row}{column}"] for row in (1, 2, 3)] for column in (1, 2, 3)]) * [1, -1, -1]
    wrong = [value for value in (*pose.values(), *lens.values()) if not abs(value) <= LARGEST]  # as NaN is not
    if wrong:
        raise DataError(f"expected finite numbers of at most {LARGEST:,.0f}, found {wrong[0]:g}")
    return Camera(
        name=element.get("serial"),
        orientation=tuple(Rotation.from_matrix(axes).as_quat(scalar_first=True)),
        translation=tuple(pose[axis] / 1000 for axis in "xyz"),
        focal=(lens["focalLengthU"] / 64, lens["focalLengthV"] / 64),
        center=(lens["centerPointU"] / 64 - image["left"], lens["centerPointV"] / 64 - image["top"]),
        radial=tuple(lens[f"radialDistortion{power}"] for power in (1, 2, 3)),
        tangential=(lens["tangentalDistortion1"], lens["tangentalDistortion2"]),
        resolution=(image["right"] - image["left"] + 1, image["bottom"] - image["top"] + 1),
    )


def _demo_files(root, pattern: str, count: int) -> list[Path]:
    """Exactly `count` files or folders of the demo; otherwise DataError, with the commands that fetch it."""
    folder = folder_of("pose2sim", root) / SESSION
    paths = sorted(folder.glob(pattern))
    if len(paths) != count:
        raise DataError(
            f"expected the demo of pose2sim in {folder}, found {len(paths)} of {count} {pattern}: pip download "
            f"--no-deps pose2sim==0.6.0, then python -m zipfile -e pose2sim-0.6.0-py3-none-any.whl data/pose2sim"
        )
    return paths
