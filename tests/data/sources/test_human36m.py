import importlib.util

import licensed
import numpy as np
import pytest

from mixste.data import DataError, load
from mixste.data.cameras import published
from mixste.data.readers import foreign
from mixste.data.sources import human36m
from mixste.evaluate import average, evaluate
from mixste.model import MixSTE

needs_cdflib = pytest.mark.skipif(importlib.util.find_spec("cdflib") is None, reason="cdflib is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("human36m")


@pytest.fixture(scope="module")
def worlds(folder):
    return licensed.write_human36m(folder)


@pytest.fixture(scope="module")
def dataset(folder, worlds):
    return load("human36m", root=folder, keypoints="cpn_ft_h36m_dbb")


def test_the_protocol(dataset):
    assert dataset.comparable
    assert dataset.actions == list(licensed.ACTIONS)
    assert list(dict.fromkeys(clip.subject for clip in dataset.train)) == ["S1", "S5", "S6", "S7", "S8"]
    assert list(dict.fromkeys(clip.subject for clip in dataset.test)) == ["S9", "S11"]
    # 15 actions of two takes from four cameras, but for the corrupted one
    assert (len(dataset.train), len(dataset.test)) == (5 * 30 * 4, 2 * 30 * 4 - 4)
    assert len({clip.name for clip in dataset.clips}) == len(dataset.clips)
    assert "S11/Directions/1/54138969" in {clip.name for clip in dataset.clips}
    assert not any(clip.name.startswith("S11/Directions/5") for clip in dataset.clips)
    assert {(clip.fps, clip.poses.dtype.name, clip.keypoints.dtype.name) for clip in dataset.clips} == {
        (50.0, "float32", "float32")
    }


def test_joint_order(dataset):
    """The kept 17 of 32 are those the field keeps: where a person stands, what is left and right, above and below."""
    clip = next(clip for clip in dataset.test if clip.action == "Walking")
    names, y = dataset.skeleton.joints, clip.poses[0, :, 1]  # y points down
    assert y[names.index("Head")] < y[names.index("Thorax")] < y[names.index("Hip")] < y[names.index("LKnee")]
    assert y[names.index("LKnee")] < y[names.index("LFoot")]
    assert y[names.index("RKnee")] < y[names.index("RFoot")]


def test_camera_axes(dataset, worlds):
    calibration = published("human36m")
    for clip in dataset.clips:
        name = f"{clip.action} {clip.take}".strip()
        view = calibration["camera_order"].index(clip.camera)
        seen = licensed.seen_from(worlds[clip.subject][name], **calibration["extrinsics"][clip.subject][view])
        np.testing.assert_allclose(clip.poses, seen, atol=2e-6)
        lens = calibration["intrinsics"][clip.camera]
        assert clip.resolution == (lens["res_w"], lens["res_h"])


def test_detected_keypoints_are_cut_to_the_poses(dataset, worlds):
    for clip in dataset.clips:
        assert len(clip.keypoints) == len(clip.poses) == len(worlds[clip.subject][f"{clip.action} {clip.take}".strip()])
    calibration = published("human36m")
    clip = dataset.test[0]
    exact = licensed.on_screen(np.float64(clip.poses), calibration["intrinsics"][clip.camera])
    assert 2 < np.std(clip.keypoints - exact) < 4  # the 3 px of `licensed.noisy`: the right clip, in the right order


def test_ground_truth_keypoints_read_or_projected(folder, worlds, tmp_path):
    """VideoPose3D's projections in float64 by the formula, and ours where their file is not there."""
    (tmp_path / "data_3d_h36m.npz").symlink_to(folder / "data_3d_h36m.npz")
    read, projected = load("human36m", root=folder), load("human36m", root=tmp_path)
    assert read.keypoints == projected.keypoints == "gt"
    assert [clip.name for clip in read.clips] == [clip.name for clip in projected.clips]
    for ours, theirs in zip(projected.clips, read.clips, strict=True):
        np.testing.assert_allclose(ours.keypoints, theirs.keypoints, atol=2e-3)
        assert ours.intrinsics.shape == (9,)


def test_where_the_files_may_be(folder, worlds, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_DATA", str(folder))
    names = [clip.name for clip in load("human36m").clips]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "human36m").symlink_to(folder)
    assert [clip.name for clip in load("human36m", root=tmp_path / "data").clips] == names
    monkeypatch.delenv("MIXSTE_DATA")
    monkeypatch.chdir(tmp_path)
    assert [clip.name for clip in load("human36m").clips] == names


@needs_cdflib
def test_originals(folder, worlds, tmp_path):
    few = {
        subject: {name: clips[name] for name in ("Directions", "Photo", "Photo 1", "WalkDog 1") if name in clips}
        for subject, clips in worlds.items()
    }
    few["S11"]["Directions"] = worlds["S9"]["Directions"]  # the originals have the corrupted recording
    licensed.write_human36m_originals(tmp_path, few)
    names = {f"{subject} {clip}" for subject, clips in few.items() for clip in clips} - {"S11 Directions"}
    read = {clip.name: clip for clip in load("human36m", root=tmp_path).clips}
    assert {" ".join([c.subject, c.action, c.take]).strip() for c in read.values()} == names
    for clip in load("human36m", root=folder).clips:
        if clip.name in read:
            np.testing.assert_allclose(read[clip.name].poses, clip.poses, atol=2e-6)
            np.testing.assert_allclose(read[clip.name].keypoints, clip.keypoints, atol=5e-3)


def rewrite(folder, target, file, key, change):
    """A copy of the folder with one archive's content changed."""
    for path in folder.glob("*.npz"):
        (target / path.name).symlink_to(path)
    with np.load(folder / file, allow_pickle=True) as archive:
        value = archive[key].item()
    value = change(value) or value
    (target / file).unlink()
    np.savez(target / file, **{key: value})


def set_to(*place, to):
    def change(value):
        for key in place[:-1]:
            value = value[key]
        value[place[-1]] = to

    return change


def without(*place):
    def change(value):
        for key in place[:-1]:
            value = value[key]
        del value[place[-1]]

    return change


POSES, SEEN = ("data_3d_h36m.npz", "positions_3d"), ("data_2d_h36m_cpn_ft_h36m_dbb.npz", "positions_2d")


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        (POSES, lambda value: {"S1": 1}, r"positions_3d to be a dictionary of subjects of actions, found a dict of 1"),
        (POSES, set_to("S1", "Photo", to=None), r"S1 Photo: expected numbers \(frames, 32, 3\), found a NoneType"),
        (POSES, set_to("S1", "Photo", to=np.zeros((4, 17, 3))), r"\(frames, 32, 3\), found float64 .*\(4, 17, 3\)"),
        (POSES, set_to("S1", "Photo", to=np.zeros((0, 32, 3))), r"S1/Photo/54138969: expected at least one frame"),
        (POSES, set_to("S9", "Photo", to=np.full((4, 32, 3), np.nan)), r"S9/Photo/54138969: .*finite.* frame 0"),
        (POSES, set_to("S9", "Photo", to=np.array(["x"] * 3)), r"S9 Photo: expected numbers"),
        (SEEN, without("S9"), r"S9 Directions: expected keypoints of 4 cameras, found a NoneType"),
        (SEEN, without("S9", "Photo"), r"S9 Photo: expected keypoints of 4 cameras"),
        (SEEN, set_to("S9", "Photo", to=[np.zeros((20, 17, 2))] * 3), r"of 4 cameras, found a list of 3"),
        (SEEN, set_to("S9", "Photo", to=[np.zeros((20, 16, 2))] * 4), r"\(frames, 17, 2\), found .*\(20, 16, 2\)"),
        (
            SEEN,
            set_to("S9", "Photo", to=[np.zeros((5, 17, 2))] * 4),
            r"all 1\d frames, .* found 5",
        ),
        (SEEN, set_to("S9", 3, to=[]), None),
        (POSES, set_to("S9", 3, to=np.zeros((4, 32, 3))), r"actions of positions_3d to have names, found 3"),
        (SEEN, set_to("S2", "Photo", to="not labelled, so of no concern"), None),
    ],
)
def test_other_content(folder, worlds, tmp_path, where, change, message):
    rewrite(folder, tmp_path, *where, change)
    if message is None:
        load("human36m", root=tmp_path, keypoints="cpn_ft_h36m_dbb")
        return
    with pytest.raises(DataError, match=message):
        load("human36m", root=tmp_path, keypoints="cpn_ft_h36m_dbb")


