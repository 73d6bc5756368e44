"""Real, openly licensed motion capture, seen by virtual cameras.

The benchmark on unseen pairs of content and style (Bandai-Namco: long clips, but one skeleton for all of its actors),
and what it shares with that on unseen subjects, `open_people`: where the recordings come from, how they are found and
read, cut and resampled, and seen by cameras. The parsed motions are cached in the folder MIXSTE_CACHE (default:
.cache/mixste in the project's folder).
"""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly
from tqdm import tqdm

from mixste.data.clips import Clip, PoseDataset
from mixste.data.readers import bvh
from mixste.data.virtual import film
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.guard import guarded, read_arrays, read_bytes
from mixste.io.install import HOME
from mixste.skeleton import human36m

FPS = 50.0  # as Human3.6M, so that a window spans the same time
FASTEST = 15.0  # m/s from one frame to the next; the fastest kick, throw or dash in these recordings stays below 13
MARGIN = 0.2  # seconds cut on either side of a jump: the frames around one are often frozen or mixed up as well
LONG = 243  # frames of the shortest clip of `load_styles`: the paper's longest window
LARGEST = 2**31  # bytes read from one archive; the largest pinned one holds a quarter of it
LARGEST_FILE = 2**27  # of one recording; the largest pinned one is a twentieth of it
FARTHEST = 1e4  # metres from the origin


@dataclass(frozen=True)
class Collection:
    """Recordings in a public repository at one commit.

    people: the subjects taken from it. files: patterns of paths. megabytes: size of these files.
    """

    title: str
    people: tuple[str, ...]
    repository: str
    commit: str
    files: tuple[str, ...]
    licence: str
    megabytes: int


CMU_LICENCE = "free to use, not to be resold as data"
MOTION_GRAPHS = ("05", "09", "14", "16", "17", "29", "49", "127", "135")  # it also repeats subjects 02 and 03
PINNED = {
    "hdm05": Collection(
        title="HDM05",
        people=("hdm_bd", "hdm_bk", "hdm_dg", "hdm_mm", "hdm_tr"),
        repository="https://github.com/zhangchi8620/JointLearning-HDM05",
        commit="b252ad65598e052c38f49490c1ac9dbadc283fd3",
        files=("train/*/HDM_*.a[ms][cf]", "test/*/HDM_*.a[ms][cf]"),
        licence="CC BY-SA 3.0",
        megabytes=57,
    ),
    "cmu": Collection(
        title="CMU",
        people=("cmu_01", "cmu_02", "cmu_03"),
        repository="https://github.com/cyun9601/CMU-MOCAP-Data",
        commit="2bedcd3b002488f7053d2b8c42690beddbf6620a",
        files=("data/CMU/asfamc/subjects/0[123]/0[123]*.a[ms][cf]",),
        licence=CMU_LICENCE,
        megabytes=62,
    ),
    "motion-graphs": Collection(
        title="CMU",
        people=tuple(f"cmu_{number}" for number in MOTION_GRAPHS),
        repository="https://github.com/maxxgx/motion-graphs",
        commit="45372d896ea84ca1b7f14b69f76d74f60106b8e3",
        files=tuple(f"MotionGraphs/resources/mocap/{number}/{number}*.a[ms][cf]" for number in MOTION_GRAPHS),
        licence=CMU_LICENCE,
        megabytes=209,
    ),
    "motion-viewer": Collection(
        title="CMU",
        people=("cmu_06", "cmu_07", "cmu_08"),
        repository="https://github.com/chrystianosaraujo/motion-viewer",
        commit="6d7ca60c300f123528be0fd0939cf7a584a13f65",
        files=("data/0[678]/0[678]_*.bvh",),
        licence=CMU_LICENCE,
        megabytes=16,
    ),
    "Mocap-Data-Utilities": Collection(
        title="CMU",
        people=("cmu_10", "cmu_12", "cmu_26", "cmu_27", "cmu_32", "cmu_35"),
        repository="https://github.com/franciscovalentecastro/Mocap-Data-Utilities",
        commit="25b6ae2cbfe89949b40a3127b74aee6aa0905dfb",
        files=(
            *(
                f"sample-mocap-data/Walking/BVH/{trials}.bvh"
                for trials in ("10_04", "12_0[123]", "2[67]_01", "32_0[12]")
            ),
            *(f"sample-mocap-data/Walking/BVH/35_{trials}.bvh" for trials in ("0[2-9]", "1?", "2[0-689]", "3[0-4]")),
            # these serve to compare the readers of the two formats
            *(f"sample-mocap-data/{trials}.bvh" for trials in ("02/02_0[15]", "05/05_01", "49/49_0[18]")),
        ),
        licence=CMU_LICENCE,
        megabytes=15,
    ),
    "bvh11": Collection(
        title="CMU",
        people=("cmu_131",),
        repository="https://github.com/yuki-koyama/bvh11",
        commit="c9072174fe89e0bf9776a092179b464ea39975e5",
        files=("resources/131_*.bvh",),
        licence=CMU_LICENCE,
        megabytes=2,
    ),
    "bandai-namco": Collection(
        title="Bandai-Namco",
        people=("bandai",),
        repository="https://github.com/BandaiNamcoResearchInc/Bandai-Namco-Research-Motiondataset",
        commit="74ead3ba1ae4696404e6086233779f60de8bf9ef",
        files=("dataset/*/data/dataset-[12]_*.bvh",),
        licence="CC BY-NC 4.0",
        megabytes=555,
    ),
}


