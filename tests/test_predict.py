import threading

import numpy as np
import pytest
import torch

from mixste import predict as predict_module
from mixste.baselines import PoseFormer, VideoPose3D
from mixste.model import MixSTE
from mixste.predict import predict, predict_clips
from mixste.skeleton import SKELETONS, human36m, humaneva15

# Joints of the other side, written out.
MIRROR = {
    "human36m": [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13],
    "humaneva15": [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14],
    "mpi_inf_3dhp": [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16],
}
T = 4
# For T = 4 and lengths 1, T − 1, T, T + 1, 2T and 2T + 7: which frames each test window reads (notebook 13, row 20).
WINDOWS = {
    1: [[0, 0, 0, 0]],
    3: [[0, 1, 2, 2]],
    4: [[0, 1, 2, 3]],
    5: [[0, 1, 2, 3], [1, 2, 3, 4]],
    8: [[0, 1, 2, 3], [4, 5, 6, 7]],
    15: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [11, 12, 13, 14]],
}
# And where each frame is lifted first: (window, place in it).
FIRST = {
    1: [(0, 0)],
    3: [(0, 0), (0, 1), (0, 2)],
    4: [(0, 0), (0, 1), (0, 2), (0, 3)],
    5: [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3)],
    8: [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)],
    15: [(w, p) for w in range(3) for p in range(4)] + [(3, 1), (3, 2), (3, 3)],
}


@pytest.fixture
def model():
    """A network whose output depends on every frame of the window, on its place, and on the side."""
    torch.manual_seed(0)
    model = MixSTE(T, 17, 8, 1).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def clip(length: int, joints: int = 17, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (length, joints, 2)).astype(np.float32)


@torch.no_grad()
def window_by_window(model, keypoints, windows, mirror=None) -> np.ndarray:
    """(windows, frames, joints, 3), each window for itself; with `mirror`, averaged with its reflection's."""
    poses = []
    for window in windows:
        inputs = keypoints[window]
        pose = model(torch.from_numpy(inputs[None]))[0].numpy()
        if mirror is not None:
            other = model(torch.from_numpy(inputs[:, mirror][None] * np.float32([-1, 1])))[0].numpy()
            pose = (pose + other[:, mirror] * np.float32([-1, 1, 1])) / 2
        poses.append(pose)
    return np.stack(poses)


@pytest.mark.parametrize("length", WINDOWS)
@pytest.mark.parametrize("flip", [True, False])
def test_every_clip_length(model, length, flip):
    keypoints = clip(length)
    expected = window_by_window(model, keypoints, WINDOWS[length], MIRROR["human36m"] if flip else None)
    poses = predict(model, keypoints, flip=flip)
    assert poses.shape == (length, 17, 3)
    np.testing.assert_allclose(poses, [expected[place] for place in FIRST[length]], atol=1e-5)


@pytest.mark.parametrize("length", WINDOWS)
def test_the_windows_of_lift(model, length):
    """All frames of all windows, in order, those that are read twice or padded included."""
    keypoints = torch.from_numpy(clip(length))
    [(indices, poses)] = predict_clips(model, keypoints, [(0, length)], human36m)
    assert indices.tolist() == np.concatenate(WINDOWS[length]).tolist()
    expected = window_by_window(model, keypoints.numpy(), WINDOWS[length], MIRROR["human36m"])
    np.testing.assert_allclose(poses, expected.reshape(-1, 17, 3), atol=1e-5)


def test_many_clips_at_once(model, monkeypatch):
    """Batches that mix and split clips change nothing."""
    clips = [clip(length, seed=length) for length in (5, 1, 15, 4, 3, 8)]
    starts = np.cumsum([0, *map(len, clips[:-1])])
    results = []
    for frames in (1, 8, 10_000):
        monkeypatch.setattr(predict_module, "BATCH_FRAMES", frames)
        read = []
        spans = [(int(start), len(c)) for start, c in zip(starts, clips, strict=True)]
        results.append(
            predict_clips(model, torch.from_numpy(np.concatenate(clips)), spans, human36m, progress=read.append)
        )
        assert sum(read) == 4 * sum(len(WINDOWS[len(c)]) for c in clips)
    for each in zip(clips, *results, strict=True):
        alone = window_by_window(model, each[0], WINDOWS[len(each[0])], MIRROR["human36m"]).reshape(-1, 17, 3)
        for _, poses in each[1:]:
            np.testing.assert_allclose(poses, alone, atol=1e-5)


