"""Videos: written and read back by PyAV, and a detector instead of MediaPipe that finds what was drawn."""

import builtins
import os
import struct
import sys
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from mixste.data import DataError
from mixste.data.readers.detections import LAYOUTS
from mixste.wild import video
from mixste.wild.lift import clips_in

av = pytest.importorskip("av")


def write_video(path, frames=8, size=(160, 121), fps=12.5):
    """A white disc that moves right by 10 pixels a frame, on black."""
    pictures = []
    for frame in range(frames):
        pictures.append(Image.new("RGB", size))
        ImageDraw.Draw(pictures[-1]).circle((20 + 10 * frame, 40), 8, fill="white")
    video.save_mp4(iter(pictures), fps, path)
    return path


class Finder:
    """Trackers who see a person whose points are in the middle of the largest bright spot; nobody in the first
    frame that they are shown."""

    @contextmanager
    def Pose(self, model_complexity, static_image_mode):
        seen = 0

        def process(picture):
            nonlocal seen
            seen += 1
            assert picture.flags.c_contiguous
            spots, count = ndimage.label(picture.mean(axis=-1) > 128)
            if seen == 1 or count == 0:
                return SimpleNamespace(pose_landmarks=None)
            largest = np.bincount(spots.ravel())[1:].argmax() + 1
            y, x = np.argwhere(spots == largest).mean(axis=0) + 0.5
            # The heels and toes are around the spot, which is painted over with them.
            places = [(x, y)] * 29 + [(x - 9, y - 9), (x + 9, y - 9), (x - 9, y + 9), (x + 9, y + 9)]
            marks = [SimpleNamespace(x=x / picture.shape[1], y=y / picture.shape[0], visibility=0.9) for x, y in places]
            return SimpleNamespace(pose_landmarks=SimpleNamespace(landmark=marks))

        yield SimpleNamespace(process=process)


def test_what_is_drawn_is_found_where_it_was_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_mediapipe", Finder)
    found = video.detect(write_video(tmp_path / "disc.mp4"))
    assert (found.name, found.names, found.fps) == ("disc", LAYOUTS["mediapipe33"], 12.5)
    assert found.resolution == (160, 120)  # the odd line is cut off
    assert [len(people) for people in found.people] == [0, *[1] * 7]
    for frame, people in enumerate(found.people[1:], 1):
        np.testing.assert_allclose(people[0, :29, :2], np.tile([20.5 + 10 * frame, 40.5], (29, 1)), atol=0.7)
        np.testing.assert_allclose(people[0, :, 2], 0.9)


def write_pair(path, frames=20):
    """A large white disc that moves right, and a small one below that moves left."""
    pictures = []
    for frame in range(frames):
        pictures.append(Image.new("RGB", (320, 200)))
        ImageDraw.Draw(pictures[-1]).circle((40 + 10 * frame, 50), 9, fill="white")
        ImageDraw.Draw(pictures[-1]).circle((280 - 10 * frame, 150), 6, fill="white")
    video.save_mp4(iter(pictures), 25, path)
    return path


