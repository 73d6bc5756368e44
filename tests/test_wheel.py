"""What installing the package without the repository gives: the wheel's contents, and a command line that works."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mixste.data.sources.synthetic import load
from mixste.io.weights import bundled
from mixste.skeleton import human36m

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # for setuptools leaves its build folder behind
    shutil.copytree(ROOT / "mixste", source / "mixste", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "mixste").rglob("*") if path.is_file()}
    assert names == {name for name in package if "__pycache__" not in name}
    assert "mixste/py.typed" in names
    assert "mixste/wild/viewer.html" in names
    assert {f"mixste/weights/{name}.safetensors" for name in bundled()} <= names
    assert wheel.stat().st_size < 40e6


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's files, as in site-packages."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def mixste(installed, tmp_path):
    """Runs `python -m mixste` of the wheel in an empty folder, and sees that it writes nothing beside the package."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        before = sorted(installed.rglob("*"))
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MIXSTE_")}
        variables |= {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "mixste", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
        assert sorted(installed.rglob("*")) == before
        return done

    return run


def test_the_wheel_lifts(mixste, tmp_path):
    clip = load().test[0]
    np.savez(tmp_path / "clip.npz", keypoints=clip.keypoints[:60], joints=np.array(human36m.joints))
    width, height = clip.resolution
    done = mixste("lift", "clip.npz", "--size", f"{width}x{height}", "--out", "lifted")
    assert done.returncode == 0, done.stderr
    lifted = json.loads((tmp_path / "lifted" / "clip.json").read_text(encoding="utf-8"))
    assert np.shape(lifted["poses"]) == (60, 17, 3)


def test_what_needs_the_repository_says_so(mixste, tmp_path):
    done = mixste("reproduce")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("mixste: mixste reproduce needs the repository")
    assert not list(tmp_path.iterdir())


def test_the_store_lies_in_the_current_folder(mixste, tmp_path):
    done = mixste("runs", "list")
    assert done.stdout == f"0 runs in {tmp_path / 'runs'}\n"


def test_what_is_missing_comes_with_the_command_that_installs_it(installed, tmp_path):
    """From a checkout by its lock; without, by the wheel's own metadata, whose markers fit this interpreter."""
    code = "from mixste.io.install import install; print(install('batch'))"
    checkout, alone = (
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for folder in (ROOT, installed)
    )
    assert f'-c {ROOT / "constraints.txt"} -e "{ROOT}[batch]"' in checkout
    assert '"snakemake>=' in alone
    assert "torch" not in alone
    assert "mixste" not in alone.removeprefix(sys.executable)
