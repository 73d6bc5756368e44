"""Virtual cameras against the published calibration, the simulated detector against errors measured on real footage."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mixste.data import DataError
from mixste.data.cameras import published
from mixste.data.sources.synthetic import perform
from mixste.data.virtual import DETECTORS, RIGS, _ring, film, pixel_height, random_of, relayout, simulate_detector
from mixste.skeleton import SKELETONS, human36m

LIMBS = [1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16]


@pytest.fixture(scope="module")
def walk():
    return perform("S1", "Walking", "1")


def shoot(world, **options):
    return film(world, **({"subject": "S1", "action": "Walking", "take": "1", "fps": 50.0} | options))


def distances(points):  # of all pairs of joints, in all frames and to those of the first frame
    flat = points.reshape(-1, 3)
    return np.linalg.norm(flat[:, None] - flat[:17], axis=-1)


@pytest.mark.parametrize("rig", ["human36m", "humaneva"])
def test_published_rigs_keep_the_published_geometry(rig):
    theirs = published(rig)["extrinsics"]["S1"]
    ours = RIGS[rig]
    assert len(ours) == len(theirs)
    shift = np.array(theirs[0]["translation"]) / 1000 - ours[0].translation
    assert shift[2] == 0  # only moved over the floor
    for camera, pose in zip(ours, theirs, strict=True):
        assert camera.orientation == tuple(pose["orientation"])
        np.testing.assert_allclose(camera.translation, np.array(pose["translation"]) / 1000 - shift, atol=1e-12)


def test_human36m_lenses_are_the_published_ones():
    camera = RIGS["human36m"][3]
    assert camera.resolution == (1000, 1002)
    assert camera.focal == (1145.5113525390625, 1144.77392578125)
    assert camera.radial[1] == 0.21832367777824402
    assert camera.tangential == (-0.0005872055771760643, -0.0018133620033040643)


@pytest.mark.parametrize("rig", RIGS)
def test_cameras_stand_upright_and_see_the_centre(rig):
    for camera in RIGS[rig]:
        right, down, forward = Rotation.from_quat(camera.orientation, scalar_first=True).as_matrix().T
        assert down[2] < -0.85
        assert abs(right[2]) < 0.1
        to_centre = np.array([0, 0, 0.9]) - camera.translation
        assert forward @ to_centre / np.linalg.norm(to_centre) > np.cos(np.radians(12))


def test_a_rig_does_not_hang_on_the_last_bits_of_sines(monkeypatch):
    """Other machines have others; the same runs must be found there."""

    def ring():
        views = [(azimuth, 3.4, 1.3) for azimuth in range(5, 360, 10)]
        return _ring(*views, aim=0.9, focal=(1490.0, 1490.0), center=(1024.0, 1024.0), resolution=(2048, 2048))

    here = ring()
    for name in ("sin", "cos"):
        function = getattr(np, name)
        monkeypatch.setattr(np, name, lambda x, function=function: np.nextafter(function(x), 2))
    assert ring() == here


@pytest.mark.parametrize("rig", RIGS)
def test_poses_are_the_world_moved_rigidly(rig, walk):
    world = walk[:40]
    for clip in shoot(world, rig=rig):
        np.testing.assert_allclose(distances(clip.poses), distances(world), atol=1e-4)
        # A mirrored world would have the same distances: the handedness of hips and spine tells.
        for points in (clip.poses, world):
            across, up = points[0, 4] - points[0, 1], points[0, 8] - points[0, 0]
            ahead = points[0, 9] - points[0, 8]  # the nose
            assert np.linalg.det(np.stack([across, up, ahead])) > 0


def test_exact_keypoints_project_the_poses(walk):
    clip = shoot(walk)[1]
    fx, fy, cx, cy, k1, k2, k3, p1, p2 = clip.intrinsics
    x, y, z = clip.poses[123, 13].astype(float)
    x, y = x / z, y / z
    r2 = x * x + y * y
    grow = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + p1 * x + p2 * y
    expected = [fx * (x * grow + p1 * r2) + cx, fy * (y * grow + p2 * r2) + cy]
    np.testing.assert_allclose(clip.keypoints[123, 13], expected, atol=1e-2)


@pytest.mark.parametrize("rig", RIGS)
@pytest.mark.parametrize("path", [0.0, 15.0])
def test_everything_stays_in_the_image(rig, path, walk):
    world = walk.copy()
    world[..., 0] += np.linspace(0, path, len(world))[:, None]
    for clip in shoot(world, rig=rig):
        assert (clip.poses[..., 2] > 0).all()
        assert (clip.keypoints > 0).all()
        assert (clip.keypoints < clip.resolution).all()


def test_cameras_retreat_only_when_the_motion_needs_it(walk):
    still = np.repeat(walk[:1], 10, axis=0)
    wide = still + np.linspace(-6, 6, 10)[:, None, None] * [1, 0, 0]
    for camera, near, far in zip(RIGS["human36m"], shoot(still), shoot(wide), strict=True):
        real = np.linalg.norm(camera.translation - np.array([0, 0, still[0, 0, 2]]))
        assert np.linalg.norm(near.poses[0, 0]) == pytest.approx(real, abs=0.4)
        assert np.linalg.norm(far.poses[:, 0], axis=-1).min() > real - 6.4  # 6 m towards the camera
        assert far.poses[:, 0, 2].mean() > near.poses[:, 0, 2].mean() + 1


def test_a_motion_may_start_anywhere_on_the_floor(walk):
    here, there = shoot(walk), shoot(walk + np.array([3.0, -7.0, 0.0]))
    higher = shoot(walk + np.array([0.0, 0.0, 0.5]))
    np.testing.assert_allclose(here[0].poses, there[0].poses, atol=1e-5)
    assert np.abs(here[0].poses - higher[0].poses).max() > 0.3


def test_clips_depend_on_their_names_alone(walk):
    first = shoot(walk, keypoints="cpn")
    shoot(walk, subject="S5", keypoints="cpn")
    again = shoot(walk, keypoints="cpn")
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.keypoints, two.keypoints)
        np.testing.assert_array_equal(one.poses, two.poses)
    for other in ({"take": "2"}, {"action": "Eating"}, {"seed": 1}, {"subject": "S5"}):
        assert np.abs(shoot(walk, keypoints="cpn", **other)[0].keypoints - first[0].keypoints).max() > 1


def test_cameras_differ_between_people_and_not_between_takes(walk):
    mine, mine_again, yours = shoot(walk), shoot(walk, take="2"), shoot(walk, subject="S5")
    np.testing.assert_array_equal(mine[0].poses, mine_again[0].poses)
    gap = np.linalg.norm(mine[0].poses - yours[0].poses, axis=-1).mean()
    assert 0.01 < gap < 1.0


def test_bad_input_says_what_was_expected(walk):
    with pytest.raises(DataError, match=r"rig 'moon'.*human36m, humaneva, mpi_inf_3dhp"):
        shoot(walk, rig="moon")
    with pytest.raises(DataError, match=r"'yolo'.*cpn, openpose, mediapipe"):
        shoot(walk, keypoints="yolo")
    with pytest.raises(DataError, match=r"S1 Walking 1.*\(frames, 17, 3\).*\(\d+, 16, 3\)"):
        shoot(walk[:, :16])
    with pytest.raises(DataError, match=r"\(0, 17, 3\)"):
        shoot(walk[:0])
    broken = walk.copy()
    broken[5, 3, 1] = np.nan
    with pytest.raises(DataError, match=r"finite.*frame 5"):
        shoot(broken)


# --- detector ----------------------------------------------------------------------------------------------------


def test_pixel_height_of_a_person_seen_face_on():
    """1.6 m from ankle to head top, 4 m away, focal length 1000: 400 pixels, whatever the posture."""
    poses = np.zeros((1, 17, 3))
    poses[..., 2] = 4.0
    up = {1: 0, 2: 0.4, 3: 0.8, 4: 0, 5: 0.4, 6: 0.8, 7: -0.25, 8: -0.5, 9: -0.65, 10: -0.8}
    for joint, y in up.items():
        poses[0, joint, 1] = y
    poses[0, [11, 12, 13], 0], poses[0, [14, 15, 16], 0] = 0.2, -0.2
    keypoints = 1000 * poses[..., :2] / 4.0 + 500
    np.testing.assert_allclose(pixel_height(keypoints, poses), [400.0])


@pytest.fixture(scope="module")
def filmed():
    return [
        clip
        for action in ("Walking", "Discussion", "Sitting", "Photo", "Greeting", "SittingDown")
        for subject in ("S5", "S8", "S11")
        for clip in film(perform(subject, action, "1"), subject=subject, action=action, fps=50.0)
    ]


def statistics(filmed, detector):
    """Median and 95th percentile of the error, its mean constant part, lag-1 autocorrelation around it: % of height."""
    sizes, offsets, product, square = [], [], 0.0, 0.0
    for clip in filmed:
        seen = simulate_detector(clip.keypoints, clip.poses, random_of(clip.name), detector)
        error = (seen - clip.keypoints)[:, LIMBS] / pixel_height(clip.keypoints, clip.poses)[:, None, None] * 100
        sizes.append(np.linalg.norm(error, axis=-1).ravel())
        offsets.append(np.linalg.norm(error.mean(axis=0), axis=-1))
        error = error - error.mean(axis=0)
        product += (error[1:] * error[:-1]).sum()
        square += (error**2).sum()
    sizes = np.concatenate(sizes)
    return np.median(sizes), np.percentile(sizes, 95), np.concatenate(offsets).mean(), product / square


@pytest.mark.parametrize(
    ("detector", "median", "p95", "offset", "correlation"),
    [("openpose", 1.92, 4.07, 1.74, 0.19), ("mediapipe", 2.41, 23.4, 4.42, 0.82)],
)
def test_errors_are_those_measured_on_real_footage(filmed, detector, median, p95, offset, correlation):
    found = statistics(filmed, detector)
    assert found[:3] == pytest.approx((median, p95, offset), rel=0.15)
    assert found[3] == pytest.approx(correlation, abs=0.08)


def test_cpn_is_three_fifths_of_openpose(filmed):
    fine, coarse = statistics(filmed, "cpn"), statistics(filmed, "openpose")
    assert np.divide(fine[:3], coarse[:3]) == pytest.approx(0.6, rel=0.1)


@pytest.fixture
def plain(monkeypatch):
    """Define a detector that only errs as told."""

    def define(**errors):
        nothing = replace(DETECTORS["cpn"], offset=0.0, jitter=0.0, correlation=0.0, blur=0.0, swaps=0.0, misses=0.0)
        monkeypatch.setitem(DETECTORS, "plain", replace(nothing, **errors))

        def error_of(clip):
            return simulate_detector(clip.keypoints, clip.poses, random_of(clip.name), "plain") - clip.keypoints

        return error_of

    return define


def test_a_perfect_detector_reports_the_truth(filmed, plain):
    assert not plain()(filmed[0]).any()


def test_offsets_are_constant_on_a_still_person(walk, plain):
    still = shoot(np.repeat(walk[:1], 30, axis=0))[0]
    error = plain(offset=2.0)(still)
    np.testing.assert_allclose(error, np.broadcast_to(error[:1], error.shape), atol=1e-3)
    assert np.linalg.norm(error[0], axis=-1).min() > 0


def test_noise_is_heavy_tailed_and_grows_with_speed_and_reach(walk, plain):
    still = shoot(np.repeat(walk[:1], 3000, axis=0))[0]
    error = plain(jitter=1.0)(still)
    spread = error.std(axis=(0, 2))
    assert spread[[13, 16, 3, 6]].min() > 1.1 * spread[[0, 7, 8]].max()
    standard = (error / spread[:, None]).ravel()
    assert (standard**4).mean() > 4  # 3 for a normal distribution
    moving = shoot(np.repeat(walk[:1], 3000, axis=0) + np.linspace(0, 90, 3000)[:, None, None] * [1, 0, 0])[0]
    blurred = plain(jitter=1.0, blur=0.5)
    height = pixel_height(moving.keypoints, moving.poses)[:, None, None]
    still_height = pixel_height(still.keypoints, still.poses)[:, None, None]
    assert (blurred(moving) / height).std() > 1.2 * (blurred(still) / still_height).std()


def test_noise_has_the_autocorrelation_asked_for(walk, plain):
    still = shoot(np.repeat(walk[:1], 3000, axis=0))[0]
    error = plain(jitter=1.0, correlation=0.7)(still)
    assert (error[1:] * error[:-1]).sum() / (error**2).sum() == pytest.approx(0.7, abs=0.03)


def test_swaps_exchange_left_and_right_for_stretches(filmed, plain):
    error_of = plain(swaps=0.3, stretch=10.0)
    legs, followed = [], []
    for clip in filmed:
        seen = clip.keypoints + error_of(clip)
        true = np.isclose(seen, clip.keypoints, atol=1e-2).all(axis=-1)
        swapped = np.isclose(seen, clip.keypoints[:, human36m.mirror], atol=1e-2).all(axis=-1) & ~true
        assert (true | swapped).all()
        both = swapped[:, 1:4].any(axis=1)
        legs.append(both)
        followed.append(both[1:][both[:-1]])
    assert np.concatenate(legs).mean() == pytest.approx(1 - np.exp(-0.3), abs=0.05)  # stretches may overlap
    assert np.concatenate(followed).mean() > 0.8


def test_misses_report_an_old_or_the_mirrored_place(walk, plain):
    clip = shoot(walk)[0]
    seen = clip.keypoints + plain(misses=0.05, stretch=8.0)(clip)
    wrong = np.argwhere(np.abs(seen - clip.keypoints).max(axis=-1) > 1e-3)
    assert 0.01 < len(wrong) / (len(walk) * 17) < 0.06
    told = []
    for frame, joint in wrong:
        earlier = np.abs(seen[:frame, joint] - seen[frame, joint]).max(axis=-1).min(initial=np.inf)
        mirrored = np.abs(clip.keypoints[frame, human36m.mirror[joint]] - seen[frame, joint]).max()
        told.append(min(earlier, mirrored) < 1e-2)
    assert np.mean(told) > 0.9  # the rest are those whose mirror joint was lost as well
    assert np.isfinite(seen).all()


# --- layouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SKELETONS)
def test_layouts_keep_left_and_right_and_the_root(name, walk):
    skeleton = SKELETONS[name]
    there = relayout(walk[:3], skeleton)
    assert there.shape == (3, len(skeleton.joints), 3)
    np.testing.assert_array_equal(there[:, skeleton.root], walk[:3, human36m.root])
    np.testing.assert_array_equal(there[:, skeleton.mirror], relayout(walk[:3, human36m.mirror], skeleton))


@pytest.mark.parametrize("name", SKELETONS)
def test_layouts_take_the_joints_of_the_same_name(name):
    index = np.arange(17.0)[None, :, None]
    borrowed = {"Pelvis": "Hip", "LAnkle": "LFoot", "RAnkle": "RFoot", "HeadTop": "Head", "Neck": "Thorax"}
    taken = [human36m.joints[int(i)] for i in relayout(index, SKELETONS[name])[0, :, 0]]
    if name == "mpi_inf_3dhp":
        borrowed["Head"] = "Neck"
    if name == "human36m":
        borrowed = {}
    assert taken == [borrowed.get(joint, joint) for joint in SKELETONS[name].joints]
