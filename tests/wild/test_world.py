"""People of known path, floor and contacts, seen by known cameras."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from mixste.data import DataError
from mixste.data.readers.formats import read
from mixste.data.sources.synthetic import perform
from mixste.skeleton import human36m
from mixste.wild import world as w
from mixste.wild.lift import in_one_world, in_world
from mixste.wild.outputs import Lifted, write_bvh, write_csv, write_json, write_npz

FPS, FOCAL, SIZE = 50.0, 1150.0, (1000, 1000)
CENTRE = np.array(SIZE) / 2


def camera(pitch=8.0, roll=3.0, distance=6.0, height=1.4) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (columns: camera axes in the world) and place of a camera that looks along y, tilted by degrees."""
    level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # x right, y down, z forward
    tilt = Rotation.from_euler("xz", [-pitch, roll], degrees=True).as_matrix()
    return level @ tilt, np.array([0, -distance, height])


def seen(world, rotation, position) -> tuple[np.ndarray, np.ndarray]:
    """Poses in camera axes, and their keypoints."""
    local = (world - position) @ rotation
    return local, FOCAL * local[..., :2] / local[..., 2:] + CENTRE


def walker(subject="S1") -> np.ndarray:
    """Somebody walks: metres, z up, floor at 0; the middle of the path above the origin."""
    world = perform(subject, "Walking", "1").astype(np.float64)
    path = world[:, 0, :2]
    return world - [*(path.min(axis=0) + path.max(axis=0)) / 2, 0]


STILL = np.repeat(walker()[:1], 60, axis=0)


def placed(world, rotation, position, filled=None, focal=FOCAL):
    local, keypoints = seen(world, rotation, position)
    filled = np.zeros(local.shape[:2], dtype=bool) if filled is None else filled
    return w.place(local - local[:, :1], keypoints, filled, FPS, SIZE, focal, CENTRE)


def lengths(poses) -> np.ndarray:
    return np.linalg.norm(poses - poses[:, [max(0, parent) for parent in human36m.parents]], axis=-1)


# --- the path --------------------------------------------------------------------------------------------------


def path_of(local, keypoints, **options):
    rays = (keypoints - CENTRE) / FOCAL
    return w.root_path(local - local[:, :1], rays, FPS, np.ones(local.shape[:2]), **options)


def test_the_path_of_exact_poses_and_keypoints_is_exact():
    local, keypoints = seen(walker(), *camera())
    np.testing.assert_allclose(path_of(local, keypoints), local[:, 0], atol=0.01)


def test_bad_keypoints_are_discounted():
    local, keypoints = seen(walker(), *camera())
    rng = np.random.default_rng(0)
    bad = rng.random(keypoints.shape[:2]) < 0.15
    keypoints[bad] += rng.normal(0, 150, (int(bad.sum()), 2))
    np.testing.assert_allclose(path_of(local, keypoints), local[:, 0], atol=0.06)


def test_a_gap_is_bridged_smoothly():
    local, keypoints = seen(walker(), *camera())
    weights = np.ones(local.shape[:2])
    weights[20:30], keypoints[20:30] = 0, 0
    path = w.root_path(local - local[:, :1], (keypoints - CENTRE) / FOCAL, FPS, weights)
    np.testing.assert_allclose(path, local[:, 0], atol=0.03)


def test_contacts_hold_feet_where_the_keypoints_do_not():
    """The feet of noisy poses slide; with contacts the root moves such that they do not, and the path is as good."""
    world = walker()
    local, keypoints = seen(world, *camera())
    still = np.linalg.norm(np.gradient(world[:, w.FEET], axis=0), axis=-1) * FPS < 0.05
    noise = np.cumsum(np.random.default_rng(0).normal(0, 0.003, (len(world), 1, 3)), axis=0)
    local[:, w.FEET] += noise - noise.mean()
    slide = {}
    for name, contacts in (("free", None), ("held", still.astype(float))):
        path = path_of(local, keypoints, contacts=contacts)
        feet = (local - local[:, :1] + path[:, None])[:, w.FEET]
        slide[name] = np.linalg.norm(np.diff(feet, axis=0), axis=-1)[still[1:] & still[:-1]].mean()
        np.testing.assert_allclose(path, local[:, 0], atol=0.15)
    assert slide["held"] < slide["free"] / 3


