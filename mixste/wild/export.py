"""Networks for use elsewhere: as ONNX, and frame by frame on live input."""

import contextlib
import logging
import warnings
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from mixste.accel import accelerate
from mixste.checkpoints import unwrapped
from mixste.io.files import replacing
from mixste.io.install import install
from mixste.predict import predict
from mixste.skeleton import Skeleton


def export_onnx(model: nn.Module, path) -> float:
    """Write the network as ONNX and check it; returns the largest difference from PyTorch, metres.

    Input "keypoints" (batch, frames, joints, 2), screen-normalised, any batch; output "poses" (batch, lifted frames,
    joints, 3), metres. The file holds the weights. Averaging with the mirror image is left to the caller. model: as in
    `mixste.checkpoints.save_checkpoint`. Needs the extra `onnx`, or raises ImportError. Raises RuntimeError, and writes
    nothing, if onnxruntime's poses are more than 0.1 mm off PyTorch's.
    """
    model = unwrapped(model)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ImportError(f"export to ONNX needs more packages ({error}): {install('onnx')}") from None

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        # PyTorch's own translation takes four axes only; ours has a batch of frames of heads.
        axes = [*range(len(key.shape) - 2), len(key.shape) - 1, len(key.shape) - 2]
        scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=axes)), op.Constant(value_float=scale))
        return op.MatMul(op.Softmax(scores, axis=-1), value)

    training, device = model.training, next(model.parameters()).device
    model.eval().cpu()
    try:
        with replacing(path) as temporary, _quiet():
            torch.onnx.export(
                model,
                (torch.zeros(2, model.frames, model.joints, 2),),
                str(temporary),
                input_names=["keypoints"],
                output_names=["poses"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: attention},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            difference = onnx_difference(model, temporary)
            if difference > 1e-4:
                raise RuntimeError(f"{path}: expected PyTorch's poses, found some {1000 * difference:.2f} mm off")
    finally:
        model.train(training).to(device)
    return difference


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporter says of itself: that torchvision, which nothing here uses, is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated parts of its own
            yield
    finally:
        logger.setLevel(level)


def onnx_difference(model: nn.Module, path, batches: Iterable[int] = (1, 3), seed: int = 0) -> float:
    """Largest difference, metres, of onnxruntime on the file from PyTorch, on random clips in batches as given."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    worst = 0.0
    for batch in batches:
        keypoints = rng.uniform(-1, 1, (batch, model.frames, model.joints, 2)).astype(np.float32)
        [poses] = session.run(["poses"], {"keypoints": keypoints})
        with torch.no_grad():
            expected = model(torch.from_numpy(keypoints)).numpy()
        worst = max(worst, float(np.abs(poses - expected).max()))
    return worst


def stream(
    model: nn.Module,
    keypoints: Iterable[Float[np.ndarray, "joints 2"]],
    delay: int | None = None,
    flip: bool = True,
    skeleton: Skeleton | None = None,
    every: int = 1,
) -> Iterator[Float[np.ndarray, "joints 3"]]:
    """Lift live input: one pose for each frame of keypoints, `delay` frames after it came.

    keypoints: screen-normalised, one array a frame, for as long as they come. The pose of a frame is read from the
    window of `model.frames` that ends `delay` frames after it; a window that begins before the input is padded with
    the first frame. With delay 0 a pose comes at once and depends on past frames only; with the default, half a window,
    its frame is the central one. The last `delay` poses come when the input ends, from the last window. every: run the
    network once every so many frames and yield as many poses, which costs less and adds a delay of up to `every` − 1
    frames. Poses are root-relative, in metres. flip, skeleton: as in `predict`. Raises ValueError if delay or every
    does not fit into the window.
    """
    frames = model.frames
    delay = frames // 2 if delay is None else delay
    if not 0 <= delay < frames:
        raise ValueError(f"expected a delay within the window, 0–{frames - 1} frames, found {delay}")
    if not 1 <= every <= frames - delay:
        raise ValueError(f"expected to lift once in 1 to {frames - delay} frames, found {every}")
    network = accelerate(model)
    window: deque[np.ndarray] = deque(maxlen=frames)
    waiting = 0  # frames whose poses are not yet lifted
    for frame in keypoints:
        window.extend([np.asarray(frame)] * (1 if window else frames))
        waiting += 1
        if waiting == delay + every:
            yield from predict(network, np.stack(window), flip, skeleton)[frames - waiting : frames - delay]
            waiting = delay
    if waiting:
        yield from predict(network, np.stack(window), flip, skeleton)[frames - waiting :]
