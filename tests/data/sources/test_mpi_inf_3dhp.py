import importlib.util
from dataclasses import replace

import licensed
import numpy as np
import pytest
import torch

from mixste.data import DataError, load
from mixste.data.sources import mpi_inf_3dhp
from mixste.evaluate import evaluate
from mixste.model import MixSTE

needs_h5py = pytest.mark.skipif(importlib.util.find_spec("h5py") is None, reason="h5py is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mpi_inf_3dhp")


@pytest.fixture(scope="module")
def held(folder):
    return licensed.write_mpi_inf_3dhp(folder)


@pytest.fixture(scope="module")
def dataset(folder, held):
    return load("mpi_inf_3dhp", root=folder)


def test_the_protocol(dataset):
    assert dataset.comparable
    assert len(dataset.train) == 8 * 2 * 8  # subjects, sequences, cameras
    assert [clip.subject for clip in dataset.test] == [f"TS{n}" for n in range(1, 7)]
    assert [clip.resolution for clip in dataset.test] == [(2048, 2048)] * 4 + [(1920, 1080)] * 2
    assert {clip.resolution for clip in dataset.train} == {(2048, 2048)}
    assert {clip.camera for clip in dataset.train} == set("01245678")
    assert {(clip.take, clip.fps) for clip in dataset.train} == {("Seq1", 25.0), ("Seq2", 50.0)}
    assert len({clip.name for clip in dataset.clips}) == len(dataset.clips)
    assert dataset.skeleton.joints[dataset.skeleton.root] == "Pelvis"


def test_metres_pixels_and_validity(dataset, held):
    train, test = held
    for clip in dataset.train:
        view = train[f"{clip.subject} {clip.take}"][0][clip.camera]
        np.testing.assert_allclose(clip.poses * 1000, view["data_3d"], rtol=1e-6)
        np.testing.assert_array_equal(clip.keypoints, view["data_2d"])
        assert clip.valid is None
    for clip in dataset.test:
        np.testing.assert_array_equal(clip.valid, test[clip.subject]["valid"] == 1)
        assert 0 < clip.valid.sum() < len(clip)


def test_joint_order(dataset):
    """The annotated joints hang together as the layout says: a bone is as long in all frames of a sequence."""
    parents = dataset.skeleton.parents
    for clip in dataset.train[::40]:
        for child, parent in enumerate(parents):
            if parent >= 0:
                lengths = np.linalg.norm(clip.poses[:, child] - clip.poses[:, parent], axis=-1)
                assert np.ptp(lengths) < 0.02


def test_pck_and_auc_by_the_published_definition(dataset):
    """31 thresholds from 0 to 150 mm, strictly below, over joints 0–13 of the valid frames."""
    torch.manual_seed(0)
    model = MixSTE(frames=5, joints=17, dim=16, depth=1)
    rng, clips, predicted = np.random.default_rng(0), [], []
    for clip in dataset.test:
        predicted.append(lifted(model, clip))
        truth = predicted[-1] + rng.normal(0, 0.08, clip.poses.shape)  # some joints near, others far
        truth[:, 14] = 0
        clips.append(replace(clip, poses=truth + np.array([0.2, 0.1, 3])))
    table = evaluate(model, clips, "exact", skeleton=dataset.skeleton)
    for clip, poses in zip(clips, predicted, strict=True):
        got = table[table["subject"] == clip.subject].set_index("metric")
        distances = []
        for frame in range(len(clip)):
            if not clip.valid[frame]:
                continue
            for joint in range(17):
                truth = clip.poses[frame, joint] - clip.poses[frame, 14]
                distances.append((joint, 1000 * float(np.sqrt(np.sum((poses[frame, joint] - truth) ** 2)))))
        counted = [distance for joint, distance in distances if joint < 14]
        curve = []
        for threshold in range(0, 151, 5):
            curve.append(100 * sum(distance < threshold for distance in counted) / len(counted))
        assert len(curve) == 31
        assert 0 < curve[-1] < 100
        assert got.loc["PCK", "value"] == pytest.approx(curve[-1])
        assert got.loc["AUC", "value"] == pytest.approx(sum(curve) / 31)
        assert got.loc["MPJPE", "value"] == pytest.approx(np.mean([distance for _, distance in distances]), rel=1e-5)
        assert got.loc["MPJPE", "frames"] == clip.valid.sum()


def lifted(model, clip):
    """Window by window, as notebook 13, rows 20 and 21 say, without the package's own machinery."""
    width, height = clip.resolution
    keypoints = 2 * clip.keypoints / width - [1, height / width]
    mirror = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16]
    poses = np.zeros((len(clip), 17, 3))
    for start in range(0, len(clip), model.frames):
        start = min(start, len(clip) - model.frames)
        window = keypoints[start : start + model.frames]
        flipped = window[:, mirror] * [-1, 1]
        with torch.no_grad():
            a, b = (model(torch.tensor(x[None], dtype=torch.float32))[0].double().numpy() for x in (window, flipped))
        both = (a + b[:, mirror] * [-1, 1, 1]) / 2
        known = slice(0 if start % model.frames == 0 else model.frames - start % model.frames, model.frames)
        poses[start : start + model.frames][known] = both[known]
    return poses


