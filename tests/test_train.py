"""Training: batches hold what the recipes say, and a killed run ends with the same bits as one that was not."""

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mixste import MixSTE, evaluate
from mixste import train as training
from mixste.accel import accelerate
from mixste.accel.graphs import Recorder
from mixste.baselines import PoseFormer, VideoPose3D
from mixste.camera import normalize_screen
from mixste.data import Clip, DataError, load
from mixste.io.install import PACKAGE
from mixste.network import Network
from mixste.networks import DSTformer, KTPFormer, MotionAGFormer
from mixste.skeleton import human36m
from mixste.train import (
    AUTHORS,
    PAPER,
    Batches,
    CollapseWatch,
    Recipe,
    Step,
    TrainingCollapsed,
    Update,
    collapsed_for,
    constant_pose_loss,
    even_pieces,
    learning_rate,
    loss_of,
    optimizer_of,
    train,
)


def clip(frames: int, seed: int = 0, still: bool = False) -> Clip:
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.3, (frames, 17, 3)).astype(np.float32) + np.float32([0, 0, 5])
    if still:
        poses[:, human36m.root] = [0, 0, 5]
    intrinsics = np.array([1100.0, 1100, 500, 500, 0, 0, 0, 0, 0])
    keypoints = (poses[..., :2] / poses[..., 2:] * 1100 + 500).astype(np.float32)
    return Clip("S1", "Walking", f"camera{seed}", 50, (1000, 1002), keypoints, poses, intrinsics=intrinsics)


def small(**options) -> MixSTE:
    torch.manual_seed(1)
    return MixSTE(9, 17, 8, 1, 2, drop_path=0.1, **options)


def test_an_epoch_holds_every_window_once_plain_and_mirrored():
    clips = [clip(20, 0), clip(5, 1)]
    recipe = replace(AUTHORS, batch_frames=9)
    batches = Batches(small(), clips, human36m, recipe, 0, "cpu")
    assert len(batches) == 2 * (3 + 1)
    seen = batches.chosen(0, 8)
    assert sorted(seen.tolist()) == list(range(8))

    keypoints, poses = zip(*(batches[step] for step in range(8)), strict=True)
    # By hand: 20 frames in three windows of nine overhang by 7, 3 before and 4 after.
    first = np.clip(np.arange(9) - 3, 0, 19)
    screen = normalize_screen(clips[0].keypoints, 1000, 1002)[first]
    assert any(np.allclose(window[0], screen) for window in keypoints)
    mirror = screen[:, human36m.mirror] * [-1, 1]
    assert any(np.allclose(window[0], mirror, atol=1e-6) for window in keypoints)
    assert all(np.allclose(window[:, :, 0], 0) for window in poses), "poses are relative to the root"


def test_batches_are_full_and_cross_epochs():
    batches = Batches(small(), [clip(20)], human36m, replace(AUTHORS, batch_frames=36, mirror=False), 3, "cpu")
    assert (len(batches), batches.size) == (3, 4)
    seen = batches.chosen(0, 12)
    assert [sorted(seen[i : i + 3].tolist()) for i in (0, 3, 6, 9)] == [[0, 1, 2]] * 4


def test_seq2frame_sees_the_window_around_the_frame_it_lifts():
    one = clip(4)
    model = PoseFormer(3, 17, 8, 1, 2)
    batches = Batches(model, [one], human36m, replace(AUTHORS, batch_frames=4, mirror=False), 0, "cpu")
    keypoints, poses = batches[0]
    assert keypoints.shape == (4, 3, 17, 2)
    assert poses.shape == (4, 1, 17, 3)
    relative = one.poses - one.poses[:, :1]
    screen = normalize_screen(one.keypoints, *one.resolution)
    for window, pose in zip(keypoints, poses, strict=True):
        frame = int(np.abs(relative - pose[0].numpy()).sum((1, 2)).argmin())
        expected = screen[np.clip([frame - 1, frame, frame + 1], 0, 3)]
        np.testing.assert_allclose(window, expected, atol=1e-6)


