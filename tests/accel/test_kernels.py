"""Each Triton kernel against its twin, its definition in plain PyTorch, in double precision."""

import copy

import pytest
import torch
import twins
from twins import error

kernels = pytest.importorskip("mixste.accel.kernels", reason="Triton, which comes with PyTorch for CUDA, is not here")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

MOST = 0.005  # a result in bfloat16 is off by 0.002
SIZES = [
    (2, 27, 17, 128),
    (3, 243, 17, 512),
    (2, 30, 5, 96),
    (7, 1, 17, 128),
    (30, 81, 1, 544),
]  # batch, frames, joints, dim


def exact(x):
    """The same in double precision."""
    if isinstance(x, torch.nn.Module):
        return copy.deepcopy(x).double()
    if isinstance(x, tuple):
        return tuple(exact(one) for one in x)
    return x.double() if isinstance(x, torch.Tensor) else x


def random(*shape, dtype=torch.float32):
    return torch.randn(shape, device="cuda").to(dtype)


def tokens(layout, width):
    return random(layout.rows, width, dtype=torch.bfloat16)


def keeps(layout, temporal=False, spatial=False):
    """What stochastic depth multiplies each row with, alike along a sequence."""
    size = (layout.batch, 1 if temporal else layout.frames, 1 if spatial else layout.joints)
    keep = torch.bernoulli(torch.full(size, 0.7, device="cuda")) / 0.7
    return keep.expand(layout.batch, layout.frames, layout.joints).flatten().contiguous()


def layer_norm(dim):
    norm = torch.nn.LayerNorm(dim, eps=1e-6, device="cuda")
    with torch.no_grad():
        norm.weight.normal_(1, 0.3)
        norm.bias.normal_(0, 0.3)
    return norm


@pytest.fixture(params=SIZES, ids=str)
def size(request):
    """How tokens lie, and their width."""
    torch.manual_seed(0)
    *lengths, dim = request.param
    return kernels.Layout(*lengths, torch.device("cuda")), dim


def test_the_first_and_the_last_layer(size):
    layout, dim = size
    keypoints = random(layout.batch, layout.frames, layout.joints, 2)
    given = (layout, keypoints, random(dim, 2), random(dim), random(layout.joints, dim))
    ours = kernels.embed(*given, torch.bfloat16)
    assert error(ours, twins.embed(*map(exact, given), torch.float64)) < MOST
    given = (layout, tokens(layout, dim), random(3, dim), random(3))
    assert error(kernels.head(*given), twins.head(*map(exact, given))) < 1e-5
    given = (layout, random(layout.rows, 3), random(3, dim))
    ours = kernels.head_backward(*given, torch.bfloat16)
    assert error(ours, twins.head_backward(*map(exact, given), torch.float64)) < MOST


def norm_options(layout, dim, names):
    """Those arguments of `norm` that are named."""
    options = {
        "bias": random(dim),
        "keep": keeps(layout),
        "inner": layer_norm(dim),
        "position": random(layout.frames, dim),
        "ahead": (random(dim), keeps(layout)),
        "always": (random(dim), None),
    }
    return {"ahead" if name == "always" else name: options[name] for name in names.split()}


@pytest.mark.parametrize("names", ["", "always", "bias inner", "bias keep inner", "bias keep inner position ahead"])
def test_norms(size, names):
    layout, dim = size
    given = (layout, tokens(layout, dim), layer_norm(dim))
    options = norm_options(layout, dim, names)
    ours = kernels.norm(*given, **options)
    theirs = twins.norm(*map(exact, given), **{name: exact(value) for name, value in options.items()})
    assert (ours[0] is None) == (theirs[0] is None) == (names == "")
    for one, other in zip(ours, theirs, strict=True):
        assert one is None or error(one, other) < MOST


def test_a_norm_that_is_folded_leaves_its_deviation(size):
    layout, dim = size
    given = (layout, 3 + tokens(layout, dim), layer_norm(dim))
    _, inverse = kernels.norm(*given, folded=True)
    assert error(inverse, twins.norm(*map(exact, given), folded=True)[1]) < 1e-5


