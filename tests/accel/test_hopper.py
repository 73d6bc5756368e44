"""The kernels for Hopper against their twins, their definitions in plain PyTorch, in double precision."""

import pytest
import torch
import twins
from twins import error

hopper = pytest.importorskip("mixste.accel.hopper", reason="Triton with Gluon is not here")
kernels = pytest.importorskip("mixste.accel.kernels")
hopper_gelu = pytest.importorskip("mixste.accel.hopper_gelu")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and hopper.runs_on(torch.device("cuda"))),
        reason="needs a Hopper GPU and the Triton that the kernels are written for",
    ),
]

MOST = 0.02  # of gradients in bfloat16, by way of weights and scores in bfloat16


def random(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, device="cuda").to(dtype)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize(("batch", "frames", "joints"), [(3, 243, 17), (1, 195, 17), (2, 252, 16)])
def test_gradients_of_attention(batch, frames, joints, temporal, kept):
    torch.manual_seed(0)
    layout, heads, dim = kernels.Layout(batch, frames, joints, torch.device("cuda")), 8, 512
    assert hopper.covers(layout, dim // heads, temporal, torch.device("cuda"))
    qkv, bias, d_out = random(layout.rows, 3 * dim), random(3 * dim, dtype=torch.float32), random(layout.rows, dim)
    keep = None
    if kept:
        size = (batch, 1, joints) if temporal else (batch, frames, 1)
        keep = torch.bernoulli(torch.full(size, 0.7, device="cuda")) / 0.7
        keep = keep.expand(batch, frames, joints).flatten().contiguous()
    out, log_sum = kernels.attention(layout, qkv, bias, heads, 0.125, temporal, keep)
    if temporal:
        d_qkv, partial = hopper.temporal_backward(layout, qkv, bias, heads, 0.125, keep, out, log_sum, d_out)
    else:
        d_qkv, partial = hopper.spatial_backward(layout, qkv, bias, heads, 0.125, keep, d_out)
    exact_keep = None if keep is None else keep.double()
    given = (layout, qkv.double(), bias.double(), heads, 0.125, temporal, exact_keep, None, None, d_out.double())
    for ours, theirs in zip((d_qkv, partial.sum(0)), twins.attention_backward(*given), strict=True):
        assert error(ours, theirs) < MOST


@pytest.mark.parametrize("across", [False, True], ids=["columns of b", "rows of b"])
@pytest.mark.parametrize(("rows", "out"), [(8192, 1024), (8300, 1024), (33000, 192)])
def test_products_with_gelu_and_their_gradients(rows, out, across):
    torch.manual_seed(0)
    a, b, bias = random(rows, 512), (random(512, out, dtype=torch.float32) / 512**0.5).bfloat16(), random(out)
    b = b if across else b.t().contiguous().t()
    assert hopper_gelu.covers(a, b)
    inverse, before = torch.rand(rows, device="cuda") + 0.5, torch.empty_like(random(rows, out))
    exact_before = torch.empty(rows, out, dtype=torch.float64, device="cuda")
    exact = a.double(), b.double(), bias.double()
    assert error(hopper_gelu.gelu(a, b, bias, before), twins.gelu(*exact, exact_before)) < 0.005
    assert error(before, exact_before) < 0.005
    assert error(hopper_gelu.gelu(a, b, bias, inverse=inverse), twins.gelu(*exact, inverse=inverse)) < 0.005
    ours = hopper_gelu.gelu_backward(a, b, before, 0.5)
    theirs = twins.gelu_backward(*exact[:2], before.double(), 0.5)
    for one, other in zip(ours, theirs, strict=True):
        assert error(one, other) < MOST
