"""Twenty-seven subjects of HDM05 and CMU, split by subject, seen by virtual cameras."""

import functools
import hashlib
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int16
from tqdm import tqdm

from mixste.data.clips import PoseDataset
from mixste.data.readers import asf_amc, bvh, cgspeed
from mixste.data.sources import open_mocap
from mixste.data.sources.open_mocap import (
    FASTEST,
    FPS,
    HDM05_ACTIONS,
    HDM05_FILE,
    PINNED,
    SHORTEST,
    Take,
    as_dataset,
    cached,
    cut,
    find,
    texts,
)
from mixste.io import DataError
from mixste.skeleton import human36m

COLLECTIONS = ("hdm05", "cmu", "motion-graphs", "motion-viewer", "Mocap-Data-Utilities", "bvh11")
AS_BVH = {person for name in COLLECTIONS[3:] for person in PINNED[name].people}

# --- who is in which split -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """split: "train", "validation" or "test". takes: how many recordings there are. motions: what they show.

    hard: whether most of it is dance, martial arts, acrobatics or climbing, which are reported apart.
    """

    split: str
    takes: int
    motions: str
    hard: bool = False


# CMU says that a person may have several of its numbers, each with a skeleton measured anew; HDM05's five are surely
# five. Left and right limbs of one skeleton differ by 9 mm on average and by up to 32 mm, so two skeletons may be one
# person if no thigh, shank, upper arm or forearm differs by 20 mm. All such pairs are on one side: 16 with 17 (12 mm),
# 29 with 49 (14), 27 with 135 (17), 10 with 35 (17) and 17 (18), 07 with 08 (18), 01 with 16 (18).
#
# Test: the three test subjects of open-subjects, so that old and new results can be compared; a dancer and a martial
# artist, while other dancers are trained on; a runner, a walker and a basketball player. Of all 27, they have the
# shortest shanks (hdm_mm), the shortest forearms (cmu_05) and the longest upper arms (cmu_09).
#
# Validation: the validation subject of open-subjects, one with various everyday motions, and one who is hard.
#
# Training: the other sixteen, the largest (hdm_bk) and the smallest body (cmu_32) among them.
PEOPLE = {
    "hdm_bd": Person("validation", 62, "eleven short actions"),
    "hdm_bk": Person("train", 65, "eleven short actions"),
    "hdm_dg": Person("train", 61, "eleven short actions"),
    "hdm_mm": Person("test", 44, "eleven short actions"),
    "hdm_tr": Person("test", 55, "eleven short actions"),
    "cmu_01": Person("train", 14, "climbing on a playground", hard=True),
    "cmu_02": Person("validation", 10, "various everyday motions, swordplay"),
    "cmu_03": Person("test", 4, "walking on uneven ground"),
    "cmu_05": Person("test", 20, "modern dance", hard=True),
    "cmu_06": Person("test", 15, "basketball"),
    "cmu_07": Person("train", 12, "walking"),
    "cmu_08": Person("train", 11, "walking"),
    "cmu_09": Person("test", 12, "running"),
    "cmu_10": Person("train", 1, "walking"),
    "cmu_12": Person("train", 3, "walking"),
    "cmu_14": Person("train", 34, "various everyday motions"),
    "cmu_16": Person("train", 58, "walking, running, jumping"),
    "cmu_17": Person("train", 2, "sneaking, boxing"),
    "cmu_26": Person("train", 1, "walking"),
    "cmu_27": Person("test", 1, "walking"),
    "cmu_29": Person("train", 20, "gestures and pantomime"),
    "cmu_32": Person("train", 2, "walking"),
    "cmu_35": Person("train", 32, "walking, running"),
    "cmu_49": Person("train", 22, "modern dance, gymnastics", hard=True),
    "cmu_127": Person("validation", 38, "running, jumps, dives and rolls", hard=True),
    "cmu_131": Person("train", 3, "walking and hopping like a pop star", hard=True),
    "cmu_135": Person("test", 10, "martial arts", hard=True),
}
OFTEN = 4  # an action of a training subject with as many takes has its last one kept back as unseen


def unseen_takes(takes: Iterable[Take]) -> set[tuple[str, str, str]]:
    """(subject, action, take) of the takes that are kept back: of every action that a training subject performs at
    least `OFTEN` times, the last. So the subject, and the same action in other takes, are trained on.

    The parts of a take that was cut at a jump stay together.
    """
    numbers: dict[tuple[str, str], set[str]] = {}
    for take in takes:
        if PEOPLE[take.subject].split == "train":
            numbers.setdefault((take.subject, take.action), set()).add(_number(take))
    return {(*key, max(of_key, key=int)) for key, of_key in numbers.items() if len(of_key) >= OFTEN}


def _number(take: Take) -> str:
    return take.name.split("-")[0]


# --- what they do ----------------------------------------------------------------------------------------------

# CMU's files are numbered. The actions, by subject and trial, follow the descriptions of mocap.cs.cmu.edu (as B. Hahne
# compiled them in 2008), in a word or two of our own. "Motorcycle" is the name of a posture. Other trials are not part
# of the data set.
CMU_ACTIONS: dict[str, dict[str, Iterable[int]]] = {
    "01": {"Playground": range(1, 15)},
    "02": {
        "Walk": [1, 2],
        "Run": [3],
        "Jump": [4],
        "Punch": [5],
        "Bend and lift": [6],
        "Swordplay": [7, 8, 9],
        "Wash": [10],
    },
    "03": {"Walk on uneven ground": range(1, 5)},
    "05": {"Walk": [1], "Dance": range(2, 21)},
    "06": {"Walk": [1], "Basketball": range(2, 16)},
    "07": {"Walk": range(1, 13)},
    "08": {"Walk": range(1, 12)},
    "09": {"Run": range(1, 12), "Walk": [12]},
    "10": {"Walk": [4]},
    "12": {"Walk": [1, 2, 3]},
    "14": {
        "Box": [2],
        "Drink": [4, 5, 37],
        "Exercise": [6, 14, 20],
        "Reach up": [7, 8, 9],
        "Wash windows": [10, 11, 12],
        "Mop": [13, 15],
        "Laugh": [17, 18, 19],
        "Climb steps": [21, 22, 23],
        "Direct traffic": [24, 25, 26],
        "Sit down and up": [*range(27, 33), 36],
        "Climb a ladder": [33, 34, 35],
    },
    "16": {
        "Jump": [*range(1, 8), 9, 10],
        "Run": [8, *range(35, 47), *range(48, 58)],
        "Walk": [*range(11, 35), 47, 58],
    },
    "17": {"Sneak": [3], "Box": [10]},
    "26": {"Walk": [1]},
    "27": {"Walk": [1]},
    "29": {
        "Walk": [1],
        "Basketball signals": [2, 7],
        "Nursery rhyme": [3, 8],
        "Vacation": [4, 5, 9, 11],
        "Pantomime of animals": [*range(14, 18), *range(19, 26)],
    },
    "32": {"Walk": [1, 2]},
    "35": {"Walk": [*range(2, 17), *range(28, 35)], "Run": range(17, 27)},
    "49": {
        "Walk": [1],
        "Jump": [2, 3],
        "Run and leap": [4, 5],
        "Cartwheel": [6, 7, 8],
        "Dance": [*range(9, 18), 22],
        "Balance": [18, 19, 20],
        "Acrobatics": [21],
    },
    "127": {
        "Motorcycle": [1],
        "Range of motion": [2],
        "Run": [*range(3, 21), 33, 34, 35, 36],
        "Run and jump": [21, 22, *range(25, 29)],
        "Run, dive and roll": [23, 24],
        "Run and duck": [*range(29, 33), 37, 38],
    },
    "131": {"Walk": [1, 2], "Hop": [3]},
    "135": {"Martial arts": [*range(2, 8), 9, 10, 11], "Motorcycle": [8]},
}


# --- the data set ----------------------------------------------------------------------------------------------


def load_people(root=None, keypoints: str = "gt", rig: str = "human36m", strict: bool = False) -> PoseDataset:
    """HDM05 and CMU, split by subject as in `PEOPLE`; the takes of `unseen_takes` are a list of their own.

    root: as of `open_mocap.load_subjects`, with the archives or checkouts of `COLLECTIONS`. Subjects of missing
    repositories are left out with a warning for each repository; with `strict`, as for results of the study, DataError
    says who is missing. keypoints, rig and other errors as of `load_subjects`.
    """
    takes, _ = _load(root, strict)
    unseen = unseen_takes(takes)

    def split(take: Take) -> str:
        key = (take.subject, take.action, _number(take))
        return "unseen_takes" if key in unseen else PEOPLE[take.subject].split

    return as_dataset("open-people", "unseen people", takes, split, keypoints, rig)


def _load(root, strict: bool) -> tuple[list[Take], dict[str, tuple[int, str]]]:
    """All takes, and the number of recordings of each subject and the SHA-256 of their files."""
    paths = find("open-people", COLLECTIONS, root, all_of_them=False)
    patterns = [pattern for name in COLLECTIONS for pattern in PINNED[name].files]
    code = (__file__, open_mocap.__file__, asf_amc.__file__, bvh.__file__, cgspeed.__file__)
    stored = cached("open-people", paths, code, lambda: _read(texts(paths, patterns)))
    counts = dict(zip(stored["people"].tolist(), stored["counts"].tolist(), strict=True))
    if not counts:
        raise DataError(f"open-people: expected files such as {patterns[0]} in {paths[0]}, found none")
    missing = _missing(counts)
    if missing and strict:
        raise DataError(f"open-people: expected all 27 people, found it {' and '.join(missing)}")
    for sentence in missing:
        warnings.warn(f"open-people is {sentence}", stacklevel=3)
    world, ends = unpacked(stored["roots"], stored["joints"]), np.cumsum(stored["frames"]).tolist()
    takes = [
        Take(*names, world[start:end])
        for names, start, end in zip(stored["labels"].tolist(), [0, *ends], ends, strict=False)
    ]
    return takes, dict(zip(counts, zip(counts.values(), stored["sha256"].tolist(), strict=True), strict=True))


def _missing(counts: dict[str, int]) -> list[str]:
    """A clause for each repository whose recordings are not all there; counts: takes by subject."""
    clauses = []
    for name in COLLECTIONS:
        lacking = [person for person in PINNED[name].people if counts.get(person, 0) < PEOPLE[person].takes]
        parts = [f"{it} ({counts[it]} of {PEOPLE[it].takes} takes)" if it in counts else it for it in lacking]
        if parts:
            clauses.append(f"without {', '.join(parts)} of {PINNED[name].repository} (`mixste data fetch open`)")
    return clauses


# --- files -----------------------------------------------------------------------------------------------------

STEP = 5e-5  # metres: joints are kept relative to the hip in these steps, an error of at most 0.025 mm an axis


def packed(
    world: Float[np.ndarray, "frames 17 3"],
) -> tuple[Float[np.ndarray, "frames 3"], Int16[np.ndarray, "f 16 3"]]:
    """The path of the hip, float32, and the other joints relative to it in steps of `STEP`, int16."""
    roots = world[:, human36m.root].astype(np.float32)
    steps = np.round((np.delete(world, human36m.root, axis=1) - roots[:, None].astype(np.float64)) / STEP)
    if np.abs(steps).max(initial=0) > np.iinfo(np.int16).max:
        raise DataError(f"expected joints within {np.iinfo(np.int16).max * STEP:.2f} m of the hip, found one beyond")
    return roots, steps.astype(np.int16)


def unpacked(roots: Float[np.ndarray, "frames 3"], steps: Int16[np.ndarray, "frames 16 3"]) -> np.ndarray:
    """World coordinates, float32, from the arrays of `packed`."""
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
    arrays = [packed(take.world) for take in takes]
    return {
        "people": np.array(list(counts), dtype=str),
        "counts": np.array(list(counts.values()), dtype=int),
        "sha256": np.array(list(hashes.values()), dtype=str),
        "labels": np.array([(take.subject, take.action, take.name) for take in takes], dtype=str).reshape(-1, 3),
        "frames": np.array([len(take.world) for take in takes], dtype=int),
        "roots": np.concatenate([np.empty((0, 3), np.float32), *(roots for roots, _ in arrays)]),
        "joints": np.concatenate([np.empty((0, 16, 3), np.int16), *(steps for _, steps in arrays)]),
    }


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
        t_pose = len(world) > 1 and np.linalg.norm(world[1] - world[0], axis=-1).max() * motion.fps > FASTEST
        return world[1:] if t_pose else world, motion.fps
    asf = re.match(r"(HDM_)?[a-z0-9]+", file)[0] + ".asf"
    if asf not in contents:
        raise DataError(f"{file}: expected its skeleton {asf} beside it, found none")
    skeleton = _skeleton(contents[asf], asf)
    return asf_amc.joints(skeleton, asf_amc.read_amc(contents[file], skeleton, file)), 120.0


_skeleton = functools.lru_cache(maxsize=1)(asf_amc.read_asf)  # all takes of a subject have the same


# --- what the data card says of them ---------------------------------------------------------------------------

LIMBS = {"thigh": ("Hip", "Knee"), "shank": ("Knee", "Foot"), "upper arm": ("Shoulder", "Elbow")}
LIMBS |= {"forearm": ("Elbow", "Wrist")}
UPRIGHT = ("Hip", "Spine", "Thorax", "Neck", "Head")


def card(root=None, strict: bool = False) -> pd.DataFrame:
    """One row for each subject: what is known of the person, the body, the takes, and the hash of the files read.

    Lengths in millimetres are medians over all frames, of limbs the mean of left and right. "ankle to head" is the
    length along the bones, from the ankles' mean to the head joint, which is mid-head. frames: at `FPS`.
    """
    takes, files = _load(root, strict)
    unseen = unseen_takes(takes)
    rows = []
    for subject, person in PEOPLE.items():
        own = [take for take in takes if take.subject == subject]
        if not own:
            continue
        recordings, sha256 = files[subject]
        world = np.concatenate([take.world for take in own])
        limbs = {limb: np.mean([_length(world, side + a, side + b) for side in "LR"]) for limb, (a, b) in LIMBS.items()}
        trunk = sum(_length(world, a, b) for a, b in itertools.pairwise(UPRIGHT))
        kept_back = [take for take in own if (subject, take.action, _number(take)) in unseen]
        lengths = [len(take.world) for take in own]
        collection = next(it for it in PINNED.values() if subject in it.people)
        rows.append(
            {
                "subject": subject,
                "data set": collection.title,
                "surely distinct": collection.title == "HDM05",
                "split": person.split,
                "hard": person.hard,
                "motions": person.motions,
                "actions": len({take.action for take in own}),
                "takes": recordings,
                "frames": sum(lengths),
                "unseen frames": sum(len(take.world) for take in kept_back),
                "minutes": sum(lengths) / FPS / 60,
                "clips": len(own),
                "median clip": int(np.median(lengths)),
                "longest clip": max(lengths),
                "clips of 243 frames": sum(length >= 243 for length in lengths),
                "ankle to head": limbs["thigh"] + limbs["shank"] + trunk,
                **limbs,
                "repository": collection.repository,
                "commit": collection.commit,
                "sha256": sha256,
            }
        )
    return pd.DataFrame(rows).set_index("subject")


def _length(world: Float[np.ndarray, "frames 17 3"], a: str, b: str) -> float:
    """Median distance of two joints, millimetres."""
    return (
        float(
            np.median(np.linalg.norm(world[:, human36m.joints.index(a)] - world[:, human36m.joints.index(b)], axis=-1))
        )
        * 1e3
    )


def compare_formats(root=None) -> pd.DataFrame:
    """Mean distance of each joint, millimetres, in the trials that are published both as AMC and as BVH.

    It is the error of the subjects that are read as BVH. Raises DataError where one of the formats is missing.
    """
    names = ("cmu", "motion-graphs", "Mocap-Data-Utilities")
    paths, patterns = find("open-people", names, root), [pattern for name in names for pattern in PINNED[name].files]
    people = {person for name in names[:2] for person in PINNED[name].people}
    contents = {file: text for file, text in texts(paths, patterns) if _person(file) in people}
    rows = {}
    for file in sorted(contents):
        trial = file.removesuffix(".bvh")
        if trial != file and f"{trial}.amc" in contents:
            original, converted = (_world(trial + ending, contents)[0] for ending in (".amc", ".bvh"))
            rows[trial] = np.linalg.norm(original - converted, axis=-1).mean(axis=0) * 1e3
    if not rows:
        raise DataError(f"open-people: expected a trial both as AMC and as BVH in {paths[0]}, found none")
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(human36m.joints))
