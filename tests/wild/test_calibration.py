"""Bands hold the true joint as often as they say, of new people of the same kind, and belong to their weights."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from test_lift import detections, moving

from mixste import checkpoints
from mixste.camera import normalize_screen
from mixste.data import DataError
from mixste.io.weights import bundled
from mixste.model import MixSTE
from mixste.predict import predict
from mixste.wild.calibration import Bands, Calibration, both_ways, calibrate
from mixste.wild.lift import lift_clip
from mixste.wild.outputs import Lifted, write_csv, write_json, write_npz
from mixste.wild.quality import USUAL, Ranges


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    checkpoints.save_checkpoint(MixSTE(frames=9, dim=16, depth=1, heads=2), path)
    return path


BANDS = Bands(("a", "b"), ("cpn",), (0.03,) * 17, (0.0, *[1.5] * 16))


def people(rng, count: int) -> tuple[list, list, list[str]]:
    """Errors of Rayleigh's distribution, larger where the disagreement is, and of some people more than of others."""
    errors, disagreements, names = [], [], []
    for person in range(count):
        for take in range(1 + person % 3):
            disagreement = rng.uniform(0, 0.04, 300) * (1 + take)
            size = np.hypot(0.02, 3 * disagreement)[:, None] * rng.uniform(0.8, 1.2)
            errors.append(np.pad(size * rng.rayleigh(size=(300, 16)), ((0, 0), (1, 0))))
            disagreements.append(disagreement)
            names.append(f"p{person}")
    return errors, disagreements, names


def test_nine_of_ten_joints_of_new_people_are_inside():
    rng = np.random.default_rng(0)
    known = people(rng, 40)
    bands = calibrate(*known, ("cpn",))
    errors, disagreements, _ = people(rng, 40)
    errors, disagreements = np.concatenate(errors), np.concatenate(disagreements)
    inside = errors <= bands.radii(disagreements)
    assert inside[:, 1:].mean() == pytest.approx(0.9, abs=0.02)
    # Where the network is unsure, more often than with one radius for all.
    unsure, radius = disagreements > 0.06, np.quantile(np.concatenate(known[0])[:, 1:], 0.9)
    assert inside[unsure, 1:].mean() > (errors[unsure, 1:] <= radius).mean() + 0.03
    assert (bands.radii(np.array([0.0, 0.1]))[:, 0] == 0).all()


def test_people_weigh_the_same_however_many_frames_they_have():
    """One person of 11 frames with errors of 1 to 11 cm; the others of 1000 frames without any."""
    sizes = np.arange(1, 12) / 100
    errors = [np.repeat(sizes[:, None], 17, axis=1), *[np.zeros((1000, 17))] * 19]
    still = [np.zeros(len(clip)) for clip in errors]

    def radius(count: int) -> float:
        bands = calibrate(errors[:count], still[:count], [f"p{person}" for person in range(count)], ())
        assert bands.spread[5] == pytest.approx(np.sqrt(np.mean(sizes**2) / count), abs=1e-5)
        return bands.radii(np.zeros(1))[0, 5]

    assert radius(20) == 0  # 19 of 20 people are never off
    assert radius(1) == pytest.approx(0.10, abs=1e-4)  # the errors below 90 %: 9.9 of 11
    assert radius(2) == pytest.approx(0.11, abs=1e-4)  # no level covers the first by the second: the highest


