"""The benchmark on unseen subjects: 27 of HDM05 and CMU, split by subject, seen by virtual cameras."""

import functools
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16
from tqdm import tqdm

from mixste.data import bodies
from mixste.data.clips import PoseDataset
from mixste.data.readers import asf_amc, bvh, cgspeed
from mixste.data.sources import open_mocap, people
from mixste.data.sources.open_mocap import (
    FASTEST,
    FPS,
    PINNED,
    Take,
    as_dataset,
    cached,
    cut,
    find,
    texts,
)
from mixste.data.sources.people import CMU_ACTIONS, HDM05_ACTIONS, PEOPLE
from mixste.io import DataError
from mixste.skeleton import human36m

COLLECTIONS = ("hdm05", "cmu", "motion-graphs", "motion-viewer", "Mocap-Data-Utilities", "bvh11")
FETCH = "`mixste data fetch open`"
AS_BVH = {person for name in COLLECTIONS[3:] for person in PINNED[name].people}


def load_people(root=None, keypoints: str = "gt", rig: str = "human36m", strict: bool = False) -> PoseDataset:
    """HDM05 and CMU, split by subject as in `people.PEOPLE`; the takes of `unseen_takes` are a list of their own.

    root: one archive, or a folder with the archives of `COLLECTIONS` (as hdm05.tar.xz), their unpacked files, or
    checkouts of the repositories; by default MIXSTE_DATA, then the folder that `open_mocap.fetch` writes to. keypoints:
    "gt" or one of `virtual.DETECTORS`. rig: one of `virtual.RIGS`. Subjects of missing repositories are left out with a
    warning for each repository; with `strict`, as for results of the study, DataError says who is missing. Raises
    DataError for malformed recordings, and if there are none.
    """
    takes, _ = _load(root, strict)
    unseen = unseen_takes(takes)

    def split(take: Take) -> str:
        key = (take.subject, take.action, _number(take))
        return "unseen_takes" if key in unseen else PEOPLE[take.subject].split

    return as_dataset("open-people", "unseen people", takes, split, keypoints, rig)


SHORTEST = 25  # frames of the shortest clip
OFTEN = 4  # takes of an action


def unseen_takes(takes: Iterable[Take]) -> set[tuple[str, str, str]]:
    """(subject, action, take) of the takes of training subjects that are not trained on.

    They are the last takes of all actions that the subject performs at least `OFTEN` times, so that the subject and the
    action are trained on in other takes. All parts of a take that was cut at a jump are on one side.
    """
    numbers: dict[tuple[str, str], set[str]] = {}
    for take in takes:
        if PEOPLE[take.subject].split == "train":
            numbers.setdefault((take.subject, take.action), set()).add(_number(take))
    return {(*key, max(of_key, key=int)) for key, of_key in numbers.items() if len(of_key) >= OFTEN}


def _number(take: Take) -> str:
    return take.name.split("-")[0]


def _load(root, strict: bool) -> tuple[list[Take], dict[str, tuple[int, str]]]:
    """All takes, and the number of recordings of each subject and the SHA-256 of their files."""
    stored, counts = _stored(root)
    missing = _missing(counts)
    if missing and strict:
        raise DataError(f"open-people: expected all {len(PEOPLE)} subjects, found it {', '.join(missing)}: run {FETCH}")
    for clause in missing:
        warnings.warn(f"open-people is {clause}: run {FETCH}", stacklevel=3)
    world, ends = dequantize(stored["roots"], stored["joints"]), np.cumsum(stored["frames"]).tolist()
    takes = [
        Take(*names, world[start:end])
        for names, start, end in zip(stored["labels"].tolist(), [0, *ends], ends, strict=False)
    ]
    return takes, dict(zip(counts, zip(counts.values(), stored["sha256"].tolist(), strict=True), strict=True))


def check(root=None) -> tuple[pd.DataFrame, list[str]]:
    """For each repository, how many subjects and takes are here, of how many; and a sentence for each that lacks some.

    root and errors as of `load_people`.
    """
    _, counts = _stored(root)
    rows = []
    for source in map(PINNED.get, COLLECTIONS):
        here = {name: counts[name] for name in source.people if name in counts}
        takes = sum(PEOPLE[name].takes for name in source.people)
        of = {"subjects": f"{len(here)} of {len(source.people)}", "takes": f"{sum(here.values())} of {takes}"}
        rows.append({"repository": source.repository, "licence": source.licence} | of)
    return pd.DataFrame(rows), [f"open-people is {clause}: run {FETCH}" for clause in _missing(counts)]


