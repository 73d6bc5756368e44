"""Rays that meet: points projected by cameras come back, exact and noisy, with cameras that miss some."""

import numpy as np
import pytest

from mixste.camera import Camera, project, world_to_camera
from mixste.data.multiview import triangulate, undistorted
from mixste.data.virtual import RIGS

CAMERAS = RIGS["human36m"]  # lenses with distortion


def seen_by(cameras, world) -> np.ndarray:
    return np.stack([project(world_to_camera(world, c.orientation, c.translation), c.intrinsics) for c in cameras])


@pytest.fixture
def world() -> np.ndarray:
    return np.random.default_rng(0).uniform([-0.8, -0.8, 0], [0.8, 0.8, 1.9], (5, 7, 3))


def test_projected_points_come_back(world):
    np.testing.assert_allclose(triangulate(seen_by(CAMERAS, world), CAMERAS), world, atol=1e-6)


def test_undistorting_undoes_the_lens():
    flat = np.stack(np.meshgrid(np.linspace(-0.4, 0.4, 9), np.linspace(-0.4, 0.4, 9)), axis=-1)
    for camera in CAMERAS:
        pixels = project(np.concatenate([flat, np.ones((9, 9, 1))], axis=-1), camera.intrinsics)
        np.testing.assert_allclose(undistorted(pixels, camera), flat, atol=1e-9)


def test_two_cameras_are_enough_and_one_is_not(world):
    points = seen_by(CAMERAS, world)
    points[2:, 0, 0] = np.nan
    points[1:, 1, 1] = np.nan
    points[:, 2, 2] = np.nan
    found = triangulate(points, CAMERAS)
    lost = np.isnan(found).any(axis=-1)
    assert np.argwhere(lost).tolist() == [[1, 1], [2, 2]]
    np.testing.assert_allclose(found[~lost], world[~lost], atol=1e-6)


def test_crossing_rays_meet_in_the_middle_of_the_shortest_way_between_them():
    """Two cameras look along z and along x; their rays pass each other at a distance of 2 in y."""
    plain = {"focal": (1.0, 1.0), "center": (0.0, 0.0), "resolution": (2, 2)}
    along_z = Camera("z", (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, -5.0), **plain)
    half = 2**-0.5  # turned by 90° about y: the camera's z is the world's x
    along_x = Camera("x", (half, 0.0, half, 0.0), (-3.0, -1.0, 0.0), **plain)
    np.testing.assert_allclose(triangulate(np.zeros((2, 1, 2)), [along_z, along_x]), [[0, 0, 0]], atol=1e-12)


def test_four_noisy_cameras_are_better_than_two(world):
    noisy = seen_by(CAMERAS, world) + np.random.default_rng(1).normal(0, 5, (4, 5, 7, 2))
    errors = [np.linalg.norm(triangulate(noisy[:n], CAMERAS[:n]) - world, axis=-1).mean() for n in (2, 4)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[1] < 0.04  # 5 pixels at 5.5 m and f = 1145 are 24 mm either way
