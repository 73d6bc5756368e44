"""PoseFormer, and MixSTE without joint separation, on CUDA: on any machine with twins instead of the kernels, in double
precision; on a GPU as they are, and each kernel against its twin."""

import copy

import pytest
import torch
import twins
from twins import VARIANTS, error, errors, network, squared_error

from mixste import MixSTE
from mixste.accel import accelerate, cuda, joined
from mixste.model import Block
from mixste.networks import PoseFormer
from mixste.train import Step

NETWORKS = {name: {"kind": MixSTE} | options for name, options in VARIANTS.items() if "separate_joints" in options}
NETWORKS |= {"PoseFormer": {"kind": PoseFormer, "drop_path": 0.0}}
NETWORKS |= {"PoseFormer, stochastic depth": {"kind": PoseFormer, "drop_path": 0.5}}
NETWORKS |= {"PoseFormer, one block of each": {"kind": PoseFormer, "depth": 1}}
NETWORKS |= {"embedding norm": {"kind": MixSTE, "separate_joints": False, "embedding_norm": True}}
MOST = 0.03  # as in test_cuda.py


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_the_functions_put_together_give_the_gradient_of_each_parameter(monkeypatch, options):
    for module, name, twin in (
        (cuda, "LOW", torch.float64), (cuda, "kernels", twins), (cuda, "cublaslt", twins), (joined, "kernels", twins)
    ):  # fmt: skip
        monkeypatch.setattr(module, name, twin)
    monkeypatch.setattr(twins, "APPROXIMATE", "none")
    model = network(**options).double().train()

    def step(keypoints, target):
        loss = squared_error(joined.forward(model, keypoints, joined.low_precision(model)), target)
        loss.backward()
        return loss

    found = errors(monkeypatch, model, step, batch=8)
    assert wrong(found, 1e-6) == {}  # some sums are in float32


def wrong(found: dict[str, float], most: float) -> dict[str, float]:
    """Errors of `most` or more; but not of the bias that the norm after it takes away: its gradient is 0."""
    return {name: value for name, value in found.items() if not value < most and name != "weighted_mean.bias"}


def at_size(kind=MixSTE, **options):
    sizes = {"frames": 81, "joints": 17, "heads": 8, "dim" if kind is MixSTE else "joint_dim": 32}
    return network(matrices=0.0, kind=kind, **sizes | options).cuda()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("frames", [9, 81, 243])
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_the_gradient_of_each_parameter_is_that_of_float32(monkeypatch, options, frames):
    model = at_size(**options | {"frames": frames}).train()
    assert joined.covers(model)
    found = errors(monkeypatch, model, Step(accelerate(model), squared_error, scaled_gradient=False), batch=8)
    assert wrong(found, MOST) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_poses_are_those_of_float32_to_the_precision(options):
    model = at_size(**options).eval()
    lifter = accelerate(model, bfloat16=True)
    with torch.no_grad():
        for batch in (1, 3, 1):
            keypoints = torch.randn(batch, 81, 17, 2, device="cuda")
            assert error(lifter(keypoints), model(keypoints)) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(("windows", "frames", "joints"), [(2, 4, 17), (7, 9, 15), (40, 81, 17), (3, 5, 31)])
@pytest.mark.parametrize("heads", [8, 2])
def test_a_block_over_joints_and_its_gradients(windows, frames, joints, heads, kept):
    torch.manual_seed(0)
    layout, dim = cuda.kernels.Layout(windows, frames, joints, torch.device("cuda")), 32
    block, after = Block(dim, heads).cuda(), torch.nn.LayerNorm(dim, device="cuda")
    with torch.no_grad():
        for parameter in (*block.parameters(), *after.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    x, d_out = (torch.randn(layout.rows, dim, device="cuda").bfloat16() for _ in range(2))
    keep = None
    if kept:
        keep = (torch.rand(windows * frames, 1, device="cuda") < 0.7) / 0.7
        keep = keep.expand(-1, joints).flatten().contiguous()

    def doubled(given):
        return None if given is None else copy.deepcopy(given).double()

    def compare(ours, theirs, most=0.01):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert error(one, other) < most, index

    given, exact = (x, block), (x.double(), doubled(block))
    out = joined.kernels.joint_attention(layout, *given, keep)
    compare([out], [twins.joint_attention(layout, *exact, doubled(keep))])
    d_x, found = joined.kernels.joint_attention_backward(layout, *given, d_out, keep)
    d_x_exact, expected = twins.joint_attention_backward(layout, *exact, d_out.double(), doubled(keep))
    compare([d_x], [d_x_exact])
    compare(found, expected, MOST)
    for norm in (None, after):
        options = (doubled(keep), doubled(norm))
        compare([joined.kernels.joint_mlp(layout, *given, keep, norm)], [twins.joint_mlp(layout, *exact, *options)])
        d_x, found = joined.kernels.joint_mlp_backward(layout, *given, d_out, keep, norm)
        d_x_exact, expected = twins.joint_mlp_backward(layout, *exact, d_out.double(), *options)
        compare([d_x], [d_x_exact])
        compare(found, expected, MOST)