@pytest.mark.parametrize("names", ["", "keep", "bias inner", "bias keep inner", "bias keep inner position"])
def test_gradients_of_norms(size, names):
    layout, dim = size
    given = (layout, tokens(layout, dim), tokens(layout, dim), tokens(layout, dim), layer_norm(dim))
    options = norm_options(layout, dim, names)
    d_x, d_position, sums = kernels.norm_backward(*given, **options)
    theirs = twins.norm_backward(*map(exact, given), **{name: exact(value) for name, value in options.items()})
    assert error(d_x, theirs[0]) < MOST
    assert (d_position is None) == ("position" not in options)
    assert d_position is None or error(d_position, theirs[1]) < MOST
    assert len(sums) == len(theirs[2]) == (5 if "inner" in options else 3)
    for name, one, other in zip(("bias", "outer w", "outer b", "inner w", "inner b"), sums, theirs[2], strict=False):
        assert error(one, other) < MOST, name


def test_sums_of_columns(size):
    layout, dim = size
    x = tokens(layout, dim)
    assert error(kernels.column_sums(x), twins.column_sums(exact(x))) < 1e-5


def test_dropped_tokens_are_zero_after_gelu_and_pass_no_gradient(size):
    layout, dim = size
    active, before, keep = tokens(layout, 2 * dim), tokens(layout, 2 * dim), keeps(layout)
    theirs = active.clone(), before.clone()
    twins.drop(*theirs, keep)
    kernels.drop(active, before, keep)
    assert torch.equal(active, theirs[0])
    assert torch.equal(before, theirs[1])


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("batch", "frames", "joints"), [(2, 27, 17), (2, 243, 17), (1, 300, 15), (3, 1, 5), (2, 16, 64)]
)
def test_attention_and_its_gradients(monkeypatch, batch, frames, joints, heads, temporal, kept):
    """Over frames that fit into one block and that do not, with heads 128 to 16 wide; by Triton on any GPU."""
    monkeypatch.setattr(kernels, "hopper", None)
    torch.manual_seed(0)
    layout = kernels.Layout(batch, frames, joints, torch.device("cuda"))
    qkv, bias = tokens(layout, 3 * 128), random(3 * 128)
    keep = keeps(layout, temporal=temporal, spatial=not temporal) if kept else None
    given = (heads, (128 // heads) ** -0.5, temporal, keep)
    out, log_sum = kernels.attention(layout, qkv, bias, *given)
    theirs, _ = twins.attention(layout, exact(qkv), exact(bias), *map(exact, given))
    assert error(out, theirs) < 2 * MOST
    d_out = tokens(layout, 128)
    ours = kernels.attention_backward(layout, qkv, bias, *given, out, log_sum, d_out)
    theirs = twins.attention_backward(layout, exact(qkv), exact(bias), *map(exact, given), None, None, exact(d_out))
    for one, other in zip(ours, theirs, strict=True):
        assert error(one, other) < 4 * MOST


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("frames", "heads", "width"), [(81, 8, 68), (243, 8, 68), (9, 4, 68), (27, 2, 34), (81, 3, 20)]
)
def test_attention_over_frames_with_heads_of_uneven_width(frames, heads, width, kept):
    torch.manual_seed(0)
    layout = kernels.Layout(5, frames, 1, torch.device("cuda"))
    dim = heads * width
    qkv, bias, d_out = tokens(layout, 3 * dim), random(3 * dim), tokens(layout, dim)
    given = (heads, width**-0.5, True, keeps(layout, temporal=True) if kept else None)
    out, log_sum = kernels.attention(layout, qkv, bias, *given)
    theirs, _ = twins.attention(layout, exact(qkv), exact(bias), *map(exact, given))
    assert error(out, theirs) < 2 * MOST
    ours = kernels.attention_backward(layout, qkv, bias, *given, out, log_sum, d_out)
    theirs = twins.attention_backward(layout, exact(qkv), exact(bias), *map(exact, given), None, None, exact(d_out))
    for one, other in zip(ours, theirs, strict=True):
        assert error(one, other) < 4 * MOST


@pytest.mark.parametrize("heads", [2, 8])
def test_attention_over_joints_takes_the_deviation_of_a_norm_that_is_folded(size, heads):
    layout, _ = size
    qkv, bias, inverse = tokens(layout, 3 * 128), random(3 * 128), torch.rand(layout.rows, device="cuda") + 0.5
    out, _ = kernels.attention(layout, qkv, bias, heads, 0.2, False, inverse=inverse)
    theirs, _ = twins.attention(layout, exact(qkv), exact(bias), heads, 0.2, False, inverse=exact(inverse))
    assert error(out, theirs) < 2 * MOST