@pytest.mark.parametrize("length", [5, 9, 12])
def test_random_starts_lie_within_the_clip_or_the_clip_within_the_window(length):
    """Every place that a window of nine can take comes up, and no other."""
    one = clip(length)
    recipe = replace(AUTHORS, batch_frames=72, mirror=False, random_starts=True)
    batches = Batches(small(), [one], human36m, recipe, 0, "cpu")
    assert torch.equal(batches[3][0], batches[3][0])
    screen = normalize_screen(one.keypoints, *one.resolution)
    spare = length - 9
    places = {
        start: screen[np.clip(np.arange(9) + start, 0, length - 1)] for start in range(min(0, spare), max(0, spare) + 1)
    }
    seen = []
    for window in torch.cat([batches[step][0] for step in range(20)]):
        [start] = [start for start, expected in places.items() if np.allclose(window, expected, atol=1e-6)]
        seen.append(start)
    shares = np.unique(seen, return_counts=True)[1] / len(seen)
    assert len(shares) == len(places)
    assert shares.max() < 2 * shares.min()


def test_random_starts_are_refused_where_they_mean_nothing():
    recipe = replace(AUTHORS, random_starts=True)
    with pytest.raises(ValueError, match="random_starts leave no interval between windows, found interval 1"):
        replace(recipe, interval=1)
    with pytest.raises(ValueError, match="random_starts are for seq2seq networks"):
        Batches(PoseFormer(3, 17, 8, 1, 2), [clip(4)], human36m, recipe, 0, "cpu")


def test_subjects_are_drawn_equally_often_however_many_windows_they_have():
    """One subject has 1 of 28 windows, another 27 in two clips; every window comes up."""
    clips = [replace(clip(9, 0), subject="S5"), clip(9 * 20, 1), clip(9 * 7, 2)]
    recipe = replace(AUTHORS, batch_frames=36, mirror=False, by_subject=True)
    batches = Batches(small(), clips, human36m, recipe, 0, "cpu")
    drawn = batches.chosen(0, 2800)
    counts = torch.bincount(drawn, minlength=28) / len(drawn)
    assert counts[0].item() == pytest.approx(1 / 2, abs=0.03)
    assert counts[1:].numpy() == pytest.approx(np.full(27, 1 / 54), abs=0.01)
    # A training that resumes in the middle of an epoch, and another seed.
    again = Batches(small(), clips, human36m, recipe, 0, "cpu")
    assert torch.equal(again.chosen(4 * 345, 2800), drawn[4 * 345 :])
    assert not torch.equal(Batches(small(), clips, human36m, recipe, 1, "cpu").chosen(0, 4), drawn[:4])


@pytest.mark.parametrize(("network", "recipe"), [(MixSTE, {"random_starts": True}), (PoseFormer, {})])
def test_a_batch_does_not_depend_on_which_was_made_before(monkeypatch, network, recipe):
    """Small batches are made several at a time, here three: each in turn, or one alone."""
    monkeypatch.setattr("mixste.train.GATHERED_FRAMES", 3 * 18 + 17)
    recipe = replace(AUTHORS, **recipe, batch_frames=18 if network is MixSTE else 2, measured_bodies=True)

    def batches():
        return Batches(network(9, 17, 8, 1, 2), [clip(20), clip(30, 1)], human36m, recipe, 0, "cpu")

    in_turn = batches()
    assert in_turn.together == 3
    steps = [tuple(x.clone() for x in in_turn[step]) for step in range(8)]
    for step in (7, 4, 0):
        for one, expected in zip(batches()[step], steps[step], strict=True):
            assert torch.equal(one, expected)
    keypoints = [batch[0] for batch in steps]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(keypoints, 2))


def test_a_person_is_resized_in_one_way():
    with pytest.raises(ValueError, match="expected body_shapes or measured_bodies, found both"):
        Recipe(body_shapes=True, measured_bodies=True)


