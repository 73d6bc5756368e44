"""The subjects of `open_people`: their split, and what they do."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """A subject.

    split: "train", "validation" or "test". takes: number of recordings. motions: in a few words. hard: whether most of
    them are dance, martial arts, acrobatics or climbing; such subjects are also reported separately.
    """

    split: str
    takes: int
    motions: str
    hard: bool = False


# CMU says that a person may have several of its numbers, each with a skeleton measured anew; HDM05's five are surely
# five. Left and right limbs of one skeleton differ by 9 mm on average and by up to 32 mm, so two skeletons may be one
# person if no thigh, shank, upper arm or forearm differs by 20 mm or more. The two of each such pair are in the same
# split: 16 and 17 (12 mm), 29 and 49 (14), 27 and 135 (17), 10 and 35 (17), 10 and 17 (18), 07 and 08 (18), 01 and 16
# (18).
#
# Test: the three test subjects of the first tables of profile `open`, which had eight subjects, so that old and new
# results can be compared; a dancer and a martial artist, while other dancers are trained on; a runner, a walker and a
# basketball player. Of all 27, they have the shortest shanks (hdm_mm), the shortest forearms (cmu_05) and the longest
# upper arms (cmu_09).
#
# Validation: the validation subject of those tables, one with various everyday motions, and one with hard motions.
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


def subjects(split: str) -> tuple[str, ...]:
    """The subjects of a split."""
    return tuple(subject for subject, person in PEOPLE.items() if person.split == split)


# By the label in a file's name.
HDM05_ACTIONS = {
    "depositFloorR": "Deposit on floor",
    "elbowToKnee1RepsLelbowStart": "Elbow to knee",
    "grabHighR": "Grab high",
    "hopBothLegs1hops": "Hop",
    "jogLeftCircle4StepsRstart": "Jog in circle",
    "kickLFront1Reps": "Kick",
    "lieDownFloor": "Lie down",
    "rotateArmsBothBackward1Reps": "Rotate arms",
    "sneak2StepsLStart": "Sneak",
    "squat1Reps": "Squat",
    "throwBasketball": "Throw basketball",
}

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
