"""Copy runs between machines: a bundle arrives complete, or is refused.

A bundle is a folder with bundle.json and piece-0001, piece-0002, … of at most 16 MiB. The pieces, concatenated, are the
bytes of the files that bundle.json lists with their sizes and hashes.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from mixste.io.files import replacing
from mixste.network import NETWORKS
from mixste.skeleton import SKELETONS
from mixste.study import states, store
from mixste.study.run import Run, read_spec
from mixste.study.states import StateError
from mixste.study.store import RunError

PIECE = 16 * 2**20
INDEX = "bundle.json"
UNFINISHED = re.compile(r"spec\.json|state\.pt|best-\d+\.safetensors")


def pack(to: Path, wanted: list[str] = (), unfinished: bool = False, weights: bool = True) -> str:
    """Write runs to the new folder `to`: those with these ids, or all. Returns what was packed, in one sentence.

    unfinished: also interrupted trainings, to be resumed elsewhere. weights: without them a run is two megabytes of
    curves and errors, enough for every table. Raises RunError if a run is not there or is damaged.
    """
    if to.exists():
        raise RunError(f"expected a folder that is not there yet, found {to}")
    folders = sorted(path for path in store.store().glob("*") if store.NAME.fullmatch(path.name) and path.is_dir())
    folders = [path for path in folders if not wanted or path.stem in wanted]
    missing = sorted(set(wanted) - {path.stem for path in folders})
    if missing:
        raise RunError(f"expected runs of {store.store()}, found none with the id {', '.join(missing)}")
    files, left = [], 0
    for path in folders:
        if not path.suffix:
            if not store.is_whole(path):
                raise RunError(f"run {path.name} is damaged and cannot be packed; `mixste reproduce` makes it again")
            kept = store.FILES | store.FAILED | (store.WEIGHTS if weights else set())
            names = {file.name for file in path.iterdir()} & kept
            files += [store.Finished(path).file(name) for name in sorted(names)]
        elif unfinished and (path / "state.pt").exists() and not store.busy(path):
            files += [file for file in sorted(path.iterdir()) if UNFINISHED.fullmatch(file.name)]
        else:
            left += 1
    if not files:
        raise RunError(f"expected runs to pack in {store.store()}, found none")
    to.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}."))
    try:
        pieces = _Pieces(building, sum(file.stat().st_size for file in files))
        entries = [pieces.add(file) for file in tqdm(files, "packing", unit="file", disable=None, leave=False)]
        pieces.cut()
        index = {"files": entries, "pieces": pieces.entries}
        (building / INDEX).write_text(json.dumps(index, indent=1))
        building.chmod(0o755)
        os.replace(building, to)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    packed = len({file.parent for file in files})
    rest = f"; {left} unfinished ones left out" if left else ""
    return f"{packed} runs in {len(index['pieces'])} pieces in {to}{rest}"


class _Pieces:
    """Files as one stream, cut into pieces."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.rest, self.entries, self.piece = folder, size, [], io.BytesIO()

    def add(self, path: Path) -> dict:
        """Append a file; returns its entry of the index."""
        digest, size = hashlib.sha256(), 0
        with open(path, "rb") as file:
            while block := file.read(min(2**20, PIECE - self.piece.tell())):
                digest.update(block)
                size += len(block)
                self.piece.write(block)
                if self.piece.tell() == PIECE:
                    self.cut()
        return {"name": f"{path.parent.name}/{path.name}", "size": size, "sha256": digest.hexdigest()}

    def cut(self) -> None:
        """End a piece here, if anything is in it."""
        if not self.piece.tell():
            return
        content, name = self.piece.getvalue(), f"piece-{len(self.entries) + 1:04}"
        with replacing(self.folder / name, needed=self.rest) as file:
            file.write_bytes(content)
        self.rest -= len(content)
        self.entries.append({"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        self.piece = io.BytesIO()


def unpack(source: Path) -> str:
    """Bring a bundle's runs into the store. Returns what arrived, in one sentence.

    Everything is checked before anything enters the store. Runs that are in the store already stay as they are, unless
    the bundle has more of one: a later state of its training, weights, or errors by the code that is here. Raises
    RunError if a piece or a file is missing, cut short, changed, unexpected, or not a plain file, or if the state of a
    training is incomplete.
    """
    index = _index(Path(source))
    store.store().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.store(), prefix=".unpacking-") as name:
        arriving, pieces, piece = Path(name), _pieces(Path(source), index["pieces"]), io.BytesIO()
        needed = sum(entry["size"] for entry in index["files"])
        for entry in tqdm(index["files"], "unpacking", unit="file", disable=None, leave=False):
            path, digest, rest = arriving / entry["name"], hashlib.sha256(), entry["size"]
            with replacing(path, needed) as temporary, open(temporary, "wb") as file:
                while rest:
                    piece = piece if (block := piece.read(rest)) else next(pieces)
                    rest -= len(block)
                    digest.update(block)
                    file.write(block)
            needed -= entry["size"]
            if digest.hexdigest() != entry["sha256"]:
                raise RunError(f"{source} is damaged: {entry['name']} is not what was packed")
        folders = sorted(arriving.iterdir())
        for folder in folders:
            if folder.suffix:
                _check_state(folder, source)
            else:
                store.seal(folder)
        entered = [_enter(folder) for folder in folders]
    stayed = len(entered) - sum(entered)
    return f"{sum(entered)} runs arrived in {store.store()}" + (f"; {stayed} stay as they are there" if stayed else "")


def _index(source: Path) -> dict:
    """The list in bundle.json, once every name in it is one that `pack` gives and every piece has the size it says."""
    try:
        index = json.loads((source / INDEX).read_text(encoding="utf-8"))
        files = {entry["name"]: int(entry["size"]) for entry in index["files"]}
        pieces = {entry["name"]: int(entry["size"]) for entry in index["pieces"]}
        [entry["sha256"] for entry in index["files"] + index["pieces"]]
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"expected a folder that `mixste runs pack` wrote, found no {INDEX} in {source}") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise RunError(f"{source / INDEX} is damaged") from None
    names_of = defaultdict(set)
    for name in files:
        folder, _, file = str(name).partition("/")
        finished = store.FILES | store.WEIGHTS | store.FAILED
        allowed = UNFINISHED.fullmatch(file) if folder.endswith(".part") else file in finished
        if not (store.NAME.fullmatch(folder) and allowed):
            raise RunError(f"{source / INDEX} is refused: it names {name!r}, which is no file of a run")
        names_of[folder].add(file)
    for folder, names in names_of.items():
        whole = store.FAILED if "failed.json" in names else store.FILES
        if lacking := ({"spec.json", "state.pt"} if folder.endswith(".part") else whole) - names:
            raise RunError(f"{source} is refused: run {folder} comes without {', '.join(sorted(lacking))}")
    for path in sorted(source.iterdir()):
        if path.name != INDEX and path.name not in pieces:
            raise RunError(f"{source} is refused: it holds {path.name}, which was not packed")
    for number, (name, size) in enumerate(pieces.items(), 1):
        path = source / name
        if name != f"piece-{number:04}" or size > PIECE:
            raise RunError(f"{source / INDEX} is refused: it names {name!r} of {size} bytes as piece {number}")
        if path.is_symlink() or not path.is_file():
            raise RunError(f"{source} is incomplete: {name} is {'not a plain file' if path.exists() else 'missing'}")
        if path.stat().st_size != size:
            raise RunError(f"{source} is damaged: {name} should have {size} bytes and has {path.stat().st_size}")
    same = len(files) == len(index["files"]) and len(pieces) == len(index["pieces"])
    if not same or min(files.values(), default=0) < 0 or sum(files.values()) != sum(pieces.values()):
        raise RunError(f"{source / INDEX} is damaged: its files do not add up to its pieces")
    return index


