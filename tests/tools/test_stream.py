"""Speeds are of the steady state, and the page shows the file."""

import pandas as pd
import pytest
import stream

from mixste.io.weights import bundled


def test_the_start_does_not_count(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(stream.time, "process_time", lambda: clock[0])

    def poses(count: int):
        for number in range(count):
            clock[0] += 1 if number < 60 else 0.25
            yield number

    assert stream.speed(poses(500)) == pytest.approx(4)
    assert stream.speed(poses(90)) == pytest.approx(4)  # a film that ends


def test_the_page_shows_what_was_measured():
    measurements = pd.read_csv(stream.RESULT)
    assert stream.markdown(measurements) in stream.LIFT.read_text(encoding="utf-8")
    assert set(measurements["weights"]) == set(bundled())
