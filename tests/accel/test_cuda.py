"""MixSTE on CUDA: on any machine with twins instead of the kernels, in double precision; on a GPU as it is."""

import pytest
import torch
import twins
from twins import SEPARATE, VARIANTS, error, errors, network, squared_error

from mixste.accel import accelerate, cuda
from mixste.train import Step

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def with_twins(monkeypatch):
    for name, twin in (("LOW", torch.float64), ("kernels", twins), ("cublaslt", twins)):
        monkeypatch.setattr(cuda, name, twin)
    monkeypatch.setattr(twins, "APPROXIMATE", "none")


# --- with twins --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SEPARATE.values(), ids=SEPARATE)
def test_the_functions_put_together_give_the_gradient_of_each_parameter(monkeypatch, with_twins, options):
    model = network(**options).double().train()

    def step(keypoints, target):
        loss = squared_error(cuda.forward(model, keypoints, cuda.low_precision(model)), target)
        loss.backward()
        return loss

    found = errors(monkeypatch, model, step, batch=3)
    assert {name: value for name, value in found.items() if not value < 1e-6} == {}  # some sums are in float32


@pytest.mark.parametrize("folds", [False, True], ids=["cuBLASLt", "Hopper"])
@pytest.mark.parametrize("options", SEPARATE.values(), ids=SEPARATE)
def test_prepared_weights_give_the_models_poses(monkeypatch, with_twins, options, folds):
    monkeypatch.setattr(twins, "FOLDS", folds)
    model, keypoints = network(**options).double().eval(), torch.randn(3, 6, 5, 2, dtype=torch.float64)
    with torch.no_grad():
        poses = cuda.infer(model, cuda.prepared(model, float8=False), keypoints)
        torch.testing.assert_close(poses, model(keypoints), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("float8", [False, True])
def test_refreshed_weights_are_the_new_ones_where_the_old_ones_were(float8):
    model = network().eval()
    with torch.no_grad():
        blocks = cuda.prepared(model, float8)
        places = [x.data_ptr() for x in cuda._tensors(blocks)]
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
        anew = cuda.prepared(model, float8)
        assert any(not torch.equal(*pair) for pair in zip(cuda._tensors(blocks), cuda._tensors(anew), strict=True))
        cuda.refresh(blocks, anew)
    assert [x.data_ptr() for x in cuda._tensors(blocks)] == places
    for ours, new in zip(cuda._tensors(blocks), cuda._tensors(anew), strict=True):
        assert torch.equal(ours.float(), new.float())


def norm_and_layer():
    torch.manual_seed(0)
    norm, layer, x = torch.nn.LayerNorm(64), torch.nn.Linear(64, 96), 3 + 2 * torch.randn(50, 64)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm, layer, x


def test_a_layer_does_the_norm_before_it_but_for_the_deviation():
    norm, layer, x = norm_and_layer()
    with torch.no_grad():
        weight, bias = cuda.folded(layer, norm)
        ours = x.bfloat16().float() @ weight.float() / x.std(1, correction=0, keepdim=True) + bias
        assert error(ours, layer(norm(x))) < 0.01


def test_in_eight_bits_a_norm_exceeds_the_format_for_no_input():
    """Not even for an outlier, all of whose deviation lies in one column; and scales give the layer back."""
    norm, layer, x = norm_and_layer()
    most = torch.finfo(torch.float8_e4m3fn).max
    outliers = 1e4 * torch.cat([torch.eye(64), -torch.eye(64)])
    with torch.no_grad():
        part = cuda.eight_bits(layer, norm)
        assert 0.3 * most < part["norm1"](outliers).abs().max() <= most
        ours = part["norm1"](x).to(torch.float8_e4m3fn).float() @ part["qkv"].float()
        ours = ours * part["scales"][0] * part["scales"][1] + layer.bias
        assert error(ours, layer(norm(x))) < 0.05


# --- on a GPU ----------------------------------------------------------------------------------------------------


def on_gpu(**options):
    return network(matrices=0.0, **{"frames": 81, "joints": 17, "dim": 128, "heads": 8} | options).cuda()


def step_errors(monkeypatch, model, batch: int) -> dict[str, float]:
    return errors(monkeypatch, model, Step(accelerate(model), squared_error, scaled_gradient=False), batch)


# With twins in bfloat16 the largest error of a parameter was 0.012; a wrong term is off by far more.
MOST = 0.03


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_gradient_of_each_parameter_is_that_of_float32(monkeypatch, options):
    """Of all variants of the network that the study trains; those with joints together by `joined`."""
    small = {"dim": 32} if options.get("separate_joints") is False else {}
    found = step_errors(monkeypatch, on_gpu(**small, **options).train(), batch=2)
    assert {name: value for name, value in found.items() if not value < MOST} == {}


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
@pytest.mark.parametrize(
    ("batch", "frames", "joints", "dim"),
    [(2, 27, 17, 128), (2, 243, 17, 128), (2, 300, 15, 128), (1024, 1, 17, 128), (3, 243, 17, 512), (2, 200, 5, 512)],
)
def test_the_gradient_of_each_parameter_is_that_of_float32_in_all_sizes(
    monkeypatch, batch, frames, joints, dim, drop_path
):
    """Whatever kernel computes it: of one tile, of blocks, or for Hopper."""
    model = on_gpu(frames=frames, joints=joints, dim=dim, drop_path=drop_path).train()
    found = step_errors(monkeypatch, model, batch)
    assert {name: value for name, value in found.items() if not value < MOST} == {}


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(("float8", "most"), [(False, 0.02), (True, 0.06)])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_poses_are_those_of_float32_to_the_precision(options, float8, most):
    model = on_gpu(**options).eval()
    lifter = accelerate(model, float8=float8)
    with torch.no_grad():
        for batch in (1, 3, 1):
            keypoints = torch.randn(batch, 81, 17, 2, device="cuda")
            assert error(lifter(keypoints), model(keypoints)) < most


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("float8", [False, True])
def test_poses_are_those_of_float32_at_the_published_size(float8):
    model = on_gpu(frames=243, dim=512).eval()
    lifter = accelerate(model, float8=float8)
    with torch.no_grad():
        for batch in (1, 3, 1):
            keypoints = torch.randn(batch, 243, 17, 2, device="cuda")
            assert error(lifter(keypoints), model(keypoints)) < (0.06 if float8 else 0.02)
