"""Training windows: cameras, detectors and gaps against the slower code of the package that does the same."""

from dataclasses import replace

import footage
import numpy as np
import pytest
import torch
from footage import Draws, Footage, Variety
from scipy.spatial.transform import Rotation

from mixste.camera import normalize_screen
from mixste.data import virtual
from mixste.data.readers.detections import fill_gaps
from mixste.data.sources.open_mocap import Take
from mixste.data.sources.synthetic import perform
from mixste.skeleton import human36m
from mixste.wild import quality

FRAMES = 27


@pytest.fixture(scope="module")
def takes():
    names = [("S1", "Walking", "1"), ("S1", "Waiting", "1"), ("S9", "Walking", "2")]
    return [Take(*name, perform(*name).astype(np.float32)) for name in names]


def stream(takes, seed=0, variety=None, windows=8):
    return Footage(takes, FRAMES, windows, seed, variety=variety or Variety())


def draws(count, seed=0):
    return Draws(torch.Generator().manual_seed(seed), count)


def joint(name):
    return human36m.joints.index(name)


def test_a_step_depends_on_the_seed_and_its_number_alone(takes, monkeypatch):
    monkeypatch.setattr(footage, "GATHERED_FRAMES", 2 * 8 * FRAMES)
    one = stream(takes)
    later = [value.clone() for value in one[3]]
    _ = one[0]
    for value, again, other in zip(later, stream(takes)[3], stream(takes, seed=1)[3], strict=True):
        assert torch.equal(value, again)
        assert not torch.equal(value, other)
    assert not torch.equal(one[2][1], later[1])
    keypoints, poses = later
    assert keypoints.shape == (8, FRAMES, 17, 2)
    assert poses.shape == (8, FRAMES, 17, 3)
    assert keypoints.isfinite().all()
    assert (poses[:, :, human36m.root] == 0).all()


def test_everybody_is_upright_in_the_image_and_no_larger_than_lifting_shows_them(takes):
    keypoints, poses = stream(takes).draw(0, 512)
    assert (poses[:, :, joint("Head"), 1].mean(dim=1) < poses[:, :, joint("LFoot"), 1].mean(dim=1)).all()  # y is down
    heights = (keypoints[..., 1].amax(2) - keypoints[..., 1].amin(2)).median(dim=1).values
    assert heights.quantile(0.99) < 1.1 * quality.HEIGHTS[1]
    assert heights.quantile(0.01) > 0.5 * quality.HEIGHTS[0]


def test_motions_are_interpolated_and_stop_at_their_ends(takes):
    world = np.zeros((10, 17, 3), np.float32) + np.arange(10, dtype=np.float32)[:, None, None]
    moving = stream([Take("S", "A", "1", world), Take("S", "A", "2", 100 + world)])
    times = torch.tensor([[-3.0, 2.25, 8.5, 12.0], [-1.0, 0.5, 9.0, 30.0]])
    poses = moving.at(moving.starts, torch.tensor([9.0, 9.0]), times)
    np.testing.assert_allclose(poses[:, :, 0, 0], [[0, 2.25, 8.5, 9], [100, 100.5, 109, 109]], rtol=1e-6)


def test_frame_rates_change_the_speed(takes):
    steps = torch.tensor(1.0)
    walks = stream(takes[:1], variety=Variety(study=1))
    for rate in (12.5, 25.0, 50.0, 100.0):
        poses, _, inside = walks.motion(torch.zeros(64, dtype=torch.long), torch.full((64,), rate), draws(64))
        whole = (inside == torch.arange(FRAMES)).all(dim=1)
        assert whole.any()
        path = poses[whole][:, [0, -1], 0, :2]
        speed = (path[:, 1] - path[:, 0]).norm(dim=-1).median() * rate / (FRAMES - 1)
        steps = speed if rate == 12.5 else steps
        assert speed == pytest.approx(float(steps), rel=0.35)


def test_a_short_motion_is_repeated_at_its_ends(takes):
    short = stream([Take("S", "A", "1", takes[0].world[:10])])
    _, _, inside = short.motion(torch.zeros(200, dtype=torch.long), torch.full((200,), 50.0), draws(200))
    assert (inside.diff(dim=1) >= 0).all()
    assert (inside.amax(dim=1) - inside.amin(dim=1) <= 9).all()
    at_first = (inside[:, 0] == 0).float().mean()
    assert 0.4 < at_first < 0.7  # half the time as in lifting, which repeats the last frame only


