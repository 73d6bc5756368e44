"""What `mixste bench` counts and compares; the times themselves are the machine's."""

import bench
import measuring
import pytest
import torch

from mixste import MixSTE

CPU = torch.device("cpu")


def test_the_products_of_the_published_size():
    """In each frame, 17 tokens go through all linear layers; in 8 loops each meets 17 joints and 243 frames, twice."""
    model = MixSTE()
    linear = 17 * sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert bench.macs_per_frame(model) == linear + 17 * 8 * (17 + 243) * 2 * 512
    assert linear / 1e6 == pytest.approx(570.5, abs=0.1)


def test_variants_take_turns_and_the_median_counts(monkeypatch):
    now, order = [0.0], []
    durations = {"slow": iter([9.0, 5.0, 1.0, 4.0]), "quick": iter([1.0, 1.0, 8.0, 2.0])}

    def taking(name):
        def run():
            order.append(name)
            now[0] += next(durations[name])

        return run

    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    times = measuring.seconds({name: taking(name) for name in durations}, CPU, repeats=3)
    assert order == ["slow", "quick"] * 4  # the first of each is not counted
    assert times == {"slow": 4.0, "quick": 2.0}


def test_rows_tell_the_speed_and_its_ratio_to_the_first_variant():
    first, second = measuring.rows(CPU, "inference", 2, 100, {"reference": 0.5, "fast": 0.125}, {"fast": 1.234})
    assert (first["frames_per_second"], second["frames_per_second"]) == (200, 800)
    assert (first["ratio"], second["ratio"]) == (1, 4)
    assert second["peak_gib"] == 1.23


def test_both_training_steps_learn_the_random_batch():
    """They compute the same, so that their times may be compared."""
    losses = {}
    for form in ("reference", "fast"):
        torch.manual_seed(0)
        step = bench.training_step(MixSTE(frames=3, dim=16, depth=1, heads=2), 2, CPU, form)
        values = losses[form] = []
        for _ in range(3):
            values.append(float(step()))
    assert losses["fast"] == pytest.approx(losses["reference"], rel=1e-4)
    assert losses["fast"][2] < losses["fast"][0]
