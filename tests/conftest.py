"""How processes divide the tests, and fixtures: the real recordings and the paper's text, if they are here."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"  # a folder beside the checkout, if there is one


def _first(*candidates) -> Path | None:
    return next((Path(path) for path in candidates if path and Path(path).exists()), None)


TOGETHER = ("tests/test_site.py", "tests/test_wheel.py")  # files with a fixture that takes long


def pytest_collection_modifyitems(items):
    """Slow tests first, so that no process is left with a long one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, each process takes one test after another, and one process all tests of a file in TOGETHER."""
    if config.getvalue("dist") != "load":
        return None  # as `--dist` says
    from xdist.scheduler import LoadScopeScheduling

    class OneByOne(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return next((file for file in TOGETHER if nodeid.startswith(file)), nodeid)

    return OneByOne(config, log)


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
