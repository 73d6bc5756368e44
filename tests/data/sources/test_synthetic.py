"""The synthetic people: bodies of fixed bones that obey their joints and the floor, in motions that differ."""

import numpy as np
import pytest

from mixste.camera import normalize_screen, project
from mixste.data import DataError, load
from mixste.data.sources import synthetic
from mixste.data.sources.synthetic import ACTIONS, STATURES, TAKES, perform
from mixste.skeleton import human36m

FIELD = (  # the fifteen names, in the order of the paper's tables
    *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases"),
    *("Sitting", "SittingDown", "Smoking", "Waiting", "WalkDog", "Walking", "WalkTogether"),
)


@pytest.fixture(scope="module")
def motions():
    return {(s, a, t): perform(s, a, t) for s in STATURES for a in ACTIONS for t in TAKES}


@pytest.fixture(scope="module")
def dataset():
    return load("synthetic")


def of(motions, action):
    return [(key[0], world) for key, world in motions.items() if key[1] == action]


def angle(world, a, b, c):
    u, v = world[:, a] - world[:, b], world[:, c] - world[:, b]
    cosine = (u * v).sum(-1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1)
    return np.degrees(np.arccos(cosine))


def test_the_set_is_split_and_labelled_like_the_field(dataset):
    assert tuple(dataset.actions) == FIELD
    assert {clip.subject for clip in dataset.train} == {"S1", "S5", "S6", "S7", "S8"}
    assert {clip.subject for clip in dataset.test} == {"S9", "S11"}
    assert len(dataset.clips) == 7 * 15 * 2 * 4 == len({clip.name for clip in dataset.clips})
    assert dataset.title == "synthetic people"
    assert not dataset.comparable
    assert not dataset.validation
    lengths = {len(clip) for clip in dataset.clips}
    assert min(lengths) < 81
    assert max(lengths) > 243
    assert len(lengths) > 100


def test_exact_keypoints_are_the_projection_of_the_poses(dataset):
    for clip in dataset.clips[::50]:
        np.testing.assert_allclose(project(clip.poses, clip.intrinsics), clip.keypoints, atol=1e-3)


def test_a_seed_is_a_data_set():
    np.testing.assert_array_equal(perform("S1", "Photo", "1"), perform("S1", "Photo", "1"))
    taken = [perform("S1", "Photo", "2"), perform("S5", "Photo", "1"), perform("S1", "Photo", "1", seed=1)]
    first = perform("S1", "Photo", "1")
    assert all(other.shape != first.shape or np.abs(other - first).max() > 0.05 for other in taken)


def test_bones_have_one_length_a_person(motions):
    bodies = {}
    for (subject, _, _), world in motions.items():
        lengths = np.stack([np.linalg.norm(world[:, c] - world[:, p], axis=-1) for p, c in human36m.bones])
        body = bodies.setdefault(subject, lengths[:, 0])
        np.testing.assert_allclose(lengths, np.broadcast_to(body[:, None], lengths.shape), atol=1e-9)
    bodies = np.stack(list(bodies.values()))
    assert (bodies.std(axis=0) / bodies.mean(axis=0) > 0.02).all()  # people differ in every bone
    mirror = [human36m.bones.index((human36m.mirror[p], human36m.mirror[c])) for p, c in human36m.bones]
    np.testing.assert_allclose(bodies, bodies[:, mirror])


def test_people_stand_as_tall_as_they_are(motions):
    for subject, world in of(motions, "Directions"):
        # Human3.6M's head joint lies a little below the crown.
        assert 0.88 < world[:, 10, 2].max() / STATURES[subject] < 1.03


def test_nothing_sinks_into_the_floor(motions):
    assert min(world[..., 2].min() for world in motions.values()) > 0.0
    soles = [world[:, [3, 6], 2].min(axis=1) for world in motions.values()]
    assert np.concatenate(soles).max() < 0.2  # and one foot is always near it


def test_knees_and_elbows_bend_one_way(motions):
    for world in motions.values():
        across = world[:, 4] - world[:, 1]  # right hip to left hip
        for hip, knee, foot in ((1, 2, 3), (4, 5, 6)):
            thigh, shank = world[:, knee] - world[:, hip], world[:, foot] - world[:, knee]
            # A knee bends backwards: seen from the person's left, the shank turns clockwise from the thigh, unless
            # the knee points outwards as on the floor.
            bend = np.einsum("fi,fi->f", np.cross(thigh, shank), across) / np.linalg.norm(across, axis=-1)
            outwards = np.abs(np.einsum("fi,fi->f", thigh, across)) / np.linalg.norm(across, axis=-1) > 0.25
            assert (bend[~outwards] > -1e-3).all()
            assert angle(world, hip, knee, foot).min() > 38
        for shoulder, elbow, wrist in ((11, 12, 13), (14, 15, 16)):
            assert angle(world, shoulder, elbow, wrist).min() > 38
            # An elbow points behind the line from shoulder to wrist, out of it or below it, never up and inwards.
            outward = (world[:, shoulder] - world[:, 25 - shoulder]) / 0.3
            middle = (world[:, shoulder] + world[:, wrist]) / 2
            away = world[:, elbow] - middle
            assert (np.einsum("fi,fi->f", away, outward) - away[:, 2]).min() > -0.12


