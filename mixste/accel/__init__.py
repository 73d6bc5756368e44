"""Optional speed: `accelerate(model)` computes what the model does, faster, up to rounding.

`cpu` is MixSTE in plain PyTorch, arranged for CPUs. `cuda` is MixSTE in bfloat16, by kernels in Triton (`kernels`) and
Gluon (`hopper`, `hopper_gelu`) and matrix products of cuBLASLt (`cublaslt`). `joined` is the same for PoseFormer and
MixSTE without joint separation; `videopose3d` is VideoPose3D's training. `compiled` leaves the blocks of DSTformer,
KTPFormer and MotionAGFormer to PyTorch's compiler. `graphs` records work on a GPU.
"""

import threading

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mixste.accel import compiled, cpu, cuda, joined, videopose3d
from mixste.accel.graphs import Recorder
from mixste.model import MixSTE
from mixste.networks import PoseFormer

__all__ = [
    "Accelerated",
    "accelerate",
    "covers",
    "parameters_changed",
]

preparing = threading.Lock()  # several threads may lift at a time, see `mixste.predict`
optimizer_steps = 0  # of all optimizers: fused ones change parameters without raising their version


def parameters_changed(*_) -> None:
    """Tell that parameters were changed where PyTorch does not notice it: by a recorded step of an optimizer."""
    global optimizer_steps
    optimizer_steps += 1


register_optimizer_step_post_hook(parameters_changed)


def covers(model: nn.Module) -> bool:
    """Whether the model has a fast path: MixSTE in all its variants, except in training mode with dropout."""
    return type(model) is MixSTE and not (model.training and model.dropout > 0)


def accelerate(model: nn.Module, *, float8: bool = False, bfloat16: bool = False) -> "Accelerated":
    """A faster network with the model's parameters and attributes, see `Accelerated`.

    Keep the result: its first calls prepare weights and record graphs, which later calls reuse.
    float8: in inference on CUDA, compute queries, keys and values by 8-bit products, where MixSTE has kernels.
    bfloat16: inference in bfloat16 also where it is float32 by default: for MixSTE on the CPU, which is twice as fast
    if the processor has bfloat16 products, and for networks without a fast path on CUDA, which are then recorded.
    """
    if isinstance(model, Accelerated):
        if not float8 and not bfloat16:
            return model
        model = model.model
    return Accelerated(model, float8, bfloat16)


class Accelerated(nn.Module):
    """A network computed faster. It holds the model itself: training one trains both.

    On the CPU: MixSTE (`covers`) by `cpu.forward`, in float32 by default, and other networks as they are. On CUDA, with
    gradients or in training mode: by `cuda.forward`, `joined.forward` or `videopose3d.forward` where these have kernels
    for the network, and otherwise under autocast to bfloat16, by `compiled.blocks` where that covers the network. On
    CUDA in inference, which is without gradients: MixSTE by `cuda.infer`, `joined.forward` or under autocast, recorded
    for each size of batch; other networks as they are, unless `bfloat16`.

    Inference follows the parameters: it prepares weights again when one has been written to, when any optimizer has
    made a step, and when they have moved. A write through `.data`, or by a graph that is replayed, goes unseen:
    call `refresh` or `parameters_changed` after it. Parameters must not be replaced by others.
    """

    training = property(lambda self: self.model.training, lambda self, mode: None)  # `train` sets the model's
    layout = property(lambda self: self.model.layout, lambda self, name: setattr(self.model, "layout", name))

    def __init__(self, model: nn.Module, float8: bool = False, bfloat16: bool = False):
        super().__init__()
        self.model, self.float8, self.bfloat16 = model, float8, bfloat16
        self._weights = tuple(model.parameters())  # to collect them at each call would take long
        self._versioned = tuple(p for p in self._weights if not p.is_inference())
        self._addresses, self._recorder = None, Recorder()
        self._forget()

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def state_dict(self, *args, **options):
        """The state dict of the model, so that a checkpoint of this is one of the model."""
        return self.model.state_dict(*args, **options)

    def load_state_dict(self, *args, **options):
        return self.model.load_state_dict(*args, **options)

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Float[Tensor, "batch lifted joints 3"]:
        model = self.model
        if isinstance(model, MixSTE | PoseFormer) and keypoints.shape[1:] != (model.frames, model.joints, 2):
            return model(keypoints)  # raises the error about the shape
        with preparing:
            addresses = [p.data_ptr() for p in self._weights]
            if addresses != self._addresses:
                self._forget()
                self._addresses = addresses
        if torch.is_grad_enabled() or model.training:
            return self._differentiable(keypoints)
        with torch.inference_mode(False), torch.no_grad():  # what is made in inference mode could not be changed later
            with preparing:
                self._prepare(keypoints.is_cuda)
            if keypoints.is_cuda and (covers(model) or self.bfloat16):
                return self._recorder(self._infer, keypoints).clone()
            return self._infer(keypoints)

    def _differentiable(self, keypoints: Tensor) -> Tensor:
        fast = self._fast() if keypoints.is_cuda else None
        if fast is not None:
            self._copy(fast)
            return fast.forward(self.model, keypoints, self._low)
        if keypoints.is_cuda and videopose3d.covers(self.model, keypoints):
            return videopose3d.forward(self.model, keypoints)
        if keypoints.is_cuda and compiled.covers(self.model):
            with compiled.blocks(self.model):
                return self._plain(keypoints)
        return self._plain(keypoints)

    def _fast(self):
        """The module with kernels for the network on this GPU, or None."""
        if covers(self.model) and cuda.covers(self.model):
            return cuda
        return joined if joined.covers(self.model) else None

    @torch.no_grad()
    def _copy(self, fast) -> None:
        """Round the parameters that products of matrices read."""
        if self._low is None:
            self._low = fast.low_precision(self.model)
        torch._foreach_copy_(list(self._low.values()), list(self._low))

    def _infer(self, keypoints: Tensor) -> Tensor:
        if self._blocks is not None:
            return cuda.infer(self.model, self._blocks, keypoints)
        if keypoints.is_cuda and (covers(self.model) or self.bfloat16) and self._fast() is joined:
            return joined.forward(self.model, keypoints, self._low)
        if self._low_forward is not None:
            return self._low_forward(keypoints)
        if keypoints.is_cuda and not (covers(self.model) or self.bfloat16):
            return self.model(keypoints)
        poses = self._plain(keypoints)
        return poses.float() if poses.dtype == torch.bfloat16 else poses

    def _plain(self, keypoints: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=keypoints.is_cuda, cache_enabled=False):
            return cpu.forward(self.model, keypoints) if covers(self.model) else self.model(keypoints)

    def _prepare(self, on_cuda: bool) -> None:
        """Update the prepared weights that inference reads instead of the parameters."""
        values = [optimizer_steps, *(p._version for p in self._versioned)]
        if values == self._values:
            return
        self._values = values
        if on_cuda and covers(self.model) and cuda.covers(self.model):
            blocks = cuda.prepared(self.model, self.float8)
            if self._blocks is None:
                self._blocks = blocks
            else:  # where graphs read them
                cuda.refresh(self._blocks, blocks)
        elif on_cuda and joined.covers(self.model):
            self._copy(joined)
        elif not on_cuda and self.bfloat16 and covers(self.model):
            self._low_forward = cpu.low_precision(self.model)

    def refresh(self) -> None:
        """Prepare weights again at the next call, whether or not the parameters are known to have changed."""
        self._values = None

    def _forget(self) -> None:
        """Drop everything that was computed from the parameters."""
        self._values = self._low = self._blocks = self._low_forward = None
        self._recorder.clear()
