"""The command line: each command once, and one sentence instead of a traceback for a user's mistake."""

import codecs
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import licensed
import numpy as np
import pytest
import torch

from mixste import MixSTE, evaluate
from mixste.accel import Accelerated
from mixste.camera import normalize_screen
from mixste.checkpoints import export_authors, save_checkpoint
from mixste.cli import main, plain
from mixste.data.sources import humaneva
from mixste.io.pickles import read_npz
from mixste.io.weights import DEFAULT
from mixste.predict import predict
from mixste.skeleton import human36m
from mixste.study import batch, store
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run, spec
from mixste.study.tables import distinct
from mixste.train import Recipe


@pytest.fixture
def mixste(monkeypatch, capsys):
    """Runs a command in this process, which saves the seconds of its start; gives its exit status and what it said."""

    def run(*arguments, **variables) -> SimpleNamespace:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["mixste", *arguments])
            patch.setattr(sys, "path", list(sys.path))
            for name, value in {
                "PYTHONIOENCODING": "",
                **variables,
            }.items():  # `main` sets the first for other processes
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as end:
                main()
        said = capsys.readouterr()
        return SimpleNamespace(returncode=end.value.code or 0, stdout=said.out, stderr=said.err)

    return run


def test_data_show_counts_people(mixste):
    done = mixste("data", "show", "synthetic")
    assert done.returncode == 0, done.stderr
    assert "synthetic people" in done.stdout
    assert "S11" in done.stdout


@pytest.mark.slow
def test_evaluate_prints_every_action(mixste, tmp_path):
    torch.manual_seed(0)
    model = MixSTE(27, 17, 8, 1, 2)
    model.layout = None
    save_checkpoint(model, tmp_path / "weights.safetensors")
    done = mixste("evaluate", "--checkpoint", str(tmp_path / "weights.safetensors"))
    assert done.returncode == 0, done.stderr
    assert "its file has no joint layout: taken for human36m, that of the data" in done.stdout
    for word in ("Directions", "WalkTogether", "Avg.", "MPJPE", "P-MPJPE", "MPJVE"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("data", "show", "human35m"), "unknown data source 'human35m'"),
        (("data", "show", "human36m", "--root", "nowhere"), "nowhere"),
        (("data", "fetch", "human36m"), 'only "open" can be fetched'),
        (("data", "check", "synthetic"), "human36m, humaneva, mpi_inf_3dhp or open-people, found 'synthetic'"),
        (("evaluate", "--checkpoint", "nowhere.bin"), "nowhere.bin"),
        (("lift", "clip.json", "--checkpoint", "huge"), "expected the name of bundled weights"),
        (("train", "--profile", "huge"), "profile must be one of smoke"),
        (("train", "--table", "table9"), "table must be among 1 (table1), "),
        (("reproduce", "--notebook", "99"), "notebook must be among 00"),
        (("reproduce", "--tables", "5,99"), "found 99"),
        (("reproduce", "--tables", "99", "--tables", "5"), "found 99"),
        (("reproduce", "--tables", "2", "--on", "moon"), "--on must be one of laptop, node, slurm, found 'moon'"),
        (("reproduce", "--records", "--dry-run"), "--records goes without --on and --dry-run"),
        (("evaluate", "--protocol", "foo"), 'protocol must be "authors" or "exact", found \'foo\''),
        (("lift", "clip.json", "--size", "1920"), "expected a size such as 1920x1080, found '1920'"),
        (("lift", "clip.json", "--size", "-9x9"), "expected a size such as 1920x1080, found '-9x9'"),
        (("bench", "foo"), "on this machine, parts are"),
        (("train", "--run", "nowhere.json"), "nowhere.json"),
        (
            ("train", "--table", "2", "--id", "0123456789ab"),
            "ids of runs of profile smoke, found 0123456789ab",
        ),
        (("runs", "unpack", "nowhere"), "found no bundle.json in nowhere"),
        (("runs", "pack", "bundle", "--run", "0123456789ab"), "found none with the id 0123456789ab"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, sentence, mixste):
    done = mixste(*arguments)
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("mixste: ")
    assert sentence in line


def test_tables_and_notebooks_are_named_by_bare_numbers(mixste, monkeypatch):
    """Of the plan, which takes a while to make, only what it is asked for."""
    monkeypatch.setattr(batch, "plan", lambda profile, chosen: [path.name[:2] for path in chosen])
    arguments = ["reproduce", "--notebook", "6,07", "--notebook", "0", "--tables", "05, 6", "--dry-run"]
    assert mixste(*arguments).stdout == "['00', '06', '07']\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name of a file is text")
