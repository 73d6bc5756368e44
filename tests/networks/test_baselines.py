"""VideoPose3D and PoseFormer against their definitions, computed number by number, and their published sizes."""

import math

import numpy as np
import pytest
import torch

from mixste.baselines import PoseFormer, VideoPose3D


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def scrambled(model, seed=0):
    """The model in double precision and evaluation mode, every parameter and statistic random."""
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            draw = rng.normal(size=tensor.shape) * 0.5
            tensor.copy_(torch.from_numpy(np.abs(draw) + 0.5 if name.endswith("running_var") else draw))
    return model.double().eval()


def keypoints(*shape, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, 2)))


# --- VideoPose3D


def test_videopose3d_parameters():
    channels, joints = 1024, 17
    expand = 3 * 2 * joints * channels + 2 * channels  # no bias before a batch norm's scale and shift
    block = 3 * channels**2 + channels**2 + 2 * 2 * channels
    shrink = channels * 3 * joints + 3 * joints
    assert parameters(VideoPose3D()) == expand + 4 * block + shrink == 16_952_371  # "16.95 M"
    assert parameters(VideoPose3D(frames=27)) == expand + 2 * block + shrink


def test_videopose3d_names():
    model = VideoPose3D(frames=27, joints=15, channels=8)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if "bn" not in name}
    assert shapes == {
        "expand_conv.weight": (8, 30, 3),
        "layers_conv.0.weight": (8, 8, 3),
        "layers_conv.1.weight": (8, 8, 1),
        "layers_conv.2.weight": (8, 8, 3),
        "layers_conv.3.weight": (8, 8, 1),
        "shrink.weight": (45, 8, 1),
        "shrink.bias": (45,),
    }
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    norms = {name for name in model.state_dict() if "bn" in name}
    assert norms == {f"{bn}.{x}" for bn in ("expand_bn", *(f"layers_bn.{i}" for i in range(4))) for x in statistics}


