"""The rooms of the package, and that imports between them run one way.

Read from the syntax of every module, so that imports inside functions and for type checking count. Two do not: Python
itself runs `mixste/__init__.py` before any module of the package, and `mixste.data.load` imports the source that it is
asked for by its name (`SOURCES`), so that nobody waits for the libraries of another.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mixste
from mixste.data import SOURCES

PACKAGE = Path(mixste.__file__).parent

# From below: a room may import from the lines above its own, and within itself. Rooms on one line are apart.
ROOMS = """
io
skeleton camera metrics optim
losses
data.clips data.bodies
data.windows data.augment data.cameras data.multiview data.readers
data.virtual
data.splits data.sources
data
data.check
network
model
networks
accel baselines
predict
evaluate
train
checkpoints
mixste
wild study
cli
__main__
"""
RANKS = {room: rank for rank, line in enumerate(ROOMS.split("\n")) for room in line.split()}


def modules_in(package: Path) -> dict[str, Path]:
    """Every module by its name without the package's, which itself is "mixste"."""
    names = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "mixste"] = path
    return names


def imports_of(name: str, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that one of them imports, wherever in it."""
    path, imported = modules[name], set()
    inside = ["mixste", *(name.split(".") if name != "mixste" else [])]  # the package that relative imports start from
    inside = inside if path.name == "__init__.py" else inside[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = inside[: len(inside) + 1 - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            # `from mixste.data import virtual` imports a module, `from mixste.data import load` from one.
            wanted = [f"{source}.{alias.name}" for alias in node.names]
            wanted = [one if one.removeprefix("mixste.") in modules else source for one in wanted]
        else:
            continue
        for one in wanted:
            if one.partition(".")[0] == "mixste":
                imported.add(one.removeprefix("mixste."))
    return imported


def room_of(module: str) -> str:
    """The room that a module is in: itself, or the nearest package above it that is a room."""
    room = module
    while room not in RANKS:
        if "." not in room:
            raise AssertionError(f"{module} is in no room: give it a place in ROOMS")
        room = room.rpartition(".")[0]
    return room


def upward(package: Path) -> list[str]:
    """Imports from a room on the same line or further down."""
    modules = modules_in(package)
    arrows = [(module, other) for module in modules for other in imports_of(module, modules)]
    rooms = [(module, other, room_of(module), room_of(other)) for module, other in arrows]
    return sorted(f"{a} -> {b}" for a, b, here, there in rooms if here != there and RANKS[there] >= RANKS[here])


def test_imports_run_one_way():
    assert upward(PACKAGE) == []


def test_no_circle_of_modules():
    """Not within a room either."""
    modules = modules_in(PACKAGE)
    try:
        TopologicalSorter({module: imports_of(module, modules) for module in modules}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_rooms_are_those_that_are_there():
    modules = modules_in(PACKAGE)
    assert {room_of(module) for module in modules} == set(RANKS)


def test_modules_are_imported_by_name_in_two_places_only():
    """Sources, and a network of one's own."""
    places = {
        module
        for module, path in modules_in(PACKAGE).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if getattr(node, "attr", getattr(node, "id", "")) in ("import_module", "__import__")
    }
    assert places == {"data", "network"}
    assert all(module.startswith("mixste.data.sources.") for module, _ in SOURCES.values())


@pytest.mark.parametrize(
    ("line", "arrow"),
    [
        ("from mixste import train", "io.files -> train"),
        ("from mixste.train import Recipe", "io.files -> train"),
        ("import mixste.study.run", "io.files -> study.run"),
        ("def f():\n    from ..study import run", "io.files -> study.run"),
        ("if TYPE_CHECKING:\n    from ..train import Recipe", "io.files -> train"),
        ("from mixste.io import guard", None),
        ("from . import guard", None),
        ("import torch.nn", None),
    ],
)
def test_an_upward_import_is_seen_in_each_form(line, arrow, tmp_path):
    for name in ("io/guard", "train", "study/run", "study/__init__", "io/__init__"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "io" / "files.py").write_text(line)
    assert upward(tmp_path) == ([arrow] if arrow else [])