def test_everyone_in_a_film_is_found_and_without_it_that_there_are_more(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_mediapipe", Finder)
    found = video.detect(write_pair(tmp_path / "pair.mp4"), everyone=True)
    assert found.notes == ()
    assert [len(people) for people in found.people] == [0, 1, *[2] * 18]
    for frame, people in enumerate(found.people[2:], 2):
        expected = [(40.5 + 10 * frame, 50.5), (280.5 - 10 * frame, 150.5)]
        np.testing.assert_allclose(people[:, 0, :2], expected, atol=0.7)
    one = video.detect(tmp_path / "pair.mp4")
    assert {len(people) for people in one.people[1:]} == {1}
    [note] = one.notes
    assert note.startswith("more than one person is in the film: lifted the one in the middle of the image")
    assert video.detect(write_video(tmp_path / "disc.mp4", frames=20, size=(320, 200))).notes == ()


def test_what_native_code_writes_does_not_reach_the_terminal(capfd):
    with video.native_code_silenced() as terminal:
        os.write(2, b"W0000 inference_feedback_manager.cc:114] Feedback manager\n")
        terminal.write("50 frames")
        terminal.flush()
    sys.stderr.flush()
    os.write(2, b" and on")
    with pytest.raises(KeyboardInterrupt), video.native_code_silenced():
        raise KeyboardInterrupt
    os.write(2, b" and on")
    assert capfd.readouterr().err == "50 frames and on and on"


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_of_a_varying_rate_stand_where_their_times_are(tmp_path, monkeypatch, suffix):
    """60 frames a second, then 15, as phones do in the dark: what the container says of its rate is wrong."""
    ticks = [*range(6), *range(6, 30, 4)]  # sixtieths of a second
    with av.open(str(tmp_path / f"phone.{suffix}"), "w") as container:
        stream = container.add_stream("libx264", rate=60)
        stream.width, stream.height, stream.pix_fmt = 400, 96, "yuv420p"
        for tick in ticks:
            picture = Image.new("RGB", (400, 96))
            ImageDraw.Draw(picture).circle((20 + 10 * tick, 40), 8, fill="white")
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = tick, Fraction(1, 60)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    monkeypatch.setattr(video, "_mediapipe", Finder)
    found = video.detect(tmp_path / f"phone.{suffix}")
    assert found.fps == pytest.approx(60, rel=1e-3)
    assert [place for place, people in enumerate(found.people) if len(people)] == ticks[1:]
    for tick in ticks[1:]:
        np.testing.assert_allclose(found.people[tick][0, 0, 0], 20.5 + 10 * tick, atol=0.7)
    [note] = found.notes
    assert "placed by their times at 60 frames/s" in note


def test_the_film_has_a_picture_for_each_frame_of_the_grid(tmp_path):
    """Of a video with gaps: ticks of a sixtieth of a second, whose grey is 20 times their number."""
    ticks = [0, 1, 2, 5, 6, 9]
    with av.open(str(tmp_path / "gaps.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=60)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for tick in ticks:
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), (20 * tick,) * 3))
            frame.pts, frame.time_base = tick, Fraction(1, 60)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for count, places in ((11, [0, 1, 2, 2, 2, 5, 6, 6, 6, 9, 9]), (4, [0, 1, 2, 2])):
        greys = [np.asarray(picture).mean() for picture in video.film(tmp_path / "gaps.mp4", 60.0, count)]
        np.testing.assert_allclose(greys, 20 * np.array(places), atol=3)


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), (0, 0)),  # x' = x, y' = y, from the top left of the picture
        ((0, 1, -1, 0), (0, 1)),  # x' = −y, y' = x: the top left comes to the top right
        ((-1, 0, 0, -1), (1, 1)),
        ((0, -1, 1, 0), (1, 0)),
    ],
)
def test_videos_held_sideways_are_turned_upright(tmp_path, matrix, corner):
    """The matrix of an .mp4's track says how the phone was held: written here by hand."""
    picture = Image.new("RGB", (96, 64))
    ImageDraw.Draw(picture).rectangle((0, 0, 30, 20), fill="white")
    video.save_mp4([picture], 25, tmp_path / "phone.mp4")
    data = bytearray((tmp_path / "phone.mp4").read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (65536 * value for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    (tmp_path / "phone.mp4").write_bytes(data)
    with av.open(str(tmp_path / "phone.mp4")) as opened:
        [turned] = map(video._upright, opened.decode(video=0))
    assert turned.shape == ((64, 96, 3) if matrix[0] else (96, 64, 3))
    ends = turned[:: len(turned) - 1, :: turned.shape[1] - 1, 0] > 128  # (2, 2)
    assert [tuple(end) for end in np.argwhere(ends)] == [corner]


def test_a_video_with_nobody_in_it_and_files_that_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_mediapipe", Finder)
    with pytest.raises(DataError, match=r"one\.mp4: expected a person, found nobody in 1 frames"):
        video.detect(write_video(tmp_path / "one.mp4", frames=1))
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"text\.mp4: expected a video, found a file that cannot be read as one"):
        video.detect(tmp_path / "text.mp4")
    with pytest.raises(DataError, match=r"none\.mp4: expected a video, found no such file"):
        video.detect(tmp_path / "none.mp4")
    whole = write_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.mp4: expected a video"):
        video.detect(tmp_path / "half.mp4")
    assert [path.name for path in clips_in(tmp_path)] == ["half.mp4", "one.mp4", "text.mp4", "whole.mp4"]


@pytest.mark.parametrize("missing", ["av", "mediapipe"])
def test_without_the_extra_it_is_named(tmp_path, monkeypatch, missing):
    path = write_video(tmp_path / "disc.mp4")
    whole = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {name!r}")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'-m pip install .*\[video\]"|no version for Python 3\.13'):
        video.detect(path)


def test_nothing_is_left_of_a_video_that_broke_off(tmp_path):
    def pictures():
        yield Image.new("RGB", (64, 64))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        video.save_mp4(pictures(), 25, tmp_path / "half.mp4")
    assert list(tmp_path.iterdir()) == []


def test_mediapipe_itself_starts(tmp_path):
    """Its weights are in the wheel: it looks at a video without a person, and finds none."""
    pytest.importorskip("mediapipe")
    with pytest.raises(DataError, match="found nobody in 8 frames"):
        video.detect(write_video(tmp_path / "disc.mp4"))
