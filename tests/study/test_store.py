"""The store: a run is found again, read whole or not at all, by one process at a time."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from test_states import folder_instead
from test_trainer import BAD, RUN

from mixste import evaluate
from mixste.study import store, trainer
from mixste.study.store import RunError
from mixste.study.trainer import make


def empty_manifest(path):
    path.write_text(json.dumps({"files": {}, "sizes": {}}))


def flip(path):
    """One bit, the size kept."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_size(path):
    manifest = json.loads(path.read_text())
    manifest["sizes"]["clips.csv"] += 1
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("weights.safetensors", flip),
        ("environment.json", flip),
        ("clips.csv", lambda path: path.unlink()),
        ("errors.npz", folder_instead),
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", empty_manifest),
        ("manifest.json", other_size),
    ],
)
def test_a_run_damaged_by_hand_is_never_read_as_whole_and_is_made_again(folder, name, damage):
    weights = make(RUN).file("weights.safetensors").read_bytes()
    damage(folder / RUN.id / name)
    assert store.listing()["state"].tolist() == ["damaged"]
    said = []
    again = make(RUN, report=said.append)
    assert again.file("weights.safetensors").read_bytes() == weights
    assert any("damaged" in line for line in said)


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()])
def test_a_damaged_record_of_a_failure_is_made_again(folder, damage):
    trainer.make_all([BAD])
    damage(folder / BAD.id / "failed.json")
    assert trainer.lacking([BAD]) == [BAD]
    trainer.make_all([BAD])
    assert store.failure(BAD)


def test_damage_that_keeps_size_and_time_is_found_on_reading(folder):
    weights = make(RUN).file("weights.safetensors")
    times = weights.stat()
    flip(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    if store.is_whole(folder / RUN.id):  # unless it was written in the same tick of the clock as the manifest
        with pytest.raises(RunError, match=r"weights\.safetensors is not what was written; the next call makes"):
            make(RUN).model()
    assert not store.is_whole(folder / RUN.id)
    assert make(RUN).model() is not None


def test_what_is_no_run_or_cannot_be_read_is_a_line_of_the_list(folder):
    """Among a finished run and one that is begun: links that lead nowhere, files, a table that is none."""
    done = make(RUN)
    shutil.copytree(done.path, folder / "0123456789ab.part")
    (folder / "0123456789ab.part" / "link").symlink_to(folder / "nowhere")
    shutil.copytree(done.path, folder / "000000000001")
    (folder / "000000000001" / "clips.csv").write_text("protocol\nauthors,1,2\n")
    store.seal(folder / "000000000001")
    shutil.copytree(done.path, folder / "000000000002")
    (folder / "000000000002" / "environment.json").write_text("{}")
    store.seal(folder / "000000000002")
    (folder / "000000000003").symlink_to(folder / "nowhere")
    (folder / "000000000004").write_text("a file")
    (folder / "000000000005").mkdir()
    (folder / "000000000005" / "spec.json").write_text("[" * 100_000)
    (folder / "notes.txt").write_text("a file")
    listed = store.listing().set_index("run")
    states = {f"{number:012}": "damaged" for number in range(1, 6)} | {"0123456789ab": "unfinished", RUN.id: "finished"}
    assert listed["state"].to_dict() == states
    assert listed["MPJPE"].notna().to_dict() == {name: name == RUN.id for name in states}
    assert str(listed["frames"][RUN.id]) == str(RUN.frames), "a whole number, also beside runs that have none"


@pytest.mark.parametrize("name", [RUN.id, f"{RUN.id}.part"])
def test_a_link_that_leads_nowhere_or_a_file_in_the_place_of_a_run_does_not_block_it(folder, name):
    for put in (lambda path: path.symlink_to(folder / "nowhere"), lambda path: path.write_text("a file")):
        put(folder / name)
        assert make(RUN).path.is_dir()
        shutil.rmtree(folder / RUN.id)


def test_500_runs_are_listed_in_seconds(folder):
    """Each with the files of one that was made, and the error that it has by the field's average."""
    done = make(RUN)
    for number in range(499):
        (folder / f"{number:012x}").mkdir()
        for path in done.path.iterdir():
            shutil.copyfile(path, folder / f"{number:012x}" / path.name)
        os.utime(folder / f"{number:012x}" / "manifest.json", (time.time() + 1, time.time() + 1))
    began = time.process_time()
    table = store.listing()
    assert time.process_time() - began < 5
    assert len(table) == 500
    assert table["state"].eq("finished").all()
    own = done.clips[done.clips["protocol"] == "authors"]
    assert table["MPJPE"].to_numpy() == pytest.approx(np.full(500, evaluate.average(own)["MPJPE"]))


def test_a_second_process_waits_and_finds_the_run(folder):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        first, second = pool.map(make, [RUN, RUN])
    assert first == second
    assert len(list(folder.glob("*/manifest.json"))) == 1


def test_one_process_at_a_time_also_without_fcntl(tmp_path):
    """As on Windows. The second process is told, and has its turn when the first ends."""
    script = "import sys; sys.modules['fcntl'] = None\n"
    script += "from pathlib import Path; from mixste.study.store import locked\n"
    script += "with locked(Path(sys.argv[1]), lambda line: print(line, flush=True)): print('mine', flush=True); input()"

    def start():
        command = [sys.executable, "-W", "ignore", "-c", script, tmp_path / "run"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline()

    first, said = start()
    assert said == "mine\n"
    second, said = start()
    assert "is being made by another process" in said
    first.communicate("\n", timeout=30)
    assert second.communicate("\n", timeout=30)[0] == "mine\n"
