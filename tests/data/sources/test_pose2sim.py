"""The demo's files, written here with a person and cameras that are known, and read back."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mixste.camera import Camera, project, world_to_camera
from mixste.data import DataError, load
from mixste.data.readers.detections import LAYOUTS
from mixste.data.sources import pose2sim
from mixste.data.virtual import _ring

NAMES = LAYOUTS["body25b"]
CAMERAS = [
    replace(camera, radial=(-0.05, 0.1, 0.0), tangential=(0.0005, -0.0005), resolution=(1080, 1920))
    for camera in _ring(
        *[(20, 3.5, 1.5), (110, 3.0, 1.8), (200, 3.2, 1.2), (290, 3.6, 1.6)],
        **{"aim": 1.0, "focal": (1680.0, 1675.0), "center": (533.0, 948.0), "resolution": (1080, 1920)},
    )
]


def body(frames=6) -> np.ndarray:
    """(frames, 25, 3) world, metres, Z up: someone about 1.7 m tall who moves to one side."""
    rng = np.random.default_rng(0)
    still = np.array([[0.2 * (name[0] == "L") - 0.2 * (name[0] == "R"), 0, 0.9] for name in NAMES])
    heights = {"Nose": 1.6, "Neck": 1.4, "HeadTop": 1.75, "Ankle": 0.1, "Knee": 0.5, "Hip": 0.9, "Shoulder": 1.4}
    for name, height in heights.items():
        still[[name in joint for joint in NAMES], 2] = height
    return still + 0.01 * rng.normal(size=(25, 3)) + np.arange(frames)[:, None, None] * [0.02, 0.01, 0]


def write(root, world, cameras=CAMERAS):
    session = root / pose2sim.SESSION
    (session / "S00_Calibration").mkdir(parents=True)
    (session / "S00_Calibration" / "Calib.qca.txt").write_text(calibration_of(cameras))
    for number, camera in enumerate(cameras, 1):
        folder = session / pose2sim.TRIAL / "pose" / f"cam{number:02}_json"
        folder.mkdir(parents=True)
        pixels = project(world_to_camera(world, camera.orientation, camera.translation), camera.intrinsics)
        for frame, points in enumerate(pixels):
            nearer = np.c_[points, np.full(25, 0.7)]
            farther = np.c_[50 + 0.2 * points, np.full(25, 0.4)]  # someone in the background, listed first
            people = [{"person_id": [-1], "pose_keypoints_2d": p.ravel().tolist()} for p in (farther, nearer)]
            (folder / f"cam{number:02}.{frame:04}.json").write_text(json.dumps({"people": people}))
    return root


def calibration_of(cameras: list[Camera]) -> str:
    """As Qualisys writes it: 64ths of pixels, millimetres, axes that look backwards and up, transposed."""
    text = []
    for camera in cameras:
        matrix = Rotation.from_quat(camera.orientation, scalar_first=True).as_matrix() @ np.diag([1, -1, -1])
        turn = " ".join(f'r{i + 1}{j + 1}="{matrix[j, i]}"' for i in range(3) for j in range(3))
        x, y, z = 1000 * np.array(camera.translation)
        (fx, fy), (cx, cy) = 64 * np.array(camera.focal), 64 * np.array(camera.center)
        k, p, (width, height) = camera.radial, camera.tangential, camera.resolution
        text.append(
            f'<camera serial="{camera.name}"><fov_video left="0" top="0" right="{width - 1}" bottom="{height - 1}"/>'
            f'<transform {turn} x="{x}" y="{y}" z="{z}"/><intrinsic focalLengthU="{fx}" focalLengthV="{fy}" '
            f'centerPointU="{cx}" centerPointV="{cy}" radialDistortion1="{k[0]}" radialDistortion2="{k[1]}" '
            f'radialDistortion3="{k[2]}" tangentalDistortion1="{p[0]}" tangentalDistortion2="{p[1]}"/></camera>'
        )
    return f"<calibration><cameras>{''.join(text)}</cameras></calibration>"


def test_a_known_person_is_found_by_four_cameras(tmp_path):
    world = body()
    dataset = load("pose2sim", write(tmp_path, world), "openpose")
    assert (len(dataset.train), len(dataset.test), dataset.comparable) == (0, 4, False)
    points = {name: world[:, NAMES.index(name)] for name in NAMES}
    hip, thorax = (points["LHip"] + points["RHip"]) / 2, points["Neck"]
    expected = {0: hip, 1: points["RHip"], 6: points["LAnkle"], 7: (hip + thorax) / 2, 10: points["HeadTop"]}
    for camera, clip in zip(CAMERAS, dataset.test, strict=True):
        assert (clip.camera, clip.resolution, clip.fps) == (camera.name, (1080, 1920), 60.0)
        for joint, place in expected.items():
            there = world_to_camera(place, camera.orientation, camera.translation)
            np.testing.assert_allclose(clip.poses[:, joint], there, atol=1e-4)
            # The middle of two points in the image is not quite the image of their middle.
            np.testing.assert_allclose(clip.keypoints[:, joint], project(there, camera.intrinsics), atol=4.0)


def test_exact_keypoints_are_the_projected_truth(tmp_path):
    clip = load("pose2sim", write(tmp_path, body()), "gt").test[2]
    np.testing.assert_allclose(clip.keypoints, project(clip.poses, clip.intrinsics))


def test_what_is_missing_or_wrong_is_said(tmp_path):
    with pytest.raises(DataError, match=r"pip download --no-deps pose2sim==0\.6\.0"):
        load("pose2sim", tmp_path)
    write(tmp_path, body(1))
    with pytest.raises(DataError, match="found 'cpn'"):
        load("pose2sim", tmp_path, "cpn")
    calibration = tmp_path / pose2sim.SESSION / "S00_Calibration" / "Calib.qca.txt"
    calibration.write_text(calibration.read_text().replace("focalLengthU", "focal"))
    with pytest.raises(DataError, match="expected Qualisys' calibration, found KeyError: 'focalLengthU'"):
        load("pose2sim", tmp_path)
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><calibration>&b;</calibration>'
    for text, message in {
        "<calibration>": "found ParseError",
        laughs: "without a document type",
        "<a>" * 100_000 + "</a>" * 100_000: "four cameras, found 0",
        "<!-- " + " " * (1 << 20): "at most 1,048,576 bytes",
        calibration_of(CAMERAS[:3]): "four cameras, found 3",
        calibration_of(CAMERAS)
        .replace(' x="-', ' x="')
        .replace(' x="', ' x="1' + "0" * 300, 1): "numbers of at most 1,000,000,000",
    }.items():
        calibration.write_text(text)
        with pytest.raises(DataError, match=rf"Calib\.qca\.txt: .*{message}"):
            load("pose2sim", tmp_path)