@pytest.mark.parametrize("bodies", ["body_shapes", "measured_bodies"])
def test_resized_bodies_are_seen_by_the_same_camera(bodies):
    one = clip(9, still=True)
    recipe = replace(AUTHORS, batch_frames=9, mirror=False, **{bodies: True})
    batches = Batches(small(), [one], human36m, recipe, 0, "cpu")
    keypoints, poses = batches[0]
    again, _ = batches[0]
    assert torch.equal(keypoints, again), "the same step draws the same body"
    relative = one.poses - one.poses[:, :1]
    shank, before = poses[0, :, 6] - poses[0, :, 5], relative[:, 6] - relative[:, 5]
    ratio = float(shank[0].norm() / np.linalg.norm(before[0]))
    assert abs(ratio - 1) > 1e-3
    np.testing.assert_allclose(shank, ratio * before, atol=1e-5)
    # A root that does not travel stays where it was, and is seen there.
    np.testing.assert_allclose(keypoints[0, :, 0], normalize_screen(one.keypoints[:, 0], *one.resolution), atol=1e-4)


def test_learning_rates():
    assert learning_rate(AUTHORS, 0, 100, 0) == 4e-5
    assert learning_rate(AUTHORS, 0, 100, 120) == pytest.approx(4e-5 * 0.99**120)
    cosine = replace(AUTHORS, schedule="cosine", learning_rate=1.0)
    rates = [learning_rate(cosine, step, 100, 0) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1.0
    assert rates[-1] < 1e-3
    assert rates[5:] == sorted(rates[5:], reverse=True)


def run(folder, model=None, poses=900, optimizer="adamw", **options):
    model = model or small()
    recipe = replace(AUTHORS, batch_frames=18, learning_rate=1e-3, optimizer=optimizer)
    curve = train(model, [clip(50, 0), clip(31, 1)], human36m, recipe, poses, 0, folder, points=5, **options)
    return model.state_dict(), curve


def test_the_seed_decides_every_bit():
    (one, curve), (two, same) = run(None), run(None)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert curve == same
    assert curve[-1]["loss"] < curve[0]["loss"]


class Killed(Exception):
    pass


def die_at(monkeypatch, step: int) -> None:
    """Training keeps its state before its step of this number, and raises Killed instead of that step."""
    compute, count = Step.__call__, itertools.count(1)

    def dying(self, keypoints, target):
        done = next(count)
        if done > step:
            raise Killed
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0 if done == step else 1e9)
        return compute(self, keypoints, target)

    monkeypatch.setattr(Step, "__call__", dying)


@pytest.mark.parametrize(("kill_at", "optimizer"), [(1, "adamw"), (7, "muon"), (23, "adamw"), (49, "muon")])
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, monkeypatch, kill_at, optimizer):
    whole, curve = run(None, optimizer=optimizer)
    with monkeypatch.context() as patch:
        die_at(patch, kill_at)
        with pytest.raises(Killed):
            run(tmp_path, optimizer=optimizer)
    resumed, again = run(tmp_path, optimizer=optimizer)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert again == curve


def test_the_gradient_is_scaled_by_the_loss():
    """loss.backward(loss) minimises half the squared loss: the first gradient is the plain one times the loss."""
    gradients = {}
    for scaled in (True, False):
        model = small()
        recipe = replace(AUTHORS, batch_frames=18, scaled_gradient=scaled, learning_rate=1e-12)
        [row] = train(model, [clip(50)], human36m, recipe, 18, 0, points=1)
        gradients[scaled] = model.head.weight.grad
    torch.testing.assert_close(gradients[True], gradients[False] * row["loss"])


def squared_error(pred, target):
    return (pred - target).square().mean()