def test_few_people_cover_the_next_one():
    """Errors of three people, of whom each has a size of his own; a plain quantile covers 86 % of the next one's."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(60):
        sizes = 0.03 * np.exp(0.3 * rng.standard_normal(4))
        errors = [np.pad(size * rng.rayleigh(size=(300, 16)), ((0, 0), (1, 0))) for size in sizes]
        bands = calibrate(errors[:3], [np.zeros(300)] * 3, ["a", "b", "c"], ())
        covered.append((errors[3] <= bands.radii(np.zeros(300)))[:, 1:].mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


def test_both_ways_are_those_that_are_averaged():
    torch.manual_seed(0)
    model = MixSTE(frames=9, dim=16, depth=1, heads=2).eval()
    screen = normalize_screen(moving(), 1000, 1000)
    poses, disagreement = both_ways(model, screen)
    expected = predict(model, screen)
    np.testing.assert_allclose(poses, expected - expected[:, :1], atol=1e-6)
    once = predict(model, screen, flip=False)
    apart = 2 * ((once - once[:, :1]) - poses)  # of the two, the mean is halfway
    np.testing.assert_allclose(disagreement, np.sqrt((apart**2).sum(-1).mean(-1)), atol=1e-6)


def test_it_comes_with_its_weights_and_no_others(weights):
    model = checkpoints.load_checkpoint(weights)
    assert Calibration.of(model) == Calibration()
    with pytest.raises(DataError, match=r"expected weights with calibrated .* with bands: open-base, open-small"):
        lift_clip(detections(moving()), model, bands=True)
    calibration = Calibration(Ranges(0.1, 0.4, 0.9, 0.95, 12, 100), BANDS)
    path = calibration.write(weights)
    assert Calibration.of(model) == calibration
    checkpoints.save_checkpoint(MixSTE(frames=9, dim=16, depth=2, heads=2), weights)
    other = checkpoints.load_checkpoint(weights)
    for content in (path.read_bytes(), b"[1, 2]", b'{"lr": 0.1}', b"[" * 10_000, bytes(range(256))):
        path.write_bytes(content)
        calibration = Calibration.of(other)
        assert calibration.ranges == USUAL
        assert calibration.note == "small.json beside the weights is ignored: it is not their calibration"
        assert calibration.note in lift_clip(detections(moving()), other).notes
    with pytest.raises(DataError, match=r"expected weights with calibrated errors .* small\.json .* is ignored"):
        lift_clip(detections(moving()), other, bands=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["bands"].update(spread=[1.0] * 16),
        lambda content: content["bands"].update(quantile=[-1.0] * 17),
        lambda content: content["bands"].update(quantile=["a"] * 17),
        lambda content: content["bands"].update(other=1),
        lambda content: content["ranges"].pop("median"),
        lambda content: content["ranges"].update(median="tall"),
        lambda content: content.update(bands=[1]),
    ],
)
def test_damaged_files_are_refused(weights, damage):
    path = Calibration(USUAL, BANDS).write(weights)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"small\.json: expected"):
        Calibration.of(checkpoints.load_checkpoint(weights))


def test_bands_stand_in_the_files(weights, tmp_path):
    Calibration(USUAL, BANDS).write(weights)
    model = checkpoints.load_checkpoint(weights)
    lifted = lift_clip(detections(moving()), model, bands=True)
    plain = lift_clip(detections(moving()), model)
    np.testing.assert_allclose(lifted.poses, plain.poses, atol=1e-6)
    assert plain.bands is None
    assert lifted.bands.shape == (20, 17)
    assert "bands: in 90 % of cases" in lifted.notes[-1]
    assert "from a simulated cpn; not for those of MediaPipe" in lifted.notes[-1]

    write_npz(lifted, tmp_path / "a.npz")
    np.testing.assert_allclose(Lifted.read(tmp_path / "a.npz").bands, lifted.bands, atol=1e-6)
    write_csv(lifted, tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_allclose(table["LWrist_band"], lifted.bands[:, 13], atol=1e-5)
    write_json(lifted, tmp_path / "a.json")
    np.testing.assert_allclose(json.loads((tmp_path / "a.json").read_text())["bands"], lifted.bands, atol=1e-5)


def test_ranges_decide_what_is_unlike_training(weights):
    """A person of 0.3 image widths in an image where only smaller ones were trained on is lifted as if farther away."""
    Calibration(Ranges(0.1, 0.2, 0.3, 0.95, 12, 100)).write(weights)
    model = checkpoints.load_checkpoint(weights)
    lifted = lift_clip(detections(moving()), model, fps=15)
    assert "0.40 image widths tall, 0.05 to 0.15 in training" in lifted.notes[0]
    assert "frames/s" not in lifted.quality["words"]
    assert (
        "15 frames/s, 25 to 50 in training"
        in lift_clip(detections(moving()), MixSTE(frames=9, dim=16, depth=1, heads=2), fps=15).quality["words"]
    )


def test_bundled_weights_have_ranges_and_some_have_bands():
    calibrations = {name: Calibration.beside(path) for name, path in bundled().items()}
    assert not any(calibration.note for calibration in calibrations.values())
    bands = {name: calibration.bands for name, calibration in calibrations.items() if calibration.bands}
    assert bands
    for name, some in bands.items():
        assert len(some.people) >= 3, name
        assert 0.02 < np.median(some.radii(np.array([0.02]))[0, 1:]) < 0.3, name
