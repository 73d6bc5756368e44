"""Errors frame by frame: which take a frame belongs to, and averages with their intervals."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mixste.study import frames


def test_views_of_a_take_share_its_number_and_doubly_counted_frames_do_not_count():
    rows = [("A", "Walk", "1", "C1", 3), ("A", "Walk", "1", "C2", 2), ("A", "Walk", "2", "C1", 1)]
    rows += [("B", "Walk", "1", "C1", 2)]
    names = ["subject", "action", "take", "camera", "frames"]
    exact = pd.DataFrame(rows, columns=names).assign(protocol="exact", metric="MPJPE")
    others = [exact.assign(metric="MPJVE"), exact.assign(protocol="authors", frames=9)]
    run = SimpleNamespace(clips=pd.concat([others[1], exact, others[0]]))
    assert frames.take_of_frames([run]).tolist() == [0, 0, 0, 0, 0, 1, 2, 2]


def test_average_counts_every_frame_once_and_its_interval_spans_takes_and_seeds():
    takes = np.repeat([0, 1, 2], [10, 30, 60])
    values = np.stack([np.repeat([1.0, 2.0, 4.0], [10, 30, 60]), np.repeat([3.0, 4.0, 6.0], [10, 30, 60])])
    found = frames.average(values, takes)
    assert found["value"] == pytest.approx(0.1 * 2 + 0.3 * 3 + 0.6 * 5)
    assert found["seed_spread"] == pytest.approx(np.sqrt(2))  # of two seeds that differ by 2
    assert found["seeds"] == 2
    assert 1.0 <= found["low"] < found["value"] < found["high"] <= 6.0


def test_an_average_that_does_not_vary_between_takes_has_no_width():
    found = frames.average(np.tile([1.0, 3.0], 50)[None], np.repeat(np.arange(5), 20))
    assert (found["low"], found["value"], found["high"]) == pytest.approx((2.0, 2.0, 2.0))
    assert np.isnan(found["seed_spread"])