# --- the vertical and the floor --------------------------------------------------------------------------------


def test_the_vertical_turns_with_the_person():
    local, _ = seen(walker(), *camera(pitch=0, roll=0))
    up, frames = w.vertical(local - local[:, :1])
    turn = Rotation.from_euler("xz", [15, -10], degrees=True)
    turned, as_many = w.vertical((local - local[:, :1]) @ turn.as_matrix().T)
    np.testing.assert_allclose(turned, turn.apply(up), atol=0.01)
    assert frames == as_many > 0.5 * len(local)
    assert np.degrees(np.arccos(-up[1])) < 8  # of one person who walks one way; more than one contribute


def test_feet_on_one_plane_correct_the_vertical_but_one_on_a_chair_does_not():
    rng = np.random.default_rng(0)
    normal = np.array([0.05, -1, 0.03]) / np.linalg.norm([0.05, -1, 0.03])
    across = np.linalg.svd(normal[None])[2][1:]
    feet, contacts = np.zeros((400, 2, 3)), np.zeros((400, 2), dtype=bool)
    for step in range(20):
        frames, side = slice(20 * step, 20 * step + 15), step % 2
        feet[frames, side] = rng.uniform(-3, 3, 2) @ across + 1.5 * -normal + (0.45 * normal if step == 7 else 0)
        contacts[frames, side] = True
    up, height, [size] = w.plane([feet], [contacts], w.IMAGE_UP)
    assert size == pytest.approx(1)
    assert np.degrees(np.arccos(up @ normal)) < 0.3
    assert height == pytest.approx(-1.5, abs=0.02)


def test_a_foot_that_is_slow_and_low_stands():
    feet = np.zeros((50, 2, 3))
    feet[:, 1, 1] = -0.3  # y is down: the left foot is raised
    sure = w.contact(feet, w.IMAGE_UP, FPS)
    assert (sure[:, 0] > 0.99).all()
    assert (sure[:, 1] < 0.02).all()
    feet[:, 0, 2] = np.arange(50) / FPS  # 1 m/s
    assert (w.contact(feet, w.IMAGE_UP, FPS)[5:-5, 0] < 0.05).all()


# --- feet ------------------------------------------------------------------------------------------------------


def test_planted_feet_stand_still_and_legs_keep_their_lengths():
    rng = np.random.default_rng(0)
    poses = STILL + np.linspace(0, 0.1, 60)[:, None, None] * [1, 0, 0]  # sways
    contacts = np.zeros((60, 2), dtype=bool)
    contacts[5:20, 0] = contacts[15:40, 1] = contacts[45:58, 0] = True
    poses[:, w.FEET] += 0.01 * rng.standard_normal((60, 2, 3))
    poses[:, w.LEGS[:, 1]] += [0.15, 0, 0]  # bent, so that all is in reach
    after = w.planted(poses, contacts, FPS)
    np.testing.assert_allclose(lengths(after), lengths(poses), atol=1e-9)
    others = [joint for joint in range(17) if joint not in w.LEGS[:, 1:]]
    np.testing.assert_array_equal(after[:, others], poses[:, others])
    for side, start, stop in ((0, 5, 20), (1, 15, 40), (0, 45, 58)):
        assert np.ptp(after[start:stop, w.FEET[side]], axis=0).max() < 1e-6
        assert np.ptp(poses[start:stop, w.FEET[side]], axis=0).max() > 0.02
    np.testing.assert_array_equal(w.planted(poses, np.zeros_like(contacts), FPS), poses)


