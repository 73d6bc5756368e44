"""The API reference, built from the docstrings: python docs/api.py [FOLDER].

Whatever pdoc warns of ends it, and so does a dotted name in backticks that begins with a module of the package, or a
name of its own module, and leads to nothing there.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from pathlib import Path

import pdoc

import mixste

REFERENCE = re.compile(r"`(\w+(?:\.\w+)+)(?:\([^`]*\))?`")
# The last would start, the others need Triton.
TRITON = ("kernels", "joined.kernels", "videopose3d.kernels", "hopper", "hopper_gelu")
WITHOUT = (*(f"mixste.accel.{name}" for name in TRITON), "mixste.__main__")


def modules() -> list[str]:
    """Every module of the package."""
    found = (module.name for module in pkgutil.walk_packages(mixste.__path__, "mixste."))
    return ["mixste", *(name for name in found if name not in WITHOUT)]


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
    """Whether the name begins with something known, by which it does not go on."""
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


def main(folder: str = "site") -> None:
    """Write the pages into a folder."""
    names = modules()
    imported = [importlib.import_module(name) for name in names]  # all of them, before a name is looked up
    lost = [line for module in imported for line in broken(module)]
    if lost:
        raise SystemExit("references that lead nowhere:\n" + "\n".join(lost))
    warnings.simplefilter("error")
    # Modules are named one by one, for a package's __all__ hides them from pdoc, which remarks on those it does find.
    warnings.filterwarnings("ignore", "The module specification .* has already been added", UserWarning)
    pdoc.render.configure(docformat="markdown", footer_text=f"mixste {mixste.__version__}")
    pdoc.pdoc(*names, output_directory=Path(folder))
    print(f"{folder}/index.html: {len(names)} modules")


if __name__ == "__main__":
    main(*sys.argv[1:])
