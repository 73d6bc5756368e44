"""Lifting clips of any length with a network that reads T frames at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mixste.skeleton import Skeleton, mirrored

LARGEST = 10  # screen units, in which an image is 2 wide: a clip whose median coordinate is larger is in pixels
BATCH_FRAMES = 16 * 243  # read at a time: bounds the memory, and is enough to keep a GPU busy
CPU_BATCH_FRAMES = 2 * 81  # by one thread: few enough for the caches


@torch.no_grad()
def predict_clips(
    model: nn.Module,
    keypoints: Float[Tensor, "all joints 2"],
    clips: list[tuple[int, int]],
    skeleton: Skeleton | None,
    flip: bool = True,
    progress: Callable[[int], None] = lambda frames: None,
) -> list[tuple[Int[np.ndarray, "lifted"], Float[Tensor, "lifted joints 3"]]]:
    """Lift many clips in full batches.

    keypoints: the frames of all clips, concatenated, screen-normalised, on the model's device; clips: (start, length)
    of each. Returns for each clip the lifted frames' indices, counted from its start, in the order of its windows (with
    repetitions where windows overlap or are padded), and their poses in metres. flip: average with the lifting of the
    mirrored keypoints, mirrored back (notebook 13, row 21); needs the skeleton. progress is called with the number of
    frames as they are read.
    """

    @torch.no_grad()  # also where another thread calls it
    def lift(batch: Int[Tensor, "batch frames"]) -> Float[Tensor, "batch lifted joints 3"]:
        inputs = keypoints[batch]  # (batch, frames, joints, 2)
        out = model(inputs)
        if flip:
            out = (out + mirrored(model(mirrored(inputs, skeleton)), skeleton)) / 2
        return out.float()

    readings = [model.windows(length) for _, length in clips]
    starts = [start for start, _ in clips]
    by_width: dict[int, list[tuple[int, np.ndarray]]] = {}
    for clip, (read, _) in enumerate(readings):
        by_width.setdefault(read.shape[1], []).append((clip, read + starts[clip]))

    poses: list[Tensor | None] = [None] * len(clips)
    training = model.training
    model.eval()
    try:
        for group in by_width.values():
            windows = torch.from_numpy(np.concatenate([read for _, read in group])).to(keypoints.device)
            lifted = []
            for batch, out in in_batches(lift, windows):
                lifted.append(out)
                progress(batch.numel())
            parts = torch.cat(lifted).split([len(read) for _, read in group])
            for (clip, _), part in zip(group, parts, strict=True):
                poses[clip] = part.flatten(0, 1)
    finally:
        model.train(training)
    return [(lifted.reshape(-1), pose) for (_, lifted), pose in zip(readings, poses, strict=True)]


def in_batches(
    compute: Callable[[Tensor], Tensor], windows: Int[Tensor, "windows frames"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the windows in their order, each with compute(batch).

    On the CPU, if there are enough of them, threads take small batches, one each. Threads that share an operation, as
    PyTorch's do, would wait for each other at the end of each, and long where other programs run: with two threads on
    a busy machine, lifting takes half the processor's time this way.
    """
    frames, threads = windows.shape[1], torch.get_num_threads()
    batches = windows.split(max(1, min(BATCH_FRAMES, CPU_BATCH_FRAMES) // frames))
    if windows.device.type != "cpu" or len(batches) <= threads:
        batches, threads = windows.split(max(1, BATCH_FRAMES // frames)), 1
    if threads == 1:
        yield from zip(batches, map(compute, batches), strict=True)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from zip(batches, pool.map(compute, batches), strict=True)
        finally:
            torch.set_num_threads(threads)  # some libraries have one number for all threads


def first_of_each(indices: Int[np.ndarray, "lifted"]) -> Int[np.ndarray, "frames"]:
    """The position at which each frame was first lifted: selects each frame once, in order, from `predict_clips`."""
    return np.unique(indices, return_index=True)[1]


def predict(
    model: nn.Module,
    keypoints,
    flip: bool = True,
    skeleton: Skeleton | None = None,
    progress: Callable[[int], None] = lambda frames: None,
):
    """Lift one clip of any length.

    keypoints: (frames, joints, 2), screen-normalised (`mixste.camera.normalize_screen`), array or tensor. Returns
    (frames, joints, 3) in metres, camera axes, root-relative, of the same kind. A clip that is not a multiple of T is
    read in consecutive windows, the last moved back to end with it; a shorter one is padded with its last frame.
    flip averages with the mirror image, for which skeleton tells left from right (default: the layout that the network
    was trained on, `model.skeleton`). progress is called with the number of frames as they are read. Raises ValueError
    for another shape, an empty clip, pixels, NaN in keypoints or poses, and where flip needs a layout that is not in
    the network's file.
    """
    device = next(model.parameters()).device
    if not isinstance(keypoints, Tensor):
        keypoints = np.asarray(keypoints)
        if keypoints.dtype.kind not in "fiu":
            raise ValueError(f"keypoints must be real numbers, found {keypoints.dtype}")
        with np.errstate(over="ignore"):  # numbers beyond float32 become infinity, which is refused below
            keypoints = np.ascontiguousarray(keypoints, dtype=np.float32)  # PyTorch accepts no other arrays
    elif keypoints.is_complex():
        raise ValueError(f"keypoints must be real numbers, found {keypoints.dtype}")
    points = torch.as_tensor(keypoints, dtype=torch.float32, device=device)
    if points.ndim != 3 or points.shape[1:] != (model.joints, 2) or len(points) == 0:
        raise ValueError(
            f"keypoints must be (frames, {model.joints}, 2) with at least one frame, found {tuple(points.shape)}"
        )
    if not points.isfinite().all():
        frame = int((~points.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(f"keypoints must be finite, found NaN or infinity in frame {frame}")
    if points.abs().median() > LARGEST:
        raise ValueError(
            f"keypoints must be in screen units, found coordinates of {points.abs().median():.4g}, as of pixels: see "
            "mixste.camera.normalize_screen"
        )
    skeleton = skeleton or (model.skeleton if flip else None)
    [(indices, poses)] = predict_clips(model, points, [(0, len(points))], skeleton, flip, progress)
    poses = poses[torch.from_numpy(first_of_each(indices)).to(device)]
    if not poses.isfinite().all():
        frame = int((~poses.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"poses must be finite, found NaN or infinity in frame {frame}: keypoints of up to {points.abs().max():g} "
            "are too large for screen units, or the weights are damaged"
        )
    return poses if isinstance(keypoints, Tensor) else poses.cpu().numpy()
