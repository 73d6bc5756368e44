"""DSTformer, MotionAGFormer and KTPFormer against their definitions, computed token by token, and their sizes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mixste.networks import DSTformer, KTPFormer, MotionAGFormer
from mixste.networks.ktpformer import topology
from mixste.networks.motionagformer import GraphConvolution, joint_graph, similarity_graph
from mixste.predict import predict
from mixste.skeleton import human36m, humaneva15, mpi_inf_3dhp
from mixste.study import costs
from mixste.study.profiles import PROFILES
from mixste.study.run import Data
from mixste.train import AUTHORS, train

SMALL = {
    DSTformer: {"dim": 16, "rep_dim": 12, "depth": 2},
    MotionAGFormer: {"dim": 16, "rep_dim": 12, "depth": 2},
    KTPFormer: {"dim": 16, "depth": 2},
}
ALL = pytest.mark.parametrize("kind", SMALL, ids=lambda kind: kind.name)


def small(kind, frames=5, joints=17, **options):
    torch.manual_seed(0)
    return kind(frames, joints, **SMALL[kind] | options)


def scrambled(model, seed=0):
    """The model in double precision and evaluation mode, every parameter and statistic random."""
    rng = np.random.default_rng(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            draw = rng.normal(size=tensor.shape) * 0.3
            tensor.copy_(torch.from_numpy(np.abs(draw) + 0.5 if name.endswith("running_var") else draw))
    return model.double().eval()


def random_keypoints(*shape, axes=2, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, axes)))


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "parameters", "buffers"),
    [(DSTformer, 42_466_317, 0), (MotionAGFormer, 11_723_811, 8_352), (KTPFormer, 35_213_430, 3_075)],
)
def test_parameters_are_as_many_as_printed(kind, parameters, buffers):
    with torch.device("meta"):
        model = kind()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(value.numel() for value in model.state_dict().values()) == parameters + buffers


FRAMES, JOINTS, TOKENS = 243, 17, 243 * 17
PAIRS = {"spatial": FRAMES * JOINTS**2, "temporal": JOINTS * FRAMES**2}  # of tokens that attend to each other


def by_hand_dstformer():
    dim, blocks = 512, 5 * 2 * 2
    linear = TOKENS * (3 * dim + blocks * 8 * dim**2 + 5 * 2 * 2 * dim + dim**2 + 3 * dim)
    return linear, 5 * 2 * 2 * dim * sum(PAIRS.values())


def by_hand_motionagformer():
    dim, rep, depth = 128, 512, 16
    layer = 2 * (4 + 8) * dim**2 + 2 * (2 + 8) * dim**2 + 2 * 2 * dim  # two blocks of either kind, fusion
    linear = TOKENS * (3 * dim + depth * layer + dim * rep + 3 * rep)
    attention = 2 * dim * sum(PAIRS.values())
    return linear, depth * (attention + dim * sum(PAIRS.values()) + dim * PAIRS["temporal"])  # graphs, similarities


def by_hand_ktpformer():
    dim, blocks = 512, 2 * 7 + 2
    linear = TOKENS * (2 * 2 * dim + 2 * 2 * dim**2 + blocks * 8 * dim**2 + 3 * dim)
    attention = blocks // 2 * 2 * dim * sum(PAIRS.values())
    return linear, attention + dim * (PAIRS["spatial"] + 2 * PAIRS["temporal"])


@pytest.mark.parametrize(
    ("kind", "by_hand", "linear", "diagonal", "printed"),
    [
        (DSTformer, by_hand_dstformer, 174.40e9, 0, 185.40e9),
        # Its code multiplies each graph by two dense diagonal matrices of degrees, here products of numbers.
        (MotionAGFormer, by_hand_motionagformer, 47.96e9, 16 * 2 * (17 * 243**3 + 243 * 17**3), 64.46e9),
        # Its code multiplies by the dense diagonal part of each graph, here a product of numbers.
        (KTPFormer, by_hand_ktpformer, None, 512 * (PAIRS["spatial"] + 2 * PAIRS["temporal"]), 153.89e9),
    ],
)
def test_multiply_accumulates_are_those_printed_but_for_products_with_diagonal_matrices(
    kind, by_hand, linear, diagonal, printed
):
    for profile in ("paper", "open"):
        options = tuple(kind.sizes(PROFILES[profile]).items())
        counted = costs.size(kind.name, FRAMES, options)[0] * FRAMES
        assert counted == sum(by_hand())
        assert counted + diagonal == pytest.approx(printed, abs=5e6)
    if linear:
        assert by_hand()[0] == pytest.approx(linear, abs=5e6)


@ALL
@pytest.mark.parametrize("profile", ["smoke", "open", "paper"])
def test_sizes_fit_every_profile(kind, profile):
    options = kind.sizes(PROFILES[profile])
    with torch.device("meta"):
        model = kind(9, 17, **options)
    if profile == "smoke":
        assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    else:
        assert model.options == kind(9, 17).options


# --- the definitions, in NumPy, from the authors' names ------------------------------------------------------------


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def norm(w, name, x, eps):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def attend(w, name, x):
    """Of tokens (n, dim), with 8 heads. name: what qkv and proj belong to."""
    size = x.shape[-1] // 8
    q, k, v = np.split(linear(w, f"{name}.qkv", x), 3, axis=-1)
    parts = [slice(head * size, (head + 1) * size) for head in range(8)]
    heads = [softmax(q[:, part] @ k[:, part].T / math.sqrt(size)) @ v[:, part] for part in parts]
    return linear(w, f"{name}.proj", np.concatenate(heads, axis=-1))


def mlp(w, name, x):
    x = linear(w, f"{name}.fc1", x)
    return linear(w, f"{name}.fc2", x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def batch_norm(w, name, x, axis):
    """With running statistics; the channels are an axis of x."""
    shape = [-1 if one == axis % x.ndim else 1 for one in range(x.ndim)]
    weight, bias, mean, var = (
        w[f"{name}.{part}"].reshape(shape) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def over_joints(f, x):
    return np.stack([f(frame) for frame in x])


def over_frames(f, x):
    return np.stack([f(x[:, joint]) for joint in range(x.shape[1])], axis=1)


OVER = {"s": over_joints, "t": over_frames, "spatial": over_joints, "temporal": over_frames}


def fuse(w, name, first, second):
    weights = softmax(linear(w, name, np.concatenate([first, second], axis=-1)))
    return weights[..., :1] * first + weights[..., 1:] * second


def dstformer(w, x, depth=2):
    """(frames, joints, 3) -> (frames, joints, 3)."""
    x = linear(w, "joints_embed", x) + w["pos_embed"][0] + w["temp_embed"][0, : len(x)]
    for i in range(depth):
        streams = []
        for stream in ("st", "ts"):
            y, name = x, f"blocks_{stream}.{i}"
            for axis in stream:

                def attention(z, name=name, axis=axis):
                    return attend(w, f"{name}.attn_{axis}", norm(w, f"{name}.norm1_{axis}", z, 1e-6))

                y = y + OVER[axis](attention, y)
                y = y + mlp(w, f"{name}.mlp_{axis}", norm(w, f"{name}.norm2_{axis}", y, 1e-6))
            streams.append(y)
        x = fuse(w, f"ts_attn.{i}", *streams)
    return linear(w, "head", np.tanh(linear(w, "pre_logits.fc", norm(w, "norm", x, 1e-6))))


# The columns that are 1 in each row of the authors' joint graph.
NEIGHBOURS = [
    *((1, 7), (0, 2), (1, 3), (2,), (0, 5), (4, 6), (5,), (0, 8)),
    *((7, 9), (8, 10), (9,), (8, 12), (11, 13), (12,), (8, 15), (14, 16), (15,)),
]


def most_similar(h):
    """Of each node, those whose inner product with it is at least its second largest."""
    products = h @ h.T
    return [tuple(np.flatnonzero(row >= sorted(row)[-2])) for row in products]


def motionagformer(w, x, depth=2):
    x = linear(w, "joints_embed", x) + w["pos_embed"][0]
    for i in range(depth):
        streams = []
        for kind in ("att", "graph"):
            y = x
            for axis in ("spatial", "temporal"):
                name = f"layers.{i}.{kind}_{axis}"

                def convolution(h, name=name, axis=axis):
                    neighbours = NEIGHBOURS if axis == "spatial" else most_similar(h)
                    u, v = (linear(w, f"{name}.mixer.{matrix}", h) for matrix in "UV")
                    for node, others in enumerate(neighbours):
                        for other in others:
                            u[node] += v[other] / math.sqrt(len(others) * len(neighbours[other]))
                    return np.maximum(h + batch_norm(w, f"{name}.mixer.batch_norm", u, 0), 0)

                def attention(h, name=name):
                    return attend(w, f"{name}.mixer", h)

                mixer = attention if kind == "att" else convolution
                y = y + w[f"{name}.layer_scale_1"] * OVER[axis](mixer, norm(w, f"{name}.norm1", y, 1e-5))
                y = y + w[f"{name}.layer_scale_2"] * mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", y, 1e-5))
            streams.append(y)
        x = fuse(w, f"layers.{i}.fusion", *streams)
    return linear(w, "head", np.tanh(linear(w, "rep_logit.fc", norm(w, "norm", x, 1e-5))))


def ktpformer(w, x, depth=2):
    def graph_step(name, x, parents, kind):
        """Of tokens (n, features)."""
        n = len(parents)
        edges = {(a, b) for a, b in enumerate(parents) if b >= 0}
        edges |= {(b, a) for a, b in edges}
        graph = np.eye(n) + w[f"{name}.{kind}adj2"]
        for a, b in edges:
            graph[a, b] += 1 / sum(one == a for one, _ in edges)
        W, M = w[f"{name}.{kind}W"], w[f"{name}.{kind}M"]
        out = np.tile(w[f"{name}.{kind}bias"], (n, 1))
        for a in range(n):
            for b in range(n):
                out[a] += (graph[a, b] + graph[b, a]) / 2 * M[b] * (x[b] @ W[int(a != b)])
        return np.maximum(batch_norm(w, f"{name}.bn", out, -1), 0)

    def prior(name, x, over):
        x = x + over(lambda z: attend(w, f"{name}.attn", norm(w, f"{name}.attn.norm1", z, 1e-5)), x)
        return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x, 1e-6))

    def block(name, x, over):
        x = x + over(lambda z: attend(w, f"{name}.attn", norm(w, f"{name}.norm1", z, 1e-6)), x)
        return x + mlp(w, f"{name}.mlp", norm(w, f"{name}.norm2", x, 1e-6))

    parents = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
    x = over_joints(lambda z: graph_step("kpattention.attn.kpa", z, parents, "gconv."), x)
    x = prior("kpattention", x + w["kpattention.attn.Spatial_pos_embed"][0], over_joints)
    x = y = norm(w, "Spatial_norm", x, 1e-6)
    for step in ("gconv1", "gconv2"):
        name = f"tpattention.attn.tpa.{step}"
        y = over_frames(lambda z, name=name: graph_step(name, z, range(-1, len(x) - 1), "gconv."), y)
    x = x + y + w["tpattention.attn.Temporal_pos_embed"][0][:, None]
    x = norm(w, "Temporal_norm", prior("tpattention", x, over_frames), 1e-6)
    for i in range(depth):
        x = norm(w, "Spatial_norm", block(f"STEblocks.{i}", x, over_joints), 1e-6)
        x = norm(w, "Temporal_norm", block(f"TTEblocks.{i}", x, over_frames), 1e-6)
    return linear(w, "head.1", norm(w, "head.0", x, 1e-5))


DEFINITIONS = {DSTformer: dstformer, MotionAGFormer: motionagformer, KTPFormer: ktpformer}


@ALL
def test_poses_are_those_of_the_definition(kind):
    model = scrambled(small(kind))
    window = random_keypoints(2, 5, 17, axes=2 if kind is KTPFormer else 3)
    weights = {name: value.numpy() for name, value in model.authors_state().items()}
    expected = np.stack([DEFINITIONS[kind](weights, one.numpy()) for one in window])
    assert expected.std() > 0.1
    np.testing.assert_allclose(model(window).detach(), expected, rtol=1e-9, atol=1e-10)


# --- what the definitions hang on, worked by hand ------------------------------------------------------------------


def test_a_frame_receives_from_the_two_most_similar_and_from_those_that_tie():
    x = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 1], [0.5, 0.5]])
    # inner products by row: 1 2 0 0 .5 | 2 4 0 0 1 | 0 0 1 1 .5 | 0 0 1 1 .5 | .5 1 .5 .5 .5
    expected = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert similarity_graph(x).tolist() == expected
    assert similarity_graph(torch.ones(1, 3)).tolist() == [[1]]  # a window of one frame


def test_no_gradient_flows_through_the_choice_of_frames():
    """The gradient is that of finite differences, between which the choice stays the same."""
    torch.manual_seed(0)
    convolution = GraphConvolution(4, 6).double().eval()
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert not similarity_graph(x).requires_grad
    assert torch.autograd.gradcheck(convolution, x)


def test_a_graph_is_normalised_by_the_sums_of_rows_on_both_sides():
    """Node 0 receives from 1 and 2, they from 0 alone: 1/√(2·1) and 1/√(1·2)."""
    convolution = GraphConvolution(1, 3).eval()
    with torch.no_grad():
        convolution.V.weight.fill_(1), convolution.V.bias.zero_()
        convolution.U.weight.zero_(), convolution.U.bias.zero_()
        convolution.batch_norm.eps = 0
    graph = torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 0, 0]])
    out = convolution(torch.tensor([1.0, 10, 100]).view(1, 3, 1), graph).flatten()
    torch.testing.assert_close(out, torch.tensor([1 + 110 / 2**0.5, 10 + 1 / 2**0.5, 100 + 1 / 2**0.5]))


def test_the_joint_graph_of_human36m_is_the_authors_and_of_other_layouts_every_bone_both_ways():
    assert [tuple(row.nonzero().flatten().tolist()) for row in joint_graph(human36m)] == NEIGHBOURS
    for skeleton in (humaneva15, mpi_inf_3dhp):
        graph = joint_graph(skeleton)
        assert torch.equal(graph, graph.T)
        assert graph.sum() == 2 * (len(skeleton.joints) - 1)


def test_topologies_by_hand():
    third, half = 1 / 3, 0.5
    joints = topology(torch.tensor(human36m.parents))
    assert joints[0].tolist() == pytest.approx([1, third, 0, 0, third, 0, 0, third, *[0] * 9])
    assert joints[8].tolist() == pytest.approx([*[0] * 7, 0.25, 1, 0.25, 0, 0.25, 0, 0, 0.25, 0, 0])
    assert joints[3].tolist() == [0, 0, 1, 1, *[0] * 13]
    chain = topology(torch.arange(-1, 3))
    assert chain.tolist() == [[1, 1, 0, 0], [half, 1, half, 0], [0, half, 1, half], [0, 0, 1, 1]]
    assert topology(torch.arange(-1, 0)).tolist() == [[1]]


def test_batch_norms_have_a_channel_for_each_node_or_each_feature():
    """In training, a channel's statistics are over everything else: each channel's output has mean 0 and variance 1."""
    torch.manual_seed(0)
    model = small(MotionAGFormer)
    outputs = []
    for layer in model.layers:
        for block in (layer.graph_spatial, layer.graph_temporal):
            block.mixer.batch_norm.register_forward_hook(lambda _, args, out: outputs.append(out))
    model(random_keypoints(3, 5, 17).float())
    assert [tuple(out.shape) for out in outputs] == 2 * [(3 * 5, 17, 16), (3 * 17, 5, 16)]
    for out in outputs:
        torch.testing.assert_close(out.mean(dim=(0, 2)), torch.zeros(out.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var(dim=(0, 2), correction=0), torch.ones(out.shape[1]), atol=1e-3, rtol=0)


def test_streams_start_with_the_same_weight():
    for model in (small(DSTformer), small(MotionAGFormer)):
        for fusion in getattr(model, "ts_attn", None) or [layer.fusion for layer in model.layers]:
            assert not fusion.weight.any()
            assert fusion.bias.tolist() == [0.5, 0.5]


def test_initial_values():
    torch.manual_seed(0)
    dst = DSTformer(9)
    for weight in (dst.blocks_st[0]["s"].attn.qkv.weight, dst.temp_embed, dst.pos_embed):
        assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not dst.blocks_ts[1]["t"].mlp.fc1.bias.any()
    motion = small(MotionAGFormer, dim=128)
    block = motion.layers[0].graph_temporal
    assert block.mixer.V.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert set(block.layer_scale_1.tolist()) == {torch.tensor(1e-5).item()}
    assert not motion.pos_embed.any()
    step = KTPFormer(9, depth=1).tpattention.steps[0].gconv
    bound = 1.414 * (6 / (512 * 512 + 2 * 512)) ** 0.5
    assert 0.99 * bound < step["W"].abs().max() <= bound
    assert 0.9 * 512**-0.5 < step["bias"].abs().max() <= 512**-0.5
    assert (set(step["M"].unique().tolist()), step["adj2"].unique().numel()) == ({1.0}, 1)


def test_drop_path_rises_from_the_first_two_blocks():
    model = small(KTPFormer, depth=4, drop_path=0.1)
    assert [model.kpattention.drop_path, model.tpattention.drop_path] == [0, 0]
    for blocks in (model.STEblocks, model.TTEblocks):
        assert [block.drop_path for block in blocks] == pytest.approx([0.025, 0.05, 0.075, 0.1])


# --- properties ----------------------------------------------------------------------------------------------------


@ALL
def test_windows_do_not_see_each_other(kind):
    model, windows = scrambled(small(kind)), random_keypoints(3, 5, 17)
    alone = torch.cat([model(window[None]) for window in windows])
    torch.testing.assert_close(model(windows), alone, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [DSTformer, MotionAGFormer])
def test_a_confidence_that_is_missing_is_1(kind):
    model, window = scrambled(small(kind)), random_keypoints(2, 5, 17)
    confident = torch.cat([window, torch.ones(2, 5, 17, 1, dtype=window.dtype)], dim=-1)
    assert torch.equal(model(window), model(confident))
    assert not torch.allclose(model(window), model(confident * torch.tensor([1, 1, 0.5])))


def test_joints_of_dstformer_are_told_apart_by_their_positions_alone():
    model, window = scrambled(small(DSTformer)), random_keypoints(2, 5, 17)
    order = torch.randperm(17)
    expected = model(window)[:, :, order]
    with torch.no_grad():
        model.pos_embed.copy_(model.pos_embed[:, order])
    torch.testing.assert_close(model(window[:, :, order]), expected, rtol=1e-9, atol=1e-10)


def test_dstformer_lifts_fewer_frames_too():
    """With the positions of the first ones: as a network for so many frames."""
    model, window = scrambled(small(DSTformer)), random_keypoints(2, 3, 17)
    shorter = DSTformer.from_weights(
        model.options | {"frames": 3}, model.state_dict() | {"temp_embed": model.temp_embed[:, :3]}
    ).double()
    assert model(window).shape == (2, 3, 17, 3)
    torch.testing.assert_close(model(window).float(), shorter(window).float(), atol=1e-4, rtol=1e-4)


def test_frames_of_motionagformer_are_told_apart_by_its_temporal_batch_norms_alone():
    model, window = scrambled(small(MotionAGFormer)), random_keypoints(2, 5, 17)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert not torch.allclose(model(window[:, order]), model(window)[:, order])
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "graph_temporal.mixer.batch_norm" in name and value.is_floating_point():
                value.fill_(1)
    torch.testing.assert_close(model(window[:, order]), model(window)[:, order], rtol=1e-9, atol=1e-10)


def test_ktpformer_at_the_start_knows_no_direction_of_time():
    """Its chain of frames is symmetric, and positions are zero."""
    model, window = small(KTPFormer).double().eval(), random_keypoints(2, 5, 17)
    torch.testing.assert_close(model(window.flip(1)), model(window).flip(1), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [MotionAGFormer, KTPFormer])
def test_the_graph_of_joints_is_that_of_the_layout(kind):
    """Joints of human36m in the order of mpi_inf_3dhp would be another person: the graph must follow."""
    model, window = scrambled(small(kind)), random_keypoints(1, 5, 17)
    human = model(window)
    model.layout = None  # as in the authors' files: Human3.6M's
    assert torch.equal(model(window), human)
    model.layout = "mpi_inf_3dhp"
    assert not torch.allclose(model(window), human)
    assert small(kind, joints=15)(window[:, :, :15].float()).shape == (1, 5, 15, 3)
    with pytest.raises(ValueError, match=r"17 joints \(human36m\) or 15 \(humaneva15\), found 16"):
        small(kind, joints=16)(window[:, :, :16].float())


@ALL
def test_training_reaches_every_parameter(kind):
    model = small(kind, frames=9).train()
    model(random_keypoints(8, 9, 17).float()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


class HostReads(TorchDispatchMode):
    """Collects the operations for which a GPU would have to wait: numbers read from it, or brought to it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh"):
            self.names.add(name)
        return operation(*args, **(kwargs or {}))


