"""pyproject.toml, constraints.txt, environment.yml, Makefile and the pages that name them say the same."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lock() -> dict[str, list[Requirement]]:
    """The pins of constraints.txt: several to a name where they differ between platforms or interpreters."""
    pins = defaultdict(list)
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins[canonicalize_name(pin.name)].append(pin)
    return pins


def test_the_lock_holds_one_exact_version_a_line():
    pins = [pin for pins in lock().values() for pin in pins]
    assert pins
    for pin in pins:
        assert [spec.operator for spec in pin.specifier] == ["=="], pin
        assert not pin.extras, f"pip takes no extras in constraints: {pin}"


@pytest.mark.parametrize(
    "dependency", [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
)
def test_every_dependency_is_pinned_within_its_range(dependency):
    wanted = Requirement(dependency)
    pins = lock()[canonicalize_name(wanted.name)]
    assert pins, f"{wanted.name} is not in constraints.txt"
    for pin in pins:
        (version,) = (spec.version for spec in pin.specifier)
        assert wanted.specifier.contains(version), f"{pin} is outside {wanted}"


def test_conda_users_get_the_interpreter_and_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert pip == "pip"
    name, version = python.split("=")
    assert name == "python"
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    assert list(by_pip) == ["pip"]
    constraint, project = by_pip["pip"]
    assert constraint == "-c constraints.txt"
    assert set(re.fullmatch(r"-e \.\[([\w,-]+)\]", project)[1].split(",")) <= set(EXTRAS)


def test_the_workflow_runs_the_one_script_on_every_supported_python():
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    begin = "Programming Language :: Python :: "
    supported = [line.removeprefix(begin) for line in PROJECT["classifiers"] if line.startswith(begin)]
    assert job["strategy"]["matrix"]["python"] == supported
    assert set(supported) == {
        version for version in supported if SpecifierSet(PROJECT["requires-python"]).contains(version)
    }
    [last] = [step for step in job["steps"] if "run" in step]
    assert last["run"] == "bash .ci/run"
    assert last["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert "PYTHON ?=" in (ROOT / "Makefile").read_text()
    [setup] = [step for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python")]
    assert setup["with"]["cache"] == "pip"
    *most, newest = supported
    assert f"Python {', '.join(most)} or {newest}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_site_is_published_as_make_docs_builds_it():
    [job] = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())["jobs"].values()
    steps = {step.get("uses", step.get("run", "")).partition("@")[0]: step for step in job["steps"]}
    assert "make docs" in steps
    folder = steps["actions/upload-pages-artifact"]["with"]["path"]
    assert f"docs/build.py {folder}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_at_most_one_pin_a_package_fits_an_interpreter(python, platform):
    where = {"python_full_version": python, "python_version": python[:4], "sys_platform": platform}
    for name, pins in lock().items():
        fitting = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(where)]
        assert len(fitting) <= 1, name


def test_the_makefile_installs_under_the_lock():
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t$(PIP)")]
    assert installs
    for line in installs:
        assert "-c constraints.txt" in line, line


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_commands_of_the_pages_exist(page):
    targets = set(re.findall(r"^([\w-]+)(?: [\w -]+)?:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    blocks = re.findall(r"^```.*?\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"^make ([\w-]+)", "\n".join(blocks), re.MULTILINE))
    assert named >= {"reproduce", "test"}
    assert named <= targets


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_clean_keeps_trained_runs():
    recipe = re.search(r"^clean:\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert recipe.startswith("rm -rf .venv ")
    assert "runs" not in recipe
