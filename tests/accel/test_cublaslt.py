"""cuBLASLt's products, against double precision, and whichever of its programs computes them."""

import pytest
import torch
import torch.nn.functional as F

from mixste.accel import cublaslt

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "dim", "out"), [(300, 64, 128), (8300, 512, 1024), (33000, 512, 192)])
def test_products_are_those_of_double_precision_to_bfloat16s_rounding(rows, dim, out):
    """The latter two sizes are those for which mixste.accel.hopper_gelu is there."""
    torch.manual_seed(0)
    a, x = torch.randn(rows, dim).cuda().bfloat16(), torch.randn(rows, out).cuda().bfloat16()
    b, bias = (torch.randn(dim, out).cuda() / dim**0.5).bfloat16(), torch.randn(out).cuda().bfloat16()
    turned, before, inverse = b.t().contiguous().t(), torch.empty_like(x), torch.rand(rows).cuda() + 0.5
    wide = torch.randn(rows, dim + 8).cuda().bfloat16()
    exact, exact_wide = a.double() @ b.double(), wide[:, :dim].double() @ b.double()
    inner = (exact + bias.double()).requires_grad_()
    F.gelu(inner, approximate="tanh").sum().backward()
    active = cublaslt.gelu(a, b, bias, before)
    gradient, bias_gradient = cublaslt.gelu_backward(a, b, before, 0.5)
    results = [
        (cublaslt.product(a, b), exact),
        (cublaslt.add(x, a, b, 0.5), x.double() + exact / 2),
        (cublaslt.add(x, a, b, bias=bias), x.double() + exact + bias.double()),
        (cublaslt.add(x, wide[:, :dim], b), x.double() + exact_wide),
        (cublaslt.add(x.clone(), a, b, in_place=True), x.double() + exact),
        (active, F.gelu(inner, approximate="tanh")),
        (before, inner),
        (cublaslt.gelu(a, turned, bias), F.gelu(inner, approximate="tanh")),
        (cublaslt.gelu(wide[:, :dim], b, bias), F.gelu(exact_wide + bias.double(), approximate="tanh")),
        (gradient, exact / 2 * inner.grad),
        (bias_gradient, gradient.double().sum(0)),
        (cublaslt.gelu_backward(a, turned, before)[0], exact * inner.grad),
    ]
    if cublaslt.on_hopper(a, b):
        scaled = exact * inverse[:, None].double() + bias.double()
        results.append((cublaslt.gelu(a, b, bias, inverse=inverse), F.gelu(scaled, approximate="tanh")))
    for ours, theirs in results:
        assert (ours - theirs).norm() / theirs.norm() < 0.005


def test_an_inverse_that_no_product_takes_is_refused_and_not_left_out():
    a, b = torch.ones(3, 4, dtype=torch.bfloat16), torch.ones(4, 2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"expected no inverse for a product of \(3, 4\) and \(4, 2\), found one"):
        cublaslt.gelu(a, b, torch.ones(2), inverse=torch.ones(3))


def cycled(found, n):
    return [found[n % len(found)]]


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("rows", [4131, 16524])
def test_whichever_program_computes_a_product_its_bits_are_the_same(monkeypatch, rows):
    """The fastest is found by measuring, which may choose another the next time."""
    monkeypatch.setattr(cublaslt, "hopper_gelu", None)
    torch.manual_seed(0)
    x, a, b = (torch.randn(size).cuda().bfloat16() for size in ((rows, 512), (rows, 1024), (1024, 512)))
    bias, d = torch.randn(1024).cuda().bfloat16(), torch.randn(rows, 512).cuda().bfloat16()
    found, programs = [], cublaslt._programs
    for choice in range(cublaslt.CANDIDATES):
        monkeypatch.setattr(cublaslt, "_fastest", {})
        monkeypatch.setattr(cublaslt, "_programs", lambda *given, n=choice: cycled(programs(*given), n))
        found.append([cublaslt.add(x, a, b), cublaslt.gelu(d, b.t(), bias), *cublaslt.gelu_backward(d, b.t(), a)])
    for results in zip(*found, strict=True):
        assert all(torch.equal(result, results[0]) for result in results)