@ALL
def test_a_training_step_can_be_recorded(kind):
    """As a CUDA graph, which holds no operation for which the processor waits."""
    model, keypoints = small(kind).train(), random_keypoints(2, 5, 17).float()
    with HostReads() as reads:
        model(keypoints).square().mean().backward()
        assert reads.names == set()
        torch.tensor([1.0])[0].item()
        assert reads.names == {"_local_scalar_dense", "lift_fresh"}


@ALL
@pytest.mark.parametrize("shape", [(1, 6, 17, 2), (1, 5, 16, 2), (1, 5, 17, 4), (1, 0, 17, 2), (5, 17, 2)])
def test_wrong_shapes(kind, shape):
    with pytest.raises((ValueError, TypeError)):  # TypeError where type hints are checked
        small(kind)(torch.zeros(shape))


@ALL
def test_it_learns(kind):
    """In 60 steps the loss falls to less than half; then it lifts a clip of another length."""
    dataset = Data("synthetic", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1).load()
    changes = {"optimizer": "muon", "learning_rate": 0.01, "batch_frames": 90, "loss": (("mpjpe", 1.0),)}
    model = small(kind, frames=9)
    recipe = replace(AUTHORS, scaled_gradient=False, **changes)
    curve = train(model, dataset.train, dataset.skeleton, recipe, 60 * 90, 0)
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    poses = predict(model, np.zeros((13, 17, 2)))
    assert poses.shape == (13, 17, 3)