def videopose3d_by_hand(state, keypoints, widths):
    """The pose from one receptive field, frame by frame."""

    def layer(conv, bn, inputs):
        """One output frame from as many input frames as the convolution is wide."""
        x = sum(state[f"{conv}.weight"][..., i] @ frame for i, frame in enumerate(inputs))
        scale = state[f"{bn}.weight"] / np.sqrt(state[f"{bn}.running_var"] + 1e-5)
        return np.maximum(scale * (x - state[f"{bn}.running_mean"]) + state[f"{bn}.bias"], 0)

    x = keypoints.reshape(len(keypoints), -1)
    # A window's central frame needs no more than every widths[0]-th frame after the first layer, and so on.
    x = [layer("expand_conv", "expand_bn", group) for group in x.reshape(-1, widths[0], x.shape[-1])]
    for block, width in enumerate(widths[1:]):
        groups = [x[i : i + width] for i in range(0, len(x), width)]
        wide = [layer(f"layers_conv.{2 * block}", f"layers_bn.{2 * block}", group) for group in groups]
        deep = [layer(f"layers_conv.{2 * block + 1}", f"layers_bn.{2 * block + 1}", [frame]) for frame in wide]
        x = [group[width // 2] + frame for group, frame in zip(groups, deep, strict=True)]
    (last,) = x
    return (state["shrink.weight"][..., 0] @ last + state["shrink.bias"]).reshape(-1, 3)


@pytest.mark.parametrize(("frames", "widths"), [(1, (1, 1, 1)), (3, (3,)), (9, (3, 3)), (27, (3, 3, 3))])
def test_videopose3d_definition(frames, widths):
    model = scrambled(VideoPose3D(frames, joints=4, channels=6))
    clip = keypoints(2, frames + 3, 4)
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    expected = [[videopose3d_by_hand(state, x[i : i + frames].numpy(), widths) for i in range(4)] for x in clip]
    poses = model(clip)
    assert poses.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(poses.detach(), expected, rtol=1e-9, atol=1e-9)
    # One receptive field alone is computed another way.
    np.testing.assert_allclose(model(clip[:, :frames]).detach(), poses[:, :1].detach(), rtol=1e-9, atol=1e-9)


def test_videopose3d_sees_its_receptive_field_and_no_more():
    model = VideoPose3D(frames=9, joints=2, channels=32, dropout=0.0).double()
    model(keypoints(64, 9, 2))  # batch statistics
    clip = keypoints(1, 12, 2).requires_grad_()
    model.eval()(clip)[0, 1].sum().backward()
    used = clip.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert used.tolist() == [1 <= frame <= 9 for frame in range(12)]


@pytest.mark.parametrize("frames", [-3, 0, 2, 43, 244])
def test_videopose3d_frames_are_a_power_of_three(frames):
    with pytest.raises(ValueError, match="power of 3"):
        VideoPose3D(frames)


@pytest.mark.parametrize("power", range(7))
def test_videopose3d_takes_every_power_of_three(power):
    model = VideoPose3D(3**power, joints=1, channels=1).eval()
    assert model.frames == 3**power
    assert model(torch.zeros(1, 3**power, 1, 2)).shape == (1, 1, 1, 3)


# --- PoseFormer


def test_poseformer_parameters():
    frames, joints, dim, depth = 81, 17, 32, 4
    width = joints * dim
    embedding = 2 * dim + dim + joints * dim + frames * width

    def block(d):  # two norms; queries, keys, values; projection; an MLP of 2d
        return 2 * 2 * d + 3 * (d * d + d) + (d * d + d) + (d * 2 * d + 2 * d) + (2 * d * d + d)

    norms = 2 * dim + 2 * width
    head = frames + 1 + 2 * width + width * 3 * joints + 3 * joints
    assert parameters(PoseFormer()) == embedding + depth * (block(dim) + block(width)) + norms + head == 9_602_885


def test_poseformer_names():
    model = PoseFormer(frames=5, joints=3, joint_dim=8, depth=2, heads=2)
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items() if "locks" not in name}
    assert shapes == {
        "Spatial_pos_embed": (1, 3, 8),
        "Temporal_pos_embed": (1, 5, 24),
        "Spatial_patch_to_embedding.weight": (8, 2),
        "Spatial_patch_to_embedding.bias": (8,),
        "Spatial_norm.weight": (8,),
        "Spatial_norm.bias": (8,),
        "Temporal_norm.weight": (24,),
        "Temporal_norm.bias": (24,),
        "weighted_mean.weight": (1, 5, 1),
        "weighted_mean.bias": (1,),
        "head.0.weight": (24,),
        "head.0.bias": (24,),
        "head.1.weight": (9, 24),
        "head.1.bias": (9,),
    }
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    blocks = {name for name in model.state_dict() if "locks" in name}
    assert blocks == {
        f"{stack}.{i}.{layer}.{kind}"
        for stack in ("Spatial_blocks", "blocks")
        for i in range(2)
        for layer in layers
        for kind in ("weight", "bias")
    }


def poseformer_by_hand(state, keypoints, depth, heads):
    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x, eps=1e-6):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attend(name, x):
        """Of tokens (n, dim), head by head."""
        size = x.shape[-1] // heads
        q, k, v = np.split(linear(f"{name}.qkv", x), 3, axis=-1)
        outputs = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            outputs.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        return linear(f"{name}.proj", np.concatenate(outputs, axis=-1))

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def block(name, x):
        x = x + attend(f"{name}.attn", norm(f"{name}.norm1", x))
        return x + linear(f"{name}.mlp.fc2", gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))))

    tokens = []
    for frame in keypoints:
        x = linear("Spatial_patch_to_embedding", frame) + state["Spatial_pos_embed"][0]
        for i in range(depth):
            x = block(f"Spatial_blocks.{i}", x)
        tokens.append(norm("Spatial_norm", x).reshape(-1))
    x = np.stack(tokens) + state["Temporal_pos_embed"][0]
    for i in range(depth):
        x = block(f"blocks.{i}", x)
    x = state["weighted_mean.weight"][0, :, 0] @ norm("Temporal_norm", x) + state["weighted_mean.bias"]
    return linear("head.1", norm("head.0", x, eps=1e-5)).reshape(1, -1, 3)


def test_poseformer_definition():
    model = scrambled(PoseFormer(frames=5, joints=3, joint_dim=8, depth=2, heads=2))
    window = keypoints(2, 5, 3)
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    expected = [poseformer_by_hand(state, x.numpy(), depth=2, heads=2) for x in window]
    poses = model(window)
    assert poses.shape == (2, 1, 3, 3)
    np.testing.assert_allclose(poses.detach(), expected, rtol=1e-9, atol=1e-9)


def test_poseformer_stochastic_depth_rises_linearly():
    model = PoseFormer(depth=3, drop_path=0.2)
    for blocks in (model.Spatial_blocks, model.blocks):
        assert [block.drop_path for block in blocks] == pytest.approx([0, 0.1, 0.2])
    assert [block.drop_path for block in PoseFormer(depth=1, drop_path=0.2).blocks] == [0]


# --- both


@pytest.fixture(params=[VideoPose3D, PoseFormer])
def small(request):
    torch.manual_seed(0)
    return request.param(frames=9, joints=4, **({"channels": 16} if request.param is VideoPose3D else {"joint_dim": 8}))


def test_training_reaches_every_parameter(small):
    small(keypoints(32, 9, 4).float()).square().mean().backward()
    for name, parameter in small.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_chance_is_for_training_only(small):
    window = keypoints(8, 9, 4).float()
    assert not torch.equal(small(window), small(window))
    small.eval()
    assert torch.equal(small(window), small(window))


@pytest.mark.parametrize("shape", [(1, 8, 4, 2), (1, 9, 5, 2), (1, 9, 4, 3)])
def test_wrong_shapes(small, shape):
    with pytest.raises((ValueError, TypeError)):  # TypeError where type hints are checked
        small(torch.zeros(shape))
