"""Bundles: what arrives is what was packed, or is refused before anything enters the store."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import pytest
from test_trainer import RUN
from typer.testing import CliRunner

import mixste.train
from mixste.cli import app
from mixste.io.install import PACKAGE
from mixste.study import bundle, store, trainer
from mixste.study.bundle import pack, unpack
from mixste.study.run import spec
from mixste.study.store import RunError
from mixste.study.trainer import make

BEST = replace(RUN, test_curve=True)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Two finished runs, in pieces of 1000 bytes."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXSTE_RUNS", str(folder / "store"))
        patch.setattr(bundle, "PIECE", 1000)
        for run in (RUN, BEST):
            make(run)
        pack(folder / "bundle")
    return folder


@pytest.fixture
def received(packed, tmp_path, monkeypatch):
    """A copy of it to damage, and another store to unpack it into."""
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    monkeypatch.setattr(bundle, "PIECE", 1000)
    shutil.copytree(packed / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def contents(store) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("*/*") if path.suffix != ".lock"}


def test_the_pieces_are_the_files_one_after_another(packed):
    index = json.loads((packed / "bundle" / "bundle.json").read_text())
    pieces = sorted((packed / "bundle").glob("piece-*"))
    assert [path.stat().st_size for path in pieces[:-1]] == [1000] * (len(pieces) - 1)
    stream = b"".join(path.read_bytes() for path in pieces)
    for entry in index["files"]:
        content, stream = stream[: entry["size"]], stream[entry["size"] :]
        assert content == (packed / "store" / entry["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert stream == b""


def test_weights_may_stay_behind_and_follow(packed, received, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("MIXSTE_RUNS", str(packed / "store"))
        pack(received.parent / "light", weights=False)
    unpack(received.parent / "light")
    light = make(BEST)
    assert {path.name for path in light.path.iterdir()} == {"manifest.json"} | store.FILES
    assert light.clips.equals(store.Finished(packed / "store" / BEST.id).clips)
    for which in ("weights", "best"):
        with pytest.raises(RunError, match=f"{BEST.id} is here without its {which}.safetensors: unpack a bundle"):
            light.model(which)
    assert unpack(received).startswith("2 runs arrived")
    assert unpack(received.parent / "light").startswith("0 runs arrived")  # and takes no weights away
    assert contents(store.store()) == contents(packed / "store")
    make(BEST).model("best")


def test_a_failed_run_travels_and_gives_way_to_a_finished_one(packed, received, monkeypatch):
    def diverging(*_, **__):
        raise FloatingPointError("the loss is nan at step 2 of 7")

    monkeypatch.setattr(trainer, "train", diverging)
    with pytest.raises(store.FailedRun):
        make(RUN)
    pack(received.parent / "failed")
    store.remove(store.store() / RUN.id)
    assert unpack(received.parent / "failed").startswith("1 runs arrived")
    assert store.failure(RUN) == "the loss is nan at step 2 of 7"
    assert unpack(received).startswith("2 runs arrived")
    assert unpack(received.parent / "failed").startswith("0 runs arrived")
    assert not store.failure(RUN)


def test_runs_arrive_whole_once(packed, received, monkeypatch):
    assert unpack(received).startswith("2 runs arrived")
    assert contents(store.store()) == contents(packed / "store")
    again = unpack(received)
    assert again.startswith("0 runs arrived")
    assert again.endswith("2 stay as they are there")
    monkeypatch.setattr(trainer, "_make", None)  # a making would fail
    assert make(BEST).model("best") is not None


def test_the_commands_as_the_page_shows_them(packed, tmp_path, monkeypatch):
    """`mixste runs …` of docs/batch.md, one after another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXSTE_RUNS", str(packed / "store"))
    page = (PACKAGE.parent / "docs" / "batch.md").read_text(encoding="utf-8")
    said = ""
    for line in re.findall(r"^mixste (runs \w+.*?) +#", page, re.MULTILINE):
        if "unpack" in line:
            monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
        done = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert done.exit_code == 0
        said += done.output
    assert "2 runs in" in said
    assert "2 finished" in said
    assert "2 runs arrived" in said
    assert contents(tmp_path / "store") == contents(packed / "store")


