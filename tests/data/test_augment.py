"""Augmentation: bodies keep their motion, cameras keep the bodies, projection agrees with the numpy one."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mixste.camera import normalize_screen, project
from mixste.data.augment import _rotations, project_screen, resize_bodies, turn_cameras
from mixste.data.sources.synthetic import perform
from mixste.data.virtual import film, relayout
from mixste.skeleton import SKELETONS, human36m


@pytest.fixture(scope="module")
def clips():
    return [
        clip
        for rig in ("human36m", "humaneva")
        for clip in film(perform("S1", "Walking", "1"), subject="S1", action="Walking", fps=50.0, rig=rig)
    ]


@pytest.fixture(scope="module")
def poses(clips):
    return torch.from_numpy(np.stack([clip.poses[:30] for clip in clips])).double()  # (7, 30, 17, 3)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def bones(poses, skeleton=human36m):
    parents, children = zip(*skeleton.bones, strict=True)
    return poses[:, :, list(children)] - poses[:, :, list(parents)]


@pytest.mark.parametrize("name", SKELETONS)
def test_bones_change_length_and_keep_direction(name, poses):
    skeleton = SKELETONS[name]
    before = torch.stack([torch.from_numpy(relayout(window.numpy(), skeleton)) for window in poses])
    after = resize_bodies(before, skeleton, generator())
    old, new = bones(before, skeleton), bones(after, skeleton)
    torch.testing.assert_close(old / old.norm(dim=-1, keepdim=True), new / new.norm(dim=-1, keepdim=True))
    factor = new.norm(dim=-1) / old.norm(dim=-1)  # (batch, frames, bones)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert factor.min() >= 0.85 * 0.9
    assert factor.max() <= 1.18 * 1.1
    assert factor.std(dim=0).min() > 0.01  # no two windows share a body
    children = [child for _, child in skeleton.bones]
    twin = [children.index(skeleton.mirror[child]) for child in children]
    torch.testing.assert_close(factor, factor[..., twin])
    distinct = {frozenset((child, int(skeleton.mirror[child]))) for child in children}
    assert len(factor[0, 0].mul(1e6).round().unique()) == len(distinct)


def test_the_root_stays_and_travels_with_the_size(poses):
    grown = resize_bodies(poses, human36m, generator(), bone=(1.0, 1.0), body=(1.1, 1.1))
    torch.testing.assert_close(grown[:, :, 0].mean(dim=1), poses[:, :, 0].mean(dim=1))
    torch.testing.assert_close(grown.diff(dim=1), 1.1 * poses.diff(dim=1))
    same = resize_bodies(poses, human36m, generator(), bone=(1.0, 1.0), body=(1.0, 1.0))
    torch.testing.assert_close(same, poses)


def test_bodies_and_cameras_follow_the_generator(poses):
    for augment in (lambda seed: resize_bodies(poses, human36m, generator(seed)), lambda seed: turn(poses, seed)):
        torch.testing.assert_close(augment(3), augment(3), rtol=0, atol=0)
        assert (augment(3) - augment(4)).abs().max() > 0.01


def turn(poses, seed=0, **options):
    return turn_cameras(poses, generator(seed), **options)


def test_another_camera_sees_the_same_rigid_motion(poses):
    turned = turn(poses)
    for before, after in zip(poses, turned, strict=True):
        torch.testing.assert_close(torch.pdist(after.flatten(0, 1)), torch.pdist(before.flatten(0, 1)))
        for points in (before, after):  # not mirrored: hips, spine and nose keep their handedness
            axes = torch.stack([points[0, 4] - points[0, 1], points[0, 8] - points[0, 0], points[0, 9] - points[0, 8]])
            assert torch.linalg.det(axes) > 0


def test_the_turn_is_about_the_vertical_of_a_camera_that_looks_down(poses):
    down = 0.3
    turned = turn(poses, tilt=0.0, distance=(1.0, 1.0), down=down)
    vertical = torch.tensor([0.0, math.cos(down), math.sin(down)]).double()
    torch.testing.assert_close(turned @ vertical, poses @ vertical)
    torch.testing.assert_close(turned.mean(dim=(1, 2)), poses.mean(dim=(1, 2)))
    assert (turned - poses).abs().amax(dim=(1, 2, 3)).min() > 0.05


def test_without_bounds_nothing_moves(poses):
    torch.testing.assert_close(turn(poses, yaw=0.0, tilt=0.0, distance=(1.0, 1.0)), poses)


def test_the_camera_keeps_its_distance(poses):
    close = turn(poses - poses.new_tensor([0, 0, 3.0]), distance=(0.3, 0.5), nearest=2.0)
    assert close[..., 2].min() >= 2.0 - 1e-9
    torch.testing.assert_close(close[..., 2].amin(dim=(1, 2)).min(), torch.tensor(2.0).double())


def test_rotation_vectors():
    vectors = torch.cat([torch.randn(20, 3, generator=generator()).double(), torch.zeros(1, 3).double()])
    np.testing.assert_allclose(_rotations(vectors), Rotation.from_rotvec(vectors.numpy()).as_matrix(), atol=1e-12)


def test_keypoints_agree_with_the_numpy_projection(clips):
    poses = torch.from_numpy(np.stack([clip.poses[:30] for clip in clips]))
    intrinsics = torch.from_numpy(np.stack([clip.intrinsics for clip in clips])).float()
    resolution = torch.tensor([clip.resolution for clip in clips]).float()
    screen = project_screen(poses, intrinsics, resolution)
    assert screen.dtype == torch.float32
    for clip, ours in zip(clips, screen, strict=True):
        exact = normalize_screen(project(clip.poses[:30].astype(np.float64), clip.intrinsics), *clip.resolution)
        np.testing.assert_allclose(ours, exact, atol=2e-6)


def test_joints_beside_the_camera_are_clipped_alike():
    poses = torch.tensor([[[[5.0, 1.0, 0.5], [0.2, -3.0, 1.0]]]]).double()
    intrinsics = torch.tensor([[1100.0, 1100.0, 500.0, 510.0, -0.2, 0.2, 0.0, 0.001, -0.002]]).double()
    ours = project_screen(poses, intrinsics, torch.tensor([[1000.0, 1002.0]]).double())
    exact = normalize_screen(project(poses[0].numpy(), intrinsics[0].numpy()), 1000, 1002)
    np.testing.assert_allclose(ours[0], exact, atol=1e-12)