def _stored(root) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The arrays of `_read`, and the number of recordings of each subject."""
    paths = find("open-people", COLLECTIONS, root, all_of_them=False)
    patterns = [pattern for name in COLLECTIONS for pattern in PINNED[name].files]
    code = (__file__, people.__file__, open_mocap.__file__, asf_amc.__file__, bvh.__file__, cgspeed.__file__)
    stored = cached("open-people", paths, code, lambda: _read(texts(paths, patterns)))
    counts = dict(zip(stored["people"].tolist(), stored["counts"].tolist(), strict=True))
    if not counts:
        raise DataError(f"open-people: expected files such as {patterns[0]} in {paths[0]}, found none")
    return stored, counts


def _missing(counts: dict[str, int]) -> list[str]:
    """A clause for each repository whose recordings are not all there; counts: takes by subject."""
    clauses = []
    for name in COLLECTIONS:
        lacking = [person for person in PINNED[name].people if counts.get(person, 0) < PEOPLE[person].takes]
        parts = [f"{it} ({counts[it]} of {PEOPLE[it].takes} takes)" if it in counts else it for it in lacking]
        if parts:
            clauses.append(f"without {', '.join(parts)} of {PINNED[name].repository}")
    return clauses


# --- files -----------------------------------------------------------------------------------------------------

STEP = 5e-5  # metres: joints are kept relative to the hip in these steps, an error of at most 0.025 mm an axis


def quantize(
    world: Float[np.ndarray, "frames 17 3"],
) -> tuple[Float[np.ndarray, "frames 3"], Int16[np.ndarray, "f 16 3"]]:
    """The path of the hip, float32, and the other joints relative to it in steps of `STEP`, int16."""
    roots = world[:, human36m.root].astype(np.float32)
    steps = np.round((np.delete(world, human36m.root, axis=1) - roots[:, None].astype(np.float64)) / STEP)
    if np.abs(steps).max(initial=0) > np.iinfo(np.int16).max:
        raise DataError(f"expected joints within {np.iinfo(np.int16).max * STEP:.2f} m of the hip, found one beyond")
    return roots, steps.astype(np.int16)


def dequantize(roots: Float[np.ndarray, "frames 3"], steps: Int16[np.ndarray, "frames 16 3"]) -> np.ndarray:
    """World coordinates, float32, from the arrays of `quantize`."""
    joints = roots[:, None] + steps * np.float32(STEP)
    return np.insert(joints, human36m.root, roots, axis=1)


def _read(files: Iterator[tuple[str, str]]) -> dict[str, np.ndarray]:
    by_person: dict[str, dict[str, str]] = {}
    for file, text in files:
        person = _person(file)
        if person and (file.endswith(".bvh") == (person in AS_BVH)) and (file.endswith(".asf") or _action(file)):
            by_person.setdefault(person, {})[file] = text
    takes, counts, hashes = [], {}, {}
    progress = tqdm(desc="HDM05 and CMU", unit="take", total=sum(it.takes for it in PEOPLE.values()), disable=None)
    for person in filter(by_person.get, PEOPLE):
        contents = dict(sorted(by_person[person].items()))
        digest = hashlib.sha256()
        for file, text in contents.items():
            digest.update(f"{file}\n".encode() + text.encode("latin-1"))
        motions = [file for file in contents if not file.endswith(".asf")]
        for file in motions:
            takes += _takes_of(file, contents)
            progress.update()
        if motions:
            counts[person], hashes[person] = len(motions), digest.hexdigest()
    progress.close()
    arrays = [quantize(take.world) for take in takes]
    return {
        "people": np.array(list(counts), dtype=str),
        "counts": np.array(list(counts.values()), dtype=int),
        "sha256": np.array(list(hashes.values()), dtype=str),
        "labels": np.array([(take.subject, take.action, take.name) for take in takes], dtype=str).reshape(-1, 3),
        "frames": np.array([len(take.world) for take in takes], dtype=int),
        "roots": np.concatenate([np.empty((0, 3), np.float32), *(roots for roots, _ in arrays)]),
        "joints": np.concatenate([np.empty((0, 16, 3), np.int16), *(steps for _, steps in arrays)]),
    }


HDM05_FILE = r"(HDM_([a-z]+))_([^_]+)_(\d+)_120\.amc"  # skeleton, person, label, number
CMU_FILE = r"(\d+)(?:_(\d+))?\.(?:asf|amc|bvh)"  # subject, trial


def _person(file: str) -> str | None:
    """The subject whose skeleton or motion a file holds; None for a file that is no part of the data set."""
    hdm05, cmu = re.match(r"HDM_([a-z]+)[_.]", file), re.fullmatch(CMU_FILE, file)
    person = f"hdm_{hdm05[1]}" if hdm05 else f"cmu_{cmu[1]}" if cmu else ""
    return person if person in PEOPLE else None


def _action(file: str) -> str | None:
    """The action in a motion of a subject; None for a trial that is no part of the data set."""
    if match := re.fullmatch(HDM05_FILE, file):
        return HDM05_ACTIONS.get(match[3])
    if match := re.fullmatch(CMU_FILE, file):
        trials = CMU_ACTIONS[match[1]].items()
        return next((action for action, numbers in trials if match[2] and int(match[2]) in numbers), None)
    return None


def _takes_of(file: str, contents: dict[str, str]) -> list[Take]:
    """The takes in one file, without jumps; contents: the texts of all files of the subject, by name."""
    number = (re.fullmatch(HDM05_FILE, file) or re.fullmatch(CMU_FILE, file)).groups()[-1]
    world, fps = _world(file, contents)
    return cut(Take(_person(file), _action(file), number, world), fps, SHORTEST)


def _world(file: str, contents: dict[str, str]) -> tuple[Float[np.ndarray, "frames 17 3"], float]:
    """The motion in a file, metres, Y up, and its frames per second."""
    if file.endswith(".bvh"):
        motion = bvh.read_bvh(contents[file], file)
        world = cgspeed.joints(motion)
        # The conversion put a T-pose in front of most motions: the first step is then faster than anybody moves.
        t_pose = len(world) > 1 and np.linalg.norm(world[1] - world[0], axis=-1).max() * motion.fps > FASTEST
        return world[1:] if t_pose else world, motion.fps
    asf = re.match(r"(HDM_)?[a-z0-9]+", file)[0] + ".asf"
    if asf not in contents:
        raise DataError(f"{file}: expected its skeleton {asf} beside it, found none")
    skeleton = _skeleton(contents[asf], asf)
    return asf_amc.joints(skeleton, asf_amc.read_amc(contents[file], skeleton, file)), 120.0


_skeleton = functools.lru_cache(maxsize=1)(asf_amc.read_asf)  # all takes of a subject have the same


# --- what the data card says of them ---------------------------------------------------------------------------


def card(root=None, strict: bool = False) -> pd.DataFrame:
    """One row for each subject: what is known of the person, the body, the takes, and the hash of the files read.

    Lengths are those of `mixste.data.bodies.lengths`, millimetres; the head joint is mid-head. frames: at `FPS`.
    """
    takes, files = _load(root, strict)
    unseen = unseen_takes(takes)
    rows = []
    for subject, person in PEOPLE.items():
        of_subject = [take for take in takes if take.subject == subject]
        if not of_subject:
            continue
        recordings, sha256 = files[subject]
        lengths = [len(take.world) for take in of_subject]
        unseen_lengths = [len(it.world) for it in of_subject if (subject, it.action, _number(it)) in unseen]
        collection = next(it for it in PINNED.values() if subject in it.people)
        rows.append(
            {
                "subject": subject,
                "data set": collection.title,
                "surely distinct": collection.title == "HDM05",
                "split": person.split,
                "hard": person.hard,
                "motions": person.motions,
                "actions": len({take.action for take in of_subject}),
                "takes": recordings,
                "frames": sum(lengths),
                "unseen frames": sum(unseen_lengths),
                "minutes": sum(lengths) / FPS / 60,
                "clips": len(of_subject),
                "median clip": int(np.median(lengths)),
                "longest clip": max(lengths),
                "clips of 243 frames": sum(length >= 243 for length in lengths),
                **bodies.lengths(np.concatenate([take.world for take in of_subject])),
                "repository": collection.repository,
                "commit": collection.commit,
                "sha256": sha256,
            }
        )
    return pd.DataFrame(rows).set_index("subject")


def compare_formats(root=None) -> pd.DataFrame:
    """Mean distance of each joint, millimetres, in the trials that are published both as AMC and as BVH.

    It is the error of the subjects that are read as BVH. Raises DataError where one of the formats is missing.
    """
    names = ("cmu", "motion-graphs", "Mocap-Data-Utilities")
    paths, patterns = find("open-people", names, root), [pattern for name in names for pattern in PINNED[name].files]
    subjects = {person for name in names[:2] for person in PINNED[name].people}
    contents = {file: text for file, text in texts(paths, patterns) if _person(file) in subjects}
    rows = {}
    for file in sorted(contents):
        trial = file.removesuffix(".bvh")
        if trial != file and f"{trial}.amc" in contents:
            original, converted = (_world(trial + ending, contents)[0] for ending in (".amc", ".bvh"))
            rows[trial] = np.linalg.norm(original - converted, axis=-1).mean(axis=0) * 1e3
    if not rows:
        raise DataError(f"open-people: expected a trial both as AMC and as BVH in {paths[0]}, found none")
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(human36m.joints))