def test_threads_take_batches_one_each(model, monkeypatch):
    """Each computes alone, without gradients, and results keep their order; the caller's threads are as before."""
    monkeypatch.setattr(predict_module, "CPU_BATCH_FRAMES", 2 * T)
    calls, before = [], torch.get_num_threads()

    def compute(batch):
        calls.append((threading.get_ident(), torch.get_num_threads()))
        return 2 * batch

    try:
        for threads, windows, batches in ((1, 9, 5), (2, 9, 5), (2, 4, 1)):
            torch.set_num_threads(threads)
            calls.clear()
            given = torch.arange(windows * T).view(windows, T)
            results = list(predict_module.in_batches(compute, given))
            assert torch.equal(torch.cat([batch for batch, _ in results]), given)
            assert torch.equal(torch.cat([out for _, out in results]), 2 * given)
            assert len(calls) == batches
            in_threads = threads > 1 and batches > 1
            assert all((one != threading.get_ident()) == in_threads for one, _ in calls)
            assert {number for _, number in calls} == {1 if in_threads else threads}
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_thread_is_the_callers(monkeypatch):
    monkeypatch.setattr(predict_module, "CPU_BATCH_FRAMES", 1)
    before = torch.get_num_threads()

    def compute(batch):
        if batch[0, 0] == 3:
            raise ValueError("window 3")
        return batch

    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="window 3"):
            list(predict_module.in_batches(compute, torch.arange(6)[:, None]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", SKELETONS)
def test_mirror_of_each_layout(name):
    """With flip, the lifted reflection is the reflection of the lifted: whatever the network."""
    skeleton = SKELETONS[name]
    torch.manual_seed(0)
    model = MixSTE(T, len(skeleton.joints), 8, 1).eval()
    torch.nn.init.normal_(model.joint_position)
    keypoints = clip(9, len(skeleton.joints))
    reflected = keypoints[:, MIRROR[name]] * np.float32([-1, 1])
    poses, others = predict(model, keypoints, skeleton=skeleton), predict(model, reflected, skeleton=skeleton)
    np.testing.assert_allclose(others, poses[:, MIRROR[name]] * [-1, 1, 1], atol=1e-6)
    assert np.abs(predict(model, reflected, flip=False) - poses[:, MIRROR[name]] * [-1, 1, 1]).max() > 1e-3


def test_layout_by_number_of_joints():
    torch.manual_seed(0)
    model, keypoints = MixSTE(T, 15, 8, 1), clip(6, 15)
    np.testing.assert_array_equal(predict(model, keypoints), predict(model, keypoints, skeleton=humaneva15))


@pytest.mark.parametrize("length", [1, 3, 10])
def test_peers_see_the_frames_around_each(length):
    """Frame t from frames t − 4 … t + 4, edges repeated."""
    torch.manual_seed(0)
    keypoints = clip(length)
    around = [[min(max(t + d, 0), length - 1) for d in range(-4, 5)] for t in range(length)]
    for model in (PoseFormer(9, 17, 8, 1), VideoPose3D(9, 17, 16)):
        for _ in range(3 if isinstance(model, VideoPose3D) else 0):
            model.train()(torch.randn(8, 9, 17, 2))  # running statistics of its norms
        expected = window_by_window(model.eval(), keypoints, around, MIRROR["human36m"])
        np.testing.assert_allclose(predict(model, keypoints), expected[:, 0], atol=1e-5)


def test_arrays_give_arrays_and_tensors_tensors(model):
    keypoints = clip(6)
    poses = predict(model, torch.from_numpy(keypoints))
    assert isinstance(poses, torch.Tensor)
    np.testing.assert_array_equal(poses.numpy(), predict(model, keypoints))
    np.testing.assert_allclose(predict(model, keypoints.astype(np.float64)), poses, atol=1e-6)
    np.testing.assert_array_equal(predict(model, keypoints.tolist()), poses)


def test_arrays_lie_in_memory_as_they_like(model):
    """Reversed, strided, big-endian, of integers: the numbers count."""
    keypoints = clip(12)
    poses = predict(model, keypoints)
    for same in (keypoints[::-1].copy()[::-1], keypoints.astype(">f8"), np.asfortranarray(keypoints)):
        np.testing.assert_allclose(predict(model, same), poses, atol=1e-6)
    np.testing.assert_array_equal(predict(model, keypoints[::-2]), predict(model, keypoints[::-2].copy()))
    whole = np.round(keypoints).astype(">i2")
    np.testing.assert_array_equal(predict(model, whole), predict(model, whole.astype(np.float32)))


def test_training_goes_on_as_it_was():
    torch.manual_seed(0)
    model = MixSTE(T, 17, 8, 1, dropout=0.5, drop_path=0.5).train()
    first, second = predict(model, clip(6)), predict(model, clip(6))
    np.testing.assert_array_equal(first, second)  # no dropout meanwhile
    assert model.training
    predict(model.eval(), clip(6))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (np.zeros((0, 17, 2)), r"\(frames, 17, 2\) with at least one frame, found \(0, 17, 2\)"),
        (np.zeros((5, 16, 2)), r"found \(5, 16, 2\)"),
        (np.zeros((5, 17, 3)), r"found \(5, 17, 3\)"),
        (np.zeros((17, 2)), r"found \(17, 2\)"),
        (np.where(np.arange(5)[:, None, None] == 3, np.nan, np.zeros((5, 17, 2))), "NaN or infinity in frame 3"),
        (np.full((5, 17, 2), np.inf), "NaN or infinity in frame 0"),
        (np.full((5, 17, 2), 1e300), "NaN or infinity in frame 0"),
        (np.full((5, 17, 2), 1e30) * (np.arange(17) > 15)[:, None], r"poses must be finite.*keypoints of up to 1e\+30"),
        (np.full((5, 17, 2), 300.0), "in screen units, found coordinates of 300, as of pixels: see .*normalize_screen"),
        (np.zeros((5, 17, 2), complex), "real numbers, found complex128"),
        (torch.zeros((5, 17, 2), dtype=torch.complex64), "real numbers, found torch.complex64"),
        (np.full((5, 17, 2), "x"), "real numbers, found <U1"),
    ],
)
def test_other_input(model, keypoints, message):
    with pytest.raises(ValueError, match=message):
        predict(model, keypoints)