def batch_and_gradients(model, windows=4):
    """A batch, and what plain PyTorch finds for it: the loss, and its gradients times the loss."""
    torch.manual_seed(2)
    keypoints, target = torch.randn(windows, 9, 17, 2).double(), torch.randn(windows, 9, 17, 3).double()
    loss = squared_error(model(keypoints), target)
    loss.backward(loss.detach())
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return keypoints, target, [loss.detach(), *gradients]


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_pieces_of_a_batch_give_the_gradients_of_the_whole(pieces):
    model = small().double().eval()
    keypoints, target, expected = batch_and_gradients(model)
    step = Step(model, squared_error, scaled_gradient=True, pieces=pieces)
    for _ in range(2):
        ours = [step(keypoints, target), *(p.grad for p in model.parameters())]
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_gradients_that_a_graph_overwrites_are_averaged_too(monkeypatch):
    """As on a GPU: replaying writes to the gradients' memory, wherever `.grad` points by then."""

    def replayed(self, compute, keypoints, target):
        last = [p.grad for p in compute.__self__.parameters]
        loss = compute(keypoints, target)
        gradients = [p.grad for p in compute.__self__.parameters]
        if not hasattr(self, "memory"):
            self.memory = [loss, *gradients]
            return loss
        for place, value in zip(self.memory, [loss, *gradients], strict=True):
            place.copy_(value)
        for parameter, gradient in zip(compute.__self__.parameters, last, strict=True):
            parameter.grad = gradient
        return self.memory[0]

    monkeypatch.setattr(Recorder, "__call__", replayed)
    model = small().double().eval()
    keypoints, target, expected = batch_and_gradients(model)
    step = Step(model, squared_error, scaled_gradient=True, pieces=2)
    for _ in range(3):
        ours = [step(keypoints, target), *(p.grad for p in model.parameters())]
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("most", "pieces"), [(1, 12), (9, 12), (26, 6), (27, 4), (107, 2), (108, 1)])
def test_pieces_are_even_and_as_few_as_fit(monkeypatch, most, pieces):
    """Of twelve windows, each with nine poses: 1, 2, 3, 4, 6 or 12 pieces."""
    monkeypatch.setattr(training, "MOST_FRAMES", most)
    assert even_pieces(small(), 12, 9) == pieces


def test_a_network_whose_windows_are_tied_to_each_other_gets_them_all_at_once(monkeypatch):
    monkeypatch.setattr(training, "MOST_FRAMES", 1)
    assert even_pieces(VideoPose3D(9, channels=8), 12, 1) == 1
    assert even_pieces(PoseFormer(9, 17, 8, 1, 2), 12, 1) == 12


def test_a_training_in_pieces_is_that_of_whole_batches(monkeypatch):
    torch.manual_seed(1)
    _, curve = run(None, MixSTE(9, 17, 8, 1, 2), poses=180)
    monkeypatch.setattr(training, "MOST_FRAMES", 9)
    torch.manual_seed(1)
    _, again = run(None, MixSTE(9, 17, 8, 1, 2), poses=180)
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in curve], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(FloatingPointError, match="step"):
        train(small(), [clip(50)], human36m, replace(AUTHORS, batch_frames=18, learning_rate=1e30), 900, 0)


class Linear(Network):
    """The poses of single frames: linear in their keypoints."""

    def __init__(self, frames=1, joints=17):
        super().__init__(frames=frames, joints=joints)
        self.layer = torch.nn.Linear(2 * joints, 3 * joints)

    def forward(self, keypoints):
        return self.layer(keypoints.flatten(-2)).unflatten(-1, (self.joints, 3))


