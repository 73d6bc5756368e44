"""How the package is installed: from a checkout, with the study around it, or from a wheel, without."""

import sys
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent.parent
_around = PACKAGE.parent
CHECKOUT = _around if (_around / "pyproject.toml").is_file() and (_around / "notebooks").is_dir() else None
# Where data, runs and results lie by default. Never where packages are installed.
HOME = CHECKOUT or Path.cwd()


def needs_checkout(what: str) -> Path:
    """The repository's folder; RuntimeError, in one sentence, where the package was installed without it."""
    if CHECKOUT is None:
        raise RuntimeError(
            f"{what} needs the repository, with its notebooks and workflow, and this package was installed without it: "
            "clone it and run `make reproduce` there"
        )
    return CHECKOUT


def install(extra: str) -> str:
    """The command that installs an extra, `video` for one, for the interpreter that runs, on any system."""
    from packaging.requirements import Requirement  # which matplotlib brings

    pip = f"{_quoted(sys.executable)} -m pip install"
    if CHECKOUT is not None:
        return f"{pip} -c {_quoted(CHECKOUT / 'constraints.txt')} -e {_quoted(f'{CHECKOUT}[{extra}]')}"
    wanted = map(Requirement, metadata.requires("mixste") or ())
    return f"{pip} " + " ".join(
        _quoted(f"{one.name}{one.specifier}")
        for one in wanted
        if one.marker and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    )


def _quoted(argument) -> str:
    """For the shells of Unix and Windows alike."""
    return f'"{argument}"' if set(str(argument)) & set(" ()[]<>=&;") else str(argument)
