"""The fast paths against the network they stand in for, in double precision where they allow it."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F

from mixste import MixSTE, train
from mixste.accel import accelerate, covers, cpu, cublaslt, cuda
from mixste.model import Block
from mixste.predict import predict
from mixste.train import Step, even_pieces

VARIANTS = {
    "the paper's": {},
    "spatial blocks first": {"alternating": False},
    "joints together": {"separate_joints": False},
    "joints together, spatial first": {"alternating": False, "separate_joints": False},
    "embedding norm, scale by width": {"embedding_norm": True, "attention_scale": "model"},
}


def network(**options):
    """Random weights throughout: zero position embeddings and unit norms would hide mistakes."""
    torch.manual_seed(0)
    model = MixSTE(**{"frames": 6, "joints": 5, "dim": 16, "depth": 2, "heads": 4} | options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def outcome(network, forward, keypoints):
    """Output and gradients of a random projection of it."""
    network.zero_grad()
    torch.manual_seed(1)
    out = forward(keypoints)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_forward_and_gradients_equal_the_models(options):
    model = network(drop_path=0.5, **options).train()
    assert covers(model)
    keypoints = torch.randn(3, 6, 5, 2, dtype=torch.float64)
    for fast_one, model_one in zip(
        outcome(model, lambda x: accelerate(model)(x), keypoints), outcome(model, model, keypoints), strict=True
    ):
        torch.testing.assert_close(fast_one, model_one, rtol=1e-11, atol=1e-11)


def test_dropout_is_left_to_the_model():
    model = network(dropout=0.5)
    assert not covers(model.train())
    assert covers(model.eval())
    model.train()
    keypoints = torch.randn(2, 6, 5, 2, dtype=torch.float64)
    torch.manual_seed(0)
    expected = model(keypoints)
    torch.manual_seed(0)
    assert torch.equal(accelerate(model)(keypoints), expected)


def test_a_wrong_shape_is_refused_as_the_model_refuses_it():
    with pytest.raises(ValueError, match=r"keypoints must be \(batch, 6, 5, 2\), found \(2, 7, 5, 2\)"):
        accelerate(network())(torch.randn(2, 7, 5, 2, dtype=torch.float64))


@pytest.mark.parametrize(("tokens", "width"), [(1, 4), (17, 4), (27, 3), (40, 4), (17, 64)])
def test_attention_is_the_softmax_average(tokens, width):
    """Small heads take one way, the others another; both must be Eq. 3."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, tokens, 3 * 2 * width, dtype=torch.float64)
    q, k, v = qkv.unflatten(-1, (3, 2, width)).unbind(-3)
    weights = torch.einsum("btihd,btjhd->bthij", q, k).mul(0.3).softmax(-1)
    expected = torch.einsum("bthij,btjhd->btihd", weights, v).flatten(-2)
    torch.testing.assert_close(cpu.attend(qkv, 2, 0.3), expected, rtol=1e-12, atol=1e-12)


def test_small_attentions_gradient_is_the_difference_quotient():
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, 5, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: cpu.SmallAttention.apply(x, 2, 0.7), (qkv,))


