"""The API reference builds without a warning, and what would break it is noticed."""

import runpy
import types
import warnings
from pathlib import Path

import pytest

from mixste.data import Clip
from mixste.wild.outputs import Lifted

pytest.importorskip("pdoc")
api = types.SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "docs" / "api.py")))


@pytest.mark.slow
def test_the_reference_builds_with_warnings_as_errors(tmp_path):
    with warnings.catch_warnings():
        api.main(str(tmp_path))
    page = (tmp_path / "mixste" / "predict.html").read_text(encoding="utf-8")
    assert 'id="predict"' in page
    assert "keypoints must be" not in page.split("View Source")[0]
    assert "from_pretrained" in (tmp_path / "mixste" / "network.html").read_text(encoding="utf-8")


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


def test_the_command_line_says_what_is_lost(monkeypatch):
    import mixste.camera

    monkeypatch.setattr(mixste.camera, "__doc__", "See `mixste.nothing`.")
    with pytest.raises(SystemExit, match=r"mixste\.camera: `mixste\.nothing`"):
        api.main("nowhere")
    assert not Path("nowhere").exists()
