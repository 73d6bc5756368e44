"""MixSTE in plain PyTorch as CPUs like it, against the model, in double precision where a definition allows it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from twins import VARIANTS, gradients, network

from mixste.accel import cpu


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_poses_and_the_gradient_of_each_parameter_are_the_models(options, dtype):
    """Stochastic depth draws the same numbers in the same order."""
    model = network(**options).to(dtype).train()
    keypoints = torch.randn(3, 6, 5, 2, dtype=dtype)
    weights = torch.randn(3, 6, 5, 3, dtype=dtype)
    results = []
    for forward in (model, lambda keypoints: cpu.forward(model, keypoints)):
        model.zero_grad()
        torch.manual_seed(1)
        poses = forward(keypoints)
        (poses * weights).sum().backward()
        results.append({"poses": poses.detach().double()} | gradients(model))
    expected, ours = results
    most = 1e-11 if dtype == torch.float64 else 1e-4
    assert {name: float((ours[name] - expected[name]).norm() / expected[name].norm()) for name in expected} == (
        pytest.approx(dict.fromkeys(expected, 0), abs=most)
    )


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_layers_that_are_fused_without_gradients_give_the_models_poses(options):
    """Those of oneDNN, which PyTorch does not document: in float32 alone."""
    model, keypoints = network(**options).eval(), torch.randn(3, 6, 5, 2)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        assert cpu.fuses(model.spatial_blocks[0], keypoints)
        assert not cpu.fuses(exact.spatial_blocks[0], keypoints.double())
        torch.testing.assert_close(cpu.forward(model, keypoints), exact(keypoints.double()).float())
    assert not cpu.fuses(model.spatial_blocks[0], keypoints)


@pytest.mark.parametrize(("tokens", "width"), [(1, 4), (9, 4), (17, 4), (27, 3), (40, 4), (17, 64)])
def test_attention_is_the_softmax_average(tokens, width):
    """Tiny heads take one way, small ones another, the others a third; both must be Eq. 3."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, tokens, 3 * 2 * width, dtype=torch.float64)
    q, k, v = qkv.unflatten(-1, (3, 2, width)).unbind(-3)
    weights = torch.einsum("btihd,btjhd->bthij", q, k).mul(0.3).softmax(-1)
    expected = torch.einsum("bthij,btjhd->btihd", weights, v).flatten(-2)
    torch.testing.assert_close(cpu.attend(qkv, 2, 0.3), expected, rtol=1e-12, atol=1e-12)


FEW_TOKENS = pytest.mark.parametrize("attention", [cpu.SmallAttention, cpu.TinyAttention])


@FEW_TOKENS
def test_small_attentions_gradient_is_the_difference_quotient(attention):
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, 5, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attention.apply(x, 2, 0.7), (qkv,))


@FEW_TOKENS
def test_small_attention_keeps_the_layout_it_is_given(attention):
    """Turned queries, keys and values give turned outputs and gradients, so that turning them back costs no copy."""
    torch.manual_seed(0)
    results = []
    for turned in (True, False):
        torch.manual_seed(0)
        x = torch.randn(2, 5, 3, 24, dtype=torch.float64, requires_grad=True)
        qkv = x.transpose(1, 2) if turned else x.transpose(1, 2).contiguous()
        out = attention.apply(qkv, 2, 0.7)
        assert out.transpose(1, 2).is_contiguous() is turned
        grad = torch.randn(2, 3, 5, 8, dtype=torch.float64)
        out.backward(grad.transpose(1, 2).contiguous().transpose(1, 2))
        results.append((out.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@FEW_TOKENS
def test_small_attentions_gradient_leaves_the_one_it_is_given(attention):
    """A single token's lies in memory as its own turn does."""
    qkv = torch.randn(2, 3, 1, 24, requires_grad=True)
    out, grad = attention.apply(qkv, 2, 0.7), torch.ones(2, 3, 1, 8)
    out.backward(grad)
    assert (grad == 1).all()


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_as_a_convolution_is_the_layer(batch, dtype):
    """In float32 another library computes it, from some sizes on; x lies in memory as it is or turned."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(cpu.NARROW, 40, dtype=dtype), torch.randn(batch, 9, 17, cpu.NARROW, dtype=dtype)
    for given in (x, x.transpose(1, 2)):
        found = []
        for apply in (layer, lambda x: cpu.linear(layer, x)):
            layer.zero_grad()
            leaf = given.clone().requires_grad_()
            out = apply(leaf)
            out.square().sum().backward()
            found.append([out, leaf.grad, layer.weight.grad / len(x), layer.bias.grad / len(x)])
        for ours, theirs in zip(*found, strict=True):
            tolerance = 1e-4 if dtype == torch.float32 else 1e-11
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@FEW_TOKENS
@pytest.mark.parametrize("size", [30.0, 300.0, 3e4])
def test_large_scores_neither_overflow_nor_vanish(size, attention):
    """Single precision holds 2^127: scores beyond are shifted first, and equal those of PyTorch."""
    torch.manual_seed(0)
    qkv = torch.randn(3, 2, 17, 24) * size**0.5
    results = []
    for attend in (attention.apply, by_pytorch):
        x = qkv.clone().requires_grad_()
        out = attend(x, 2, 1.0)
        out.sum().backward()
        results.append((out.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * size)


def by_pytorch(qkv, heads, scale):
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).transpose(-4, -2).unbind(-3)
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(-3, -2).flatten(-2)


def test_nan_stays_nan():
    qkv = torch.randn(2, 1, 5, 24)
    qkv[1, 0, 2, 3] = torch.nan
    out = cpu.attend(qkv, 2, 1.0)
    assert out[0].isfinite().all()
    assert out[1].isnan().any()