@dataclass(frozen=True, eq=False)
class Take:
    """An uninterrupted motion of one person. world: metres, Z up, human36m order, at `FPS`."""

    subject: str
    action: str
    name: str
    world: Float[np.ndarray, "frames 17 3"]


# --- unseen content x style pairs ------------------------------------------------------------------------------

# The two parts of the collection have different names for some styles.
STYLES = {"masculinity": "masculine", "old": "elderly", "tired": "exhausted"}


def load_styles(root=None, keypoints: str = "gt", rig: str = "human36m") -> PoseDataset:
    """Bandai-Namco's clips of at least `LONG` frames, split by pairs of content (the action) and style.

    Contents and styles are each sorted alphabetically. A pair whose two indices add up to a multiple of 5 is a test
    pair, and one whose sum is 1 modulo 10 a validation pair; a content with a single style is always trained on. So
    each content and each style of a test pair occurs in training, in other pairs. All clips share one skeleton though
    three people acted: results say nothing about unseen subjects. Arguments and errors as of `open_people.load_people`;
    the archive is bandai-namco.tar.xz.
    """
    takes = _styles(root)
    splits = split_pairs({(take.action, _style(take)) for take in takes})
    return as_dataset(
        "open-styles", "unseen styles", takes, lambda take: splits[take.action, _style(take)], keypoints, rig
    )


