"""What the README and the pages in docs/ show works as shown."""

import json
import pydoc
import re
import shlex
import tomllib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import readme
import torch
from typer.main import get_command
from typer.testing import CliRunner

from mixste import MixSTE, checkpoints
from mixste.cli import app
from mixste.data import SOURCES
from mixste.data.readers.detections import LAYOUTS
from mixste.io import weights
from mixste.io.install import PACKAGE
from mixste.study import pages, store, tidy, trainer
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES
from mixste.wild.calibration import Bands, Calibration

ROOT = PACKAGE.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (readme.README, *ROOT.glob("docs/*.md"))
}
EVERY_PAGE = pytest.mark.parametrize("page", PAGES)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def coco(frames: int) -> list[dict]:
    body = np.random.default_rng(0).uniform(300, 700, (frames, 17, 2))
    body[:, :5] = body[:, :1] + np.arange(5)[:, None]  # a face
    return [{"image_id": k, "keypoints": np.c_[one, np.ones(17)].ravel().tolist()} for k, one in enumerate(body)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the pages speak of, and a small network under the names of the bundled ones.

    Trainings are cut short, of few clips, and go into a store of this folder.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MIXSTE_POSES", "100")
    monkeypatch.setattr(trainer, "jobs_for", lambda count, jobs: 1)  # in this process: others take seconds to begin
    data = replace(PROFILES["smoke"].data, subjects=("S1", "S9"), actions=("Walking", "Waiting"))
    monkeypatch.setitem(PROFILES, "smoke", replace(PROFILES["smoke"], data=data))
    monkeypatch.setattr("mixste.data.SOURCES", dict(SOURCES))  # the guide adds one
    torch.manual_seed(0)
    small = MixSTE(frames=27, dim=16, depth=1)
    bands = Bands(("someone",), ("cpn",), (0.03,) * 17, (1.0,) * 17)
    for name in weights.bundled():
        path = tmp_path / "package" / "weights" / f"{name}.safetensors"
        checkpoints.save_checkpoint(small, path)
        Calibration(bands=bands).write(path)
    monkeypatch.setattr(weights, "files", lambda package: tmp_path / "package")
    weights.write_sums(tmp_path / "package" / "weights")
    checkpoints.save_checkpoint(small, "ours.safetensors")
    checkpoints.export_authors(small, "best_epoch.bin")
    (tmp_path / "keypoints.json").write_text(json.dumps(coco(100)))
    columns = [f"{point}_{value}" for point in LAYOUTS["coco17"] for value in ("x", "y", "score")]
    table = pd.DataFrame([one["keypoints"] for one in coco(5)], columns=columns)
    for name in ("walk", "run"):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    for folder in ("openpose_folder", "recordings", "my_recordings"):
        (tmp_path / folder).mkdir()
    for subject in "AB":
        arrays = {"keypoints": np.full((30, 17, 2), 500.0), "poses": np.zeros((30, 17, 3))}
        np.savez(tmp_path / "my_recordings" / f"{subject}_Walking.npz", **arrays)
    for k in range(3):
        people = [{"pose_keypoints_2d": [100.0 + k, 100, 0.9] * 25}]
        (tmp_path / "openpose_folder" / f"{k}.json").write_text(json.dumps({"people": people}))
        (tmp_path / "recordings" / f"clip{k}.json").write_text(json.dumps(coco(5)))
    return tmp_path


@EVERY_PAGE
def test_python_runs_as_it_stands(page, here):
    """Block after block, as a reader would paste them; one that begins with the name of a file is also kept there."""
    scope = {"__name__": "__main__"}
    for example in blocks(page, "python"):
        if file := re.match(r"# (\w+\.py)\n", example):
            (here / file[1]).write_text(example)
        exec(compile(example, page, "exec"), scope)
    if page == "README.md":
        assert scope["poses"].shape == (100, 17, 3)
    if page == "docs/your-own-row.md":
        table = tidy.read("smoke", "my_rows", here / "runs")
        others = ["Adam", "wider", "+ acceleration", "KTPFormer", "frame by frame"]
        assert table.loc[table["against"] == "+ joint separation", "row"].drop_duplicates().tolist() == others
        assert table["low"].notna().all()
        [run] = scope["mine"].runs
        assert run.data.load().subjects == ["A", "B"]
        assert checkpoints.load_checkpoint(here / "mine.safetensors").frames == 27


def commands() -> list[tuple[str, str]]:
    lines = [
        (page, line.split(" #")[0].strip())
        for page in PAGES
        for code in blocks(page, "sh")
        for line in code.splitlines()
    ]
    return [(page, line) for page, line in lines if line]


def without_data(command: list[str]) -> bool:
    """Whether a command of ours needs no licensed data, no hours and no detector: it is run here."""
    return command[:1] in (["lift"], ["export"]) and "clip.mp4" not in command


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda text: text)
def test_commands_work_or_exist(page, line, here):
    """Those that need neither data nor hours are run; of others the command, its options and targets must be there."""
    first, *rest = shlex.split(line)
    if first.endswith("mixste") and without_data(rest):
        done = CliRunner().invoke(app, rest, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert len(list(here.iterdir())) > 6
    elif first.endswith("mixste"):
        found = get_command(app)
        while rest and rest[0] in getattr(found, "commands", {}):
            found = found.commands[rest.pop(0)]
        found.make_context("mixste", rest)
    elif first == "make":
        assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text()
    elif first == "export":
        assert rest[0].split("=")[0].startswith("MIXSTE_")
    elif first == "python3":
        assert rest == ["-m", "venv", ".venv"]
    elif first.endswith("pip"):
        assert rest[:4] == ["install", "-c", "constraints.txt", "-e"]
        assert rest[4].removeprefix(".[").removesuffix("]") in extras()
    else:
        assert (first, *rest[:2]) == ("cd", "notebooks", "&&")
        assert (ROOT / "notebooks" / rest[3]).exists()


@EVERY_PAGE
def test_extras_that_are_named_exist(page):
    assert set(re.findall(r"extra\s+`([\w-]+)`", PAGES[page])) <= extras()


@EVERY_PAGE
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), target