def test_the_leg_reaches_a_place_in_reach_exactly_and_stretches_towards_one_out_of_reach():
    hip, knee, foot = (np.array([point], dtype=float) for point in ([0, 0, 1], [0.1, 0, 0.6], [0, 0, 0.2]))
    thigh = shank = np.linalg.norm([0.1, 0, 0.4])
    goal = np.array([[0.2, 0.1, 0.3]])
    bent, end = w._reach(hip, knee, foot, goal - foot)
    np.testing.assert_allclose(end, goal, atol=1e-9)
    np.testing.assert_allclose([np.linalg.norm(bent - hip), np.linalg.norm(end - bent)], [thigh, shank])
    assert (bent - hip)[0, 0] > 0  # the knee still points forward
    straight, far = w._reach(hip, knee, foot, np.array([[0, 0, -2.0]]))
    np.testing.assert_allclose(far, [[0, 0, 1 - thigh - shank]], atol=1e-6)
    np.testing.assert_allclose(straight, [[0, 0, 1 - thigh]], atol=1e-3)


def test_bones_are_of_one_length_for_all_frames_and_both_sides():
    poses = walker()[:40] * np.linspace(0.9, 1.1, 40)[:, None, None]
    bones = lengths(w.steady(poses - poses[:, :1], FPS))
    np.testing.assert_allclose(bones, np.broadcast_to(bones[0], bones.shape), atol=1e-9)
    np.testing.assert_allclose(bones, bones[:, human36m.mirror], atol=1e-9)


# --- all of it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (12, -4), (-6, 8)])
def test_a_walker_is_placed_as_she_walked(pitch, roll):
    world = walker()
    rotation, position = camera(pitch, roll)
    result, notes = placed(world, rotation, position)
    assert notes == ()
    assert np.degrees(np.arccos(result.rotation[2] @ rotation[2])) < 3  # the vertical
    np.testing.assert_allclose(result.poses[0, 0, :2], 0, atol=0.02)  # the origin
    np.testing.assert_allclose(result.rotation @ result.rotation.T, np.eye(3), atol=1e-9)
    # The direction of the view is level and that of y; so the path needs no turn to be compared.
    off = (result.poses[:, 0] - result.poses[0, 0]) - (world[:, 0] - world[0, 0])
    walked = np.linalg.norm(np.diff(world[:, 0, :2], axis=0), axis=-1).sum()
    assert np.linalg.norm(off, axis=-1).mean() < 0.05 * walked + 0.02
    assert np.median(np.abs(result.poses[:, w.FEET, 2][result.contacts] - w.ANKLE)) < 0.015
    steps = np.linalg.norm(np.diff(result.poses[:, w.FEET], axis=0), axis=-1) * FPS
    assert np.median(steps[result.contacts[1:] & result.contacts[:-1]]) < 0.01
    truly = np.linalg.norm(np.gradient(world[:, w.FEET], axis=0), axis=-1) * FPS < 0.1
    assert (result.contacts == truly).mean() > 0.8
    # Back in the camera, the person is where the keypoints are.
    local = (result.poses - result.position) @ result.rotation
    pixels = FOCAL * local[..., :2] / local[..., 2:] + CENTRE
    assert np.median(np.linalg.norm(pixels - seen(world, rotation, position)[1], axis=-1)) < 6


def test_twice_the_focal_length_is_twice_the_distance():
    world, view = walker(), camera()
    near, far = (placed(world, *view, focal=focal)[0] for focal in (FOCAL, 2 * FOCAL))
    depth = [np.median(((one.poses[:, 0] - one.position) @ one.rotation)[:, 2]) for one in (near, far)]
    assert depth[1] / depth[0] == pytest.approx(2, rel=0.05)


