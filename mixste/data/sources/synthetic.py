"""The embedded default data: procedural people who perform the fifteen Human3.6M actions, generated from a seed.

A motion is first written as controls over time (`Motion`: where the person goes, how the trunk leans, where hands
and feet are), with one short function an action; `pose` then turns the controls into joints of fixed bone lengths.
Lengths are in statures until the last step; body axes are x forward, y left, z up.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from mixste.data.clips import PoseDataset
from mixste.data.virtual import film, random_of
from mixste.skeleton import human36m

FPS = 50.0
TRAIN, TEST = ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")
TAKES = ("1", "2")

# Stature in metres: those of the test subjects are within the range of training, their proportions are not.
STATURES = {"S1": 1.66, "S5": 1.58, "S6": 1.72, "S7": 1.81, "S8": 1.88, "S9": 1.77, "S11": 1.69}

# Segment lengths in statures after Drillis and Contini (1966), as Winter (2009, Figure 4.1) prints them: joint heights
# ankle .039, knee .285, hip .530, shoulder .818; upper arm .186, forearm .146. Their breadths are taken over the
# skin; the hip and shoulder joints lie inside. The trunk and head are split where Human3.6M has joints.
SEGMENTS = {
    "ankle": 0.039,
    "shank": 0.246,
    "thigh": 0.245,
    "hip": 0.076,
    "spine": 0.135,
    "chest": 0.153,
    "neck": 0.075,
    "head": 0.070,
    "shoulder": 0.100,
    "upper arm": 0.186,
    "forearm": 0.146,
}


@dataclass(frozen=True)
class Person:
    """A body (segment lengths in statures, stature in metres) and the habits of its movements."""

    stature: float
    segments: dict[str, float]
    main: int  # the preferred hand: 0 left, 1 right
    tempo: float  # factor of speed
    vigour: float  # factor of amplitude
    stoop: float  # radians that the trunk leans
    stance: float  # half the distance of the feet, statures

    @classmethod
    def of(cls, subject: str, seed: int) -> "Person":
        rng = random_of(seed, "person", subject)
        return cls(
            stature=STATURES[subject],
            segments={name: length * rng.uniform(0.92, 1.08) for name, length in SEGMENTS.items()},
            main=int(rng.random() < 0.8),
            tempo=rng.uniform(0.85, 1.2),
            vigour=rng.uniform(0.75, 1.25),
            stoop=rng.uniform(-0.02, 0.14),
            stance=rng.uniform(0.045, 0.085),
        )


# --- controls ----------------------------------------------------------------------------------------------------

# Where a wrist can be: forward, outward, up from the thorax in statures, and how far the elbow is lifted (0 … 1).
PLACES = {
    "rest": (0.01, 0.125, -0.350, 0.0),
    "mouth": (0.11, 0.01, 0.045, 0.1),
    "ear": (0.07, 0.080, 0.075, 0.3),
    "eyes": (0.17, 0.03, 0.070, 0.2),
    "chest": (0.16, 0.06, -0.110, 0.1),
    "talk": (0.19, 0.12, -0.100, 0.1),
    "bowl": (0.17, 0.04, -0.090, 0.1),
    "hip": (0.00, 0.125, -0.220, 1.0),
    "pocket": (0.03, 0.120, -0.270, 0.4),
    "crossed": (0.12, -0.03, -0.100, 0.2),
    "lap": (0.17, 0.04, -0.230, 0.2),
    "knee": (0.25, 0.08, -0.220, 0.1),
    "table": (0.24, 0.08, -0.150, 0.3),
    "watch": (0.16, 0.00, -0.020, 0.5),
    "wave": (0.08, 0.170, 0.120, 0.3),
    "overhead": (0.05, 0.130, 0.270, 0.6),
    "sideways": (0.04, 0.390, 0.000, 0.3),
    "shake": (0.28, 0.03, -0.110, 0.0),
    "leash": (0.20, 0.12, -0.200, 0.1),
    "shelf": (0.28, 0.08, 0.060, 0.2),
    "behind": (-0.12, 0.05, -0.230, 0.8),
}
STANDING = 0.531  # height of the hips, statures
PHASE = 0.05  # of the gait while standing: both feet on the floor


def smooth(x):
    """0 up to x = 0, 1 from x = 1 on, and between them the path of least jerk."""
    x = np.clip(x, 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


class Motion:
    """Controls of one take. Arrays over frames; the last axis of pairs is (left, right)."""

    def __init__(self, person: Person, frames: int, rng: np.random.Generator):
        self.person, self.rng, self.frames = person, rng, frames
        self.tempo = person.tempo * rng.uniform(0.88, 1.14)
        self.vigour = person.vigour * rng.uniform(0.8, 1.2)
        self.main = person.main if rng.random() < 0.85 else 1 - person.main
        self.t = np.arange(frames) / FPS
        self.end = self.t[-1]
        self.always = np.ones(frames)

        self.path = np.zeros((frames, 2))  # statures, on the floor
        self.heading = np.full(frames, rng.uniform(-np.pi, np.pi))
        self.phase = np.full(frames, PHASE)  # of the gait; a cycle is two steps
        self.pelvis = self.wander(3, 0.004, 4.0)  # from its place over the path, heading axes
        self.trunk = self.wander(3, 0.03, 3.0)  # twist, pitch, side bend
        self.trunk[:, 1] += person.stoop
        self.head = self.wander(3, 0.08, 2.5)  # yaw, pitch, tilt against the chest
        self.hands = np.tile(PLACES["rest"], (frames, 2, 1))
        self.hands[..., :3] += self.wander((2, 3), 0.008, 2.0) + rng.normal(0, 0.008, (2, 3))
        self.plumb = np.zeros((frames, 2))  # 1: the hand's place turns with the heading only, not with the trunk
        self.feet = np.tile(rng.normal(0, [0.015, 0.008, 0], (2, 3)), (frames, 1, 1))  # from their steps
        self.knees = np.full((frames, 2), rng.uniform(0.05, 0.3))  # how far the knees point outwards

    def wander(self, shape, size: float, period: float) -> np.ndarray:
        """Smooth noise (frames, *shape) of standard deviation `size`: five waves of `period` seconds and shorter."""
        shape = np.atleast_1d(shape)
        rate = self.tempo / period * self.rng.uniform(0.3, 1.7, (5, *shape))
        angle = 2 * np.pi * (rate * self.t.reshape(-1, 1, *np.ones_like(shape)) + self.rng.random((5, *shape)))
        return size * np.sqrt(2 / 5) * np.sin(angle).sum(axis=1)

    def spans(self, shortest: float, longest: float):
        """(start, stop) seconds of consecutive stretches of random length until the clip ends."""
        start = self.rng.uniform(-shortest, 0.3)
        while start < self.end:
            stop = start + self.rng.uniform(shortest, longest) / self.tempo
            yield start, stop
            start = stop

    def during(self, start: float, stop: float, ramp: float = 0.6) -> np.ndarray:
        """(frames,) weights that rise to 1 within the span and fall again, `ramp` seconds each."""
        ramp = min(ramp / self.tempo, (stop - start) / 2)
        return smooth((self.t - start) / ramp) * smooth((stop - self.t) / ramp)

    def put(self, hand: int, place, weight, spread: float = 0.015) -> None:
        """Move a hand to a named place, or (x, y, z, elbow), by `weight` (frames,); nobody hits it exactly."""
        goal = np.array(PLACES[place] if isinstance(place, str) else place)
        goal[:3] += self.rng.normal(0, spread, 3)
        way = goal - self.hands[:, hand]
        self.hands[:, hand] += weight[:, None] * way
        # A hand rises in an arc before the body: on a straight line it would pass through the shoulder.
        self.hands[:, hand, 0] += 1.6 * weight * (1 - weight) * np.abs(way[:, 2])

    def beat(self, hand: int, size, rate: float, weight) -> None:
        """Shake a hand by `size` (x, y, z) around `rate` times a second."""
        cycles = np.cumsum(rate * self.tempo * (1 + self.wander(1, 0.15, 2.0)[:, 0])) / FPS
        lag = 0.3 * self.rng.random(3) + self.rng.random()
        self.hands[:, hand, :3] += (weight[:, None] * np.sin(2 * np.pi * (cycles[:, None] + lag))) * size * self.vigour

    def turn(self, yaw: float, weight) -> None:
        """Look aside: the head first, the trunk a little."""
        self.head[:, 0] += 0.65 * yaw * weight
        self.trunk[:, 0] += 0.35 * yaw * weight

    def stroll(self, speed: float, bend: float) -> None:
        """Walk on without end: statures a second, along a path that bends by `bend` radians a second or so."""
        speed = speed * self.tempo * (1 + self.wander(1, 0.06, 3.0)[:, 0])
        veer = bend * (1 + self.wander(1, 0.3, 4.0)[:, 0])
        self.heading = self.heading + np.cumsum(veer) / FPS
        step = speed[:, None] * np.stack([np.cos(self.heading), np.sin(self.heading)], axis=1)
        self.path = self.path + np.cumsum(step, axis=0) / FPS
        stride = 0.42 + 0.42 * np.abs(speed) * self.vigour**0.3  # longer steps when faster
        self.phase = self.phase + np.cumsum(np.abs(speed) / stride) / FPS

    def step(self, start: float, forward: float, turn: float, left: float = 0.0) -> float:
        """A few steps to a new place and heading, from `start` on. Returns when they end."""
        steps = max(1, round(np.hypot(forward, left) / 0.3 + abs(turn) / 0.8))
        stop = start + 0.7 * steps / self.tempo
        progress = smooth((self.t - start) / (stop - start))
        index = int(np.clip(start * FPS, 0, self.frames - 1))
        cos, sin = np.cos(self.heading[index] + turn / 2), np.sin(self.heading[index] + turn / 2)
        self.path = self.path + progress[:, None] * [cos * forward - sin * left, sin * forward + cos * left]
        self.heading = self.heading + turn * progress
        self.phase = self.phase + steps / 2 * progress
        return stop

    def sit(self, start: float = -9.0, stop: float = np.inf) -> np.ndarray:
        """On a chair from `start` to `stop` seconds, hands in the lap; the trunk swings forward on the way down and up.

        Returns how far (frames,) the person is seated.
        """
        weight = self.during(start, stop, ramp=1.3)
        self.pelvis += weight[:, None] * [-0.225, 0, self.rng.uniform(0.275, 0.31) - STANDING]
        self.trunk[:, 1] += 2.6 * weight * (1 - weight) - self.rng.uniform(0, 0.2) * weight
        for hand in (0, 1):
            self.put(hand, "lap", weight)
        return weight

    def squat(self, depth: float, weight) -> None:
        """Bend the knees, hips back, until the hips are `depth` statures lower."""
        self.pelvis += weight[:, None] * [-0.35 * depth, 0, -depth]
        self.trunk[:, 1] += 1.4 * depth * weight

    def bow(self, angle: float, weight) -> None:
        """Bend the trunk forward; the hips go back to keep balance."""
        self.trunk[:, 1] += angle * weight
        self.pelvis += weight[:, None] * [-0.09 * np.sin(angle), 0, -0.02 * angle]

    def sway(self, size: float) -> None:
        """Shift the weight from one leg to the other."""
        shift = self.wander(1, size, 5.0)[:, 0]
        self.pelvis[:, 1] += shift
        self.pelvis[:, 2] -= 0.3 * np.abs(shift)
        self.trunk[:, 2] -= 2 * shift

    def pick(self, start: float, hand: int) -> float:
        """Take something from the floor with one hand. Returns when upright again."""
        stop = start + self.rng.uniform(2.0, 3.0) / self.tempo
        weight = self.during(start, stop, ramp=1.0)
        self.bow(self.rng.uniform(0.7, 1.1), weight)
        self.squat(self.rng.uniform(0.06, 0.2), weight)
        self.put(hand, (0.08, 0.08, -0.31, 0.0), weight)
        self.plumb[:, hand] = np.maximum(self.plumb[:, hand], weight)
        self.head[:, 1] += 0.2 * weight
        return stop


# --- actions -----------------------------------------------------------------------------------------------------


def directions(m: Motion) -> None:
    m.sway(0.012)
    for start, stop in m.spans(1.6, 3.2):
        hand = m.main if m.rng.random() < 0.75 else 1 - m.main
        aside, rise = m.rng.uniform(-0.4, 1.4), m.rng.uniform(-0.25, 0.45)  # the arm points outwards, and up
        weight = m.during(start, stop, ramp=0.7)
        ahead, out = 0.31 * np.cos(rise) * np.array([np.cos(aside), np.sin(aside)])
        m.put(hand, (ahead, 0.10 + out, 0.31 * np.sin(rise), 0.2), weight)
        if m.rng.random() < 0.4:
            m.beat(hand, [0.01, 0.05, 0.02], 0.8, weight)
        m.turn((aside if hand == 0 else -aside) * m.rng.uniform(0.5, 1.0), weight)
        if m.rng.random() < 0.3:
            m.step(start, m.rng.uniform(-0.1, 0.3), m.rng.uniform(-0.8, 0.8))


def discussion(m: Motion) -> None:
    m.sway(0.02)
    for start, stop in m.spans(1.2, 3.0):
        weight = m.during(start, stop, ramp=0.5)
        for hand in (0, 1) if m.rng.random() < 0.6 else (m.main,):
            m.put(hand, "talk", weight, spread=0.04)
            m.beat(hand, [0.03, 0.035, 0.045], m.rng.uniform(0.7, 1.5), weight)
        m.turn(m.rng.uniform(-0.6, 0.6), weight)
        m.head[:, 1] += 0.12 * weight * np.sin(2 * np.pi * 1.2 * m.t)  # nods
        if m.rng.random() < 0.2:
            m.step(start, m.rng.uniform(-0.2, 0.2), m.rng.uniform(-0.6, 0.6))


def eating(m: Motion) -> None:
    m.sit()
    m.put(1 - m.main, m.rng.choice(["bowl", "table"]), m.always)
    m.put(m.main, "table", m.always)
    m.trunk[:, 1] += m.rng.uniform(0.0, 0.25)
    for start, stop in m.spans(1.6, 3.0):
        bite = m.during(start + 0.1, stop - m.rng.uniform(0.1, 0.6), ramp=0.7)
        m.put(m.main, "mouth", bite)
        m.head[:, 1] += 0.25 * bite
        m.trunk[:, 1] += 0.12 * m.vigour * bite


def greeting(m: Motion) -> None:
    start = m.step(m.rng.uniform(-0.5, 0.4), m.rng.uniform(0.2, 0.9), m.rng.uniform(-0.8, 0.8))
    while start < m.end:
        stop = start + m.rng.uniform(1.6, 2.8) / m.tempo
        weight = m.during(start, stop, ramp=0.55)
        kind = m.rng.choice(["wave", "both", "bow", "shake"])
        if kind in ("wave", "both"):
            for hand in (0, 1) if kind == "both" else (m.main,):
                m.put(hand, "overhead" if m.rng.random() < 0.4 else "wave", weight)
                m.beat(hand, [0.01, 0.09, 0.02], 1.6, weight)
        elif kind == "bow":
            m.bow(m.rng.uniform(0.4, 0.9), weight)
            m.put(m.main, m.rng.choice(["crossed", "rest"]), weight)
        else:
            m.put(m.main, "shake", weight)
            m.beat(m.main, [0.01, 0, 0.04], 2.0, weight)
            m.bow(0.15, weight)
        start = stop
        if m.rng.random() < 0.4:
            start = m.step(start, m.rng.uniform(-0.3, 0.5), m.rng.uniform(-1.2, 1.2))


def phoning(m: Motion) -> None:
    where = m.rng.choice(["stand", "pace", "chair"])
    if where == "chair":
        m.sit()
    elif where == "pace":
        m.stroll(0.3, m.rng.choice([-1, 1]) * m.rng.uniform(0.3, 0.7))
    m.sway(0.01)
    weight = m.during(m.rng.uniform(-3, 0.6), m.end + m.rng.uniform(-0.5, 3), ramp=0.8)
    m.put(m.main, "ear", weight)
    m.head[:, 2] += (0.2 if m.main == 1 else -0.2) * weight
    for start, stop in m.spans(2.0, 3.5):
        place = m.rng.choice(["talk", "hip", "rest", "chest"])
        m.put(1 - m.main, place, m.during(start, stop), spread=0.03)
        m.turn(m.rng.uniform(-0.7, 0.7), m.during(start, stop))


def photo(m: Motion) -> None:
    for start, stop in m.spans(2.4, 4.0):
        weight = m.during(start, stop, ramp=0.8)
        for hand in (0, 1):
            m.put(hand, "eyes", weight)
        m.plumb = np.maximum(m.plumb, weight[:, None])  # the camera stays level
        m.squat(m.rng.choice([0.02, 0.1, 0.2]) * m.vigour, weight)
        lean = m.rng.uniform(0, 0.35)
        m.trunk[:, 1] += lean * weight
        m.trunk[:, 2] += m.rng.uniform(-0.25, 0.25) * weight
        m.head[:, 1] -= lean * weight
        if m.rng.random() < 0.7:
            m.step(stop - 0.6, m.rng.uniform(-0.3, 0.3), m.rng.uniform(-0.5, 0.5), m.rng.uniform(-0.3, 0.3))


def posing(m: Motion) -> None:
    for start, stop in m.spans(1.8, 3.2):
        weight = m.during(start, stop, ramp=0.8)
        both = m.rng.random() < 0.5
        for hand in (0, 1):
            if hand == 0 or not both:
                place = m.rng.choice(["hip", "overhead", "sideways", "crossed", "behind", "ear", "rest"])
            m.put(hand, place, weight, spread=0.02)
        lean = m.rng.normal(0, [0.3, 0.08, 0.16])
        m.trunk += weight[:, None] * lean
        m.pelvis[:, 1] -= 0.2 * lean[2] * weight
        m.squat(m.rng.uniform(0, 0.06), weight)
        m.turn(m.rng.uniform(-0.9, 0.9), weight)
        if m.rng.random() < 0.5:
            m.step(stop - 0.5, m.rng.uniform(-0.1, 0.1), m.rng.uniform(-1.5, 1.5), m.rng.uniform(-0.15, 0.15))


def purchases(m: Motion) -> None:
    start = m.step(m.rng.uniform(-0.3, 0.4), m.rng.uniform(0.3, 0.8), m.rng.uniform(-0.8, 0.8))
    m.put(1 - m.main, (0.08, 0.15, -0.24, 0.2), m.always)  # carries a basket
    while start < m.end:
        if m.rng.random() < 0.55:
            start = m.pick(start, m.main)
        else:
            stop = start + 2.0 / m.tempo
            m.put(m.main, "shelf", m.during(start, stop, ramp=0.8), spread=0.05)
            start = stop
        stop = start + 1.2 / m.tempo
        m.put(m.main, "chest", m.during(start - 0.5, stop, ramp=0.5))
        m.head[:, 1] += 0.3 * m.during(start - 0.5, stop)
        start = m.step(stop, m.rng.uniform(0.2, 0.8), m.rng.uniform(-1.5, 1.5))


def sitting(m: Motion) -> None:
    seated = m.sit(m.rng.uniform(-3, 0.5), m.end + m.rng.uniform(0, 5))
    for start, stop in m.spans(1.8, 3.6):
        weight = m.during(start, stop, ramp=0.8) * seated
        both = m.rng.random() < 0.5
        for hand in (0, 1):
            if hand == 0 or not both:
                place = m.rng.choice(["lap", "knee", "crossed", "mouth", "talk"])
            m.put(hand, place, weight, spread=0.02)
        m.trunk += weight[:, None] * m.rng.normal(0, [0.15, 0.2, 0.08])
        m.turn(m.rng.uniform(-0.6, 0.6), weight)
        leg, kind = int(m.rng.integers(2)), m.rng.choice(["forward", "crossed", "back", "still"])
        if kind == "crossed":  # one ankle comes to rest on the other side, knee over knee
            m.feet[:, leg] += weight[:, None] * [0.08, -0.14, 0.10]
            m.knees[:, leg] -= 0.5 * weight
        elif kind != "still":
            m.feet[:, leg] += weight[:, None] * [0.10 if kind == "forward" else -0.08, 0, 0]
            m.feet[:, leg, 2] += 0.12 * weight * (1 - weight)


def sitting_down(m: Motion) -> None:
    start = m.rng.uniform(-3, 0.6)
    stop = m.end + 3 if m.rng.random() < 0.6 else max(m.end - 0.4, start + 3)
    weight = m.during(start, stop, ramp=1.8)
    m.pelvis += weight[:, None] * [-0.22, 0, 0.075 - STANDING]
    m.trunk[:, 1] += 3.0 * weight * (1 - weight) - 0.1 * weight
    kind = m.rng.choice(["tailor", "long", "knees up"])
    feet = {"tailor": [0.0, -0.08, 0], "long": [0.2, -0.02, 0], "knees up": [-0.01, 0.0, 0]}[kind]
    m.feet += weight[:, None, None] * feet
    m.knees += weight[:, None] * (2.0 if kind == "tailor" else 0.1)
    for hand in (0, 1):
        m.put(hand, {"tailor": "lap", "long": "lap", "knees up": "knee"}[kind], weight)
    for start, stop in m.spans(2.0, 3.5):
        moving = m.during(start, stop) * weight
        m.put(int(m.rng.integers(2)), m.rng.choice(["talk", "mouth", "crossed", "knee"]), moving)
        m.trunk += moving[:, None] * m.rng.normal(0, [0.2, 0.15, 0.1])
        m.turn(m.rng.uniform(-0.7, 0.7), moving)


def smoking(m: Motion) -> None:
    if m.rng.random() < 0.4:
        m.sit()
    else:
        m.sway(0.015)
        m.put(1 - m.main, m.rng.choice(["pocket", "hip", "crossed"]), m.always)
    for start, stop in m.spans(2.2, 4.5):
        drag = m.during(start, start + m.rng.uniform(1.4, 2.0) / m.tempo, ramp=0.6)
        m.put(m.main, "mouth", drag)
        m.put(m.main, "talk", m.during(start + 1.6 / m.tempo, stop) * m.rng.choice([0, 0.5]))
        m.head[:, 1] -= 0.2 * m.during(start + 1.5 / m.tempo, stop)  # blows the smoke upwards
        m.turn(m.rng.uniform(-0.7, 0.7), m.during(start, stop))


def waiting(m: Motion) -> None:
    m.sway(0.03)
    for start, stop in m.spans(2.0, 4.0):
        weight = m.during(start, stop, ramp=0.8)
        kind = m.rng.choice(["watch", "crossed", "hip", "pocket", "behind", "rest"])
        for hand in (0, 1):
            if kind != "watch" or hand == 1 - m.main:
                m.put(hand, kind, weight)
        m.head[:, 1] += (0.45 if kind == "watch" else 0) * weight
        m.turn(0.0 if kind == "watch" else m.rng.uniform(-1.1, 1.1), weight)
        if m.rng.random() < 0.5:
            m.step(stop - 0.8, m.rng.uniform(-0.2, 0.3), m.rng.uniform(-1, 1), m.rng.uniform(-0.1, 0.1))


def _walk(m: Motion, speed: float) -> None:
    m.stroll(speed * m.rng.uniform(0.85, 1.15), m.rng.choice([-1, 1]) * speed * m.rng.uniform(0.8, 1.6))


def walk_dog(m: Motion) -> None:
    _walk(m, 0.6)
    pulled = smooth(m.wander(1, 0.6, 1.2)[:, 0])  # the dog pulls now and then
    m.put(m.main, "leash", m.always)
    m.hands[:, m.main, 0] += 0.06 * pulled
    m.trunk[:, 1] += 0.12 * pulled
    m.trunk[:, 0] += (-0.2 if m.main == 0 else 0.2) * pulled
    m.head[:, 1] += 0.3


def walking(m: Motion) -> None:
    _walk(m, 0.72)


def walk_together(m: Motion) -> None:
    _walk(m, 0.62)
    side = int(m.rng.integers(2))  # where the companion walks
    for start, stop in m.spans(1.5, 3.0):
        weight = m.during(start, stop)
        m.turn(m.rng.uniform(0.4, 1.2) * (1 if side == 0 else -1), weight)
        if m.rng.random() < 0.5:
            m.put(1 - side, "talk", weight)
            m.beat(1 - side, [0.03, 0.03, 0.04], 1.0, weight)
    if m.rng.random() < 0.4:  # hand in hand, or arm in arm
        m.put(side, (0.0, 0.20, -0.26, 0.0) if m.rng.random() < 0.5 else "crossed", m.always)


ACTIONS = {
    "Directions": directions,
    "Discussion": discussion,
    "Eating": eating,
    "Greeting": greeting,
    "Phoning": phoning,
    "Photo": photo,
    "Posing": posing,
    "Purchases": purchases,
    "Sitting": sitting,
    "SittingDown": sitting_down,
    "Smoking": smoking,
    "Waiting": waiting,
    "WalkDog": walk_dog,
    "Walking": walking,
    "WalkTogether": walk_together,
}


# --- bodies ------------------------------------------------------------------------------------------------------


def _footsteps(m: Motion) -> Float[np.ndarray, "frames 2 3"]:
    """Ankles on the floor, and in the air between two steps: a foot stands for 0.6 of each cycle of the gait."""
    s = m.person.segments
    side = np.stack([-np.sin(m.heading), np.cos(m.heading)], axis=1)
    ankles = np.empty((m.frames, 2, 3))
    for foot, (lag, outward) in enumerate([(0.0, 1), (0.5, -1)]):
        phase = m.phase + lag + 1e-9 * np.arange(m.frames)
        cycle = np.floor(phase)
        track = m.path + outward * m.person.stance * side

        def stand(number, phase=phase, track=track):  # where the foot stands: under the hips half-way through
            return np.stack([np.interp(number + 0.3, phase, axis) for axis in track.T], axis=1)

        swing = np.clip((phase - cycle - 0.6) / 0.4, 0, 1)
        progress = smooth(swing)[:, None]
        ankles[:, foot, :2] = (1 - progress) * stand(cycle) + progress * stand(cycle + 1)
        length = np.linalg.norm(stand(cycle + 1) - stand(cycle), axis=1)
        ankles[:, foot, 2] = s["ankle"] + (0.015 + 0.09 * length) * np.sin(np.pi * swing**0.8) ** 2
    return ankles


def _bend(start, goal, first: float, second: float, pole):
    """Middle and end joint of a limb from `start` towards `goal`, bent to the side of `pole` (all (frames, 3)).

    Bone lengths are kept: a goal out of reach, or nearer than a joint folded to 40° allows, is met half-way.
    """
    shortest = np.sqrt(first**2 + second**2 - 2 * first * second * np.cos(np.radians(40)))
    reach = goal - start
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    along = reach / distance
    soft = 0.02 * (first + second)  # the limits set in gradually, so that speed has no jumps
    distance = shortest + soft * np.logaddexp(0, (distance - shortest) / soft)
    longest = 0.998 * (first + second)
    distance = longest - soft * np.logaddexp(0, (longest - distance) / soft)
    across = pole - np.sum(pole * along, axis=-1, keepdims=True) * along
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    cosine = (first**2 + distance**2 - second**2) / (2 * first * distance)
    middle = start + first * (cosine * along + np.sqrt(1 - cosine**2) * across)
    return middle, start + distance * along


def pose(m: Motion) -> Float[np.ndarray, "frames 17 3"]:
    """Joints of the motion in human36m order, metres in world axes."""
    s = m.person.segments
    upright = Rotation.from_euler("Z", m.heading[:, None])

    # The gait moves the body: hips rise over the standing foot and swing, the arms swing against the legs.
    angle = 2 * np.pi * m.phase
    pace = np.tanh(np.gradient(m.phase) * FPS)[:, None] * m.vigour
    gait = pace * np.stack([np.cos(angle), np.sin(angle - 0.3), np.cos(2 * angle - 0.6)], axis=1)
    pelvis = m.pelvis + gait[:, [0, 1, 2]] * [0, 0.012, -0.01] + pace * [0, 0, -0.03]
    trunk = m.trunk + gait[:, [0, 2, 1]] * [0.12, 0.02, 0.03] + pace * [0, 0.05, 0]
    hands = m.hands.copy()
    swing = 0.085 * gait[:, 0] * (1 - m.plumb.T)
    for hand, opposite in ((0, -1), (1, 1)):
        free = np.clip(-hands[:, hand, 2] / 0.31, 0, 1) ** 3  # a hand that is busy does not swing
        hands[:, hand, 0] += opposite * swing[hand] * free + 0.02 * pace[:, 0] * free
        hands[:, hand, 2] += 0.02 * pace[:, 0] * free

    joints = np.empty((m.frames, 17, 3))
    height = STANDING * (s["thigh"] + s["shank"] + s["ankle"]) / 0.53
    root = upright.apply(pelvis) + np.column_stack([m.path, np.full(m.frames, height)])
    hips = upright * Rotation.from_euler("ZX", np.column_stack([-0.1 * gait[:, 0], 0.06 * gait[:, 1]]))
    lower = upright * Rotation.from_euler("ZYX", trunk * [0.4, 0.6, 0.5])
    chest = upright * Rotation.from_euler("ZYX", trunk)
    neck = chest * Rotation.from_euler("ZYX", m.head * 0.5)
    skull = chest * Rotation.from_euler("ZYX", m.head)
    joints[:, 0] = root
    joints[:, 7] = root + lower.apply([0, 0, s["spine"]])
    joints[:, 8] = joints[:, 7] + chest.apply([0, 0, s["chest"]])
    joints[:, 9] = joints[:, 8] + neck.apply(np.array([0.35, 0, 0.937]) * s["neck"])
    joints[:, 10] = joints[:, 9] + skull.apply(np.array([-0.3, 0, 0.954]) * s["head"])

    feet = _footsteps(m)
    for side, (outward, hip, shoulder) in enumerate([(1, 4, 11), (-1, 1, 14)]):
        mirror = np.array([1, outward, 1])
        joints[:, hip] = root + hips.apply([0, outward * s["hip"], 0])
        goal = feet[:, side] + upright.apply(m.feet[:, side] * mirror)
        ahead = np.column_stack([np.ones(m.frames), m.knees[:, side] * outward, np.full(m.frames, 0.6)])
        joints[:, hip + 1], joints[:, hip + 2] = _bend(
            joints[:, hip], goal, s["thigh"], s["shank"], upright.apply(ahead)
        )

        joints[:, shoulder] = joints[:, 8] + chest.apply(np.array([0, 0.99 * outward, -0.14]) * s["shoulder"])
        place = hands[:, side, :3] * mirror
        plumb = m.plumb[:, [side]]
        goal = joints[:, 8] + (1 - plumb) * chest.apply(place) + plumb * upright.apply(place)
        goal[:, 2] = 0.03 + 0.02 * np.logaddexp(0, (goal[:, 2] - 0.03) / 0.02)  # hands stay above the floor
        # Elbows point back while the arm hangs and forward when it is raised, always down and outward.
        lift = hands[:, side, 3]
        elbow = np.column_stack([0.1 + 1.8 * hands[:, side, 2], (0.45 + lift) * outward, lift - 1])
        joints[:, shoulder + 1], joints[:, shoulder + 2] = _bend(
            joints[:, shoulder], goal, s["upper arm"], s["forearm"], chest.apply(elbow)
        )
    return joints * m.person.stature


def perform(subject: str, action: str, take: str, seed: int = 0) -> Float[np.ndarray, "frames 17 3"]:
    """One take of one person: metres, world axes (Z up, floor at 0), human36m order, 50 Hz."""
    rng = random_of(seed, "motion", subject, action, take)
    motion = Motion(Person.of(subject, seed), int(rng.integers(60, 401)), rng)
    ACTIONS[action](motion)
    return pose(motion)


def load(root=None, keypoints: str = "gt", rig: str = "human36m", seed: int = 0) -> PoseDataset:
    """Seven procedural people, fifteen actions, two takes each, seen by the virtual cameras of `rig` at 50 Hz.

    root is not used: no file is read. keypoints: "gt" or one of `mixste.data.virtual.DETECTORS`. Raises
    DataError for names it does not know.
    """

    def clips_of(subjects):
        clips = []
        for subject, action, take in itertools.product(subjects, ACTIONS, TAKES):
            names = {"subject": subject, "action": action, "take": take}
            world = perform(**names, seed=seed)
            clips += film(world, **names, fps=FPS, rig=rig, keypoints=keypoints, seed=seed)
        return clips

    return PoseDataset(
        name="synthetic",
        title="synthetic people",
        skeleton=human36m,
        train=clips_of(TRAIN),
        test=clips_of(TEST),
        licence="generated, no restriction",
        keypoints=keypoints,
    )