@pytest.mark.parametrize(
    ("encoding", "locale"),
    [
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("latin-1", {}),
        ("cp1252", {}),
        ("utf-8", {}),
    ],
)
def test_any_name_on_any_console(encoding, locale, tmp_path):
    """Names in Japanese, and of bytes that are no text: of clips, results and weights."""
    if encoding == "ascii" and not sys.executable.isascii():
        pytest.skip("PyTorch is not imported from a folder of another name in an ASCII locale")
    torch.manual_seed(0)
    names = [os.fsdecode(name) for name in (b"caf\xe9", "\u6b69\u304d".encode(), b"plain")]
    checkpoint = tmp_path / f"{names[0]}.safetensors"
    save_checkpoint(MixSTE(27, 17, 8, 1, 2), checkpoint)
    (tmp_path / "clips").mkdir()
    points = np.random.default_rng(0).uniform(300, 700, (5, 17, 2))
    for name in names:
        np.savez(tmp_path / "clips" / f"{name}.npz", keypoints=points, joints=np.array(human36m.joints))
    options = ["--size", "1000x1000", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    options += [option for kind in ("npz", "csv", "json", "bvh", "gif", "html") for option in ("--to", kind)]
    code = "from mixste.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "lift", str(tmp_path / "clips"), *options],
        capture_output=True,
        env=os.environ | locale | {"PYTHONIOENCODING": encoding},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding)
    for name in ("caf\\xe9", "\u6b69\u304d" if encoding == "utf-8" else "\\u6b69\\u304d", "plain"):
        assert f"{name}: 5 frames" in said
    assert len(list((tmp_path / "out").iterdir())) == 6 * len(names)
    content = json.loads((tmp_path / "out" / f"{names[1]}.json").read_bytes())
    assert content["name"] == "\u6b69\u304d", "as text, whatever the locale"


def test_signs_of_ours_have_their_like_in_ascii():
    codecs.register_error("mixste.plain", plain)
    assert "1–2 mm² … × ô".encode("ascii", "mixste.plain") == b"1-2 mm2 ... x \\xf4"


def test_a_batch_says_at_the_end_which_clips_failed(mixste, tmp_path):
    for name in ("a.json", "c.csv"):
        (tmp_path / name).write_text("{")
    walk = np.random.default_rng(0).uniform(300, 700, (9, 17, 2))
    np.savez(tmp_path / "b.npz", keypoints=walk, joints=human36m.joints, resolution=(1000, 1000))
    torch.manual_seed(0)
    save_checkpoint(MixSTE(27, 17, 8, 1, 2), tmp_path / "weights.safetensors")
    done = mixste(
        "lift", str(tmp_path), "--checkpoint", str(tmp_path / "weights.safetensors"), "--out", str(tmp_path / "out")
    )
    assert done.returncode == 1
    assert "b: 9 frames" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "mixste: 2 of 3 clips failed: a.json, c.csv"