def test_poses_of_an_image_cropped_around_the_person_are_turned_to_where_the_person_is():
    world = walker() * [0.2, 0.2, 1] + [2.5, 0, 0]
    rotation, position = camera(0, 0)
    local, keypoints = seen(world, rotation, position)
    axis = np.median(keypoints, axis=(0, 1))
    aim = np.append((axis - CENTRE) / FOCAL, 1)
    turn, _ = Rotation.align_vectors([aim], [[0, 0, 1]])
    as_lifted = (local - local[:, :1]) @ turn.as_matrix()  # by a network that has the person on its axis
    nothing = np.zeros(local.shape[:2], dtype=bool)
    result, _ = w.place(as_lifted, keypoints, nothing, FPS, SIZE, FOCAL, axis)
    expected, _ = placed(world, rotation, position)
    np.testing.assert_allclose(result.poses, expected.poses, atol=0.03)


def test_who_stands_still_stays_in_place():
    rng = np.random.default_rng(0)
    standing = STILL.copy()
    standing[:, [3, 6]] = standing[:, [2, 5]] * [1, 1, 0] + [0, 0, w.ANKLE]
    result, notes = placed(standing + rng.normal(0, 0.003, standing.shape), *camera())
    assert notes == ()
    assert np.ptp(result.poses[:, 0], axis=0).max() < 0.05
    assert result.contacts.mean() > 0.9


def test_who_never_stands_has_the_vertical_of_the_image():
    lying = STILL[..., [2, 1, 0]] * [1, 1, -1] + [0, 0, 0.5]  # along x
    sitting = STILL.copy()
    for hip, knee, foot in w.LEGS:
        sitting[:, knee] = sitting[:, hip] + [0, -0.45, 0]
        sitting[:, foot] = sitting[:, knee] + [0, 0, -0.45]
    for world in (lying, sitting):
        result, notes = placed(world, *camera(roll=5))
        assert "stands upright in no part of the clip" in notes[0]
        np.testing.assert_allclose(result.rotation[2], w.IMAGE_UP, atol=1e-9)
        assert np.isfinite(result.poses).all()


def test_without_contacts_the_floor_is_below_the_lowest_joint():
    world = STILL + np.array([2, 0, 0]) * np.arange(60)[:, None, None] / FPS  # glides
    result, notes = placed(world, *camera(distance=12))
    assert ["no foot stands still" in note for note in notes] == [True]
    assert result.poses[..., 2].min() == pytest.approx(w.ANKLE, abs=0.01)


def test_feet_out_of_view_are_told():
    filled = np.zeros((len(walker()), 17), dtype=bool)
    filled[:, [3, 6]] = True
    result, notes = placed(walker(), *camera(), filled=filled)
    assert any("a foot is not detected in" in note for note in notes)
    assert not result.contacts.any()


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips_are_placed(frames):
    result, notes = placed(walker()[:frames], *camera())
    assert notes == ()
    assert result.poses.shape == (frames, 17, 3)
    assert np.isfinite(result.poses).all()


def test_keypoints_in_one_place_are_no_crash():
    local, keypoints = seen(walker()[:20], *camera())
    nothing = np.zeros(local.shape[:2], dtype=bool)
    result, _ = w.place(local - local[:, :1], np.full_like(keypoints, 500), nothing, FPS, SIZE, FOCAL, CENTRE)
    assert np.isfinite(result.poses).all()


# --- several people ---------------------------------------------------------------------------------------------


def pair(height=1.4, sizes=(1.0, 1.0)):
    """A short walker and a tall one farther away, as seen, and lifted at `sizes` times their true size."""
    rotation, position = camera(height=height)
    worlds = [walker(subject) * scale + off for subject, scale, off in PAIR]
    frames = min(map(len, worlds))
    worlds = [world[:frames] for world in worlds]
    people = []
    for world, size in zip(worlds, sizes, strict=True):
        local, keypoints = seen(world, rotation, position)
        nothing = np.zeros(local.shape[:2], dtype=bool)
        people.append(w.Person(size * (local - local[:, :1]), keypoints, nothing, CENTRE))
    return worlds, people


PAIR = [("S5", [0.4, 0.4, 1], [-0.8, 0, 0]), ("S8", [0.4, 0.4, 1], [0.8, 2.5, 0])]


