"""Poses that play, turn and zoom in a notebook: truth, predictions and peers, their errors, and attention.

One page of HTML without anything fetched (viewer.html) shows it all; a notebook's output holds that page in a frame of
its own, so that it works in JupyterLab, in classic notebooks and in what nbconvert exports. Where a notebook is not
trusted the frame is removed, and a still picture beside it remains.
"""

import base64
import html
import io
import json
from collections.abc import Mapping
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
from mixste.skeleton import Skeleton, of_joints
from mixste.wild.outputs import Lifted, pictures

Shown = Clip | Lifted | np.ndarray | Tensor | Mapping | str | Path


class Viewer:
    """A page to look at: shown by a notebook when it is a cell's value, and by any browser once saved."""

    def __init__(self, content: dict, still: Image.Image, height: int):
        # "<" as an escape, or a name that holds "</script>" would end the script.
        data = json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        self.html = (
            files("mixste.wild").joinpath("viewer.html").read_text(encoding="utf-8").replace("__DATA__", data, 1)
        )
        self.still, self.height = still, height
        self.about = f"{', '.join(one['name'] for one in content['series'])}: {content['frames']} frames"

    def save(self, path) -> None:
        """Write the page, which needs nothing beside it."""
        with replacing(path) as temporary:
            temporary.write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        """The still picture, and the page in a frame, whose script hides the picture.

        In one piece, since JupyterLab prefers HTML to an image, also the little of it that it shows untrusted.
        """
        png = io.BytesIO()
        self.still.quantize(32, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
        picture = f'<img src="data:image/png;base64,{_text(png.getvalue())}" alt="{html.escape(self.about)}">'
        hint = "The first frame. Execute this cell, or trust the notebook, to play it and to turn it."
        page = self.html.replace("&", "&amp;").replace('"', "&quot;")
        return (
            f'<div class="still">{picture}<p>{hint}</p></div>'
            f'<iframe srcdoc="{page}" width="100%" height="{self.height}" style="border:0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Viewer({self.about})"


def view(
    *shown: Shown, skeleton: Skeleton | None = None, fps: float | None = None, frames: slice = slice(None)
) -> Viewer:
    """Look at poses: play, drag to turn, wheel to zoom, click on the curve to go there.

    shown: clips, with their keypoints in the image plane; poses (frames, joints, 3) in metres, camera axes, of
    `predict`, alone or as {name: poses}; what `mixste lift` made, or the .npz file it wrote. They appear side by side
    or overlaid, each relative to its root. The first is what the others are measured against: the mean distance of
    their joints is drawn over time, millimetres. frames: which of them to show. skeleton, fps: by default those of the
    clip, or by the number of joints and 50.
    Raises ValueError where nothing is shown, or frames or joints disagree.
    """
    named: list[tuple[str, np.ndarray]] = []
    film = None  # the first that has keypoints
    for one in shown:
        if isinstance(one, str | Path):
            one = Lifted.read(one)
        if isinstance(one, Clip | Lifted):
            film = one if film is None else film
            truth = "truth" if sum(isinstance(other, Clip) for other in shown) == 1 else one.name
            named.append((truth if isinstance(one, Clip) else one.name, _array(one.poses)))
        elif isinstance(one, Mapping):
            named += [(str(name), _array(poses)) for name, poses in one.items()]
        else:
            named.append(("prediction", _array(one)))
    if not named:
        raise ValueError("expected a clip, poses or a file to show, found none")
    name, first = named[0]
    for other, poses in named:
        if poses.shape != first.shape or poses.ndim != 3 or poses.shape[2] != 3 or not np.isfinite(poses).all():
            raise ValueError(
                f"{other}: expected finite poses (frames, joints, 3), as many as {name}'s {first.shape}, "
                f"found {poses.shape}"
            )
    skeleton = skeleton or of_joints(first.shape[1])
    named = [(name, poses - poses[:, [skeleton.root]]) for name, poses in named]
    kept = range(len(first))[frames]
    if len(kept) == 0 or kept.step != 1:
        raise ValueError(f"expected frames that follow each other within 0–{len(first) - 1}, found {frames}")
    named = [(name, poses[frames]) for name, poses in named]
    errors = [joint_errors(poses, named[0][1]).mean(axis=-1) for _, poses in named[1:]]
    image = None if film is None else (_array(film.keypoints[frames]), film.resolution)
    content = {
        **_scene(named, image, skeleton, fps or (50.0 if film is None else film.fps), first=kept.start),
        "curves": [None, *(np.round(1000 * error, 1).tolist() for error in errors)] if errors else [],
        "about": f"mean distance of the joints from {name}, mm",
    }
    return Viewer(content, _still(named, image, skeleton), height=490 if errors else 410)


def view_attention(model: MixSTE, clip: Clip | Lifted, start: int = 0, cells: int = 27) -> Viewer:
    """Look at what each block attends to while it lifts one window of a clip: pick layer, head, joint and frame.

    start: first frame of the window of `model.frames`; a clip that ends within it is padded with its last frame. Discs
    on the joints show where the chosen joint looks in that frame, the curve where that joint looks among the frames,
    the two matrices all rows of the same attention. Frames are averaged in groups so that at most `cells` remain, or a
    page for T = 243 would weigh a hundred megabytes.
    Raises ValueError for another model, or a window outside the clip.
    """
    if not isinstance(model, MixSTE):
        raise ValueError(f"attention is MixSTE's: expected such a model, found {type(model).__name__}")
    if not 0 <= start < len(clip.keypoints):
        raise ValueError(f"expected a window that starts within 0–{len(clip.keypoints) - 1}, found {start}")
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
    # Without joint separation there is one sequence of frames, else one for each joint. What goes to a group of frames
    # is the sum over them.
    temporal = [one[0].cpu().numpy().reshape(-1, *one.shape[-3:]) for one in maps["temporal"]]
    temporal = [mean @ one @ total.T for one in temporal]  # (sequences, heads, cells, cells) each

    skeleton = model.skeleton
    poses = predict(model, points, flip=False)
    named = [("lifted", poses - poses[:, [skeleton.root]])]
    image = (_array(clip.keypoints[window]), clip.resolution)
    content = {
        **_scene(named, image, skeleton, clip.fps, first=start),
        "curves": [],
        "about": f"what JOINT takes from each {'frame' if group == 1 else f'{group} frames'}, %",
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
    return Viewer(content, _still(named, image, skeleton), height=490)


def _scene(named, image, skeleton: Skeleton, fps: float, first: int) -> dict:
    """What every page holds: bodies, and the image plane where there is one."""
    sides = np.zeros(len(skeleton.joints), dtype=int)
    sides[list(skeleton.left)], sides[list(skeleton.right)] = 1, 2
    return {
        "joints": skeleton.joints,
        "bones": skeleton.bones,
        "sides": sides.tolist(),
        "fps": fps,
        "first": first,
        "frames": len(named[0][1]),
        "series": [{"name": name, "poses": _packed(poses, 1e-4)} for name, poses in named],
        "image": image and {"size": list(map(int, image[1])), "points": _packed(image[0], 0.1)},
    }


def _still(named, image, skeleton: Skeleton) -> Image.Image:
    """The first frame; of the image plane, the part where the person is."""
    names, points, size = [name for name, _ in named], None, None
    if image is not None:
        low, high = image[0][0].min(axis=0), image[0][0].max(axis=0)
        side = 1.1 * float((high - low).max()) + 1
        names, points, size = ["keypoints", *names], image[0][:1] - (low + high - side) / 2, (side, side)
    return next(pictures(points, size, [poses[:1] for _, poses in named], 280, names, skeleton))


def _array(values) -> Float[np.ndarray, "..."]:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def _packed(values: np.ndarray, unit: float) -> dict:
    """Whole multiples of `unit`, or of the first power of ten above it that lets them fit two bytes."""
    while np.abs(values).max() > 32767 * unit:
        unit *= 10
    return {"values": _text(np.round(values / unit).astype("<i2")), "scale": unit}


def _bytes(shares: np.ndarray) -> str:
    """Shares of attention in one byte each; the root keeps the small ones apart, which are most."""
    return _text(np.round(255 * np.sqrt(np.clip(shares, 0, 1))).astype(np.uint8))


def _text(values: np.ndarray | bytes) -> str:
    return base64.b64encode(values if isinstance(values, bytes) else values.tobytes()).decode("ascii")