def test_small_attention_keeps_the_layout_it_is_given():
    """Turned queries, keys and values give turned outputs and gradients, so that turning them back costs no copy."""
    torch.manual_seed(0)
    results = []
    for turned in (True, False):
        torch.manual_seed(0)
        x = torch.randn(2, 5, 3, 24, dtype=torch.float64, requires_grad=True)
        qkv = x.transpose(1, 2) if turned else x.transpose(1, 2).contiguous()
        out = cpu.SmallAttention.apply(qkv, 2, 0.7)
        assert out.transpose(1, 2).is_contiguous() is turned
        grad = torch.randn(2, 3, 5, 8, dtype=torch.float64)
        out.backward(grad.transpose(1, 2).contiguous().transpose(1, 2))
        results.append((out.detach(), x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_small_attentions_gradient_leaves_the_one_it_is_given():
    """A single token's lies in memory as its own turn does."""
    qkv = torch.randn(2, 3, 1, 24, requires_grad=True)
    out, grad = cpu.SmallAttention.apply(qkv, 2, 0.7), torch.ones(2, 3, 1, 8)
    out.backward(grad)
    assert (grad == 1).all()


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_as_a_convolution_is_the_layer(batch, dtype):
    """In float32 another library computes it, from some sizes on; x lies in memory as it is or turned."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(24, 40, dtype=dtype), torch.randn(batch, 9, 17, 24, dtype=dtype)
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


@pytest.mark.parametrize("size", [30.0, 300.0, 3e4])
def test_large_scores_neither_overflow_nor_vanish(size):
    """Single precision holds 2^127: scores beyond are shifted first, and equal those of PyTorch."""
    torch.manual_seed(0)
    qkv = torch.randn(3, 2, 17, 24) * size**0.5
    results = []
    for attend in (cpu.SmallAttention.apply, by_pytorch):
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


def squared_error(pred, target):
    return (pred - target).square().mean()


def whole_batch():
    """A batch, its targets, and the loss and the gradients, scaled by it, that plain PyTorch finds for them."""
    torch.manual_seed(2)
    batch, target = torch.randn(4, 6, 5, 2).double(), torch.randn(4, 6, 5, 3).double()
    model = network()
    loss = squared_error(model(batch), target)
    loss.backward(loss.detach())
    return batch, target, [loss.detach(), *(p.grad for p in model.parameters())]


def flat(model, loss):
    """A loss and all gradients in one."""
    return torch.cat([loss.view(1), gradients(model)]).cpu()


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("most", [1, 6, 12, 23, 24])
def test_a_batch_in_pieces_gives_the_gradients_of_the_whole(monkeypatch, most):
    batch, target, expected = whole_batch()
    model = network()
    monkeypatch.setattr(train, "MOST_FRAMES", most)
    parts = even_pieces(model, 4, 6)
    assert parts == {1: 4, 6: 4, 12: 2, 23: 2, 24: 1}[most]
    step = Step(accelerate(model), squared_error, scaled_gradient=True, pieces=parts)
    for _ in range(2):
        ours = [step(batch, target), *(p.grad for p in model.parameters())]
        for own, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-12)


def test_in_bfloat16_a_cpu_lifts_to_a_percent():
    model = network().float().eval()
    keypoints = torch.randn(2, 6, 5, 2)
    exact = model(keypoints).detach()
    assert torch.equal(accelerate(model)(keypoints), accelerate(model)(keypoints))
    rough = accelerate(model, bfloat16=True)(keypoints)
    assert 0 < (rough - exact).norm() / exact.norm() < 0.03


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_layer_does_the_norm_before_it_but_for_the_deviation():
    torch.manual_seed(0)
    norm, layer, x = torch.nn.LayerNorm(64), torch.nn.Linear(64, 96), 3 + 2 * torch.randn(50, 64)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        weight, bias = cuda.folded(layer, norm)
        found = x.bfloat16().float() @ weight.float() / x.std(1, correction=0, keepdim=True) + bias
        exact = layer(norm(x))
    assert (found - exact).norm() / exact.norm() < 0.01


def cuda_network(frames=81, joints=17, dim=128, **options):
    torch.manual_seed(0)
    return MixSTE(frames=frames, joints=joints, dim=dim, depth=2, **options).cuda()


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("batch", "frames", "joints", "dim"),
    [(2, 27, 17, 128), (2, 243, 17, 128), (2, 300, 15, 128), (1024, 1, 17, 128), (3, 243, 17, 512), (2, 200, 5, 512)],
)
def test_kernels_equal_double_precision_to_bfloat16s_rounding(batch, frames, joints, dim):
    model = cuda_network(frames, joints, dim).train()
    exact = copy.deepcopy(model).double()
    keypoints = torch.randn(batch, frames, joints, 2, device="cuda")
    target = torch.randn(batch, frames, joints, 3, device="cuda")
    loss = Step(accelerate(model), squared_error)(keypoints, target)
    expected = squared_error(exact(keypoints.double()), target.double())
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=3e-3, atol=0)
    ours, theirs = gradients(model).double(), gradients(exact)
    assert (ours - theirs).norm() / theirs.norm() < 0.02


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(("frames", "dim"), [(81, 128), (300, 128), (243, 512)])
def test_on_cuda_a_dropped_branch_is_left_out(monkeypatch, frames, dim):
    """Both networks are told which sequences to leave out of which branch."""
    model = cuda_network(frames, dim=dim, drop_path=0.5).train()
    exact = copy.deepcopy(model).double()
    keypoints, target = torch.randn(3, frames, 17, 2).cuda(), torch.randn(3, frames, 17, 3).cuda()
    keeps, told = [], []
    for block, _, temporal, _ in cpu.ordered_blocks(model):
        size = (2, 3, 1, 17) if temporal else (2, 3, frames, 1)
        keep = torch.bernoulli(torch.full(size, 1 - block.drop_path, device="cuda")) / (1 - block.drop_path)
        keeps.append(tuple(keep.expand(2, 3, frames, 17).flatten(1).unbind()) if block.drop_path else (None, None))
        told += keep.flatten(2)[..., None, None].unbind()
    monkeypatch.setattr(cuda, "draw", lambda model, layout: keeps)
    Step(accelerate(model), squared_error)(keypoints, target)
    told = iter(told)
    monkeypatch.setattr(Block, "dropped", lambda block, x: x * next(told))
    squared_error(exact(keypoints.double()), target.double()).backward()
    ours, theirs = gradients(model).double(), gradients(exact)
    assert (ours - theirs).norm() / theirs.norm() < 0.02


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


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(("float8", "most"), [(False, 0.02), (True, 0.06)])
@pytest.mark.parametrize(("frames", "dim"), [(81, 128), (243, 512)])
def test_lifting_on_cuda_is_the_model_to_its_precision(frames, dim, float8, most):
    model = cuda_network(frames, dim=dim).eval()
    lifter = accelerate(model, float8=float8)
    for batch in (1, 3, 1):
        keypoints = torch.randn(batch, frames, 17, 2, device="cuda")
        exact = model(keypoints).detach()
        assert (lifter(keypoints) - exact).norm() / exact.norm() < most


@needs_cuda
@pytest.mark.gpu
def test_a_replayed_step_draws_new_branches_to_drop():
    model = cuda_network(drop_path=0.5).train()
    batch = torch.randn(4, 81, 17, 2, device="cuda"), torch.randn(4, 81, 17, 3, device="cuda")
    step = Step(accelerate(model), squared_error)
    torch.cuda.manual_seed(0)
    losses = [float(step(*batch)) for _ in range(4)]
    assert len(set(losses)) == 4
    torch.cuda.manual_seed(0)
    assert [float(step(*batch)) for _ in range(4)] == losses


@needs_cuda
@pytest.mark.gpu
def test_pieces_on_cuda_give_the_gradients_of_the_whole(monkeypatch):
    batch = torch.randn(4, 81, 17, 2, device="cuda"), torch.randn(4, 81, 17, 3, device="cuda")
    found = []
    for most in (4 * 81, 2 * 81):
        monkeypatch.setattr(train, "MOST_FRAMES", most)
        model = cuda_network().train()
        found.append(flat(model, Step(accelerate(model), squared_error, pieces=even_pieces(model, 4, 81))(*batch)))
    whole, parts = found
    assert (parts - whole).norm() / whole.norm() < 0.02


@needs_cuda
@pytest.mark.gpu
def test_predicting_on_cuda_agrees_with_the_cpu():
    model = cuda_network().eval()
    keypoints = torch.randn(100, 17, 2)
    expected = predict(copy.deepcopy(model).cpu(), keypoints)
    assert (predict(model, keypoints.cuda()).cpu() - expected).norm() / expected.norm() < 0.02


@needs_cuda
@pytest.mark.gpu
def test_recordings_leave_no_memory_behind():
    """Evaluations on the way of a training, and Figure 1's networks, are recorded one after another."""
    model, keypoints = cuda_network().train(), torch.randn(4, 81, 17, 2, device="cuda")
    left = []
    for _ in range(6):
        accelerate(model)(keypoints)
        Step(accelerate(model), squared_error)(keypoints, torch.zeros(4, 81, 17, 3, device="cuda"))
        model.zero_grad()
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    assert len(set(left[1:])) == 1, "the first also sets the libraries up"
