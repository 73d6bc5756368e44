from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation

from mixste.camera import normalize_screen
from mixste.data import Clip, DataError
from mixste.evaluate import average, by_action, evaluate, joint_errors, lift_clips
from mixste.model import MixSTE
from mixste.skeleton import human36m, mpi_inf_3dhp

T = 4
MIRROR = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]
# For T = 4 and lengths 1, T − 1, T, T + 1, 2T, 2T + 7: the frames that the authors' protocol counts (notebook 13,
# row 20), in the order in which it takes velocities (row 23) …
COUNTED = {
    1: [0, 0, 0, 0],
    3: [0, 1, 2, 2],
    4: [0, 1, 2, 3],
    5: [0, 1, 2, 3, 1, 2, 3, 4],
    8: [0, 1, 2, 3, 4, 5, 6, 7],
    15: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 12, 13, 14],
}
# … and which of these the exact protocol counts: each frame where it first occurs.
EXACT = {
    1: [0],
    3: [0, 1, 2],
    4: [0, 1, 2, 3],
    5: [0, 1, 2, 3, 7],
    8: list(range(8)),
    15: [*range(12), 13, 14, 15],
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = MixSTE(T, 17, 8, 1).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def clip(length: int, action: str = "Walking", seed: int = 0, **changes) -> Clip:
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.3, (length, 17, 3)) + np.array([0.1, 0.2, 4])
    keypoints = rng.uniform(0, 1000, (length, 17, 2))
    return replace(Clip("S9", action, "C1", 50.0, (1000, 1002), keypoints, poses), **changes)


@torch.no_grad()
def protocol_by_hand(model, clip) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true poses, millimetres, in the order of COUNTED."""
    width, height = clip.resolution
    keypoints = np.stack(
        [clip.keypoints[..., 0] / width * 2 - 1, (clip.keypoints[..., 1] * 2 - height) / width], axis=-1
    )
    pred, true = [], []
    order = COUNTED[len(clip)]
    for start in range(0, len(order), T):
        window = keypoints[order[start : start + T]]
        inputs = torch.tensor(np.stack([window, window[:, MIRROR] * [-1, 1]]), dtype=torch.float32)
        plain, turned = (model(part[None])[0].double().numpy() for part in inputs)
        pred.append((plain + turned[:, MIRROR] * [-1, 1, 1]) / 2)
    for frame in order:
        true.append(clip.poses[frame] - clip.poses[frame, 0])  # the root of the target is 0, the predicted one counts
    return np.concatenate(pred) * 1000, np.stack(true) * 1000


def by_hand(pred, true) -> dict[str, float]:
    """The metrics, one frame and joint at a time."""
    plain, scaled, rigid, velocity = [], [], [], []
    for p, t in zip(pred, true, strict=True):
        plain += [np.linalg.norm(p[j] - t[j]) for j in range(17)]
        scale = np.sum(p * t) / np.sum(p * p)
        scaled += [np.linalg.norm(scale * p[j] - t[j]) for j in range(17)]
        p0, t0 = p - p.mean(0), t - t.mean(0)
        turned = Rotation.align_vectors(t0, p0)[0].apply(p0)
        rigid += list(np.linalg.norm(np.sum(turned * t0) / np.sum(p0 * p0) * turned - t0, axis=1))
    for i in range(1, len(pred)):
        velocity += [np.linalg.norm((pred[i, j] - pred[i - 1, j]) - (true[i, j] - true[i - 1, j])) for j in range(17)]
    values = {"MPJPE": np.mean(plain), "P-MPJPE": np.mean(rigid), "N-MPJPE": np.mean(scaled)}
    return values | ({"MPJVE": np.mean(velocity)} if velocity else {})


@pytest.mark.parametrize("length", COUNTED)
@pytest.mark.parametrize("protocol", ["authors", "exact"])
def test_both_protocols_at_every_clip_length(model, length, protocol):
    one = clip(length)
    table = evaluate(model, [one], protocol)
    pred, true = protocol_by_hand(model, one)
    kept = EXACT[length] if protocol == "exact" else slice(None)
    expected = by_hand(pred[kept], true[kept])
    got = table.set_index("metric")
    assert got["value"].to_dict() == pytest.approx(expected, rel=1e-4)
    assert set(got["frames"]) == {length if protocol == "exact" else len(COUNTED[length])}
    assert got["unit"].to_dict() == {metric: "mm/frame" if metric == "MPJVE" else "mm" for metric in expected}
    assert set(zip(got["subject"], got["action"], got["take"], got["camera"], strict=True)) == {
        ("S9", "Walking", "", "C1")
    }


def test_padded_frames_count_in_the_authors_protocol(model):
    """One frame is read as four alike: its error counts four times, and its velocities are the network's alone."""
    pred, true = protocol_by_hand(model, clip(1))
    table = evaluate(model, [clip(1)], "authors").set_index("metric")["value"]
    errors = np.linalg.norm(pred - true[0], axis=-1)
    assert table["MPJPE"] == pytest.approx(errors.mean(), rel=1e-4)
    assert table["MPJVE"] == pytest.approx(np.linalg.norm(np.diff(pred, axis=0), axis=-1).mean(), rel=1e-4)
    assert "MPJVE" not in evaluate(model, [clip(1)], "exact")["metric"].to_list()


def test_many_clips_are_one_row_each(model):
    clips = [clip(length, seed=length, take=str(length)) for length in COUNTED]
    together = evaluate(model, clips).set_index(["take", "metric"])["value"]
    for one in clips:
        alone = evaluate(model, [one]).set_index(["take", "metric"])["value"]
        pd.testing.assert_series_equal(together[[one.take]], alone, rtol=1e-5)


