"""VideoPose3D, a peer of Tables 1 and 4 and of Figure 3, as its authors define it.

It is seq2frame: from `frames` frames (the receptive field, T) it lifts the central one. Keypoints are
screen-normalised, poses metres in camera axes, root-relative. Modules are named as in the published checkpoints.
"""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixste.network import Network, Shapes


class VideoPose3D(Network):
    """Dilated temporal convolutions (Pavllo et al., CVPR 2019): 16.95 M parameters at 243 frames.

    A convolution over 3 frames, then residual blocks, each over 3 times as many frames as all before it:
    log₃(frames) convolutions. frames = 1 is their single-frame model, three layers of kernel width 1 instead of 3.
    forward lifts every frame whose whole receptive field is among the n that it reads:
    (batch, n, joints, 2) -> (batch, n − frames + 1, joints, 3). Raises ValueError if n < frames.
    """

    name = "videopose3d"
    mode = "convolution"
    authors_key = "shrink"

    def __init__(self, frames: int = 243, joints: int = 17, channels: int = 1024, dropout: float = 0.25):
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**options)
        layers = round(math.log(max(frames, 1), 3))
        if 3**layers != frames:
            raise ValueError(f"VideoPose3D's frames must be a power of 3 (1, 3, 9, 27, 81, 243, …), found {frames}")
        width, layers = (3, layers) if frames > 1 else (1, 3)
        self.dropout = dropout

        def conv(inputs, width, dilation=1):
            return nn.Conv1d(inputs, channels, width, dilation=dilation, bias=False)

        self.expand_conv, self.expand_bn = conv(2 * joints, width), nn.BatchNorm1d(channels)
        self.layers_conv, self.layers_bn = nn.ModuleList(), nn.ModuleList()
        for layer in range(1, layers):
            self.layers_conv += [conv(channels, width, dilation=width**layer), conv(channels, 1)]
            self.layers_bn += [nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)]
        self.shrink = nn.Conv1d(channels, 3 * joints, 1)

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Float[Tensor, "batch lifted joints 3"]:
        if keypoints.shape[1] < self.frames or keypoints.shape[2:] != (self.joints, 2):
            raise ValueError(
                f"keypoints must be (batch, at least {self.frames}, {self.joints}, 2), found {tuple(keypoints.shape)}"
            )
        # The output for one receptive field needs only every third output of each layer: the others are left
        # out, as in its authors' training, so that batch statistics are of the outputs in use.
        single = keypoints.shape[1] == self.frames

        def conv(layer: nn.Conv1d, x: Tensor) -> Tensor:
            return F.conv1d(x, layer.weight, stride=layer.kernel_size) if single else layer(x)

        x = keypoints.flatten(2).transpose(1, 2)  # (batch, joints · 2, frames)
        x = self.activate(conv(self.expand_conv, x), self.expand_bn)
        for block in range(0, len(self.layers_conv), 2):
            y = x
            for layer in (block, block + 1):  # a wide convolution, then a pointwise one
                y = self.activate(conv(self.layers_conv[layer], y), self.layers_bn[layer])
            if single:
                width = x.shape[-1] // y.shape[-1]
                x = x[..., width // 2 :: width] + y
            else:
                edge = (x.shape[-1] - y.shape[-1]) // 2  # frames the unpadded convolution loses at either end
                x = x[..., edge : edge + y.shape[-1]] + y
        return self.shrink(x).transpose(1, 2).unflatten(2, (self.joints, 3))

    def activate(self, x: Float[Tensor, "batch channels frames"], norm: nn.BatchNorm1d) -> Tensor:
        return F.dropout(F.relu(norm(x)), self.dropout, self.training)

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        return {"channels": profile.channels}

    @classmethod
    def authors_sizes(cls, shapes: Shapes) -> dict[str, object]:
        blocks = (shapes.count("layers_conv") + 1) // 2  # of two convolutions
        return {
            "frames": shapes.size("expand_conv.weight", 2) ** (blocks + 1),
            "joints": shapes.size("expand_conv.weight", 1) // 2,
            "channels": shapes.size("expand_conv.weight", 0),
        }