def _pieces(source: Path, entries: list[dict]) -> Iterator[io.BytesIO]:
    for entry in entries:
        content = (source / entry["name"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise RunError(f"{source} is damaged: {entry['name']} is not what was packed")
        yield io.BytesIO(content)


def _check_state(folder: Path, source: Path) -> None:
    """RunError unless the interrupted training in a folder can be resumed."""
    try:
        run = read_spec(folder / "spec.json")
        states.read(folder, run, _networks(run))
    except StateError as error:
        raise RunError(
            f"{source} is refused: expected the state of a training in {folder.name}, found {error}"
        ) from None
    except ValueError as error:
        raise RunError(f"{source} is refused: {str(error).replace(f'{folder.parent}/', '')}") from None


def _networks(run: Run) -> list[torch.nn.Module]:
    """The networks that a run may train, without weights, one for each number of joints: its data may not be here."""
    try:
        if run.model not in NETWORKS:  # no file has a module imported
            raise ValueError(f"{run.model}, which is not one of {', '.join(NETWORKS)}")
        if dict(run.options).get("depth", 1) > 100:
            raise ValueError("more than 100 blocks")
        with torch.device("meta"):
            return [run.network(joints) for joints in sorted({len(layout.joints) for layout in SKELETONS.values()})]
    except Exception as error:  # settings from elsewhere, of any type
        raise ValueError(
            f"expected the settings of a network in spec.json, found one that cannot be built: {error}"
        ) from None


def _enter(arrived: Path) -> bool:
    """Move a run into the store; False if the run that is already there is kept."""
    place = store.store() / arrived.stem
    part = place.with_suffix(".part")
    try:
        with store.locked(place, _busy):
            if store.is_whole(place) and (arrived.suffix or not _better(arrived, place)):
                return False
            if arrived.suffix:
                run = read_spec(arrived / "spec.json")
                steps = [states.resume(folder, run, _networks(run))["step"] for folder in (arrived, part)]
                if steps[0] <= steps[1]:
                    return False
                place = part
            else:
                store.remove(part)
            store.remove(place)
            os.replace(arrived, place)
    except _Busy:
        return False
    return True


def _better(arrived: Path, place: Path) -> bool:
    """Whether a whole run holds more than the one in its place: a training that did not fail, more weights, or errors
    by the code that is here, which without weights cannot be computed again.
    """
    failed, failed_here = ((folder / "failed.json").exists() for folder in (arrived, place))
    if failed != failed_here or failed:
        return failed < failed_here
    if _weights(arrived) != _weights(place):
        return not _weights(arrived) <= _weights(place)
    outdated, outdated_here = (_outdated(folder) for folder in (arrived, place))
    return outdated < outdated_here


def _outdated(folder: Path) -> bool:
    with contextlib.suppress(ValueError):
        run = read_spec(folder / "spec.json")
        return run.model in NETWORKS and store.outdated(run, folder)
    return False


def _weights(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} & store.WEIGHTS


class _Busy(Exception):
    """Another process is making the run."""


def _busy(line: str) -> None:
    raise _Busy(line)
