"""The state of an interrupted training is used whole, or not at all."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from test_trainer import RUN

import mixste.train
from mixste.study import states, store
from mixste.study.trainer import make


def folder_instead(path):
    path.unlink()
    path.mkdir()


def flip_weights(state):
    """One bit of the largest tensor in an archive that is otherwise sound."""
    with zipfile.ZipFile(state) as members:
        tensor = members.read(max(members.infolist(), key=lambda member: member.file_size))
    content = bytearray(state.read_bytes())
    content[content.index(tensor) + len(tensor) // 2] ^= 1
    state.write_bytes(content)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile",)


def edited(*keys, value=None):
    """Another value at this place of the state, or nothing there."""

    def damage(path):
        state = part = torch.load(path, weights_only=True)
        for key in keys[:-1]:
            part = part[key]
        part.pop(keys[-1]) if value is None else part.__setitem__(keys[-1], value)
        torch.save(state, path)

    return damage


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("more", bytes(10**6))


# What is done to a state kept after step 3 of 7 (rows of the curve at each), and what is said of it.
DAMAGES = {
    "a bit": (flip_weights, "a damaged file"),
    "bytes missing": (lambda path: path.write_bytes(path.read_bytes()[:-700]), "a damaged file"),
    "start only": (lambda path: path.write_bytes(b"PK"), "a damaged file"),
    "empty": (lambda path: os.truncate(path, 0), "a damaged file"),
    "a folder": (folder_instead, "a folder"),
    "hostile": (lambda path: torch.save(Hostile(), path), "a damaged file"),
    "compressed": (compressed, "another kind of archive"),
    "a list": (lambda path: torch.save([1], path), "a damaged file"),
    "no rng": (edited("rng"), "one without rng"),
    "no model": (edited("model"), "one without model"),
    "another shape": (edited("model", "head.bias", value=torch.zeros(5)), "the weights of another network"),
    "a weight less": (edited("model", "head.bias"), "the weights of another network"),
    "NaN": (edited("model", "head.bias", value=torch.full((3,), torch.nan)), "weights that are not finite"),
    "moments less": (edited("optimizer", "state", 0), "an optimizer of other parameters"),
    "a moment less": (edited("optimizer", "state", 0, "exp_avg"), "an optimizer that is incomplete"),
    "other decay": (
        edited("optimizer", "param_groups", 0, "weight_decay", value=9.0),
        "an optimizer with other settings",
    ),
    "beyond the end": (edited("step", value=99), "step 99 of 7"),
    "a step earlier": (edited("step", value=2), "the learning curve of another training"),
    "no step": (edited("step", value="3"), "step '3' of 7"),
    "a row less": (edited("history", 0), "the learning curve of another training"),
    "no loss": (edited("history", 0, "loss"), "a damaged learning curve at step 1"),
    "a loss too many": (edited("counted", value=5), "the loss of other steps"),
    "a watch of other steps": (edited("watch", "counted", value=4), "a watch over the losses of other steps"),
    "no mean": (edited("watch", "means", value=[torch.nan]), "a watch over the losses of other steps"),
    "half a watch": (edited("watch", "total"), "a damaged file"),
    "random numbers": (edited("rng", 0, value=torch.zeros(7, dtype=torch.uint8)), "a damaged file"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training that was stopped after three of its seven steps."""
    folder, keep = tmp_path_factory.mktemp("begun"), mixste.train._save_state

    def keep_then_stop(path, model, optimizer, step, *state):
        keep(path, model, optimizer, step, *state)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXSTE_RUNS", str(folder))
        patch.setattr(mixste.train, "SAVE_SECONDS", 0.0)
        patch.setattr(mixste.train, "_save_state", keep_then_stop)
        with pytest.raises(KeyboardInterrupt):
            make(RUN)
        assert store.listing()["state"].tolist() == ["unfinished"]
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_a_state_that_is_not_whole_is_removed_and_the_training_begins_again(begun, tmp_path, capsys, name):
    damage, what = DAMAGES[name]
    part = tmp_path / f"{RUN.id}.part"
    shutil.copytree(begun / part.name, part)
    assert states.resume(part, RUN, [RUN.build()])["step"] == 3
    assert capsys.readouterr().out == ""
    damage(part / "state.pt")
    assert states.resume(part, RUN, [RUN.build()]) == {"step": 0, "history": []}
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"expected the state of this training, found {what}" in said
    assert [path.name for path in part.iterdir()] == ["spec.json"]
    assert not Path("hostile").exists()


def test_a_state_of_a_version_that_did_not_watch_the_loss_is_taken(begun, tmp_path):
    part = tmp_path / f"{RUN.id}.part"
    shutil.copytree(begun / part.name, part)
    edited("watch")(part / "state.pt")
    assert states.resume(part, RUN, [RUN.build()])["step"] == 3


def test_a_damaged_state_does_not_block_its_run(begun, folder):
    shutil.copytree(begun, folder, dirs_exist_ok=True)
    flip_weights(folder / f"{RUN.id}.part" / "state.pt")
    assert make(RUN).environment["resumed_at"] == 0


def test_a_state_of_a_gpu_goes_on_without_one(begun, folder):
    shutil.copytree(begun, folder, dirs_exist_ok=True)
    state = folder / f"{RUN.id}.part" / "state.pt"
    kept = torch.load(state, weights_only=True)
    torch.save(kept | {"rng": [*kept["rng"], torch.zeros(16, dtype=torch.uint8)]}, state)
    if not torch.cuda.is_available():
        assert make(RUN).environment["resumed_at"] == 3 / 7