def split_pairs(pairs: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The split of each pair of content and style, by the rule of `load_styles`."""
    contents, styles = (sorted({pair[k] for pair in pairs}) for k in (0, 1))
    splits = {}
    for content, style in pairs:
        diagonal = contents.index(content) + styles.index(style)
        alone = sum(pair[0] == content for pair in pairs) == 1
        held_out = "test" if diagonal % 5 == 0 else "validation" if diagonal % 10 == 1 else "train"
        splits[content, style] = "train" if alone else held_out
    return splits


def _style(take: Take) -> str:
    return take.name.rsplit("-", 2)[0]


def _styles(root) -> list[Take]:
    """All takes; from the cache if it is up to date with the files."""
    paths, patterns = find("open-styles", ("bandai-namco",), root), list(PINNED["bandai-namco"].files)

    def arrays() -> dict[str, np.ndarray]:
        takes = _read_styles(texts(paths, patterns))
        if not takes:
            raise DataError(f"open-styles: expected files such as {patterns[0]} in {paths[0]}, found none")
        return {
            "labels": np.array([(take.subject, take.action, take.name) for take in takes]),
            "frames": np.array([len(take.world) for take in takes]),
            "world": np.concatenate([take.world for take in takes]),
        }

    stored = cached("open-styles", paths, (__file__, bvh.__file__), arrays)
    worlds = np.split(stored["world"], np.cumsum(stored["frames"])[:-1])
    return [Take(*names, world) for names, world in zip(stored["labels"].tolist(), worlds, strict=True)]


def _read_styles(files: Iterator[tuple[str, str]]) -> list[Take]:
    takes = []
    for file, text in tqdm(files, desc="Bandai-Namco", unit="take", disable=None):
        match = re.fullmatch(r"dataset-(\d)_([a-z-]+)_([a-z-]+)_(\d+)\.bvh", file)
        if not match:
            raise DataError(f"{file}: expected a name such as dataset-1_walk_happy_001.bvh")
        part, content, style, number = match.groups()
        motion = bvh.read_bvh(text, file)
        if len(motion.values) * FPS / motion.fps >= LONG:
            name = f"{STYLES.get(style, style)}-{part}-{number}"
            take = Take("bandai", content.replace("-", " ").capitalize(), name, bvh.joints(motion))
            takes += cut(take, motion.fps, shortest=LONG)
    return sorted(takes, key=lambda take: (take.action, take.name))


# --- motions ---------------------------------------------------------------------------------------------------


def cut(take: Take, fps: float, shortest: int) -> list[Take]:
    """Split a take, at its file's rate and axes (Y up), into takes without jumps of at least `shortest` frames at
    `FPS`.

    Where a joint moves faster than a person can, motion capture has lost track: the frames around are dropped.
    """
    if not np.abs(take.world).max() <= FARTHEST:
        raise DataError(
            f"{take.action}, {take.name}: expected a person within {FARTHEST:,.0f} m, found one further away"
        )
    world = take.world[..., [0, 2, 1]] * [1, -1, 1]
    speed = np.linalg.norm(np.diff(world, axis=0), axis=-1).max(axis=1, initial=0) * fps
    margin = round(MARGIN * fps)
    good = np.ones(len(world), dtype=bool)
    for jump in np.flatnonzero(speed > FASTEST):
        good[max(0, jump + 1 - margin) : jump + 1 + margin] = False
    edges = np.flatnonzero(np.diff(good, prepend=False, append=False))
    parts = [resample(world[start:stop], fps) for start, stop in edges.reshape(-1, 2)]
    parts = [part for part in parts if len(part) >= shortest]
    return [
        replace(take, name=take.name if good.all() else f"{take.name}-{number}", world=part)
        for number, part in enumerate(parts, 1)
    ]


def resample(world: Float[np.ndarray, "frames 17 3"], fps: float) -> Float[np.ndarray, "some 17 3"]:
    """A motion resampled from `fps` to `FPS`, float32, through a linear-phase low-pass filter.

    Positions rather than rotations are filtered: the benchmark scores positions, and both formats have them. The cost
    is small: in 99 % of clips no limb's length varies by more than 3 mm (a punch recorded at 30 Hz: 18 mm).
    """
    ratio = Fraction(FPS / fps).limit_denominator(1000)
    frames = (len(world) - 1) * ratio.numerator // ratio.denominator + 1  # the filter's output is longer
    # The motion is padded by its point reflection at both ends, so that the filter meets no step or kink there. With
    # SciPy's default window (Kaiser, 5), a person who stands still would tremble by 3 mm.
    up, down, window = ratio.numerator, ratio.denominator, ("kaiser", 10.0)
    resampled = resample_poly(world, up, down, axis=0, window=window, padtype="antireflect")
    return resampled[:frames].astype(np.float32)


def as_dataset(
    name: str, title: str, takes: list[Take], split: Callable[[Take], str], keypoints: str, rig: str
) -> PoseDataset:
    """The takes as clips of the cameras of a rig, in the lists of a PoseDataset that `split` names."""

    def clips_of(take: Take) -> list[Clip]:
        return film(
            take.world, subject=take.subject, action=take.action, take=take.name, fps=FPS, rig=rig, keypoints=keypoints
        )

    clips: dict[str, list[Clip]] = {"train": [], "validation": [], "test": []}
    for take in tqdm(takes, desc="virtual cameras", unit="take", disable=None):
        clips.setdefault(split(take), []).extend(clips_of(take))
    people = {take.subject for take in takes}
    collections = [it for it in PINNED.values() if people.intersection(it.people)]
    titles = dict.fromkeys(it.title for it in collections)
    licences = dict.fromkeys(f"{it.title}: {it.licence}" for it in collections)
    return PoseDataset(
        name=name,
        title=f"open mocap, {title} ({' + '.join(titles)})",
        skeleton=human36m,
        licence="; ".join(licences),
        comparable=False,
        keypoints=keypoints,
        **clips,
    )


# --- files -----------------------------------------------------------------------------------------------------


def cached(
    source: str, paths: list[Path], code: tuple[str, ...], arrays: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `arrays()` reads from the files, from the cache if that is up to date with them.

    code: files with the code that reads, a change of which makes the cache outdated.
    """
    digest = hashlib.sha256()
    for file in code:
        digest.update(Path(file).read_bytes())
    for path in paths:
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    fingerprint = digest.hexdigest()

    cache = Path(os.environ.get("MIXSTE_CACHE") or HOME / ".cache" / "mixste") / f"{source}.npz"
    try:
        if cache.is_file():
            with guarded(cache, "takes"):
                stored = read_arrays(cache)
                if str(stored["fingerprint"]) == fingerprint:
                    return stored
    except DataError as error:
        warnings.warn(f"{cache} is damaged and is written again ({error})", stacklevel=2)

    stored = arrays()
    try:
        with replacing(cache) as path:
            np.savez(path, fingerprint=fingerprint, **stored)
    except OSError as error:
        warnings.warn(f"{error}; {source} will be read from its files again next time", stacklevel=2)
    return stored


def find(source: str, names: tuple[str, ...], root, all_of_them: bool = True) -> list[Path]:
    """The files of the named collections, or the archives with them; DataError if one is missing.

    all_of_them: False to go without missing ones, unless all are missing.
    """
    default = HOME / "data" / "open"
    roots = [Path(root)] if root is not None else [Path(os.environ.get("MIXSTE_DATA") or default), default]
    files: dict[str, list[Path]] = {}
    for folder in roots:
        if folder.is_file():
            return [folder]
        files = {name: files.get(name) or _find_collection(folder, name) for name in names}
    lacking = [name for name in names if not files[name]]
    if lacking and (all_of_them or len(lacking) == len(names)):
        titles = " and ".join(dict.fromkeys(PINNED[name].title for name in lacking))
        folders = " or ".join(map(str, dict.fromkeys(roots)))
        raise DataError(
            f"{source}: expected the recordings of {titles}, found none in {folders}: "
            "run `mixste data fetch open`, or set MIXSTE_DATA to a folder or archive that holds them"
        )
    return [path for paths in files.values() for path in paths]


def _find_collection(folder: Path, name: str) -> list[Path]:
    for place in ("", "*/", "open/*/"):
        if files := sorted(path for pattern in PINNED[name].files for path in folder.glob(place + pattern)):
            return files
    return [path for place in ("", "open/") for path in sorted(folder.glob(f"{place}{name}.tar*"))][:1]


def texts(paths: list[Path], patterns: list[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of each file, and of each archived file that matches a pattern. Nothing is unpacked to disk."""
    for path in paths:
        if path.suffix in (".asf", ".amc", ".bvh"):
            yield path.name, read_bytes(path, LARGEST_FILE).decode("latin-1")
        else:
            yield from _unpacked(path, patterns)


def _unpacked(archive: Path, patterns: list[str]) -> Iterator[tuple[str, str]]:
    with guarded(archive, "a whole tar archive"), open(archive, "rb") as file:
        packing = next((it for magic, it in PACKINGS.items() if file.peek(6).startswith(magic)), None)
        stream = packing.open(file) if packing else file
        with tarfile.open(fileobj=_Bounded(stream), mode="r|") as members:
            for member in members:
                path = PurePosixPath(member.name)
                if member.isfile() and any(path.match(pattern) for pattern in patterns):
                    if member.size > LARGEST_FILE:
                        raise DataError(f"{path.name}: expected at most {LARGEST_FILE:,} bytes, found {member.size:,}")
                    yield path.name, members.extractfile(member).read().decode("latin-1")


PACKINGS = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ": lzma}  # by the first bytes of a file


class _Bounded:
    """A stream of at most LARGEST bytes: tarfile reads a member name of any length that the archive declares."""

    def __init__(self, stream):
        self.stream, self.left = stream, LARGEST

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise DataError(f"expected an archive that unpacks to at most {LARGEST:,} bytes, found more")
        return block


def fetch(target=None, sources: dict[str, Collection] = PINNED) -> Path:
    """Check out the pinned commits into folders of `target` (default: where the loaders look) and return it.

    Fetches only the recordings of each repository, and prints how large they are. Can be interrupted and run again.
    Raises DataError if git is missing, and, once the others are fetched, if it fails for a repository.
    """
    if shutil.which("git") is None:
        raise DataError("fetching the open recordings needs git, found none: install it and run again")
    target = Path(target or HOME / "data" / "open")
    print(f"{sum(it.megabytes for it in sources.values()):,} MB of recordings in all, on disk, to {target}", flush=True)
    failures = []
    for name, source in sources.items():
        print(f"{source.title}: {source.megabytes} MB from {source.repository}", flush=True)
        try:
            _check_out(target, name, source)
        except DataError as error:
            failures.append(f"{source.repository}: {error}")
    if failures:
        raise DataError(
            f"{'; '.join(failures)}: check the network and the disk space and run again; what has been fetched is kept"
        )
    return target


def _check_out(target: Path, name: str, source: Collection) -> None:
    folder = target / name
    folder.mkdir(parents=True, exist_ok=True)
    _git(folder, "init", "--quiet")
    _git(folder, "config", "remote.origin.url", source.repository)
    _git(folder, "config", "core.sparseCheckout", "true")
    sparse = folder / ".git" / "info" / "sparse-checkout"
    sparse.parent.mkdir(exist_ok=True)
    sparse.write_text("".join(f"/{pattern}\n" for pattern in source.files))
    head = folder / ".git" / "HEAD"  # holds the commit after a complete checkout
    if head.read_text().strip() != source.commit:
        _git(folder, "fetch", "--progress", "--depth=1", "--filter=blob:none", "origin", source.commit)
    _git(folder, "checkout", "--quiet", "--progress", "--force", source.commit)
    if not _find_collection(target, name):
        raise DataError(f"expected files such as {source.files[0]} at {source.commit}, found none")


def _git(folder: Path, *arguments: str) -> None:
    process = subprocess.run(["git", "-C", str(folder), *arguments], env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    if process.returncode:
        raise DataError(f"git {arguments[0]} failed in {folder} (exit status {process.returncode})")