def test_a_damaged_run_is_not_packed_and_is_replaced_by_one_that_arrives(received, tmp_path):
    unpack(received)
    weights = store.store() / RUN.id / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunError, match=f"run {RUN.id} is damaged and cannot be packed"):
        pack(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert pack(tmp_path / "other", [BEST.id]).startswith("1 runs in")
    assert unpack(received).startswith("1 runs arrived")
    assert make(RUN).model() is not None


def rewrite(received, change) -> None:
    index = json.loads((received / "bundle.json").read_text())
    change(index)
    (received / "bundle.json").write_text(json.dumps(index))


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path) -> None:
    path.rename(path.with_suffix(".moved"))
    shutil.move(path.with_suffix(".moved"), path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def named(name):
    return lambda received: rewrite(received, lambda index: index["files"][0].update(name=name))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: (p / "piece-0002").unlink(), "piece-0002 is missing"),
        (lambda p: (p / "piece-0002").write_bytes(b"short"), "piece-0002 should have 1000 bytes and has 5"),
        (lambda p: flip(p / "piece-0002"), "piece-0002 is not what was packed"),
        (lambda p: link(p / "piece-0002"), "piece-0002 is not a plain file"),
        (lambda p: (p / "piece-9999").write_bytes(b""), "holds piece-9999, which was not packed"),
        (lambda p: (p / "bundle.json").unlink(), "found no bundle.json"),
        (lambda p: (p / "bundle.json").write_text("{"), "bundle.json is damaged"),
        (lambda p: rewrite(p, lambda index: index["files"].pop()), "is refused|do not add up"),
        (lambda p: rewrite(p, lambda index: index["files"][0].update(sha256="0" * 64)), "is not what was packed"),
        (lambda p: rewrite(p, lambda index: index["pieces"].reverse()), "as piece 1"),
        (named("../../../etc/cron.d/job"), "which is no file of a run"),
        (named("/etc/passwd"), "which is no file of a run"),
        (named("0123456789ab/../../x"), "which is no file of a run"),
        (named("0123456789ab/run.py"), "which is no file of a run"),
        (named("0123456789ab/clips.csv"), "comes without"),
    ],
)
def test_whatever_is_wrong_is_one_sentence_and_nothing_enters(received, damage, sentence):
    damage(received)
    with pytest.raises(RunError, match=sentence) as raised:
        unpack(received)
    assert "\n" not in str(raised.value)
    assert not list(store.store().glob("*")) if store.store().exists() else True


def test_a_network_of_ones_own_is_not_imported_because_a_file_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "one"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_trap.py").write_text("raise SystemExit('imported')\n")
    part = tmp_path / "one" / "0123456789ab.part"
    part.mkdir(parents=True)
    (part / "spec.json").write_text(spec(replace(RUN, model="my_trap:Network")))
    (part / "state.pt").write_bytes(b"a state")
    pack(tmp_path / "bundle", unfinished=True)
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "two"))
    with pytest.raises(RunError, match=r"is refused: .*spec.json, found one that cannot be built: my_trap:Network"):
        unpack(tmp_path / "bundle")
    shutil.copytree(part, tmp_path / "two" / part.stem)
    assert store.listing()["state"].tolist() == ["damaged"]


def test_errors_by_the_code_that_is_here_replace_those_of_other_code(packed, received, monkeypatch):
    """Where there are no weights to compute them from; with weights, nothing is taken away."""
    with monkeypatch.context() as patch:
        patch.setenv("MIXSTE_RUNS", str(packed / "store"))
        pack(received.parent / "light", [RUN.id], weights=False)
    unpack(received.parent / "light")
    for arrived in ("1 runs", "0 runs"):
        folder = store.store() / RUN.id
        about = json.loads((folder / "environment.json").read_text())
        if arrived == "1 runs":
            (folder / "environment.json").write_text(json.dumps(about | {"code_of_errors": "other"}))
            store.seal(folder)
            assert store.listing()["state"].tolist() == ["outdated"]
        assert unpack(received.parent / "light").startswith(arrived)
        assert store.listing()["state"].tolist() == ["finished"]
    unpack(received)
    (folder / "environment.json").write_text(json.dumps(about | {"code_of_errors": "other"}))
    store.seal(folder)
    assert unpack(received.parent / "light").startswith("0 runs")


def test_a_training_goes_on_elsewhere(tmp_path, monkeypatch):
    """Cut off after three of its steps, packed, unpacked and finished: the same weights as at one go."""
    long = replace(BEST, poses=1800)
    monkeypatch.setattr(mixste.train, "SAVE_SECONDS", 0.0)
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "one"))
    whole = make(long).file("weights.safetensors").read_bytes()

    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "two"))
    keep = mixste.train._save_state

    def keep_then_stop(path, model, optimizer, step, *rest):
        keep(path, model, optimizer, step, *rest)
        if step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mixste.train, "_save_state", keep_then_stop)
        with pytest.raises(KeyboardInterrupt):
            make(long)
    with pytest.raises(RunError, match="expected runs to pack"):
        pack(tmp_path / "none")
    assert pack(tmp_path / "bundle", unfinished=True).startswith("1 runs")

    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "three"))
    assert unpack(tmp_path / "bundle").startswith("1 runs arrived")
    assert unpack(tmp_path / "bundle").startswith("0 runs arrived")
    part = store.store() / f"{long.id}.part"
    for name, damage in {
        "state.pt": lambda path: path.write_bytes(path.read_bytes()[:-700]),
        "spec.json": lambda path: path.write_text(path.read_text().replace('"depth",\n   1', '"depth",\n   2')),
        "best-4.safetensors": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    }.items():
        shutil.copytree(part, tmp_path / name / part.name)
        damage(tmp_path / name / part.name / name)
        monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / name))
        pack(tmp_path / name / "bundle", unfinished=True)
        monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "three"))
        with pytest.raises(RunError, match=rf"is refused: expected the state of a training in {part.name}, found"):
            unpack(tmp_path / name / "bundle")
    done = make(long)
    assert done.environment["resumed_at"] == 7 / 20
    assert done.file("weights.safetensors").read_bytes() == whole
