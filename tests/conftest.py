"""What tests share: where the real recordings are, and the paper's text, if this machine has them."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"  # beside the checkout on the project's own machines


def _first(*candidates) -> Path | None:
    return next((Path(path) for path in candidates if path and Path(path).exists()), None)


def pytest_collection_modifyitems(items):
    """Slow tests first, for where tests are spread over processes none should be left with a long one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def open_root() -> Path:
    """Folder that holds the open motion capture (SOURCES: HDM05, CMU, Bandai-Namco), as archives or unpacked."""
    root = _first(os.environ.get("MIXSTE_DATA"), SHARED / "data" / "open")
    if root is None:
        pytest.skip("no open motion capture here: set MIXSTE_DATA to its folder")
    return root


@pytest.fixture(scope="session")
def paper_text() -> str:
    """The paper's text, to check transcriptions against."""
    path = _first(os.environ.get("MIXSTE_PAPER"), SHARED / "paper" / "mixste.txt")
    if path is None:
        pytest.skip("the paper's text is not here: set MIXSTE_PAPER to a text file of it")
    return path.read_text(encoding="utf-8")