def test_averages():
    """Frames count alike within an action, actions alike in the average (notebook 13, row 24)."""
    table = pd.DataFrame(
        [
            {"action": "Eating", "metric": "MPJPE", "value": 10.0, "unit": "mm", "frames": 30},
            {"action": "Eating", "metric": "MPJPE", "value": 50.0, "unit": "mm", "frames": 10},
            {"action": "Photo", "metric": "MPJPE", "value": 40.0, "unit": "mm", "frames": 1000},
            {"action": "Eating", "metric": "MPJVE", "value": 2.0, "unit": "mm/frame", "frames": 30},
            {"action": "Photo", "metric": "MPJVE", "value": 4.0, "unit": "mm/frame", "frames": 10},
        ]
    )
    rows = by_action(table).set_index(["action", "metric"])
    assert rows["value"].to_dict() == {
        ("Eating", "MPJPE"): 20.0,  # (30 · 10 + 10 · 50) / 40
        ("Eating", "MPJVE"): 2.0,
        ("Photo", "MPJPE"): 40.0,
        ("Photo", "MPJVE"): 4.0,
    }
    assert rows.loc[("Eating", "MPJPE"), ["frames", "clips"]].tolist() == [40, 2]
    assert average(table) == {"MPJPE": 30.0, "MPJVE": 3.0}


def test_doubled_frames_weigh_double(model):
    """An action of two clips, 5 and 8 frames long: both count 8 by the authors, 5 and 8 exactly."""
    clips = [clip(5, seed=1), clip(8, seed=2)]
    for protocol, weights in (("authors", (8, 8)), ("exact", (5, 8))):
        table = evaluate(model, clips, protocol)
        values = table.loc[table["metric"] == "MPJPE", "value"]
        assert average(table)["MPJPE"] == pytest.approx(np.average(values, weights=weights))


def test_only_valid_frames_count(model):
    """Frames 1 and 4 of 5 are not valid; counted in the order 0 1 2 3 | 1 2 3 4, that leaves 0, 2, 3, 2, 3."""
    one = clip(5, valid=np.array([True, False, True, True, False]))
    pred, true = protocol_by_hand(model, one)
    table = evaluate(model, [one]).set_index("metric")
    kept = [0, 2, 3, 5, 6]
    values = by_hand(pred[kept], true[kept])
    for metric in ("MPJPE", "P-MPJPE", "N-MPJPE"):
        assert table.loc[metric, "value"] == pytest.approx(values[metric], rel=1e-4)
    assert set(table["frames"]) == {5}
    # Velocities between neighbours that are both valid: 2 → 3, twice.
    steps = [np.linalg.norm((pred[i + 1] - pred[i]) - (true[i + 1] - true[i]), axis=-1).mean() for i in (2, 5)]
    assert table.loc["MPJVE", "value"] == pytest.approx(np.mean(steps), rel=1e-4)
    assert evaluate(model, [clip(5, valid=np.zeros(5, bool)), clip(4, take="b")])["take"].unique().tolist() == ["b"]


def test_valid_frames_apart_have_no_velocity(model):
    table = evaluate(model, [clip(5, valid=np.array([True, False, True, False, True]))], "exact")
    assert table["metric"].to_list() == ["MPJPE", "P-MPJPE", "N-MPJPE"]


def test_pck_and_auc_only_where_they_are_defined(model):
    assert {"PCK", "AUC"}.isdisjoint(evaluate(model, [clip(5)], skeleton=human36m)["metric"])
    table = evaluate(model, [clip(5)], "exact", skeleton=mpi_inf_3dhp).set_index("metric")
    assert table.loc[["PCK", "AUC"], "unit"].to_list() == ["%", "%"]


def test_flip_is_a_choice(model):
    one = clip(4)
    keypoints = torch.tensor(normalize_screen(one.keypoints, *one.resolution), dtype=torch.float32)
    with torch.no_grad():
        pred = model(keypoints[None])[0].double().numpy() * 1000
    true = (one.poses - one.poses[:, :1]) * 1000
    value = evaluate(model, [one], flip=False).set_index("metric").loc["MPJPE", "value"]
    assert value == pytest.approx(np.linalg.norm(pred - true, axis=-1).mean(), rel=1e-4)


def test_joint_errors_take_each_valid_frame_once(model):
    clips = [clip(5, seed=1), clip(3, seed=2, valid=np.array([True, False, True]))]
    errors = joint_errors(lift_clips(model, clips, human36m), clips, human36m)
    assert errors.shape == (7, 17)
    for one, rows in zip(clips, (errors[:5], errors[5:]), strict=True):
        pred, true = protocol_by_hand(model, one)
        kept = np.array(EXACT[len(one)])[slice(None) if one.valid is None else one.valid]
        np.testing.assert_allclose(rows, np.linalg.norm(pred[kept] - true[kept], axis=-1), rtol=1e-4)


def test_unknown_protocol(model):
    with pytest.raises(ValueError, match='protocol must be "authors" or "exact", found \'paper\''):
        evaluate(model, [clip(4)], "paper")


def test_poses_in_millimetres_are_refused(model):
    large = clip(9)
    with pytest.raises(
        DataError, match=r"clip S9/Walking/C1: poses must be in metres, found a person of \d{4}, as in mill"
    ):
        evaluate(model, [replace(large, poses=large.poses * 1000)])