class Plain(Draws):
    """No chance: the first camera, then the next; nothing is moved."""

    def one_of(self, shares):
        return torch.arange(self.count) % len(shares)

    def log(self, low, high):
        return torch.ones(self.count)

    def normal(self, *shape):
        return torch.zeros(self.count, *shape)


def test_cameras_of_the_rig_are_those_of_the_study(takes, monkeypatch):
    monkeypatch.setattr(virtual, "_set_up", lambda camera, rng: camera)
    monkeypatch.setattr(footage, "NEAREST", 0.0)
    world = takes[0].world[:50]
    path = world[:, 0, :2]
    centred = torch.from_numpy(world - np.array([*(path.min(0) + path.max(0)) / 2, 0], np.float32))
    rig = stream(takes)
    several = centred.expand(4, -1, -1, -1)
    poses, lens, size = rig.filmed(several, several, torch.zeros(4, dtype=torch.bool), Plain(torch.Generator(), 4))
    for clip, pose, numbers, resolution in zip(
        virtual.film(world, subject="S1", action="Walking", fps=50.0), poses, lens, size, strict=True
    ):
        np.testing.assert_allclose(pose, clip.poses, atol=2e-4)
        np.testing.assert_allclose(numbers, clip.intrinsics, rtol=1e-6)
        assert tuple(resolution.int().tolist()) == clip.resolution


def test_other_cameras_see_the_whole_motion_and_keep_its_shape(takes):
    any_camera = stream(takes)
    before, context, _ = any_camera.motion(torch.arange(300) % 3, torch.full((300,), 50.0), draws(300))
    poses, lens, size = any_camera.filmed(before, context, torch.ones(300, dtype=torch.bool), draws(300, 1))
    bones = [(values[:, :, 1:] - values[:, :, :1]).norm(dim=-1) for values in (before, poses)]
    torch.testing.assert_close(*bones, atol=1e-4, rtol=1e-4)
    assert poses[..., 2].min() > footage.NEAREST - 1e-3
    pixels = lens[:, None, None, :2] * poses[..., :2] / poses[..., 2:] + lens[:, None, None, 2:4]
    share = pixels / size[:, None, None]
    assert ((share > -0.05) & (share < 1.05)).all(dim=-1).float().mean() > 0.99
    assert set(size[:, 1].round().int().tolist()) == {round(1000 * shape) for shape in footage.SHAPES}


@pytest.mark.parametrize("share", [0.02, 0.4])
@pytest.mark.parametrize("length", [3.0, 12.0])
def test_stretches_are_as_many_and_as_long_as_those_of_the_study(share, length):
    active, begin = footage.stretches(
        *(torch.full((4000, 1, 1), value) for value in (share, length)), (4000, 500, 1), draws(4000)
    )
    assert active.float().mean() == pytest.approx(1 - np.exp(-share), rel=0.1)
    assert (begin <= torch.arange(500)[:, None]).all()
    rng, study = np.random.default_rng(0), np.zeros((4000, 500), bool)
    for start, stop, column in virtual._stretches((500, 4000), share, length, rng):
        study[column, start:stop] = True
    runs = [
        np.maximum(np.diff(np.pad(x, ((0, 0), (1, 1))).astype(int), axis=1), 0).sum() for x in (active[..., 0], study)
    ]
    assert runs[0] == pytest.approx(runs[1], rel=0.12)


@pytest.mark.parametrize("kind", ["gt", "cpn", "openpose", "mediapipe"])
def test_detectors_err_as_those_of_the_study(takes, kind, monkeypatch):
    monkeypatch.setattr(footage, "KINDS", {kind: 1.0})
    several = stream(takes)
    rig = virtual.film(takes[0].world[:200], subject="S1", action="Walking", fps=50.0)
    exact = torch.from_numpy(np.stack([clip.keypoints for clip in rig])).repeat(20, 1, 1, 1)
    poses = torch.from_numpy(np.stack([clip.poses for clip in rig])).repeat(20, 1, 1, 1)
    errors = several.detected(exact, poses, torch.full((80,), 50.0), draws(80)) - exact
    if kind == "gt":
        assert errors.abs().max() < 1e-3
        return
    rng = np.random.default_rng(0)
    study = [virtual.simulate_detector(a, b, rng, kind) - a for a, b in zip(exact.numpy(), poses.numpy(), strict=True)]
    ours, theirs = np.linalg.norm(errors, axis=-1), np.linalg.norm(np.stack(study), axis=-1)
    for percentile in (50, 80):  # ours are up to half as large or larger
        assert np.percentile(ours, percentile) == pytest.approx(np.percentile(theirs, percentile), rel=0.25)
    moved = [np.mean(errors > 0.2 * np.percentile(exact.numpy(), 90)) for errors in (ours, theirs)]
    assert moved[0] == pytest.approx(moved[1], rel=0.6, abs=2e-3)


