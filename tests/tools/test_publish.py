"""Publishing copies what is up to date to where the repository has it."""

import nbformat
import publish
import pytest

from mixste.study import notebooks, store


@pytest.mark.parametrize(
    ("profile", "folder", "link"), [("smoke", "notebooks", ".."), ("open", "results/open/notebooks", "../../..")]
)
def test_a_published_notebook_links_to_the_same_guide(profile, folder, link, tmp_path, monkeypatch):
    """Tables and figures are copied as they are; what is not up to date stays away."""
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks, "notebooks", lambda: [tmp_path / name for name in ("01_one.ipynb", "02_two.ipynb")])
    monkeypatch.setattr(notebooks, "fresh", lambda path, profile, train: path.stem == "01_one")
    names = {
        path: f"{kind}/{profile}/{path}" for kind, path in (("notebooks", "01_one.ipynb"), ("results", "01_one.csv"))
    }
    monkeypatch.setattr(notebooks, "files_of", lambda path, profile: list(names.values()))
    for name in names.values():
        (tmp_path / "runs" / name).parent.mkdir(parents=True)
    cell = nbformat.v4.new_markdown_cell("[a guide](../docs/guide.md)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "runs" / names["01_one.ipynb"])
    (tmp_path / "runs" / names["01_one.csv"]).write_text("](../docs/")
    monkeypatch.setattr(publish.records, "publish", lambda wanted, profile: [])
    monkeypatch.setattr(publish.pages, "page", lambda root: None)
    monkeypatch.setattr(publish.readme, "main", lambda: None)
    notebook, table = publish.publish(profile)
    assert notebook == tmp_path / folder / "01_one.ipynb"
    [published] = nbformat.read(notebook, 4)["cells"]
    assert published["source"] == f"[a guide]({link}/docs/guide.md)"
    assert table == tmp_path / "results" / profile / "01_one.csv"
    assert table.read_text() == "](../docs/"
    monkeypatch.setattr(notebooks, "fresh", lambda path, profile, train: False)
    with pytest.raises(RuntimeError, match=f"no notebook of profile {profile} is up to date"):
        publish.publish(profile)
