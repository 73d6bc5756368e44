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


def test_the_makefile_installs_under_the_lock():
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
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
