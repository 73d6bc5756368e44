import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixste.data import Clip, DataError, windows
from mixste.skeleton import human36m

LENGTHS, WINDOWS = st.integers(1, 600), st.integers(1, 260)


def window(start: int, frames: int, length: int) -> list[int]:
    """`frames` consecutive frames from `start` on; those outside the clip are its first or last."""
    return [min(max(frame, 0), length - 1) for frame in range(start, start + frames)]


def training_windows(length: int, frames: int, interval: int | None = None) -> np.ndarray:
    starts = windows.training_starts(length, frames, interval).tolist()
    return np.array([window(start, frames, length) for start in starts])


def test_one_clip_by_hand():
    assert training_windows(7, 3).tolist() == [[0, 0, 1], [2, 3, 4], [5, 6, 6]]
    assert training_windows(5, 3).tolist() == [[0, 1, 2], [3, 4, 4]]  # an odd frame of padding goes to the end
    assert windows.evaluation_windows(7, 3).tolist() == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert windows.evaluation_windows(2, 3).tolist() == [[0, 1, 1]]
    assert windows.sliding_windows(4, 3).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert windows.sliding_windows(3, 1).tolist() == [[0], [1], [2]]
    assert windows.sliding_windows(1, 3).tolist() == [[0, 0, 0]]


# Lengths 1, T − 1, T, T + 1, 2T and 2T + 7 for T = 1, 3, 27 and 243: where each window starts, worked by hand.
@pytest.mark.parametrize(
    ("frames", "length", "training", "test"),
    [
        (1, 1, [0], [0]),
        (1, 2, [0, 1], [0, 1]),
        (1, 9, range(9), range(9)),
        (3, 1, [-1], [0]),
        (3, 2, [0], [0]),
        (3, 3, [0], [0]),
        (3, 4, [-1, 2], [0, 1]),
        (3, 6, [0, 3], [0, 3]),
        (3, 13, [-1, 2, 5, 8, 11], [0, 3, 6, 9, 10]),
        (27, 1, [-13], [0]),
        (27, 26, [0], [0]),
        (27, 27, [0], [0]),
        (27, 28, [-13, 14], [0, 1]),
        (27, 54, [0, 27], [0, 27]),
        (27, 61, [-10, 17, 44], [0, 27, 34]),
        (243, 1, [-121], [0]),
        (243, 242, [0], [0]),
        (243, 243, [0], [0]),
        (243, 244, [-121, 122], [0, 1]),
        (243, 486, [0, 243], [0, 243]),
        (243, 493, [-118, 125, 368], [0, 243, 250]),
    ],
)
def test_starts_by_hand(frames, length, training, test):
    assert windows.training_starts(length, frames).tolist() == list(training)
    assert windows.evaluation_windows(length, frames).tolist() == [window(start, frames, length) for start in test]
    first = -(frames // 2)
    assert windows.sliding_starts(length, frames).tolist() == list(range(first, first + length))
    centred = [window(first + frame, frames, length) for frame in range(length)]
    assert windows.sliding_windows(length, frames).tolist() == centred


@given(length=LENGTHS, frames=WINDOWS)
def test_training_windows_are_the_clip_once_with_its_ends_repeated(length, frames):
    found = training_windows(length, frames)
    count = -(-length // frames)
    assert found.shape == (count, frames)
    overhang = count * frames - length
    before, after = overhang // 2, overhang - overhang // 2  # they differ by one at most
    assert found.ravel().tolist() == [0] * before + list(range(length)) + [length - 1] * after


@given(length=LENGTHS, frames=WINDOWS)
def test_evaluation_windows_cover_the_clip_and_only_the_last_overlaps(length, frames):
    found = windows.evaluation_windows(length, frames)
    count = -(-length // frames)
    assert found.shape == (count, frames)
    assert found[:-1].ravel().tolist() == list(range((count - 1) * frames))
    if length >= frames:
        assert found[-1].tolist() == list(range(length - frames, length))
    else:
        assert found[-1].tolist() == list(range(length)) + [length - 1] * (frames - length)
    assert set(found.ravel()) == set(range(length))


@given(length=LENGTHS, frames=WINDOWS)
def test_sliding_windows_have_their_frame_in_the_middle(length, frames):
    found = windows.sliding_windows(length, frames)
    assert found.shape == (length, frames)
    assert found[:, (frames - 1) // 2].tolist() == list(range(length))
    steps = np.diff(found, axis=1)
    assert ((steps == 1) | (found[:, 1:] == 0) | (found[:, :-1] == length - 1)).all()


def test_interval_by_hand():
    assert training_windows(5, 3, interval=1).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert training_windows(6, 3, interval=2).tolist() == [[0, 1, 2], [2, 3, 4]]
    assert training_windows(3, 3, interval=5).tolist() == [[0, 1, 2]]
    assert training_windows(2, 4, interval=1).tolist() == [[0, 0, 1, 1]]  # too short: one centred window


@given(length=LENGTHS, frames=WINDOWS, interval=st.integers(1, 300))
def test_windows_at_an_interval_need_no_padding(length, frames, interval):
    found = training_windows(length, frames, interval)
    if length < frames:
        np.testing.assert_array_equal(found, training_windows(length, frames))
    else:
        assert (np.diff(found, axis=1) == 1).all()
        assert (np.diff(found[:, 0]) == interval).all()
        assert found[0, 0] == 0
        assert length - interval <= found[-1, -1] <= length - 1  # another window would not fit


@pytest.mark.parametrize("make", [training_windows, windows.evaluation_windows, windows.sliding_windows])
@pytest.mark.parametrize(("length", "frames"), [(0, 3), (3, 0)])
def test_nothing_to_window_is_refused(make, length, frames):
    with pytest.raises(ValueError, match=f"at least one frame, found {length} and {frames}"):
        make(length, frames)


def clip(length: int, subject: str, intrinsics=None) -> Clip:
    pixels = np.full((length, 17, 2), [500.0, 250.0])
    poses = np.arange(length * 17 * 3, dtype=np.float64).reshape(length, 17, 3)
    return Clip(subject, "Walking", "0", 50.0, (1000, 500), pixels, poses, intrinsics=intrinsics)


def test_frames_of_all_clips_lie_end_to_end():
    frames = windows.ClipFrames.of([clip(4, "S1"), clip(1, "S5"), clip(3, "S6")], human36m)
    assert (frames.starts, frames.lengths) == ([0, 4, 5], [4, 1, 3])
    assert frames.keypoints.shape == (8, 17, 2)
    assert frames.keypoints.abs().max() == 0  # the middle of the screen
    assert frames.poses.dtype == torch.float32
    # Joint 16 is 16 · 3 numbers after the hip, wherever the person stands.
    assert frames.poses[:, 0].abs().max() == 0
    assert (frames.poses[:, 16] == 48).all()
    assert frames.roots is None


def test_frames_keep_paths_only_where_cameras_are_known():
    intrinsics = np.arange(9.0)
    frames = windows.ClipFrames.of([clip(1, "S1", intrinsics), clip(2, "S5", -intrinsics)], human36m, paths=True)
    assert frames.roots.tolist() == [[0, 1, 2], [0, 1, 2], [51, 52, 53]]
    assert frames.intrinsics.tolist() == [intrinsics.tolist(), (-intrinsics).tolist()]
    assert frames.resolutions.tolist() == [[1000, 500]] * 2
    with pytest.raises(DataError, match=r"clip S5/Walking/0: .*expected the camera's intrinsics"):
        windows.ClipFrames.of([clip(1, "S1", intrinsics), clip(2, "S5")], human36m, paths=True)
