"""The network against counts done by hand, a float64 reference, and its own symmetries."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixste import MixSTE
from mixste.model import Attention, Block, attention_maps


def parameters_by_hand(frames: int, joints: int, dim: int, depth: int) -> int:
    block = (
        4 * dim * dim + 4 * dim + 2 * (2 * dim * dim) + 3 * dim + 2 * 2 * dim
    )  # qkv, proj; MLP of ratio 2; two norms
    rest = 3 * dim + joints * dim + frames * dim + 2 * 2 * dim + (2 * dim + 3 * dim + 3)
    return 2 * depth * block + rest


@pytest.mark.parametrize(("depth", "count"), [(8, 33_783_811), (10, 42_194_947)])
def test_parameters(depth, count):
    with torch.device("meta"):
        model = MixSTE(depth=depth)
    assert sum(p.numel() for p in model.parameters()) == count == parameters_by_hand(243, 17, 512, depth)


def test_multiply_accumulates_a_frame():
    with torch.device("meta"):
        model, window = MixSTE(), torch.empty(1, 243, 17, 2)
    with FlopCounterMode(display=False) as counter:
        model(window)
    assert counter.get_total_flops() / 2 / 243 / 1e6 == pytest.approx(609, abs=3)


def reference_attention(attention: Attention, x, scale):
    """One sequence, head by head, as Eqs. 3-5 are written."""
    q, k, v = (attention.qkv(x)).chunk(3, dim=-1)
    heads = []
    width = x.shape[-1] // attention.heads
    for head in range(attention.heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T * scale, dim=-1)
        heads.append(weights @ v[:, part])
    return attention.proj(torch.cat(heads, dim=-1))


def reference(model: MixSTE, keypoints, scale):
    """The forward pass of one window with plain loops over frames and joints, in evaluation mode."""

    def block(block, x):
        x = x + reference_attention(block.attn, block.norm1(x), scale)
        return x + block.mlp.fc2(torch.nn.functional.gelu(block.mlp.fc1(block.norm2(x))))

    x = model.embedding_norm(model.embed(keypoints) + model.joint_position)  # (frames, joints, dim)
    for loop in range(len(model.spatial_blocks)):
        x = torch.stack([model.spatial_norm(block(model.spatial_blocks[loop], frame)) for frame in x])
        if loop == 0:
            x = x + model.frame_position[:, None]
        joints = [model.temporal_norm(block(model.temporal_blocks[loop], x[:, j])) for j in range(x.shape[1])]
        x = torch.stack(joints, dim=1)
    return model.head(model.head_norm(x))


@pytest.mark.parametrize(
    ("options", "scale"), [({}, 4**-0.5), ({"attention_scale": "model", "embedding_norm": True}, 8**-0.5)]
)
def test_forward_is_the_equations(options, scale):
    torch.manual_seed(0)
    model = MixSTE(5, 4, 8, 3, 2, drop_path=0.3, dropout=0.2, **options).double().eval()
    for position in (model.joint_position, model.frame_position):
        torch.nn.init.normal_(position)
    keypoints = torch.randn(2, 5, 4, 2, dtype=torch.float64)
    out = model(keypoints)
    for window, poses in zip(keypoints, out, strict=True):
        torch.testing.assert_close(poses, reference(model, window, scale))


def randomised(**options) -> MixSTE:
    torch.manual_seed(0)
    model = MixSTE(5, 4, 8, 2, 2, **options).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_window_does_not_see_its_neighbours():
    model, keypoints = randomised(), torch.randn(3, 5, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(model(keypoints)[[2, 0, 1]], model(keypoints[[2, 0, 1]]))


def test_without_positions_joints_and_frames_are_interchangeable():
    model, keypoints = randomised(), torch.randn(1, 5, 4, 2, dtype=torch.float64)
    torch.nn.init.zeros_(model.joint_position)
    torch.nn.init.zeros_(model.frame_position)
    joints, frames = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 1, 3])
    out = model(keypoints)
    torch.testing.assert_close(model(keypoints[:, :, joints]), out[:, :, joints])
    torch.testing.assert_close(model(keypoints[:, frames]), out[:, frames])


def test_separation_keeps_joints_apart_in_time():
    """With spatial blocks silenced, a joint's pose depends on its own path alone; without separation, on all."""
    keypoints = torch.randn(1, 5, 4, 2, dtype=torch.float64)
    changed = keypoints.clone()
    changed[0, :, 3] += 1
    for separate in (True, False):
        model = randomised(separate_joints=separate)
        for block in model.spatial_blocks:
            torch.nn.init.zeros_(block.attn.proj.weight)
        same = torch.allclose(model(keypoints)[:, :, :3], model(changed)[:, :, :3])
        assert same is separate


