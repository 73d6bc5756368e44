"""Several trainings on a GPU: how many, and MPS, by stand-ins for nvidia-smi and for the program that controls MPS."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mixste.study import cards, store, trainer
from mixste.study.run import Data, Run
from mixste.train import AUTHORS

SMI = """#!/bin/sh
case "$1" in
  *memory*) printf 'GPU-a, 81559\\nGPU-b, 81559\\nGPU-c, 24564\\n' ;;
  *driver*) printf '570.1\\n570.1\\n570.1\\n' ;;
  *) printf 'GPU-a\\nGPU-b\\nGPU-c\\n' ;;
esac
"""
# A server is a file in the folder of pipes.
CONTROL = """#!/bin/sh
server="${CUDA_MPS_PIPE_DIRECTORY:-$HERE/pipes}/server"
if [ "$1" = -d ]; then
  if [ -n "$BROKEN" ]; then echo "$BROKEN"; exit 1; fi
  echo "start $CUDA_VISIBLE_DEVICES" >> "$HERE/log"; touch "$server"
  exit
fi
read -r order
[ -e "$server" ] || { echo "Cannot find MPS control daemon process"; exit 1; }
echo "$order" >> "$HERE/log"
if [ "$order" = quit ]; then rm "$server"; fi
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with three GPUs, the third a small one, and MPS; its folder."""
    for name, text in (("nvidia-smi", SMI), (cards.CONTROL, CONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "pipes").mkdir()
    (tmp_path / "log").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", cards.SHARING, cards.PIPES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cards, "PROBE", ["test", "-e", f"/proc/{os.getpid()}"])
    monkeypatch.setattr(cards.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def log(machine: Path) -> list[str]:
    return (machine / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("gpus", "count", "jobs", "per_card"),
    [
        (["GPU-a"], 20, None, 4),
        (["GPU-a"], 3, None, 3),
        (["GPU-a", "GPU-b"], 20, None, 4),
        (["GPU-a", "GPU-b"], 3, None, 2),
        (["GPU-c"], 20, None, 1),  # 24 GiB
        (["GPU-a"], 20, 1, 1),
        (["GPU-a"], 20, 6, 6),
        (["GPU-a", "GPU-b"], 20, 6, 3),
        (["GPU-c"], 20, 2, 2),
        ([], 20, None, 1),
        (["GPU-a"], 0, None, 1),
    ],
)
def test_how_many_share_a_gpu(machine, gpus, count, jobs, per_card):
    with cards.shared(gpus, count, jobs, pytest.fail) as given:
        assert given == cards.sharing() == per_card
        assert (cards.PIPES in os.environ) == (per_card > 1)
    assert cards.sharing() == 1
    assert log(machine)[-1:] == ["quit"] * (per_card > 1)


def test_one_at_a_time_without_mps_and_in_a_place_that_is_shared_already(machine, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv(cards.SHARING, "4")
        with cards.shared(["GPU-a"], 20) as per_card:
            assert (per_card, cards.sharing()) == (1, 4)
    (machine / cards.CONTROL).unlink()
    with cards.shared(["GPU-a"], 20, None, pytest.fail) as per_card:
        assert per_card == 1
    said = []
    with cards.shared(["GPU-a"], 20, 2, said.append) as per_card:
        assert per_card == 2
    assert said == [
        "CUDA's Multi-Process Service cannot be used (nvidia-cuda-mps-control is not installed): "
        "trainings on one GPU take turns"
    ]


def test_mps_is_there_for_what_is_started_and_ends(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    def fails():
        with cards.mps(cards.visible()) as why:
            assert why == ""
            assert (Path(os.environ[cards.PIPES]) / "server").exists()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert log(machine) == ["start GPU-b", "quit"], "on no GPU of others"
    assert cards.PIPES not in os.environ
    assert not list(machine.glob("mixste-mps-*"))


def test_a_server_that_runs_already_is_used_and_left_alone(machine):
    (machine / "pipes" / "server").touch()
    with cards.shared(["GPU-a"], 20) as per_card:
        assert per_card == 4
        assert cards.PIPES not in os.environ
    assert set(log(machine)) == {"get_server_list"}


def test_what_keeps_it_from_starting_is_said_and_one_at_a_time_goes_on(machine, monkeypatch):
    said = []
    monkeypatch.setenv("BROKEN", "no permission")
    with cards.shared(["GPU-a"], 20, None, said.append) as per_card:
        assert (per_card, cards.sharing()) == (1, 1)
    monkeypatch.delenv("BROKEN")
    monkeypatch.setattr(
        cards, "PROBE", ["sh", "-c", "echo first >&2; echo AnError: MPS failed >&2; echo hint >&2; exit 1"]
    )
    with cards.shared(["GPU-a"], 20, None, said.append) as per_card:
        assert per_card == 1
        assert cards.PIPES not in os.environ
    assert log(machine) == ["start ", "quit"], "one under which no process can compute is ended"
    start = "CUDA's Multi-Process Service cannot be used"
    rest = "one training at a time runs on each GPU"
    assert said == [f"{start} (no permission): {rest}", f"{start} (AnError: MPS failed): {rest}"]
    assert not list(machine.glob("mixste-mps-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(machine, number):
    """As by Ctrl-C, which all processes of a terminal receive, or killed."""
    code = "import signal, time; from mixste.study import cards; cards.PROBE = ['true']\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored if it is here, as in the background
    code += "with cards.mps(['GPU-a']):\n  print('started', flush=True)\n  time.sleep(60)"
    environment = os.environ | {"TMPDIR": str(machine)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        **{"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "start_new_session": True},
    )
    assert process.stdout.readline() == b"started\n"
    assert log(machine) == ["start "]
    os.killpg(process.pid, number)
    process.wait(30)
    deadline = time.monotonic() + 30
    while list(machine.glob("mixste-mps-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert log(machine) == ["start ", "quit"]
    assert not list(machine.glob("mixste-mps-*"))


def test_processes_are_spread_over_the_gpus(machine, monkeypatch):
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with trainer._places(7, None) as places:
        assert places == ["GPU-a", "GPU-b"] * 3 + ["GPU-a"]
    with trainer._places(7, 1) as places:
        assert places == ["GPU-a"]
    with trainer._places(1, None) as places:
        assert places == [""], "in this process, on the GPU that PyTorch takes"
    (machine / "nvidia-smi").unlink()
    if not shutil.which("nvidia-smi"):
        with trainer._places(7, None) as places:
            assert places == [""]


class Told(Run):
    """A run that writes down where it is trained."""

    def build(self):
        told = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", cards.SHARING)]
        (store.store() / f"told-{self.seed}.json").write_text(json.dumps([*told, cards.PIPES in os.environ]))
        return super().build()


@pytest.mark.slow
def test_trainings_that_share_gpus_end_as_those_alone(machine, monkeypatch):
    """To the last bit; here two at a time, without a GPU, and MPS is a stand-in."""
    data = Data("synthetic", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1)
    recipe = replace(AUTHORS, batch_frames=90)
    wanted = [Told(data, 9, 300, seed, options={"depth": 1, "dim": 8, "heads": 2}, recipe=recipe) for seed in range(3)]
    monkeypatch.setenv("MIXSTE_RUNS", str(machine / "alone"))
    (machine / "alone").mkdir()
    assert trainer.make_all(wanted, 1) == ""
    monkeypatch.setenv("MIXSTE_RUNS", str(machine / "shared"))
    (machine / "shared").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.torch.cuda, "is_available", lambda: True)
        assert trainer.make_all(wanted, 2) == ""
    told = [json.loads((machine / "shared" / f"told-{run.seed}.json").read_text()) for run in wanted]
    assert told == [["GPU-b", "2", True]] * 3
    for run in wanted:
        alone, shared = (machine / name / run.id / "weights.safetensors" for name in ("alone", "shared"))
        assert alone.read_bytes() == shared.read_bytes()
    assert log(machine) == ["start GPU-b", "quit"]


def test_the_driver_is_that_of_the_machine(machine):
    cards.driver.cache_clear()
    assert cards.driver() == "570.1"
    cards.driver.cache_clear()
