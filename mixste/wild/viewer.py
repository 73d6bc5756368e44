"""An interactive 3D viewer of poses, their errors, and attention, for notebooks and browsers.

One self-contained HTML page (viewer.html) shows everything. A notebook's output holds it in an iframe, so that it works
in JupyterLab, in classic notebooks and in nbconvert's exports. JupyterLab removes the iframe from a notebook that is
not trusted; a still picture remains.
"""

import base64
import html
import io
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mixste.camera import normalize_screen
from mixste.data.clips import Clip
from mixste.io.files import replacing
from mixste.metrics import joint_errors
from mixste.model import MixSTE, attention_maps
from mixste.predict import predict
from mixste.skeleton import Skeleton, human36m, of_joints
from mixste.wild.outputs import UPRIGHT, Lifted, pictures
from mixste.wild.video import film, save_mp4

FILM_FRAMES, FILM_SIDE = 5_000, 640  # the longest film in a page, and the longer side of its pictures, pixels

Viewable = Clip | Lifted | np.ndarray | Tensor | Mapping | str | Path


class Viewer:
    """An HTML page: displayed by a notebook as the value of a cell, and by any browser once saved."""

    def __init__(self, content: dict, still: Image.Image, height: int):
        # "<" is escaped: a name with "</script>" would end the script.
        data = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        self.html = (
            files("mixste.wild").joinpath("viewer.html").read_text(encoding="utf-8").replace("__DATA__", data, 1)
        )
        self.still, self.height = still, height
        self.about = f"{', '.join(one['name'] for one in content['series'])}: {content['frames']} frames"

    def save(self, path) -> None:
        """Write the self-contained page."""
        with replacing(path) as temporary:
            temporary.write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        """The still picture, and the page in an iframe, whose script hides the picture.

        As one HTML output: JupyterLab prefers HTML to an image even if it shows only part of it, untrusted.
        """
        png = io.BytesIO()
        self.still.quantize(32, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
        picture = f'<img src="data:image/png;base64,{_text(png.getvalue())}" alt="{html.escape(self.about)}">'
        hint = "The first frame. Run this cell, or trust the notebook, for the interactive view."
        page = self.html.replace("&", "&amp;").replace('"', "&quot;")
        return (
            f'<div class="still">{picture}<p>{hint}</p></div>'
            f'<iframe srcdoc="{page}" width="100%" height="{self.height}" style="border:0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Viewer({self.about})"


def view(
    *items: Viewable,
    skeleton: Skeleton | None = None,
    fps: float | None = None,
    frames: slice = slice(None),
    colors: Mapping[str, str] | None = None,
) -> Viewer:
    """View poses: play, drag to rotate, scroll to zoom, click on the curve to jump to a frame.

    items: clips, shown with their keypoints in the image plane; poses (frames, joints, 3) in metres, camera axes, as
    `predict` returns them, alone or as {name: poses}; `Lifted` clips, or .npz files of `mixste lift`. They are shown
    side by side or overlaid, each relative to its root; a single clip that is placed in the world, on its path. The
    first is the reference: the mean distance of the others' joints from it is plotted over time, in millimetres.
    frames: which of them to show. skeleton, fps: by default the clip's fps or 50, and the usual layout with that number
    of joints. colors: of the curves, in CSS, by the names of what is shown.
    Raises ValueError if there is nothing to show, or frames or joints disagree.
    """
    series: list[tuple[str, np.ndarray]] = []
    clip = None  # the first with keypoints
    items = tuple(Lifted.read(item) if isinstance(item, str | Path) else item for item in items)
    alone = items[0] if len(items) == 1 and isinstance(items[0], Lifted) and items[0].world else None
    for item in items:
        if isinstance(item, Clip | Lifted):
            clip = item if clip is None else clip
            truth = "truth" if sum(isinstance(other, Clip) for other in items) == 1 else item.name
            series.append((truth if isinstance(item, Clip) else item.name, _array(item.poses)))
        elif isinstance(item, Mapping):
            series += [(str(name), _array(poses)) for name, poses in item.items()]
        else:
            series.append(("prediction", _array(item)))
    if not series:
        raise ValueError("expected a clip, poses or a file to show, found none")
    name, first = series[0]
    for other, poses in series:
        if poses.ndim != 3 or poses.shape[2] != 3 or not len(poses):
            raise ValueError(f"{other}: expected poses (frames, joints, 3), found an array {poses.shape}")
        if poses.shape != first.shape:
            raise ValueError(f"{other}: expected poses as many as {name}'s {first.shape}, found {poses.shape}")
        if not np.isfinite(poses).all():
            raise ValueError(f"{other}: expected finite poses, found NaN or infinity")
    skeleton = skeleton or of_joints(first.shape[1])
    series = [(name, poses - poses[:, [skeleton.root]]) for name, poses in series]
    series = [(alone.name, alone.shown())] if alone else series
    selected = range(len(first))[frames]
    if len(selected) == 0 or selected.step != 1:
        raise ValueError(f"expected consecutive frames within 0–{len(first) - 1}, found {frames}")
    series = [(name, poses[frames]) for name, poses in series]
    errors = [joint_errors(poses, series[0][1]).mean(axis=-1) for _, poses in series[1:]]
    image = None if clip is None else ([_array(clip.keypoints[frames])], clip.resolution)
    behind = _film(clip, selected)
    scene = _scene(series, image, skeleton, fps or (50.0 if clip is None else clip.fps), selected.start, behind)
    for item, one in zip(items, scene["series"], strict=False):
        if not isinstance(item, Lifted):
            break  # names of a mapping are several series
        _add_bands(one, item, frames)
    for one in scene["series"]:
        if one["name"] in (colors or {}):
            one["colour"] = colors[one["name"]]
    content = {
        **scene,
        "curves": [None, *(np.round(1000 * error, 1).tolist() for error in errors)] if errors else [],
        "about": f"mean distance of the joints from {name}, mm",
    }
    return Viewer(content, _still(series, image, skeleton), height=490 if errors else 410)


def view_people(people: Sequence[Lifted]) -> Viewer:
    """View people lifted from one clip together: all keypoints in the image plane, and the poses side by side.

    People who are all placed in the world are shown together on its floor. Raises ValueError if there are none, or they
    are not of one clip.
    """
    if not people or len({(len(one.poses), one.resolution, one.fps) for one in people}) > 1:
        raise ValueError(f"expected people lifted from one clip, found {len(people)} of different length, size or rate")
    together = all(one.world for one in people)
    bodies = [one.upright() * UPRIGHT if together else _array(one.shown()) for one in people]
    if together:
        everyone = np.concatenate(bodies)
        bodies = [body - (everyone.min(axis=(0, 1)) + everyone.max(axis=(0, 1))) / 2 for body in bodies]
    series = [(one.name, body) for one, body in zip(people, bodies, strict=True)]
    image = ([_array(one.keypoints) for one in people], people[0].resolution)
    scene = _scene(series, image, human36m, people[0].fps, 0, _film(people[0], range(len(people[0].poses))))
    for person, one in zip(people, scene["series"], strict=True):
        _add_bands(one, person)
    content = {
        **scene,
        "curves": [],
        "about": "",
        "together": together,
    }
    return Viewer(content, _still(series, image, human36m), height=410)


def view_attention(model: MixSTE, clip: Clip | Lifted, start: int = 0, cells: int = 27) -> Viewer:
    """View the attention of each block while it lifts one window of a clip: choose layer, head, joint and frame.

    start: first frame of the window of `model.frames`; a clip that ends within it is padded with its last frame. Discs
    on the joints show the chosen joint's spatial attention in that frame, the curve its temporal attention over the
    frames, and the two matrices all rows of both. Frames are averaged in groups, at most `cells` of them: otherwise a
    page for T = 243 would take a hundred megabytes.
    Raises ValueError for a network other than MixSTE, or a window outside the clip.
    """
    if not 0 <= start < len(clip.keypoints):
        raise ValueError(f"expected the start of a window within 0–{len(clip.keypoints) - 1}, found {start}")
    window = np.clip(np.arange(start, start + model.frames), 0, len(clip.keypoints) - 1)
    points = normalize_screen(clip.keypoints[window], *clip.resolution).astype(np.float32)
    training = model.training
    maps = attention_maps(model.eval(), torch.from_numpy(points)[None].to(next(model.parameters()).device))
    model.train(training)

    group = -(-model.frames // cells)
    cells = -(-model.frames // group)
    total = (np.arange(model.frames) // group == np.arange(cells)[:, None]).astype(np.float32)  # (cells, frames)
    mean = total / total.sum(axis=1, keepdims=True)
    spatial = [np.einsum("cf,fhjk->chjk", mean, one[0].cpu().numpy()) for one in maps["spatial"]]
    # One sequence of frames for each joint, or a single one without joint separation. The attention to a group of
    # frames is the sum over them.
    temporal = [one[0].cpu().numpy().reshape(-1, *one.shape[-3:]) for one in maps["temporal"]]
    temporal = [mean @ one @ total.T for one in temporal]  # (sequences, heads, cells, cells) each

    skeleton = model.skeleton
    poses = predict(model, points, flip=False)
    series = [("lifted", poses - poses[:, [skeleton.root]])]
    image = ([_array(clip.keypoints[window])], clip.resolution)
    content = {
        **_scene(series, image, skeleton, clip.fps, first=start),
        "curves": [],
        "about": f"attention of JOINT to each {'frame' if group == 1 else f'{group} frames'}, %",
        "attention": {
            "layers": len(spatial),
            "heads": spatial[0].shape[1],
            "cells": cells,
            "group": group,
            "sequences": len(temporal[0]),
            "spatial": _bytes(np.stack(spatial)),
            "temporal": _bytes(np.stack(temporal)),
        },
    }
    return Viewer(content, _still(series, image, skeleton), height=490)


def _film(clip: Clip | Lifted | None, frames: range) -> str | None:
    """Those frames of the video that a clip comes from, small, as a data URL; None without a video, or if too long."""
    path = getattr(clip, "film", None)
    if path is None or len(frames) > FILM_FRAMES:
        return None

    def small() -> Iterator[Image.Image]:
        for picture in itertools.islice(film(path, clip.fps, frames.stop), frames.start, None):
            picture.thumbnail((FILM_SIDE, FILM_SIDE), reducing_gap=2.0)
            yield picture

    with tempfile.TemporaryDirectory() as folder:
        save_mp4(small(), clip.fps, Path(folder) / "film.mp4", quality=28, keyframes=10)
        return f"data:video/mp4;base64,{_text((Path(folder) / 'film.mp4').read_bytes())}"


def _scene(series, image, skeleton: Skeleton, fps: float, first: int, film: str | None = None) -> dict:
    """The content of every page: bodies and, if any, the image plane, with the film behind it."""
    sides = np.zeros(len(skeleton.joints), dtype=int)
    sides[list(skeleton.left)], sides[list(skeleton.right)] = 1, 2
    return {
        "joints": skeleton.joints,
        "bones": skeleton.bones,
        "sides": sides.tolist(),
        "fps": fps,
        "first": first,
        "frames": len(series[0][1]),
        "series": [{"name": name, "poses": _packed(poses, 1e-4)} for name, poses in series],
        "image": image
        and {
            "size": list(map(int, image[1])),
            "points": [_packed(one, 0.1) for one in image[0]],
            **({"film": film} if film else {}),
        },
    }


def _add_bands(series: dict, lifted: Lifted, frames: slice = slice(None)) -> None:
    if lifted.bands is not None:
        series["bands"] = _packed(lifted.bands[frames], 1e-4)


def _still(series, image, skeleton: Skeleton) -> Image.Image:
    """The first frame, with the image plane cropped to the person."""
    names, points, size = [name for name, _ in series], None, None
    if image is not None:
        first = image[0][0][:1]
        low, high = first[0].min(axis=0), first[0].max(axis=0)
        side = 1.1 * float((high - low).max()) + 1
        names, points, size = ["keypoints", *names], first - (low + high - side) / 2, (side, side)
    return next(pictures(points, size, [poses[:1] for _, poses in series], 280, names, skeleton))


def _array(values) -> Float[np.ndarray, "..."]:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def _packed(values: np.ndarray, unit: float) -> dict:
    """As 16-bit multiples of `unit`, or of the smallest power of ten above it for which they fit."""
    while np.abs(values).max() > 32767 * unit:
        unit *= 10
    return {"values": _text(np.round(values / unit).astype("<i2")), "scale": unit}


def _bytes(attention: np.ndarray) -> str:
    """Attention weights in one byte each, as their square roots: most weights are small."""
    return _text(np.round(255 * np.sqrt(np.clip(attention, 0, 1))).astype(np.uint8))


def _text(values: np.ndarray | bytes) -> str:
    return base64.b64encode(values if isinstance(values, bytes) else values.tobytes()).decode("ascii")