def test_missing_keypoints_are_filled_as_in_lifting():
    rng = np.random.default_rng(0)
    points, missing = rng.normal(size=(5, 40, 17, 2)), rng.random((5, 40, 17)) < 0.4
    missing[0, :7, 3] = missing[1, 33:, 4] = True
    missing[2, :, 5] = True  # never there: nothing to fill it from
    filled = footage.filled(torch.from_numpy(points), torch.from_numpy(missing)).numpy()
    assert (filled[2, :, 5] == points[2, :, 5]).all()
    missing[2, :, 5] = False
    for one, gaps, result in zip(points, missing, filled, strict=True):
        np.testing.assert_allclose(result, fill_gaps(np.where(gaps[..., None], np.nan, one)), atol=1e-6)


def test_keypoints_go_missing_alone_and_by_limb(takes):
    lost = stream(takes, variety=Variety(missing=1.0)).missing((300, FRAMES, 17), torch.full((300,), 50.0), draws(300))
    assert 0.1 < lost.float().mean() < 0.5
    none = stream(takes, variety=Variety(missing=0.0)).missing((50, FRAMES, 17), torch.full((50,), 50.0), draws(50))
    assert not none.any()


@pytest.mark.parametrize("height", [0.1, 0.5, 1.8])
def test_people_of_any_size_are_shown_as_in_lifting(takes, height):
    [clip, *_] = virtual.film(takes[0].world[:50], subject="S1", action="Walking", fps=50.0)
    joints = clip.keypoints.astype(np.float64)
    joints *= height / (2 * np.median(np.ptp(joints[..., 1], axis=1)) / 1000)
    screen, _ = quality.on_screen(joints, (1000, 1000))
    ours = footage.on_screen(torch.from_numpy(normalize_screen(joints, 1000, 1000))[None])[0]
    np.testing.assert_allclose(ours, screen, atol=0.01)  # medians of an even number differ


def test_joints_are_put_where_detectors_have_them(takes):
    poses = torch.from_numpy(np.stack([take.world[:50] for take in takes]))
    moved = footage.replaced(poses, draws(3))
    hips = (moved[:, :, joint("LHip")] + moved[:, :, joint("RHip")]) / 2
    assert (moved[:, :, joint("Hip")] - hips).norm(dim=-1).mean(dim=1).max() < 0.03
    same = [name for name in human36m.joints if name not in (*footage.PLACES, "Spine")]
    assert (moved[:, :, [joint(name) for name in same]] == poses[:, :, [joint(name) for name in same]]).all()
    # The nose is in front: people walk that way.
    path = poses[0, -1, 0] - poses[0, 0, 0]
    nose = (moved[0, :, joint("Neck")] - moved[0, :, joint("Thorax")]).mean(dim=0)
    assert nose[:2] @ path[:2] > 0.5 * nose[:2].norm() * path[:2].norm()


def test_rotation_matrices_are_those_of_the_quaternions():
    quaternions = Rotation.random(20, random_state=0).as_quat(scalar_first=True)
    expected = Rotation.from_quat(quaternions, scalar_first=True).as_matrix()
    np.testing.assert_allclose(footage._matrices(torch.from_numpy(quaternions)), expected, atol=1e-9)


def test_shares_are_of_the_windows(takes):
    raised = [replace(take, world=take.world + [0, 0, 0.1] * (np.arange(17) == 0)[:, None]) for take in takes]
    for variety in (Variety(study=1), Variety(0, 1, 1, 1, 1)):
        keypoints, poses = stream(raised, variety=variety).draw(0, 64)
        assert keypoints.isfinite().all()
        hips = (poses[:, :, joint("LHip")] + poses[:, :, joint("RHip")]) / 2  # the root is the origin
        away = hips.norm(dim=-1).mean()
        assert (away < 0.03) == (variety.study == 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_windows_are_drawn_on_a_gpu(takes):
    keypoints, poses = Footage(takes, FRAMES, 8, 0, device="cuda")[0]
    assert keypoints.is_cuda
    assert keypoints.isfinite().all()
    assert poses.isfinite().all()