@needs_h5py
@pytest.mark.parametrize("suffix", ["", "mpi_inf_3dhp_test_set"])
def test_originals(dataset, held, tmp_path, suffix):
    licensed.write_mpi_inf_3dhp_originals(tmp_path, *held, suffix=suffix)
    read = load("mpi_inf_3dhp", root=tmp_path)
    assert [clip.name for clip in read.clips] == [clip.name for clip in dataset.clips]
    for ours, theirs in zip(read.clips, dataset.clips, strict=True):
        np.testing.assert_allclose(ours.poses, theirs.poses, rtol=1e-6)
        np.testing.assert_allclose(ours.keypoints, theirs.keypoints, rtol=1e-6)
        assert (ours.valid is None) == (theirs.valid is None)
        assert ours.valid is None or (ours.valid == theirs.valid).all()
    rates = {f"{clip.subject} {clip.take}": clip.fps for clip in read.train}
    fast = {"S1 Seq2", "S3 Seq1", "S3 Seq2", "S5 Seq1", "S5 Seq2"}
    assert {name for name, fps in rates.items() if fps == 50} == fast
    assert set(rates.values()) == {25, 50}


@needs_h5py
def test_originals_that_run_on(held, tmp_path, monkeypatch):
    monkeypatch.setitem(mpi_inf_3dhp.SEQUENCES, "S1 Seq1", (7, 25))
    licensed.write_mpi_inf_3dhp_originals(tmp_path, {"S1 Seq1": held[0]["S1 Seq1"]}, held[1])
    assert {len(clip) for clip in load("mpi_inf_3dhp", root=tmp_path).train} == {7}


def test_what_is_missing(folder, held, tmp_path):
    with pytest.raises(DataError, match=r"expected data_train_3dhp\.npz or S\*/Seq\*/annot\.mat in .*bring-your-data"):
        load("mpi_inf_3dhp", root=tmp_path)
    with pytest.raises(DataError, match='expected "gt", found'):
        load("mpi_inf_3dhp", root=folder, keypoints="cpn")
    (tmp_path / "data_train_3dhp.npz").symlink_to(folder / "data_train_3dhp.npz")
    with pytest.raises(DataError, match=r"expected data_test_3dhp\.npz or TS\*/annot_data\.mat in"):
        load("mpi_inf_3dhp", root=tmp_path)


def test_frames_that_do_not_count_may_hold_anything(folder, held, tmp_path):
    _, test = held
    pixels, poses = test["TS2"]["data_2d"].copy(), test["TS2"]["data_3d"].copy()
    invalid = test["TS2"]["valid"] == 0
    pixels[invalid], poses[invalid] = np.inf, np.nan
    np.savez(tmp_path / "data_test_3dhp.npz", data={"TS2": test["TS2"] | {"data_2d": pixels, "data_3d": poses}})
    (tmp_path / "data_train_3dhp.npz").symlink_to(folder / "data_train_3dhp.npz")
    [clip] = load("mpi_inf_3dhp", root=tmp_path).test
    assert not clip.poses[invalid].any()
    np.testing.assert_allclose(clip.poses[~invalid] * 1000, test["TS2"]["data_3d"][~invalid], rtol=1e-6)


GOOD = {"data_2d": np.zeros((4, 17, 2)), "data_3d": np.zeros((4, 17, 3))}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([1], {}, "dictionary of sequences"),
        ({"S1 Seq1": [{"0": GOOD}]}, {}, r"S1 Seq1: expected \[cameras, frames per second\], found a list of 1"),
        ({"S1 Seq1": [{"0": {"data_2d": GOOD["data_2d"]}}, 25]}, {}, "S1 Seq1 camera 0: .*data_2d and data_3d"),
        ({"S1 Seq1": [{"0": GOOD | {"data_3d": np.zeros((4, 28, 3))}}, 25]}, {}, r"data_3d: expected .*17, 3\)"),
        (
            {"S1 Seq1": [{"0": GOOD | {"data_2d": np.zeros((3, 17, 2))}}, 25]},
            {},
            "all 4 frames, as many as there are poses, found 3",
        ),
        ({}, {"TS1": GOOD | {"valid": np.zeros(3)}}, "TS1: expected all 4 frames, .* found 3"),
        ({}, {"TS1": GOOD | {"valid": np.array("x")}}, r"TS1, valid: expected numbers"),
        ({}, {"TS1": GOOD | {"valid": {}}}, r"TS1, valid: expected numbers"),
        ({}, {"TS1": GOOD | {"data_3d": np.full((4, 17, 3), np.inf)}}, r"TS1.*finite"),
        ({}, {}, "at least one clip"),
    ],
)
def test_other_content(tmp_path, train, test, message):
    np.savez(tmp_path / "data_train_3dhp.npz", data=np.array(train, dtype=object))
    np.savez(tmp_path / "data_test_3dhp.npz", data=test)
    with pytest.raises(DataError, match=message):
        load("mpi_inf_3dhp", root=tmp_path)


@needs_h5py
@pytest.mark.parametrize("kind", ["annot.mat", "annot_data.mat"])
@pytest.mark.parametrize("count", [3, pytest.param(15, marks=pytest.mark.slow)])
def test_damaged_originals(held, tmp_path, kind, count):
    """Each file is read, or refused in a sentence; none crashes the reader."""
    train, test = held
    licensed.write_mpi_inf_3dhp_originals(tmp_path, {"S1 Seq1": train["S1 Seq1"]}, {"TS1": test["TS1"]})
    [path] = tmp_path.glob(f"*/**/{kind}")
    outcomes = []
    for damaged in licensed.mutations(path, count):
        path.write_bytes(damaged)
        try:
            load("mpi_inf_3dhp", root=tmp_path)
            sentence = ""
        except DataError as error:
            sentence = str(error)
        assert "\n" not in sentence
        outcomes.append(bool(sentence))
    assert True in outcomes