def test_what_is_missing(folder, worlds, tmp_path):
    with pytest.raises(DataError, match=r"expected data_3d_h36m\.npz or .*cdf in .*, found none.*bring-your-data"):
        load("human36m", root=tmp_path)
    with pytest.raises(DataError, match=r"found no such folder"):
        load("human36m", root=tmp_path / "none")
    with pytest.raises(DataError, match=r"expected data_2d_h36m_hrnet\.npz .* detectors: cpn_ft_h36m_dbb, gt"):
        load("human36m", root=folder, keypoints="hrnet")


def test_a_network_is_evaluated_on_it(dataset):
    model = MixSTE(frames=9, dim=16, depth=1)
    table = evaluate(model, dataset.test)
    assert set(table["action"]) == set(licensed.ACTIONS)
    assert average(table)["MPJPE"] > 0


@needs_cdflib
def test_damaged_originals(worlds, tmp_path, monkeypatch):
    """Each file is read, or refused in a sentence; none crashes the reader, or keeps it from an end."""
    monkeypatch.setattr(foreign, "CPU_SECONDS", 3)
    licensed.write_human36m_originals(tmp_path, {"S1": {"Photo": worlds["S1"]["Photo"]}})
    [path] = tmp_path.glob("S1/*/*/*.cdf")
    outcomes = []
    for damaged in licensed.mutations(path, 5):
        path.write_bytes(damaged)
        outcomes.append(refused(tmp_path))
    assert True in outcomes


@needs_cdflib
@pytest.mark.slow
def test_many_damaged_originals(worlds, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "CPU_SECONDS", 3)
    licensed.write_human36m_originals(tmp_path, {"S1": {"Photo": worlds["S1"]["Photo"]}})
    [path] = tmp_path.glob("S1/*/*/*.cdf")
    for damaged in licensed.mutations(path, 40, seed=1):
        path.write_bytes(damaged)
        refused(tmp_path)


def refused(folder) -> bool:
    try:
        human36m.load(folder)
        return False
    except DataError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert str(folder) in sentence or "S1/Photo" in sentence
    return True
