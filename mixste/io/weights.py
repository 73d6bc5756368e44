"""Weights in safetensors files, which hold numbers and nothing that runs, and those that come with the package."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

from safetensors.torch import load, save_file
from torch import Tensor

from mixste.io.files import replacing

SUMS = "SHA256SUMS"  # beside the bundled weights, as `sha256sum --check` reads it


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what was expected, what was found, and where."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, on the CPU, and its metadata. Raises the library's own errors for another file."""
    content = path.read_bytes()  # `safe_open` takes no path that is not UTF-8
    weights = load(content)
    return weights, json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})


def write_safetensors(path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file, whole or not at all: the same tensors and metadata give the same bytes."""
    with replacing(path) as temporary:
        save_file({key: value.detach().contiguous() for key, value in weights.items()}, temporary, metadata)
        # The library orders the metadata by chance.
        with open(temporary, "r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) | {"__metadata__": metadata}
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":")).encode().ljust(size))


def bundled() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(str(files("mixste"))).glob("weights/*.safetensors"))}


# Of the command line and `Network.from_pretrained`: the most accurate. Both lift 1,000 frames in seconds on two cores.
DEFAULT = "open-base" if "open-base" in bundled() else "open-small"


def bundled_file(name: str) -> Path:
    """The file of bundled weights. CheckpointError for another name, and for a file that has changed since."""
    paths = bundled()
    if name not in paths:
        raise CheckpointError(
            f"expected the name of bundled weights, {', '.join(paths) or 'none here'}, found {name!r}"
        )
    path = paths[name]
    sums = path.parent / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    expected = {file: digest for digest, file in (line.split("  ", 1) for line in lines)}.get(path.name)
    digest = digest_of(path)
    if digest != expected:
        raise CheckpointError(
            f"{path}: expected the file of this release, with the SHA-256 {expected} of {SUMS}, found {digest}: "
            "install the package again"
        )
    return path


def write_sums(folder: Path) -> None:
    """Write down the hashes of the weights in a folder, which `bundled_file` then holds them to."""
    with replacing(folder / SUMS) as temporary:
        lines = [f"{digest_of(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors"))]
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
