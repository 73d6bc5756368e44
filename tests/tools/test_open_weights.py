"""The bundled weights are those that the command describes, and their card shows the measured errors."""

import footage
import numpy as np
import open_weights
import pandas as pd
import pytest
import torch

from mixste import MixSTE
from mixste.data import Clip, DataError
from mixste.data.sources.open_mocap import Take
from mixste.data.sources.people import PEOPLE, subjects
from mixste.data.sources.synthetic import perform
from mixste.io.weights import bundled
from mixste.skeleton import human36m

WALK = perform("S1", "Walking", "1").astype(np.float32)


@pytest.fixture
def people(tmp_path, monkeypatch):
    """The file of motions, of every subject a short synthetic walk."""
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path))
    monkeypatch.setattr(footage, "GATHERED_FRAMES", 72)
    takes = [Take(subject, "Walk", "1", WALK[k : k + 30 + k]) for k, subject in enumerate(PEOPLE)]
    monkeypatch.setattr(open_weights.open_people, "_load", lambda root, strict: (takes, {}))
    open_weights.write_people(open_weights.people_file())
    return takes


def test_motions_are_read_as_they_were_written(people):
    for before, after in zip(people, open_weights.read_people(open_weights.people_file()), strict=True):
        assert (before.subject, before.action, before.name) == (after.subject, after.action, after.name)
        np.testing.assert_allclose(after.world, before.world, atol=3e-5)


