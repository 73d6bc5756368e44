"""The API reference of the site, from the docstrings.

A dotted name in backticks whose first part is a module of the package, or a name of the docstring's own module, must
exist: otherwise it is an error.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import mixste

REFERENCE = re.compile(r"`(\w+(?:\.\w+)+)(?:\([^`]*\))?`")
TRITON = ("kernels", "joined.kernels", "videopose3d.kernels", "hopper", "hopper_gelu")  # cannot be imported without it
WITHOUT = (*(f"mixste.accel.{name}" for name in TRITON), "mixste.__main__")  # the last would run the command line


def modules() -> list[str]:
    """Every module of the package but those in WITHOUT."""
    names = (module.name for module in pkgutil.walk_packages(mixste.__path__, "mixste."))
    return ["mixste", *(name for name in names if name not in WITHOUT)]


def broken(module) -> list[str]:
    """References in the docstrings of a module, its functions, classes and methods, that lead nowhere."""
    own = [one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__]
    methods = [method for one in own if inspect.isclass(one) for method in vars(one).values() if callable(method)]
    lost = set()
    for one in (module, *own, *methods):
        arguments = inspect.signature(one).parameters if inspect.isroutine(one) else ()
        lost |= {name for name in REFERENCE.findall(one.__doc__ or "") if leads_nowhere(name, module, arguments)}
    return [f"{module.__name__}: `{name}`" for name in sorted(lost)]


def leads_nowhere(name: str, module, arguments) -> bool:
    """Whether the name begins with a known module or class that lacks the rest of it."""
    first, *rest = name.split(".")
    starts = {one.rpartition(".")[2]: one for one in modules()}
    if first in vars(module):
        start = vars(module)[first]
    elif first in starts and first not in arguments:
        start = importlib.import_module(starts[first])
    else:
        return False  # code, or another library
    if not (inspect.ismodule(start) or inspect.isclass(start)):
        return False  # errors.csv is no attribute of a function
    for part in rest:
        if part in getattr(start, "__annotations__", ()):  # a field without a default
            return False
        if not hasattr(start, part):
            return True
        start = getattr(start, part)
    return False


def module_of(name: str):
    """The module that a dotted name is in: of "mixste.network.Network.lift", mixste.network."""
    parts = name.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next(sys.modules[one] for one in names if one in sys.modules)


def target(name: str, module) -> str:
    """The full name of what a module means by a name in backticks; empty if that is nothing of the package."""
    first, *rest = name.split(".")
    starts = {one.rpartition(".")[2]: one for one in modules()}
    known = vars(module).get(first)
    if inspect.ismodule(known):
        start = known.__name__
    elif inspect.isclass(known) or inspect.isroutine(known):
        start = f"{known.__module__}.{known.__qualname__}"
    else:
        start = starts.get(first, "") if rest else ""
    return ".".join([start, *rest]) if start.startswith("mixste") else ""


def restructured(text: str, module) -> str:
    """A docstring, written in Markdown, as reStructuredText; what it names of the package becomes a link."""
    parts = re.split(r"(``?)(.+?)\1", text, flags=re.DOTALL)
    out = []
    for plain, _, code in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        out.append(re.sub(r"([\\|]|(?<!\*)\*(?!\*)|_(?!\w))", r"\\\1", plain))
        if not code:
            continue
        name = re.match(r"\w+(?:\.\w+)*", code)
        goal = target(name[0], module) if name and re.fullmatch(r"[\w.]+(\(.*\))?", code) else ""
        before = "\\ " if re.search(r"[^\s([]$", plain) else ""
        out.append(f"{before}:py:obj:`{code} <{goal}>`\\ " if goal else f"{before}``{code}``\\ ")
    paragraphs = re.split(r"\n\s*\n", "".join(out))
    return "\n\n".join(_laid_out(paragraph) for paragraph in paragraphs)


def _laid_out(paragraph: str) -> str:
    """A paragraph with indented lines keeps its lines, unless it is a list."""
    if paragraph.lstrip().startswith("- ") or not re.search(r"^ +\S", paragraph, re.MULTILINE):
        return paragraph
    return "\n".join(f"| {line}" for line in paragraph.splitlines())


def write(folder: Path) -> None:
    """A page for each module of the package, and one that lists them. SystemExit if a reference leads nowhere."""
    names = modules()
    imported = [importlib.import_module(name) for name in names]  # all of them, before a name is looked up
    lost = [line for module in imported for line in broken(module)]
    if lost:
        raise SystemExit("references that lead nowhere:\n" + "\n".join(lost))
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n"
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")
    entries = "\n".join(f"   {name}" for name in names)
    index = f"API reference\n=============\n\n.. toctree::\n   :maxdepth: 1\n\n{entries}\n"
    (folder / "index.rst").write_text(index, encoding="utf-8")
