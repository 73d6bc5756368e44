import licensed
import numpy as np
import pytest

from mixste.data import DataError, load
from mixste.data.cameras import published
from mixste.evaluate import evaluate
from mixste.model import MixSTE
from mixste.skeleton import humaneva15


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("humaneva")


@pytest.fixture(scope="module")
def worlds(folder):
    return licensed.write_humaneva(folder)


@pytest.fixture(scope="module")
def dataset(folder, worlds):
    return load("humaneva", root=folder)


def test_the_protocol(dataset):
    assert dataset.comparable
    assert dataset.skeleton is humaneva15
    assert dataset.actions == ["Walk", "Jog"]
    assert {clip.subject for clip in dataset.train} == {clip.subject for clip in dataset.test} == {"S1", "S2", "S3"}
    assert {(clip.camera, clip.resolution, clip.fps) for clip in dataset.clips} == {
        (camera, (640, 480), 60.0) for camera in ("C1", "C2", "C3")
    }
    assert len({clip.name for clip in dataset.clips}) == len(dataset.clips)
    assert len(dataset.train) == 3 * 2 * 2 * 3  # subjects, actions, chunks, cameras


def test_chunks_without_ground_truth(dataset, worlds):
    """Of three test chunks, the second loses frames 4 and 5 in the middle, the third all of them."""
    walks = [clip for clip in dataset.test if (clip.subject, clip.action, clip.camera) == ("S2", "Walk", "C3")]
    assert [(clip.take, len(clip)) for clip in walks] == [
        ("Validate 1 chunk0", 12),
        ("Validate 1 chunk1", 4),
        ("Validate 1 chunk1 part 1", 7),
    ]
    pose = published("humaneva")["extrinsics"]["S2"][2]
    world = worlds["Validate/S2"]["Walking 1 chunk1"]
    for clip, frames in ((walks[1], slice(0, 4)), (walks[2], slice(6, 13))):
        np.testing.assert_allclose(clip.poses, licensed.seen_from(world[frames], **pose), atol=2e-6)


def test_camera_axes_and_keypoints(dataset, folder, worlds):
    with np.load(folder / "data_2d_humaneva15_gt.npz", allow_pickle=True) as archive:
        seen = archive["positions_2d"].item()
    for clip in dataset.train:
        name = {"Walk": "Walking", "Jog": "Jog"}[clip.action] + clip.take.removeprefix("Train")
        view = int(clip.camera[1]) - 1
        pose = published("humaneva")["extrinsics"][clip.subject][view]
        expected = licensed.seen_from(worlds[f"Train/{clip.subject}"][name], **pose)
        np.testing.assert_allclose(clip.poses, expected, atol=2e-6)
        np.testing.assert_array_equal(clip.keypoints, seen[f"Train/{clip.subject}"][name][view][: len(clip)])


def test_keypoints_that_a_detector_lost(folder, worlds, tmp_path):
    with np.load(folder / "data_2d_humaneva15_gt.npz", allow_pickle=True) as archive:
        seen = archive["positions_2d"].item()
    seen["Train/S1"]["Jog 1 chunk0"][1][3] = np.nan
    np.savez(tmp_path / "data_2d_humaneva15_detectron_pt_coco.npz", positions_2d=seen)
    (tmp_path / "data_3d_humaneva15.npz").symlink_to(folder / "data_3d_humaneva15.npz")
    clips = load("humaneva", root=tmp_path, keypoints="detectron_pt_coco").train
    jogs = [clip for clip in clips if (clip.subject, clip.action) == ("S1", "Jog") and "chunk0" in clip.take]
    assert [(clip.camera, len(clip)) for clip in jogs] == [("C1", 12), ("C2", 3), ("C2", 8), ("C3", 12)]


def test_what_is_missing(folder, worlds, tmp_path):
    with pytest.raises(DataError, match=r"data_3d_humaneva15\.npz and data_2d_humaneva15_<detector>\.npz in"):
        load("humaneva", root=tmp_path)
    with pytest.raises(DataError, match=r"expected data_2d_humaneva15_cpn\.npz .* detectors: gt"):
        load("humaneva", root=folder, keypoints="cpn")
    (tmp_path / "data_3d_humaneva15.npz").symlink_to(folder / "data_3d_humaneva15.npz")
    np.savez(tmp_path / "data_2d_humaneva15_gt.npz", positions_2d={"Train/S1": {}})
    with pytest.raises(DataError, match="Train/S1 Walking 1 chunk0: expected keypoints of 3 cameras, found a NoneType"):
        load("humaneva", root=tmp_path)


def test_other_shapes(folder, worlds, tmp_path):
    np.savez(tmp_path / "data_3d_humaneva15.npz", positions_3d={"Train/S1": {"Jog 1 chunk0": np.zeros((9, 20, 3))}})
    (tmp_path / "data_2d_humaneva15_gt.npz").symlink_to(folder / "data_2d_humaneva15_gt.npz")
    with pytest.raises(DataError, match=r"Train/S1 Jog 1 chunk0: expected numbers \(frames, 15, 3\), found .*20"):
        load("humaneva", root=tmp_path)


def test_a_network_is_evaluated_on_it(dataset):
    table = evaluate(MixSTE(frames=5, joints=15, dim=16, depth=1), dataset.test)
    assert set(table["action"]) == {"Walk", "Jog"}
    assert np.isfinite(table["value"]).all()