def test_variants_differ_in_order_and_width_alone():
    plain, sequential = MixSTE(5, 4, 8, 2, 2), MixSTE(5, 4, 8, 2, 2, alternating=False)
    sequential.load_state_dict(plain.state_dict())
    keypoints = torch.randn(1, 5, 4, 2)
    assert not torch.allclose(plain.eval()(keypoints), sequential.eval()(keypoints))
    one = MixSTE(5, 4, 8, 1, 2), MixSTE(5, 4, 8, 1, 2, alternating=False)
    one[1].load_state_dict(one[0].state_dict())
    torch.testing.assert_close(one[0].eval()(keypoints), one[1].eval()(keypoints))
    wide = MixSTE(5, 4, 8, 2, 2, separate_joints=False)
    assert wide.frame_position.shape == (5, 4 * 8)
    assert wide.temporal_blocks[0].attn.qkv.weight.shape == (3 * 32, 32)
    assert wide(keypoints).shape == (1, 5, 4, 3)


def test_stochastic_depth_drops_whole_sequences_and_keeps_the_mean():
    torch.manual_seed(0)
    block = Block(8, 2, drop_path=0.25).train()
    x = torch.ones(4000, 3, 8)
    kept = block.dropped(x)
    values = kept[:, 0, 0]
    assert values.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(kept, values[:, None, None].expand_as(kept))
    assert float(values.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(block.eval().dropped(x), x)
    rates = [block.drop_path for block in MixSTE(5, 4, 8, 4, 2, drop_path=0.3).spatial_blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_attention_maps_are_what_the_network_uses():
    model, keypoints = randomised(), torch.randn(2, 5, 4, 2, dtype=torch.float64)
    maps = attention_maps(model, keypoints)
    assert [m.shape for m in maps["spatial"]] == [(2, 5, 2, 4, 4)] * 2
    assert [m.shape for m in maps["temporal"]] == [(2, 4, 2, 5, 5)] * 2
    for kind in maps.values():
        for each in kind:
            torch.testing.assert_close(each.sum(-1), torch.ones_like(each.sum(-1)))
    # The first spatial block's attention, rebuilt from the map, is its output.
    block, x = model.spatial_blocks[0], model.embed(keypoints) + model.joint_position
    value = block.attn.split(block.norm1(x))[2]
    out = block.attn.proj((maps["spatial"][0] @ value).transpose(-3, -2).flatten(-2))
    torch.testing.assert_close(out, block.attn(block.norm1(x)))
    assert not model._forward_pre_hooks
    assert not model.spatial_blocks[0].attn._forward_pre_hooks


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (1, 5, 3, 2), (1, 5, 4, 3), (5, 4, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"keypoints must be \(batch, 5, 4, 2\)"):
        MixSTE(5, 4, 8, 1, 2)(torch.zeros(shape))


@pytest.mark.parametrize("options", [{"dim": 9}, {"depth": 0}, {"frames": 0}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        MixSTE(**{"frames": 5, "joints": 4, "dim": 8, "depth": 1, "heads": 2} | options)
