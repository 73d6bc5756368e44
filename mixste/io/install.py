"""How the package is installed: in a checkout with the whole study, or alone from a wheel."""

import sys
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent.parent
_around = PACKAGE.parent
CHECKOUT = _around if (_around / "pyproject.toml").is_file() and (_around / "notebooks").is_dir() else None
# The default folder of data, runs and results; never site-packages.
HOME = CHECKOUT or Path.cwd()


def needs_checkout(what: str) -> Path:
    """The folder of the checkout; RuntimeError if the package was installed without one."""
    if CHECKOUT is None:
        raise RuntimeError(
            f"{what} needs the repository, with its notebooks and workflow, and this package was installed without it: "
            "clone it and run `make reproduce` there"
        )
    return CHECKOUT


def install(extra: str) -> str:
    """The command that installs an extra, such as `video`, for the running interpreter, on any system."""
    from packaging.requirements import Requirement  # which matplotlib brings

    pip = f"{_quoted(sys.executable)} -m pip install"
    if CHECKOUT is not None:
        return f"{pip} -c {_quoted(CHECKOUT / 'constraints.txt')} -e {_quoted(f'{CHECKOUT}[{extra}]')}"
    requirements = map(Requirement, metadata.requires("mixste") or ())
    return f"{pip} " + " ".join(
        _quoted(f"{one.name}{one.specifier}")
        for one in requirements
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    )


def _quoted(argument) -> str:
    """Quoted for the shells of Unix and Windows."""
    return f'"{argument}"' if set(str(argument)) & set(" ()[]<>=&;") else str(argument)