def train_linear(monkeypatch, blind: range, folder=None, at_point=None) -> list[dict]:
    """Train for 1000 steps, of which those in `blind` see nothing: then the best network is a constant pose."""
    batch = Batches.__getitem__

    def partly_blind(self, step):
        keypoints, poses = batch(self, step)
        return keypoints * (step not in blind), poses

    torch.manual_seed(0)
    recipe = replace(AUTHORS, batch_frames=16, learning_rate=1e-2, loss=(("mpjpe", 1.0),), mirror=False)
    clips = [clip(50, 0), clip(31, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__getitem__", partly_blind)
        return train(Linear(), clips, human36m, recipe, 16_000, 0, folder, points=10, at_point=at_point)


def test_a_training_that_collapses_is_stopped_after_six_to_seven_checks(monkeypatch):
    rows = []
    with pytest.raises(
        TrainingCollapsed, match=r"training: collapsed at step 450 of 1000 \(loss 0\.\d+ over 300"
    ) as told:
        train_linear(monkeypatch, range(440, 1000), at_point=lambda model, row: rows.append(row))
    error = told.value
    assert error.step == 450, "of the first mean, over 50 steps, that is all of a constant pose"
    assert error.history == rows
    assert [row["step"] for row in rows] == [100, 200, 300, 400, 500, 600, 700, 750]
    assert error.loss == pytest.approx(np.mean([row["loss"] for row in rows[5:7]]), rel=0.02)
    # By hand: the mean pose of the clips, at its distance from each.
    poses = np.concatenate([one.poses - one.poses[:, [human36m.root]] for one in (clip(50, 0), clip(31, 1))])
    assert error.constant_loss == pytest.approx(np.linalg.norm(poses - poses.mean(0), axis=-1).mean(), rel=0.01)
    same = pickle.loads(pickle.dumps(error))
    assert (str(same), same.step, same.history) == (str(error), 450, rows)


def test_a_spike_of_some_steps_is_no_collapse(monkeypatch):
    curve = train_linear(monkeypatch, range(440, 640))
    assert curve[5]["loss"] > 1.5 * curve[3]["loss"]
    assert curve[-1]["loss"] < curve[3]["loss"]


@pytest.mark.parametrize("kill_at", [433, 720])
def test_a_collapse_is_found_at_the_same_step_after_a_kill(tmp_path, monkeypatch, kill_at):
    monkeypatch.setattr(training, "SAVE_SECONDS", 1e9)
    with pytest.raises(TrainingCollapsed) as whole:
        train_linear(monkeypatch, range(440, 1000))
    with monkeypatch.context() as patch:
        die_at(patch, kill_at)
        with pytest.raises(Killed):
            train_linear(monkeypatch, range(440, 1000), tmp_path)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert saved["step"] == kill_at
    with pytest.raises(TrainingCollapsed) as resumed:
        train_linear(monkeypatch, range(440, 1000), tmp_path)
    assert vars(resumed.value) == vars(whole.value)

    del saved["watch"]  # as older versions kept it: the losses count from there on
    torch.save(saved, tmp_path / "state.pt")
    assert train_linear(monkeypatch, range(440, 1000), tmp_path)[-1]["step"] == 1000, "nothing learned since the kill"


# Means of 50 steps where the constant pose has a loss of 1: where a training that goes on so is stopped, after so many.
COURSES = {
    "learns, and loses it": ([1.5, 0.9, 0.8, *[0.97] * 20], 9),
    "learns, and loses it to more than one pose": ([1.5, 0.9, 0.8, *[1.6] * 20], 9),
    "recovers in time": ([1.5, 0.9, 0.8, *[1.6] * 5, 0.9] * 9, None),
    "far above the constant pose from the start": ([1.6] * 30, 12),
    "learns little, then far above the constant pose": ([1.3, 0.9, *[1.6] * 30], 14),
    "a long start": ([*[2.0] * 11, 1.2, *[0.9] * 50], None),
    "stagnates at the constant pose": ([1.5, *[1.1, 0.99] * 40], None),
    "below it, but never by much": ([0.86, *[0.99] * 90], None),
    "a spike": ([0.5] * 50 + [40.0] + [0.5] * 40, None),
    "not finite": ([0.5, *[float("nan")] * 50], None),
}


@pytest.mark.parametrize("course", COURSES)
def test_where_a_training_is_stopped(course):
    means, stopped = COURSES[course]
    ends = [n for n in range(1, len(means) + 1) if collapsed_for(means[:n], 1.0)]
    assert (ends[0] if ends else None) == stopped
    assert not collapsed_for([-mean for mean in means], -1.0), "no measure of a collapse"


def test_of_the_measured_trainings_those_that_collapsed_are_stopped_and_no_other():
    """Their curves have a mean of every 306 steps, which stands here for those of every 61."""
    table = pd.read_csv(PACKAGE.parent / "results" / "bench" / "collapse.csv")
    table = table[table["state"].isin(("held", "collapsed", "stuck"))]
    assert table["state"].nunique() == 3
    for run in table.itertuples():
        curve = np.array([point.split(":") for point in run.curve.split()], dtype=float)
        counts = np.diff(curve[:, 0], prepend=0) // CollapseWatch(run.of_steps, 1.0).every
        means = np.repeat(curve[:, 1], counts.astype(int)).tolist()
        stopped = any(collapsed_for(means[:n], run.constant_pose_loss) for n in range(len(means) + 1))
        assert stopped == (run.state != "held"), run


@pytest.mark.parametrize(("steps", "every"), [(7, 50), (900, 50), (6173, 61), (10**6, 10**4)])
def test_losses_are_read_once_in_so_many_steps(steps, every):
    watch = CollapseWatch(steps, 1.0)
    for step in range(2 * every):
        watch(torch.tensor(float(step)))
        assert len(watch.means) == (step + 1) // every
    assert watch.means == pytest.approx([(every - 1) / 2, every + (every - 1) / 2])


@pytest.mark.parametrize("squared", [False, True])
def test_the_loss_of_a_constant_pose_has_all_terms_of_the_recipe(squared):
    """Two poses in turn, 0.2 m apart along z in the left wrist: the mean is 0.1 m from each, and never moves."""
    wrist = human36m.joints.index("LWrist")
    one = clip(40)
    poses = np.repeat(one.poses[:1], 40, axis=0)
    poses[::2, wrist, 2] += 0.2
    batches = Batches(
        small(),
        [replace(one, poses=poses)],
        human36m,
        replace(AUTHORS, batch_frames=18, mirror=False, interval=1),
        0,
        "cpu",
    )
    recipe = replace(AUTHORS, loss=(("wmpjpe", 1.0), ("tc", 0.5), ("mpjve", 2.0)), squared=squared)
    expected = human36m.weights("authors")[wrist] * (0.1**2 if squared else 0.1) / 17
    moving = 2.0 * 0.2 / 17
    assert constant_pose_loss(batches, loss_of(recipe, human36m)) == pytest.approx(expected + moving, rel=0.1), (
        "but for the still frames that pad the ends"
    )


def test_no_clips():
    with pytest.raises(DataError, match="at least one training clip"):
        train(small(), [], human36m, AUTHORS, 100, 0)


def test_recipes_hold_the_rows_of_notebook_13():
    assert AUTHORS.loss == (("wmpjpe", 1.0), ("tc", 0.5), ("mpjve", 2.0))
    assert (AUTHORS.optimizer, AUTHORS.weight_decay, AUTHORS.drop_path, AUTHORS.dropout) == ("adamw", 0.1, 0.1, 0.0)
    assert (PAPER.optimizer, PAPER.dropout, PAPER.drop_path) == ("adam", 0.1, 0.0)
    assert (PAPER.squared, PAPER.attention_scale, PAPER.embedding_norm) == (True, "model", True)
    with pytest.raises(ValueError, match="optimizer must be one of"):
        replace(AUTHORS, optimizer="sgd")


@pytest.fixture
def one_thread():
    """As runs on the CPU train: small products gain nothing from more threads, and lose much beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_minute_of_training_beats_linear_regression_on_people_never_seen(open_root, one_thread):
    """Real motion, exact keypoints: frame by frame, against the mean pose and least squares on the same frames."""
    few = ("hdm_bk", "hdm_dg", "cmu_01", "cmu_02", "hdm_mm", "hdm_tr", "cmu_03")  # whom a minute is enough for
    dataset = load("open-people", open_root).select(few)
    train_clips, test = dataset.train + dataset.validation + dataset.unseen_takes, dataset.test[::4]

    def frames(clips, step):
        screen = np.concatenate([normalize_screen(c.keypoints, *c.resolution)[::step] for c in clips]).astype(float)
        poses = np.concatenate([(c.poses - c.poses[:, [human36m.root]])[::step] for c in clips])
        return np.column_stack([screen.reshape(len(screen), -1), np.ones(len(screen))]), poses.reshape(len(poses), -1)

    def error(pred, target):
        return 1000 * np.linalg.norm((pred - target).reshape(-1, 17, 3), axis=-1).mean()

    seen, poses = frames(train_clips, 3)
    unseen, target = frames(test, 1)
    mean = error(poses.mean(axis=0), target)
    linear = error(unseen @ np.linalg.lstsq(seen, poses, rcond=None)[0], target)

    torch.manual_seed(0)
    model = MixSTE(frames=1, dim=32, depth=3, heads=4)
    recipe = Recipe(scaled_gradient=False, drop_path=0.0, schedule="cosine", learning_rate=3e-3, batch_frames=64)
    train(model, train_clips, human36m, recipe, 80_000, seed=0)
    ours = evaluate.average(evaluate.evaluate(model, test, "exact"))["MPJPE"]
    assert ours < 0.8 * linear < 0.8 * 0.8 * mean


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def step_on_gpu(pieces):
    """Gradients of the last of three batches, by a step that was recorded with the first."""
    torch.manual_seed(0)
    model = MixSTE(frames=27, joints=17, dim=128, depth=2).cuda().train()
    step = Step(accelerate(model), squared_error, scaled_gradient=True, pieces=pieces)
    for _ in range(3):
        loss = step(torch.randn(4, 27, 17, 2).cuda(), torch.randn(4, 27, 17, 3).cuda())
    return torch.cat([loss.view(1), *(p.grad.flatten() for p in model.parameters())])


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("pieces", [1, 2])
def test_on_a_gpu_a_replayed_step_gives_the_gradients_of_one_that_is_not_recorded(monkeypatch, pieces):
    replayed = step_on_gpu(pieces)
    monkeypatch.setattr(Recorder, "__call__", lambda self, compute, *inputs: compute(*inputs))
    expected = step_on_gpu(1)
    assert (replayed - expected).norm() / expected.norm() < (0.005 if pieces == 1 else 0.02)


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon"])
def test_on_a_gpu_replayed_updates_are_those_of_the_optimizer(optimizer):
    """To the last bit, at a rate that changes, and in what inference computes after each."""
    rates, recipe = [0.01, 0.02, 0.005, 0.001], replace(AUTHORS, optimizer=optimizer)
    keypoints, target = torch.randn(2, 27, 17, 2).cuda(), torch.randn(2, 27, 17, 3).cuda()
    results = []
    for replayed in (True, False):
        torch.manual_seed(0)
        model = MixSTE(frames=27, joints=17, dim=128, depth=2).cuda()
        fast = accelerate(model)
        step, steps = Step(fast, squared_error, scaled_gradient=False), optimizer_of(model, recipe)
        update = Update(steps)
        for rate in rates:
            fast.train()
            step(keypoints, target)
            (update if replayed else update.step)(rate if replayed else torch.tensor(rate).cuda())
            fast.eval()
            with torch.no_grad():
                results.append(fast(keypoints))
        assert {int(state["step"]) for state in steps.state.values()} == {len(rates)}
    for one, expected in zip(results[:4], results[4:], strict=True):
        assert torch.equal(one, expected)
    assert not torch.equal(results[0], results[1])


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("network", "width"),
    [(MixSTE, 128), (PoseFormer, 16), (VideoPose3D, 64), (DSTformer, 32), (MotionAGFormer, 32), (KTPFormer, 32)],
)
def test_on_a_gpu_a_training_is_that_of_the_cpu_in_its_first_steps(network, width):
    curves = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        model = network(9, 17, width).to(device)
        for module in model.modules():
            for name in ("dropout", "drop_path"):  # which the devices would draw differently
                if hasattr(module, name):
                    setattr(module, name, 0.0)
        curves.append(run(None, model, poses=180)[1])
    cpu, gpu = ([row["loss"] for row in curve] for curve in curves)
    assert gpu == pytest.approx(cpu, rel=0.02)