def test_motion_is_smooth(motions):
    """Nothing jumps: next to no power of the velocity lies above 10 Hz."""
    for world in motions.values():
        velocity = np.diff(world, axis=0) * np.hanning(len(world) - 1)[:, None, None]
        power = (np.abs(np.fft.rfft(velocity, axis=0)) ** 2).sum(axis=(1, 2))
        assert power[np.fft.rfftfreq(len(velocity), 1 / 50) > 10].sum() < 0.01 * power.sum()


def test_walking_alternates_feet_that_stay_where_they_stand(motions):
    for _, world in of(motions, "Walking"):
        travelled = np.linalg.norm(np.diff(world[:, 0, :2], axis=0), axis=-1).sum()
        assert 0.7 < travelled / (len(world) / 50) < 2.2  # metres a second
        feet = np.linalg.norm(np.diff(world[:, [3, 6], :2], axis=0), axis=-1) * 50
        assert np.median(feet.min(axis=1)) < 0.1  # one stands
        assert np.percentile(feet.max(axis=1), 60) > 1.5  # while the other swings
        assert (feet.argmin(axis=1) == 0).mean() == pytest.approx(0.5, abs=0.15)
        swing = world[:, [13, 16]] - world[:, [11, 14]]
        ahead = np.stack([-(world[:, 4] - world[:, 1])[:, 1], (world[:, 4] - world[:, 1])[:, 0]], axis=-1)
        arms = np.einsum("fsi,fi->fs", swing[..., :2], -ahead)
        legs = np.einsum("fsi,fi->fs", (world[:, [3, 6]] - world[:, [0]])[..., :2], -ahead)
        left_arm_with_left_leg = np.corrcoef(arms[:, 0] - arms[:, 1], legs[:, 1] - legs[:, 0])[0, 1]
        assert left_arm_with_left_leg < -0.5


def test_actions_are_what_they_are_called(motions):
    def share(action, measure):
        return np.array([measure(world / STATURES[subject]).mean() for subject, world in of(motions, action)])

    def hand_to(world, joint):
        return np.linalg.norm(world[:, [13, 16]] - world[:, [joint]], axis=-1).min(axis=1)

    hips = {action: share(action, lambda world: world[:, 0, 2]) for action in FIELD}
    assert hips["Eating"].max() < 0.35 < 0.45 < hips["Waiting"].min()
    assert hips["SittingDown"].mean() < 0.25
    lowest = min((world[:, 0, 2] / STATURES[subject]).min() for subject, world in of(motions, "SittingDown"))
    assert lowest < 0.1
    assert share("Phoning", lambda world: hand_to(world, 10) < 0.14).mean() > 0.6
    assert share("Walking", lambda world: hand_to(world, 10) < 0.14).max() == 0
    for action in ("Eating", "Smoking"):  # to the mouth and away again
        to_mouth = share(action, lambda world: hand_to(world, 9) < 0.14)
        assert 0.15 < to_mouth.mean() < 0.85
    assert share("Photo", lambda world: (world[:, [13, 16], 2] > world[:, [8], 2]).all(axis=1)).mean() > 0.3
    bent = {a: share(a, lambda world: world[:, 8, 2] - world[:, 0, 2] < 0.2).mean() for a in ("Purchases", "Waiting")}
    assert bent["Purchases"] > 0.05 > 0.01 > bent["Waiting"]


def test_takes_and_people_differ(motions):
    for action in FIELD:
        worlds = [world[:60] - world[:60, :1] for _, world in of(motions, action)]
        worlds = np.stack(worlds).reshape(len(worlds), -1)
        gaps = np.sqrt(((worlds[:, None] - worlds[None]) ** 2).reshape(14, 14, 60, 17, 3).sum(-1)).mean((2, 3))
        assert gaps[~np.eye(14, dtype=bool)].min() > 0.03


def test_other_rigs_and_detectors(monkeypatch):
    monkeypatch.setattr(synthetic, "TRAIN", ("S1",))
    monkeypatch.setattr(synthetic, "TEST", ("S9",))
    stand_in = load("synthetic", keypoints="openpose", rig="humaneva")
    assert stand_in.keypoints == "openpose"
    assert len(stand_in.clips) == 2 * 15 * 2 * 3
    assert stand_in.clips[0].resolution == (640, 480)


def test_bad_names_are_refused():
    with pytest.raises(DataError, match="'hrnet'"):
        load("synthetic", keypoints="hrnet")


def linear_error(dataset):
    """MPJPE, mm, on the test people of a least-squares map from one frame's keypoints to its pose, and of no map."""

    def frames(clips):
        keypoints = [normalize_screen(clip.keypoints[::4], *clip.resolution) for clip in clips]
        poses = [(clip.poses - clip.poses[:, :1])[::4] for clip in clips]
        keypoints, poses = np.concatenate(keypoints), np.concatenate(poses)
        return np.column_stack([keypoints.reshape(-1, 34), np.ones(len(poses))]), poses.reshape(-1, 51)

    inputs, targets = frames(dataset.train)
    test_inputs, test_targets = frames(dataset.test)
    guess = test_inputs @ np.linalg.lstsq(inputs, targets, rcond=None)[0]
    errors = [(guess - test_targets), targets.mean(axis=0) - test_targets]
    return [1000 * np.linalg.norm(error.reshape(-1, 17, 3), axis=-1).mean() for error in errors]


@pytest.mark.slow
def test_keypoints_tell_the_pose_but_not_all_of_it(dataset):
    exact, blind = linear_error(dataset)
    noisy, _ = linear_error(load("synthetic", keypoints="openpose"))
    assert 30 < exact < 0.5 * blind
    assert exact + 5 < noisy < blind
