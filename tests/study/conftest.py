"""What tests of the study share."""

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty store of runs."""
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path))
    return tmp_path