def apart(first, second) -> np.ndarray:
    """The mean distance on the floor."""
    return np.linalg.norm((first - second)[:, 0, :2], axis=-1).mean()


@pytest.mark.parametrize("height", [1.4, 2.5])
def test_people_of_one_film_share_a_floor_and_their_sizes_show(height):
    """Both are lifted as of one size, as networks do: the short one too large, the tall one too small."""
    worlds, people = pair(height, sizes=(1.08, 0.92))
    results = [world for world, _ in w.place_people(people, FPS, SIZE, FOCAL)]
    np.testing.assert_array_equal(results[0].rotation, results[1].rotation)
    np.testing.assert_array_equal(results[0].position, results[1].position)
    for result in results:
        assert result.contacts.any()
        assert np.median(np.abs(result.poses[:, w.FEET, 2][result.contacts] - w.ANKLE)) < 0.03
    tall = [np.median(np.ptp(result.poses[..., 2], axis=1)) for result in results]
    true = [np.median(np.ptp(world[..., 2], axis=1)) for world in worlds]
    assert tall[0] / tall[1] == pytest.approx(true[0] / true[1], rel=0.04)
    assert apart(*(result.poses for result in results)) == pytest.approx(apart(*worlds), rel=0.05)
    # One by one, they are as tall as they were lifted, and the far one is too near.
    alone = [w.place_people([person], FPS, SIZE, FOCAL)[0][0] for person in people]
    tall = [np.median(np.ptp(result.poses[..., 2], axis=1)) for result in alone]
    assert tall[0] / tall[1] == pytest.approx(1.08 / 0.92 * true[0] / true[1], rel=0.04)
    depth = [((result.poses[:, 0] - result.position) @ result.rotation)[:, 2].mean() for result in alone]
    assert depth[1] - depth[0] < 0.6 * (worlds[1] - worlds[0])[:, 0, 1].mean()


def test_sizes_are_told_and_those_who_do_not_stand_are_on_the_floor_of_the_others():
    _, people = pair(sizes=(1.1, 1.0))
    [(_, first), (_, second)] = w.place_people(people, FPS, SIZE, FOCAL)
    assert "times the size as lifted, to stand on the floor that all share" in first[0]
    assert first[0] < second[0]  # "in the world 0.9…", "in the world 1.0…"
    hidden = people[1].filled.copy()
    hidden[:, w.FEET] = True
    legless = w.Person(people[1].poses, people[1].keypoints, hidden, CENTRE)
    [(one, _), (other, notes)] = w.place_people([people[0], legless], FPS, SIZE, FOCAL)
    assert one.contacts.any()
    assert not other.contacts.any()
    assert "no foot stands still: the floor is that of the others" in notes


def test_bands_have_the_size_of_the_person_in_the_world(tmp_path):
    _, people = pair(sizes=(1.1, 0.95))
    clips = [
        Lifted("a", FPS, SIZE, one.keypoints, one.poses, one.filled, bands=np.ones(one.filled.shape)) for one in people
    ]
    for clip, result in zip(clips, in_one_world(clips, FOCAL), strict=True):
        thighs = [
            np.linalg.norm(poses[:, 2] - poses[:, 1], axis=-1).mean() for poses in (clip.poses, result.world.poses)
        ]
        assert abs(result.world.size - 1) > 0.05
        assert thighs[1] / thighs[0] == pytest.approx(result.world.size, rel=0.03)
        np.testing.assert_allclose(result.bands, result.world.size)
        write_npz(result, tmp_path / "a.npz")
        assert Lifted.read(tmp_path / "a.npz").world.size == pytest.approx(result.world.size)
        older = {name: array for name, array in np.load(tmp_path / "a.npz").items() if name != "size"}
        np.savez(tmp_path / "a.npz", **older)
        assert Lifted.read(tmp_path / "a.npz").world.size == 1


def test_a_low_camera_says_nothing_of_sizes():
    _, people = pair(height=0.1)
    for result, _ in w.place_people(people, FPS, SIZE, FOCAL):
        assert np.isfinite(result.poses).all()
        assert np.median(np.ptp(result.poses[..., 2], axis=1)) == pytest.approx(1.65, rel=0.2)