def test_evaluate_is_fast_and_says_that_part_of_a_licensed_set_is_missing(mixste, tmp_path, monkeypatch):
    networks, lift_clips = [], evaluate.lift_clips
    monkeypatch.setattr(evaluate, "lift_clips", lambda *args: networks.append(args[0]) or lift_clips(*args))
    licensed.write_human36m(tmp_path, actions=("Walking",), detectors=())
    done = mixste("evaluate", "--source", "human36m", "--root", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [network] = networks
    assert isinstance(network, Accelerated)
    assert next(network.parameters()).is_cuda == torch.cuda.is_available()
    assert "\nMPJPE in mm, MPJVE in mm/frame, N-MPJPE in mm, P-MPJPE in mm\n" in done.stdout
    *_, last = done.stdout.strip().splitlines()
    assert re.fullmatch("! test: expected 543,344 frames over all cameras, found [0-9]+", last)


def test_evaluate_needs_test_clips_and_as_many_joints(mixste, tmp_path, monkeypatch):
    licensed.write_humaneva(tmp_path)
    done = mixste("evaluate", "--source", "humaneva", "--root", str(tmp_path))
    assert f"{DEFAULT}: expected a network of 15 joints, as humaneva has, found one of 17" in done.stderr
    monkeypatch.setattr(humaneva, "SUBJECTS", ("S1",))
    path = tmp_path / "data_3d_humaneva15.npz"
    people = read_npz(path, "positions_3d")
    np.savez(path, positions_3d={name: takes for name, takes in people.items() if name.startswith("Train")})
    done = mixste("evaluate", "--source", "humaneva", "--root", str(tmp_path))
    assert "mixste: humaneva: expected test clips, found none: S1 are for training" in done.stderr


def test_a_checkpoint_of_another_layout_is_not_evaluated(mixste, tmp_path):
    model = MixSTE(9, 17, 8, 1, 2)
    model.layout = "mpi_inf_3dhp"
    save_checkpoint(model, tmp_path / "weights.safetensors")
    done = mixste("evaluate", "--checkpoint", str(tmp_path / "weights.safetensors"))
    assert done.returncode == 1
    assert "network of human36m's joints, which synthetic has, found one of mpi_inf_3dhp's" in done.stderr


def test_a_checkpoint_without_a_layout_is_lifted_when_told_which(mixste, tmp_path):
    """The authors' format has no place for it, and 3DHP's 17 joints are in another order than Human3.6M's."""
    torch.manual_seed(0)
    model, checkpoint = MixSTE(27, 17, 16, 1, 8), tmp_path / "authors.bin"
    export_authors(model, checkpoint)
    points = np.random.default_rng(0).uniform(300, 700, (9, 17, 2))
    np.savez(tmp_path / "a.npz", keypoints=points, joints=human36m.joints, resolution=(1000, 1000), fps=50)
    command = ("lift", str(tmp_path / "a.npz"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"))
    done = mixste(*command)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "whose file does not say which: if it was, give --network-layout human36m" in done.stderr
    done = mixste(*command, "--network-layout", "mpi_inf_3dhp")
    assert "expected a network trained on human36m's 17 joints, found one of 17 joints (mpi_inf_3dhp)" in done.stderr
    done = mixste(*command, "--network-layout", "coco17")
    assert "layout coco17, found one of 17 joints (human36m or mpi_inf_3dhp)" in done.stderr
    assert not (tmp_path / "out").exists()
    done = mixste(*command, "--network-layout", "human36m", "--to", "npz")
    assert (done.returncode, done.stderr) == (0, "")
    model.eval()
    with np.load(tmp_path / "out" / "a.npz") as arrays:
        poses = predict(model, normalize_screen(points, 1000, 1000))
        np.testing.assert_allclose(arrays["poses"], poses - poses[:, :1], atol=1e-5)


def test_ctrl_c_ends_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "mixste", "train", "--table", "table3", "--jobs", "1"]
    variables = os.environ | {"MIXSTE_RUNS": str(tmp_path), "MIXSTE_POSES": "300000"}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts with & ignores Ctrl-C
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables, preexec_fn=heard) as process:
        try:
            deadline = time.monotonic() + 120
            while not list(tmp_path.glob("*.part")) and time.monotonic() < deadline:
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "mixste: stopped; the same command goes on from here"
    assert "Traceback" not in said
    assert not any(store.is_whole(path) for path in tmp_path.iterdir())


def test_a_training_out_of_time_says_what_is_left(mixste, tmp_path):
    one, two = (run.id for run in distinct(PROFILES["smoke"], ["table2"])[:2])
    command = ("train", "--table", "2", "--id", f"{one},{two}", "--minutes", "0")
    done = mixste(*command, MIXSTE_RUNS=str(tmp_path))
    assert (done.returncode, done.stdout) == (
        0,
        f"0 runs in {tmp_path}, 2 unfinished: the same command goes on from here\n",
    )


def test_a_training_that_fails_ends_in_one_sentence_and_is_tried_again_when_asked(mixste, tmp_path):
    few = Data("synthetic", "gt", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1)
    recipe = Recipe(learning_rate=1e30, scaled_gradient=False, batch_frames=90)
    run = Run(few, 9, 600, 0, options=(("depth", 1), ("dim", 8), ("heads", 2)), recipe=recipe)
    (tmp_path / f"{run.id}.json").write_text(spec(run))
    train = ("train", "--run", str(tmp_path / f"{run.id}.json"))
    for more, tried in ((), True), ((), False), (("--retry-failed",), True):
        done = mixste(*train, *more, MIXSTE_RUNS=str(tmp_path))
        assert done.returncode == 1
        [sentence] = done.stderr.splitlines()
        assert sentence.startswith(
            f"mixste: run {run.id} (mixste, T=9, synthetic, seed 0) failed: the loss is nan at step"
        )
        assert (f"run {run.id}: the loss is nan" in done.stdout) is tried