def test_motions_that_are_missing_are_named(people, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no such file: run `open_weights\.py data`"):
        open_weights.read_people(tmp_path / "elsewhere.npz")
    few = [take for take in people if take.subject != "cmu_06"]
    monkeypatch.setattr(open_weights.open_people, "_load", lambda root, strict: (few, {}))
    open_weights.write_people(open_weights.people_file())
    with pytest.raises(DataError, match="found none of cmu_06"):
        open_weights.read_people(open_weights.people_file())


def test_nobody_of_the_test_is_trained_on():
    everyone, fewer = open_weights.trained_on(False), open_weights.trained_on(True)
    assert not set(everyone) & set(subjects("test"))
    assert len(everyone) == 19
    assert set(everyone) - set(fewer) == set(subjects("validation"))
    assert set(fewer) - set(open_weights.trained_on(True, ("cmu_14",))) == {"cmu_14"}


def small(people, steps):
    torch.manual_seed(0)
    model = MixSTE(frames=9, dim=16, depth=1, heads=2)
    return model, footage.Footage(people, 9, 4, seed=0), steps * 4 * 9


def test_a_training_resumes_where_it_stopped(people, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    model, windows, poses = small(people, 6)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    assert open_weights.train(model, windows, poses, whole)
    resumed, windows, _ = small(people, 6)
    assert not open_weights.train(resumed, windows, poses, again, minutes=0)
    resumed, windows, _ = small(people, 6)
    assert open_weights.train(resumed, windows, poses, again)
    expected = model.state_dict()
    for key, value in resumed.state_dict().items():  # up to the rounding of the momentum when it stopped
        assert (value - expected[key]).norm() <= 0.2 * (expected[key] - start[key]).norm() + 1e-6, key
    assert pd.read_csv(again / "history.csv")["step"].iloc[-1] == 6
    with pytest.raises(DataError, match="expected a training of 20 steps, found one of 6"):
        open_weights.train(resumed, windows, 20 * 4 * 9, again)


def test_a_training_learns(people, tmp_path, monkeypatch):
    monkeypatch.setattr(footage, "GATHERED_FRAMES", 40 * 36)
    model, windows, poses = small(people, 40)
    keypoints, target = windows.draw(10_000, 64)

    @torch.no_grad()
    def error():
        return float((model(keypoints) - target).norm(dim=-1).mean())

    before = error()
    open_weights.train(model, windows, poses, tmp_path)
    assert error() < 0.9 * before


def test_a_loss_that_is_not_finite_stops_the_training(people, tmp_path):
    model, windows, poses = small(people, 3)
    with torch.no_grad():
        model.head.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3 of 3"):
        open_weights.train(model, windows, poses, tmp_path)


def test_the_state_and_the_weights_are_small_enough_to_be_carried():
    for (sizes, _), most in zip(open_weights.WEIGHTS.values(), (20e6, 5e6), strict=True):
        with torch.device("meta"):
            model = MixSTE(**sizes)
        numbers = sum(parameter.numel() for parameter in model.parameters())
        assert 2 * numbers < most
        assert 6 * numbers < 2**26  # float32 weights and the momentum in bfloat16


def test_a_fifth_of_the_keypoints_is_replaced_by_interpolation():
    poses = np.random.default_rng(0).normal(size=(200, 17, 3)).astype(np.float32)
    line = np.arange(200, dtype=np.float32)[:, None, None] + np.zeros((17, 2), np.float32)
    straight = open_weights.without(Clip("S", "A", "C", 50, (1000, 1000), line, poses), 0.2)
    np.testing.assert_allclose(straight.keypoints[5:-5], line[5:-5], rtol=1e-5)
    noisy = Clip("S", "A", "C", 50, (1000, 1000), poses[..., :2], poses)
    changed = (open_weights.without(noisy, 0.2).keypoints != noisy.keypoints).any(axis=-1).mean()
    assert changed == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(
        open_weights.without(noisy, 0.2).keypoints, open_weights.without(noisy, 0.2).keypoints
    )


def test_conditions_are_measured_once_and_only_with_data(people, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIXSTE_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(open_weights, "KEYPOINTS", ("gt", "cpn"))
    monkeypatch.setattr(open_weights, "load", lambda *_, **__: (_ for _ in ()).throw(DataError("no files")))
    model, file = MixSTE(frames=9, dim=16, depth=1, heads=2).eval(), tmp_path / "errors.csv"
    measured = open_weights.measure(model, file, False, None)
    assert "open-styles, gt: not measured: no files" in capsys.readouterr().out
    assert set(measured["subject"]) == set(subjects("test"))
    keys = list(dict.fromkeys(measured[open_weights.KEYS].itertuples(index=False, name=None)))
    assert keys == open_weights.conditions(False, None)[: len(keys)]
    assert len(keys) == 8  # two detectors, two rates, with and without missing keypoints
    monkeypatch.setattr(open_weights, "evaluate", None)
    again = open_weights.measure(model, file, False, None)
    pd.testing.assert_frame_equal(again, measured, check_dtype=False)


def rows(source, keypoints, values, metric="MPJPE"):
    names = ["subject", "value", "frames"]
    about = dict(zip(open_weights.KEYS, (source, keypoints, 50, 0), strict=True))
    return pd.DataFrame(values, columns=names).assign(metric=metric, unit="mm", **about)


def test_the_table_averages_over_frames_of_three_and_of_all():
    three = [("hdm_mm", 40.0, 300), ("hdm_tr", 80.0, 100)]
    everyone = [(name, 60.0, 100) for name in subjects("test") if name not in ("hdm_mm", "hdm_tr")]
    both = pd.concat([rows("open-people", "gt", three), rows("open-people", "cpn", three + everyone)])
    *_, first, second = open_weights.table(both).splitlines()
    assert first == "| open-people | gt | 50 | none | 50.0 | – | – | – |"
    of_all = (40 * 300 + 80 * 100 + 60 * 600) / 1000
    assert second == f"| open-people | cpn | 50 | none | 52.0 | – | {of_all:.1f} | – |"


def test_errors_of_the_real_clip_are_by_camera():
    some = rows("pose2sim", "openpose", [("cam_01", 100.0, 100), ("cam_02", 80.0, 100)])
    *_, line = open_weights.real_table(some).splitlines()
    assert line == "| openpose | 100.0 / – | 80.0 / – | 90.0 / – |"
    assert open_weights.real_table(some[:0]) == "Not measured."


def test_joints_are_put_where_the_recordings_have_them():
    names = open_weights.LAYOUTS["coco17"]
    heights = {"Hip": 1.0, "Shoulder": 1.5, "Ear": 1.7}  # metres
    points = np.zeros((1, 17, 3))
    for name, height in heights.items():
        points[0, names.index(f"L{name}")], points[0, names.index(f"R{name}")] = [0.1, height, 0], [-0.1, height, 0]
    joints = open_weights.as_recorded(points, names)[0]
    expected = {"Hip": 1.1, "Spine": 1.33, "Thorax": 1.445, "Neck": 1.616, "Head": 1.7, "LHip": 1.0}
    for name, height in expected.items():
        assert joints[human36m.joints.index(name), 1] == pytest.approx(height)


def test_weights_and_card_are_published_together(people, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(open_weights, "PACKAGE", tmp_path)
    model, windows, poses = small(people, 3)
    open_weights.train(model, windows, poses, tmp_path)
    open_weights.checkpoints.save_checkpoint(model, tmp_path / "weights.safetensors", torch.float16)
    rows("open-people", "gt", [("hdm_mm", 40.0, 300)]).to_csv(tmp_path / "errors.csv", index=False)
    arguments = "open-small", tmp_path / "weights.safetensors", tmp_path / "errors.csv"
    card = open_weights.publish(*arguments)
    text = card.read_text(encoding="utf-8")
    assert "| open-people | gt | 50 | none | 40.0 |" in text
    assert "T = 9 frames, d_m = 16, d_l = 1" in text
    assert f"{poses:,} poses" in text
    assert "cmu_14" in text
    changed = text.replace("Not measured.\n<!-- world: end", "A table.\n<!-- world: end").replace(
        "Not calibrated.", "Another.\n\nOf two parts."
    )
    card.write_text(changed, encoding="utf-8")
    assert open_weights.publish(*arguments).read_text(encoding="utf-8") == changed  # other tools' tables are kept
    with torch.no_grad():
        model.head.bias += 1
    open_weights.checkpoints.save_checkpoint(model, tmp_path / "weights.safetensors", torch.float16)
    assert open_weights.publish(*arguments).read_text(encoding="utf-8") == text  # they are not of other weights


@pytest.mark.parametrize("name", bundled())
def test_the_card_shows_what_was_measured(name):
    card = bundled()[name].with_suffix(".md")
    measured = pd.read_csv(card.with_suffix(".csv"))
    for table in (open_weights.table(measured), open_weights.real_table(measured)):
        assert table in card.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", bundled())
def test_the_weights_are_of_the_size_that_the_command_trains(name):
    model = MixSTE.from_pretrained(name)
    sizes, _ = open_weights.WEIGHTS[name]
    assert {name: model.options[name] for name in sizes} == sizes
    assert model.layout == human36m.name
