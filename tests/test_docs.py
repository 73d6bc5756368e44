"""What docstrings name exists, and their Markdown becomes reStructuredText with links."""

import importlib
import runpy
import types
from pathlib import Path

import pytest

from mixste.data import Clip
from mixste.wild.outputs import Lifted

api = types.SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "docs" / "api.py")))


MODULES = {name: importlib.import_module(name) for name in api.modules()}  # a docstring may name any of them


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_name_what_there_is(name):
    assert not api.broken(MODULES[name])


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (
            "`mixste.camera.project`, `predict.predict(clip)`, `Lifted.read`, `Clip.fps`, `model.frames`, `draw.csv`.",
            [],
        ),
        ("See `mixste.camera.projekt`.", ["mixste.camera.projekt"]),
        ("See `predict.lifted(clip)` and `Lifted.nothing`.", ["Lifted.nothing", "predict.lifted"]),
    ],
)
def test_references_that_lead_nowhere_are_found(text, lost):
    def draw(model):
        pass

    draw.__doc__, draw.__module__ = text, "page"
    page = types.ModuleType("page")
    page.Lifted, page.Clip, page.draw = Lifted, Clip, draw
    assert api.broken(page) == [f"page: `{name}`" for name in lost]


def test_the_build_says_what_is_lost(monkeypatch, tmp_path):
    import mixste.camera

    monkeypatch.setattr(mixste.camera, "__doc__", "See `mixste.nothing`.")
    with pytest.raises(SystemExit, match=r"mixste\.camera: `mixste\.nothing`"):
        api.write(tmp_path / "api")
    assert not (tmp_path / "api").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See `Clip.fps`.", r"See :py:obj:`Clip.fps <mixste.data.clips.Clip.fps>`\ ."),
        ("`predict.predict(clip)` is", r":py:obj:`predict.predict(clip) <mixste.predict.predict>`\  is"),
        ("a `draw.csv` and 2 * x_ of *args", r"a ``draw.csv``\  and 2 \* x\_ of \*args"),
        ("(`frames`, **not** joints)", r"(``frames``\ , **not** joints)"),
        ("in (a)\n  -> out\n\n- a list\n  goes on", "| in (a)\n|   -> out\n\n- a list\n  goes on"),
    ],
)
def test_markdown_becomes_restructured_text(text, expected):
    page = types.ModuleType("page")
    page.Clip = Clip
    assert api.restructured(text, page) == expected
