"""Cameras: hand-worked positions, an independent reading of the formulas, and Human3.6M's own calibration."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixste.camera import Camera, camera_to_world, normalize_screen, project, world_to_camera
from mixste.data.cameras import published

PINHOLE = np.array([1000.0, 1100.0, 500.0, 400.0, 0, 0, 0, 0, 0])
DISTORTED = np.array([1145.0, 1143.8, 512.5, 515.5, -0.207, 0.248, -0.003, -0.001, -0.0014])


def matrix(w, x, y, z):
    """Rotation matrix of a unit quaternion, from its textbook definition."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def random_camera(seed):
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=4)
    return quaternion / np.linalg.norm(quaternion), rng.normal(size=3) * 5, rng.normal(size=(2, 6, 3))


# --- world and camera


def test_a_camera_by_hand():
    """At (0, −4, 1) in a world with z up, looking along world y with its x axis to world x, so y points down."""
    half = math.sqrt(0.5)
    orientation, place = (half, -half, 0.0, 0.0), (0.0, -4.0, 1.0)
    world = np.array([[0.0, -4.0, 1.0], [0.0, 0.0, 1.0], [0.5, 0.0, 1.7]])
    seen = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0], [0.5, -0.7, 4.0]])
    np.testing.assert_allclose(world_to_camera(world, orientation, place), seen, atol=1e-12)
    np.testing.assert_allclose(camera_to_world(seen, orientation, place), world, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_world_and_camera_undo_each_other(seed):
    orientation, translation, points = random_camera(seed)
    seen = world_to_camera(points, orientation, translation)
    np.testing.assert_allclose(seen, (points - translation) @ matrix(*orientation), atol=1e-10)  # Rᵀ as R is orthogonal
    np.testing.assert_allclose(camera_to_world(seen, orientation, translation), points, atol=1e-10)


def test_single_precision_stays():
    orientation, translation, points = random_camera(0)
    points = points.astype(np.float32) + np.float32([0, 0, 20])
    for result in (
        world_to_camera(points, orientation, translation),
        camera_to_world(points, orientation, translation),
        project(points, DISTORTED),
        normalize_screen(points[..., :2], 1000, 1002),
    ):
        assert result.dtype == np.float32
        assert np.isfinite(result).all()


@pytest.mark.parametrize("orientation", [(1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0)])
def test_orientation_must_be_a_unit_quaternion(orientation):
    for move in (world_to_camera, camera_to_world):
        with pytest.raises(ValueError, match="unit quaternion"):
            move(np.zeros((1, 3)), orientation, (0.0, 0.0, 0.0))


# --- projection


def test_pinhole_by_hand():
    points = np.array([[0.0, 0.0, 3.0], [1.0, -0.5, 2.0]])
    np.testing.assert_allclose(project(points, PINHOLE), [[500, 400], [1000, 400 - 1100 / 4]])


def test_distortion_by_hand():
    """x = (0.5, 0), r² = 0.25: 0.5 · (1 + 0.1/4 + 0.2/16 + 0.4/64 + 0.5 p1) + p1/4, and p2/4 beside it."""
    intrinsics = np.array([1.0, 1.0, 0.0, 0.0, 0.1, 0.2, 0.4, 0.01, 0.02])
    scale = 1 + 0.025 + 0.0125 + 0.00625 + 0.01 * 0.5
    np.testing.assert_allclose(project(np.array([1.0, 0.0, 2.0]), intrinsics), [0.5 * scale + 0.0025, 0.005])


def test_projection_against_its_formula():
    _, _, points = random_camera(1)
    points = points + np.array([0, 0, 4])
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = DISTORTED
    for point, found in zip(points.reshape(-1, 3), project(points, DISTORTED).reshape(-1, 2), strict=True):
        x, y = (min(max(c / point[2], -1), 1) for c in point[:2])
        r2 = x * x + y * y
        scale = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
        assert found == pytest.approx([fx * (x * scale + p1 * r2) + cx, fy * (y * scale + p2 * r2) + cy])


def test_pixels_and_screen_units_agree():
    """f' = 2f/w and c' = normalised c project straight into the screen units that networks take."""
    _, _, points = random_camera(2)
    points = points + np.array([0, 0, 5])
    width, height = 1000, 1002
    screen = DISTORTED.copy()
    screen[:2] *= 2 / width
    screen[2:4] = normalize_screen(DISTORTED[2:4], width, height)
    np.testing.assert_allclose(project(points, screen), normalize_screen(project(points, DISTORTED), width, height))


def test_far_beside_the_camera_is_clipped():
    found = project(np.array([[100.0, -100.0, 1.0], [1.0, -1.0, 1.0]]), DISTORTED)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.isfinite(project(np.array([[0.3, 0.2, -1.0]]), DISTORTED)).all()


def test_intrinsics_are_nine_numbers():
    with pytest.raises(ValueError, match="9 numbers"):
        project(np.ones((4, 3)), PINHOLE[:4])
    camera = Camera("a", (1, 0, 0, 0), (0, 0, 0), (1.0, 2.0), (3.0, 4.0), (640, 480), (5.0, 6.0, 7.0), (8.0, 9.0))
    np.testing.assert_array_equal(camera.intrinsics, [1, 2, 3, 4, 5, 6, 7, 8, 9])


# --- screen


def test_corners_of_the_screen():
    corners = np.array([[0, 0], [1920, 1080], [960, 540]])
    np.testing.assert_allclose(
        normalize_screen(corners.astype(float), 1920, 1080), [[-1, -0.5625], [1, 0.5625], [0, 0]], atol=1e-12
    )


def test_keypoints_have_two_coordinates():
    with pytest.raises((ValueError, TypeError)):  # TypeError where type hints are checked
        normalize_screen(np.zeros((17, 3)), 1000, 1000)


# --- calibration


def test_human36m_cameras_see_a_person_standing_upright():
    """World z is up and lengths are millimetres: the four cameras of a subject look at the middle of the room."""
    calibration = published("human36m")
    hip, head = np.array([0.0, 0.0, 0.9]), np.array([0.0, 0.0, 1.6])
    for subject in ("S1", "S5", "S6", "S7", "S8", "S9", "S11"):
        views = calibration["extrinsics"][subject]
        for name, view in zip(calibration["camera_order"], views, strict=True):
            lens = calibration["intrinsics"][name]
            intrinsics = np.array(
                lens["focal_length"] + lens["center"] + lens["radial_distortion"] + lens["tangential_distortion"]
            )
            place = np.array(view["translation"]) / 1000
            seen = world_to_camera(np.stack([hip, head]), view["orientation"], place)
            assert (seen[:, 2] > 3).all()
            np.testing.assert_allclose(np.linalg.norm(seen[0]), np.linalg.norm(hip - place))
            (hip_x, hip_y), (head_x, head_y) = project(seen, intrinsics)
            assert 0 < hip_x < lens["res_w"]
            assert 0 < head_y < hip_y < lens["res_h"]
            assert abs(head_x - hip_x) < 0.1 * (hip_y - head_y)