# --- files -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lifted() -> Lifted:
    local, keypoints = seen(walker(), *camera())
    poses = local - local[:, :1]
    return Lifted("walk", FPS, SIZE, keypoints, poses, np.zeros(poses.shape[:2], dtype=bool))


def test_a_focal_length_is_assumed_and_said_or_given_and_checked(lifted):
    result = in_world(lifted)
    assert result.world.focal == 1150
    assert any("assumed 1150 pixels, 47° across" in note for note in result.notes)
    given = in_world(lifted, 1300)
    assert given.world.focal == 1300
    assert not any("assumed" in note for note in given.notes)
    for wrong in (35, -1000, np.nan, np.inf):
        with pytest.raises(DataError, match="walk: expected a focal length of 200 to 50000 pixels"):
            in_world(lifted, wrong)


def test_every_file_has_the_world(lifted, tmp_path):
    result = in_world(lifted, FOCAL)
    write_npz(result, tmp_path / "walk.npz")
    again = Lifted.read(tmp_path / "walk.npz").world
    for name in ("poses", "contacts", "focal", "rotation", "position"):
        np.testing.assert_allclose(getattr(again, name), getattr(result.world, name), atol=1e-5)

    write_csv(result, tmp_path / "walk.csv")
    table = pd.read_csv(tmp_path / "walk.csv")
    np.testing.assert_allclose(table[["LFoot_x", "LFoot_y", "LFoot_z"]], result.world.poses[:, 6], atol=1e-5)
    assert table["RFoot_contact"].tolist() == result.world.contacts[:, 0].astype(int).tolist()

    write_json(result, tmp_path / "walk.json")
    content = json.loads((tmp_path / "walk.json").read_text())
    np.testing.assert_allclose(content["world"], result.world.poses, atol=1e-5)
    assert np.array(content["contacts"]).tolist() == result.world.contacts.tolist()
    assert content["focal"] == FOCAL

    write_bvh(result, tmp_path / "walk.bvh")
    motion = (tmp_path / "walk.bvh").read_text().split("Frame Time:")[1].splitlines()[1:]
    path = np.array([[float(number) for number in line.split()[:3]] for line in motion])
    np.testing.assert_allclose(path, result.world.poses[:, 0] @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-4)


def test_its_table_is_not_taken_for_keypoints(lifted, tmp_path):
    for result in (lifted, in_world(lifted, FOCAL)):
        write_csv(result, tmp_path / "walk.csv")
        with pytest.raises(DataError, match=r"expected keypoints, found the 3D poses of `mixste lift`"):
            read(tmp_path / "walk.csv", resolution=SIZE)


def test_damaged_worlds_are_refused(lifted, tmp_path):
    write_npz(in_world(lifted, FOCAL), tmp_path / "walk.npz")
    arrays = dict(np.load(tmp_path / "walk.npz"))
    for name, value in (("contacts", np.zeros(3)), ("camera_position", np.full(3, np.nan)), ("focal", None)):
        changed = {key: value if key == name else array for key, array in arrays.items()}
        np.savez(tmp_path / "bad.npz", **{key: array for key, array in changed.items() if array is not None})
        with pytest.raises(DataError, match=f"expected finite {name}"):
            Lifted.read(tmp_path / "bad.npz")


def test_the_focal_length_is_read_from_the_file(lifted, tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=lifted.keypoints, resolution=SIZE, joints=human36m.joints, focal=1234.0)
    assert read(tmp_path / "a.npz").focal == 1234
    people = [{"keypoints": [[*point, 0.9] for point in frame[:17].tolist()]} for frame in lifted.keypoints[:3]]
    content = {"focal_length": 1234, "width": 1000, "height": 1000, "frames": [{"people": [one]} for one in people]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read(tmp_path / "a.json", layout="human36m").focal == 1234
