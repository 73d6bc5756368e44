"""The two references: against brute force, an independent solver, and what mirroring must leave as it is."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mixste.camera import normalize_screen
from mixste.checkpoints import load_checkpoint, save_checkpoint
from mixste.evaluate import lift_clips
from mixste.networks.references import ConstantPose, FrameRegression, at_constant_level, geometric_median
from mixste.study.run import Data


@pytest.fixture(scope="module")
def dataset():
    return Data("synthetic", "gt", subjects=("S1", "S9"), actions=("Walking", "Waiting"), test_cameras=1).load()


def trained_on(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and root-relative poses of the training frames and of their mirror images, made here."""
    keypoints = np.concatenate([normalize_screen(clip.keypoints, *clip.resolution) for clip in dataset.train])
    poses = np.concatenate([clip.poses - clip.poses[:, :1] for clip in dataset.train])
    swapped = dataset.skeleton.mirror
    return (
        np.concatenate([keypoints, keypoints[:, swapped] * (-1, 1)]),
        np.concatenate([poses, poses[:, swapped] * (-1, 1, 1)]),
    )


def test_geometric_median_is_the_least_mean_distance():
    points = np.random.default_rng(0).standard_exponential((201, 3))
    least = minimize(lambda at: np.linalg.norm(points - at, axis=-1).mean(), points.mean(axis=0), tol=1e-12)
    np.testing.assert_allclose(geometric_median(torch.from_numpy(points)), least.x, atol=1e-5)
    line = torch.tensor([[0.0, 0], [1, 0], [2, 0], [50, 0], [90, 0]])
    torch.testing.assert_close(geometric_median(line).float(), line[2], atol=1e-4, rtol=0)
    assert geometric_median(torch.zeros(5, 3)).abs().max() == 0


def test_no_constant_pose_is_better_in_training(dataset):
    model, (_, poses) = ConstantPose(), trained_on(dataset)
    loss = model.fit(dataset.train, dataset.skeleton)
    pose = model(torch.zeros(1, 1, 17, 2))[0, 0].numpy()

    def error(pose):
        return np.linalg.norm(poses - pose, axis=-1).mean()

    assert loss == pytest.approx(error(pose), abs=1e-6)
    assert loss < error(poses.mean(axis=0))
    for nearby in pose + 0.002 * np.random.default_rng(0).standard_normal((20, 17, 3)):
        assert loss < error(nearby)


def test_the_regression_is_the_least_squares_of_an_independent_solver(dataset):
    model, (keypoints, poses) = FrameRegression(), trained_on(dataset)
    model.fit(dataset.train, dataset.skeleton)
    inputs = np.c_[keypoints.reshape(len(keypoints), -1), np.ones(len(keypoints))]
    solved, *_ = np.linalg.lstsq(inputs, poses.reshape(len(poses), -1), rcond=None)
    lifted = model(torch.from_numpy(keypoints[:50, None]).float())[:, 0]
    np.testing.assert_allclose(lifted.reshape(50, -1), inputs[:50] @ solved, atol=2e-4)


@pytest.mark.parametrize("kind", [ConstantPose, FrameRegression])
def test_each_lifts_like_a_network_and_mirroring_changes_nothing(dataset, kind, tmp_path):
    model = kind()
    model.fit(dataset.train, dataset.skeleton)
    save_checkpoint(model, tmp_path / "weights.safetensors")
    loaded = load_checkpoint(tmp_path / "weights.safetensors")
    plain, flipped = (lift_clips(loaded, dataset.test, dataset.skeleton, flip=flip) for flip in (False, True))
    for clip, (indices, poses), (_, both) in zip(dataset.test, plain, flipped, strict=True):
        assert indices.tolist() == list(range(len(clip)))
        np.testing.assert_allclose(poses, both, atol=1e-4)


def test_a_reference_reads_one_frame():
    with pytest.raises(ValueError, match="frames must be 1"):
        ConstantPose(frames=3)


def test_the_level_of_a_constant_pose():
    assert [at_constant_level(error, 200.0) for error in (189.9, 190.0, 450.0, float("nan"))] == [
        False,
        True,
        True,
        True,
    ]
