"""What the README shows works as shown."""

import re
import shlex

import pytest
from typer.main import get_command

from mixste.cli import app
from mixste.study import runs

README = (runs.PACKAGE.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs():
    [example] = blocks("python")
    scope = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["poses"].shape == (100, 17, 3)


def commands() -> list[list[str]]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_exist(command):
    """The study's own commands parse; make's targets, papermill's notebook and its parameters are there."""
    if command[0].endswith("mixste"):
        found = get_command(app)
        arguments = command[1:]
        while arguments and arguments[0] in getattr(found, "commands", {}):
            found = found.commands[arguments.pop(0)]
        found.make_context("mixste", arguments)
    elif command[0] == "make":
        assert f"\n{command[1]}:" in (runs.PACKAGE.parent / "Makefile").read_text()
    else:
        assert command[:3] == ["cd", "notebooks", "&&"]
        assert (runs.PACKAGE.parent / "notebooks" / command[4]).exists()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (runs.PACKAGE.parent / target).exists(), target