@EVERY_PAGE
def test_modules_that_are_named_exist(page):
    """`mixste.wild.export.stream` and its like."""
    for name in re.findall(r"`(mixste(?:\.\w+)+)`", PAGES[page]):
        assert pydoc.locate(name) is not None, name


@pytest.mark.parametrize("page", readme.tables(), ids=lambda page: page.name)
def test_tables_are_those_that_the_command_writes(page):
    """If not: python -m readme. Digits may differ by what training on another processor moves them."""
    number = re.compile(r"\d+\.\d+")
    shown, written = page.read_text(encoding="utf-8"), readme.tables()[page]
    assert number.sub("#", shown) == number.sub("#", written)
    np.testing.assert_allclose(*(list(map(float, number.findall(text))) for text in (shown, written)), rtol=0.02)


def test_bundled_weights_are_compared_on_the_same_people(tmp_path, monkeypatch):
    files = {name: tmp_path / f"{name}.safetensors" for name in ("one", "two")}
    monkeypatch.setattr(readme, "bundled", lambda: files)
    about = {"metric": "MPJPE", "source": "open-people", "fps": 50, "missing": 0}
    rows = [
        about | {"subject": subject, "value": value, "frames": frames, "keypoints": keypoints}
        for keypoints in ("gt", "cpn", "openpose", "mediapipe")
        for subject, value, frames in (("a", 40.0, 300), ("b", 60.0, 100), ("c", 999.0, 100))
    ]
    unlike = ({"metric": "P-MPJPE"}, {"source": "pose2sim"}, {"fps": 25}, {"missing": 0.2})
    rows += [rows[0] | other | {"value": 1.0} for other in unlike]
    real = {"openpose": (60.0, 80.0), "mediapipe's own poses": (100.0, 150.0)}
    rows += [
        about | {"source": "pose2sim", "subject": camera, "keypoints": kind, "value": value, "frames": 100}
        for kind, values in real.items()
        for camera, value in zip(("left", "right"), values, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "one.csv")
    pd.DataFrame(rows).query("subject != 'c'").to_csv(tmp_path / "two.csv")
    for path in files.values():
        path.write_bytes(bytes(2_600_000))
    _, _, one, two, _, caption = readme.weights().splitlines()
    assert one == "| [one](../mixste/weights/one.md) | 3 | – | 45.0 | 45.0 | 45.0 | 45.0 | 70.0 |"
    assert two == one.replace("one", "two")
    assert "2 test subjects of `open-people` (a, b)" in caption
    assert "MediaPipe's own 3D poses have 125.0 there" in caption
    monkeypatch.setattr(readme, "DEFAULT_WEIGHTS", "one")
    assert re.findall(r"\d[\d.]*(?= )", readme.accuracy()) == ["45.0", "45.0", "45.0", "2", "70.0", "125.0"]


def cells(text: str) -> dict[str, list[str]]:
    """The cells of a Markdown table, by the first of each line."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in (one[1:-1].split("|") for one in lines)}


def test_of_a_partial_table_the_readme_says_what_is_there(tmp_path, monkeypatch):
    """How many seeds a value is from, what is not trained yet, notes below, and the paper's numbers."""
    monkeypatch.setattr(readme.store, "ROOT", tmp_path)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    profile, table = PROFILES["open"], TABLES["table1"]
    about = {"column": "Avg.", "metric": "MPJPE", "unit": "mm", "low": 1.0, "high": 9.0, "printed": 4.0, "runs": "a"}
    about |= {"over": "2 people, 3 seeds", "seeds": 3, "value": 2.0}
    notes = {"mixste-81": f"{tidy.NOT_TRAINED}: 2 of 5 seeds; shorter", "mixste-243": "", "poseformer-81": "shorter"}
    values = [about | {"row": table.row(profile, key).label, "note": note} for key, note in notes.items()]
    missing = {"value": np.nan, "low": np.nan, "high": np.nan, "over": "", "seeds": 0, "runs": ""}
    missing |= {"row": table.row(profile, "videopose3d-243").label, "note": f"{tidy.NOT_TRAINED}: 5 of 5 seeds"}
    tidy.save(tidy.table([*values, about | missing], profile, "1"), table.csv)
    shown = readme.results()
    rows = cells(shown)
    assert rows["MixSTE, T=81"] == ["2.0 [1.0, 9.0] (3 of 5 seeds)<sup>1</sup>", "not yet", "42.4", "25.9"]
    assert rows["MixSTE, T=243"] == ["2.0 [1.0, 9.0]", "not yet", "40.9", "21.6"]
    assert rows["PoseFormer, T=81"][0] == "2.0 [1.0, 9.0]<sup>1</sup>"
    assert rows["VideoPose3D, T=243"] == ["not yet", "–", "46.8", "–"], "the paper has no value from exact keypoints"
    assert shown.startswith(
        f"Profile `open`: {profile.title}. Averages are over subjects, with 95 % intervals: 2 people, 3"
    )
    assert shown.splitlines()[-1] == "<sup>1</sup> shorter."


def test_the_readme_has_an_earlier_version_only_while_there_is_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(readme.store, "ROOT", tmp_path)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    profile = PROFILES["open"]
    about = {"column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 2.0, "runs": "a"}

    def save(key: str, source: str) -> None:
        values = tidy.table([about | {"row": TABLES[key].row(profile, "mixste-81").label}], profile, key[-1])
        tidy.save(values.assign(source=source), TABLES[key].csv)

    save("table1", "open-subjects")
    assert readme.results().startswith(
        "Profile `open`: an earlier version, with trainings too short to compare methods (eight"
    )
    assert cells(readme.results())["MixSTE, T=81"][:2] == ["2.0", "not yet"]
    save("table2", "open-people")
    assert "earlier version" not in readme.results()
    assert cells(readme.results())["MixSTE, T=81"][:2] == ["not yet", "2.0"]


def test_what_is_not_trained_yet_stands_on_the_page_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr(readme.store, "ROOT", tmp_path)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    about = {"column": "Avg.", "metric": "MPJPE", "unit": "mm", "low": 1.0, "high": 9.0, "printed": 4.0, "runs": "a"}
    about |= {"over": "2 people, 3 seeds", "seeds": 3}
    for profile, note in ("smoke", ""), ("open", "shorter"):
        rows = {row.key: row.label for row in TABLES["table1"].rows(PROFILES[profile])}
        shown = rows if profile == "smoke" else ("mixste-81", "mixste-243-second-detector")
        values = [about | {"row": rows[key], "value": 2.0 + place, "note": note} for place, key in enumerate(shown)]
        tidy.save(tidy.table(values, PROFILES[profile], "1"), "02_table1")
    limits = {row.key: row.label for row in TABLES["limits"].rows(PROFILES["smoke"])}
    last = limits.pop("all")
    values = [about | {"row": row, "value": 2.0, "note": ""} for row in limits.values()]
    tidy.save(tidy.table(values, PROFILES["smoke"], "17"), "17_limits")
    published = pages.page(store.output())
    assert published.count("### [02_table1]") == 2
    assert "### [17_limits]" not in published, "of the main tables alone"
    assert "[17_limits](smoke/17_limits.csv)" in published
    monkeypatch.setattr(readme.store, "ROOT", tmp_path / "elsewhere")
    page = pages.page(store.output())
    assert page.count("Not trained yet") == 2
    assert page.count("\n*95 % intervals: 2 people, 3 seeds*\n") == 3, "once for each table"
    assert f"Not trained yet: {last}." in page
    assert "Not trained yet: VideoPose3D, cpn, T=243; PoseFormer, cpn, T=81; MixSTE, cpn, T=243." in page


def test_tables_of_replaced_data_say_what_they_were_made_with(tmp_path, monkeypatch):
    """Among tables of the profile as it is, and alone."""
    monkeypatch.setattr(readme.store, "ROOT", tmp_path)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    profile, earlier = PROFILES["open"], "eight subjects of HDM05 and CMU, AdamW, 0.8% of the paper's training"
    for key, source in ("table1", "open-subjects"), ("table2", "open-people"):
        row = TABLES[key].row(profile, "mixste-81").label
        about = {"row": row, "column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 2.0, "runs": "a"}
        tidy.save(tidy.table([about], profile, key[-1]).assign(source=source), TABLES[key].notebook)
    assert pages.page(tmp_path).count(f"arlier version: {earlier}") == 2, "above the section, and above its table"
    assert f"## Profile `open`: {profile.title}" in pages.page(tmp_path)
    (tmp_path / "results" / "open" / f"{TABLES['table2'].notebook}.csv").unlink()
    page = pages.page(tmp_path)
    assert f"## Profile `open`: an earlier version: {earlier}, not comparable with the paper" in page
    assert profile.title not in page
    assert "Not trained yet" not in page


def test_the_table_of_speeds_has_the_fast_path_at_the_published_size_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(readme.store, "ROOT", tmp_path)
    (tmp_path / "results" / "bench").mkdir(parents=True)
    columns = "hardware,what,variant,batch,frames_per_second,ratio"
    gpu = ('"reference, float32",32,10000,1', '"reference, bfloat16 autocast",32,50000,5')
    gpu += ('"fast, bfloat16",32,123456.7,12.34', '"fast, float8 queries",32,13,13')
    text = "\n".join([columns, *(f"a GPU,inference,{rest}" for rest in gpu)])
    (tmp_path / "results" / "bench" / "h200.csv").write_text(text)
    cpu = 'a CPU,inference,"reference, float32",1,100,1', 'a CPU,inference,"fast, float32",1,273,2.73'
    cpu += ('a CPU,"inference, dim 32","fast, float32",1,900,1',)
    (tmp_path / "results" / "bench" / "cpu.csv").write_text("\n".join([columns, *cpu]))
    assert readme.speed().splitlines()[2:] == [
        "| a GPU | inference, bfloat16 | 32 | 123,457 | 12.3 | – | 2.5 |",
        "| a CPU | inference, float32 | 1 | 273 | 2.7 | – | – |",
    ]


def test_the_table_of_layouts_makes_up_what_no_detector_sees():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in readme.layouts().splitlines()[2:]]
    made = {joint: [(how, where) for name, how, where in lines if name == joint] for joint, *_ in lines}
    assert set(made) == {"Hip", "Spine", "Thorax", "Neck", "Head"}
    assert made["Hip"] == [("MidHip", "body25, halpe26"), ("0.5 LHip + 0.5 RHip", "all")]
    assert made["Head"][0] == ("HeadTop", "body25b, halpe26")
    assert made["Head"][-1][0] == "1.5 Nose − 0.25 LShoulder − 0.25 RShoulder"
    assert all(where == "all" or set(where.split(", ")) < set(LAYOUTS) for rows in made.values() for _, where in rows)


def test_text_goes_between_its_marks_alone():
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    assert readme.between(page, "x", "new") == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match="found 0 and 0"):
        readme.between(page, "y", "new")
    with pytest.raises(ValueError, match="expected tables or picture, found 'all'"):
        readme.main("all")


def test_the_moving_picture_is_small_and_moves():
    from PIL import Image

    assert readme.PICTURE.stat().st_size < 1.5e6
    with Image.open(readme.PICTURE) as film:
        assert film.n_frames > 100


def test_what_came_out_stands_on_published_values_with_intervals(monkeypatch):
    """Verdicts are counted, those given are listed, and a difference without an interval gives no sentence."""
    profile, about = PROFILES["open"], {"over": "8 people, 3 seeds", "seeds": 3, "runs": "a", "protocol": "exact"}
    judged = {"metric": "MPJPE", "unit": "mm", "value": -3.0, "low": -4.0, "high": -2.0} | about
    missing = {"metric": "MPJPE", "unit": "mm", "value": np.nan, "printed": -1.0}
    verdicts = [
        judged | {"row": "1. below PoseFormer's", "note": "holds", "printed": -3.4},
        judged | {"row": "2. best on every joint", "note": "does not hold: the opposite (Hip)", "printed": np.nan},
        missing | {"row": "3. one", "note": "not tested: too few runs so far, 1 of 5 seeds of MixSTE"},
        missing | {"row": "4. other", "note": "not tested: not trained yet"},
    ]
    row, slow = (TABLES["curves"].row(profile, key) for key in ("mixste-81-3", "videopose3d-243-3"))
    curve = judged | {"column": "Avg.", "against": "shorter"}
    curves = [curve | {"row": row.label}, curve | {"row": slow.label, "low": np.nan, "high": np.nan, "over": ""}]
    tables = {"14_claims": tidy.table(verdicts, profile, "14"), "17_curves": tidy.table(curves, profile, "17")}
    monkeypatch.setattr(tidy, "read", lambda name, stem: tables[stem])
    monkeypatch.setattr(tidy, "files", lambda name: [ROOT / f"{stem}.csv" for stem in tables if name == "open"])
    assert readme.findings().splitlines() == [
        "- `open`: of the paper's 4 claims, 1 *holds*, 1 *does not hold*, 2 *not tested* (too few runs so far: 1; "
        "not trained yet: 1) ([14_claims](results/open/notebooks/14_claims.ipynb)).",
        "  - holds: *below PoseFormer's*, -3.0 [-4.0, -2.0] mm; the paper: -3.4",
        "  - does not hold: the opposite (Hip): *best on every joint*, -3.0 [-4.0, -2.0] mm",
        "- `open`: A training three times as long changes the MPJPE of MixSTE, T=81, by -3.0 [-4.0, -2.0] mm "
        "(8 people, 3 seeds; [17_limits](results/open/notebooks/17_limits.ipynb)).",
    ]
    curves[0]["note"] = f"{tidy.NOT_TRAINED}: 1 of 3 seeds"
    tables["17_curves"] = tidy.table(curves, profile, "17")
    assert "three times" not in readme.findings()
    for line in (*curves, *verdicts):
        line["over"] = ""
    curves[0]["note"] = ""
    earlier = replace(profile, data=replace(profile.data, source="open-subjects"))
    tables["17_curves"] = tidy.table(curves, earlier, "17")
    assert "three times" not in readme.findings(), "of an earlier version"
    tables["14_claims"] = tidy.table(verdicts, earlier, "14")
    [line] = readme.findings().splitlines()
    assert line.startswith("- `open`: the published tables are of an earlier version (eight subjects")


def test_every_finding_is_of_a_row_that_is_compared_with_another():
    for key, row in readme.FINDINGS:
        assert TABLES[key].row(PROFILES["open"], row).against


def test_measurements_of_weights_replace_those_of_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "bundled_file", lambda name: tmp_path / f"{name}.safetensors")
    for name in "ab":
        (tmp_path / f"{name}.md").write_text("Before.\n<!-- x: begin -->\nOld.\n<!-- x: end -->\nAfter.\n")
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        measured = pd.DataFrame({"weights": [name], "value": [value]})
        readme.publish(measured, tmp_path / "result.csv", "x", f"{value} mm")
    assert pd.read_csv(tmp_path / "result.csv").to_dict("list") == {"weights": ["b", "a"], "value": [2, 3]}
    cards = [(tmp_path / f"{name}.md").read_text() for name in "ab"]
    assert cards == [f"Before.\n<!-- x: begin -->\n{value} mm\n<!-- x: end -->\nAfter.\n" for value in (3, 2)]
