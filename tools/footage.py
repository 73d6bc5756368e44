"""An endless stream of training windows for the bundled weights: motions with random bodies, cameras and detectors.

Everything is drawn on the device of the training from motions in world coordinates (metres, Z up), so that no two
windows are alike and 20 MB of motions are all the data. A window depends on the seed and its number alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mixste.data.augment import _rotations, measured_bodies, project_screen
from mixste.data.sources.open_mocap import FPS, Take
from mixste.data.virtual import DETECTORS, FRAMED, REACH, RIGS, Detector
from mixste.skeleton import human36m, mirrored
from mixste.train import GATHERED_FRAMES, seed_of
from mixste.wild.quality import HEIGHTS, MEDIAN_HEIGHT

RATES = (12.0, 100.0)  # frames a second
NEAREST = 1.5  # metres from the camera to the nearest joint
TIMES = 12  # at which a motion is looked at to put all of it into the image
# Height of the image in widths, and how often: portrait phones, square, landscape.
SHAPES = {16 / 9: 0.35, 4 / 3: 0.1, 1.0: 0.15, 3 / 4: 0.15, 9 / 16: 0.25}
LENSES = (0.7, 2.5)  # focal length in longer sides of the image: 71° to 23° across
FILLED = (0.2, 0.97)  # part of the image that the motion fills
DOWN, ROLL = (-0.15, 0.6), 0.04  # radians: how far the camera looks down, and the deviation of its roll
KINDS = {"gt": 0.15, "cpn": 0.25, "openpose": 0.3, "mediapipe": 0.3}
EXACT = Detector(offset=0.0, jitter=0.0, correlation=0.0, blur=0.0, swaps=0.0, misses=0.0, stretch=1.0)
LEGS = (1, 2, 3, 4, 5, 6)
LIMBS = ((2, 3), (5, 6), (12, 13), (15, 16), tuple(range(17)))  # hidden together: legs, arms, the whole person

# Where the joints are that `mixste.data.readers.detections.MADE_OF` computes from a detector's points: metres along the
# trunk and forward, from the middle of the shoulders (Hip: of the hips). In the recordings, the root is 10 cm above the
# middle of the hips, the thorax below the shoulders, and "Neck" at the base of the skull instead of the nose.
PLACES = {
    "Hip": ((0.0, 0.02), (0.0, 0.0)),
    "Thorax": ((-0.02, 0.08), (-0.02, 0.06)),
    "Neck": ((0.06, 0.18), (0.05, 0.24)),
    "Head": ((0.22, 0.34), (0.0, 0.2)),
}


@dataclass(frozen=True)
class Variety:
    """Shares of the windows.

    study: as the clips of the study, by cameras like Human3.6M's at 50 or 25 frames a second. Of the others, cameras:
    of any image size, lens and framing; rates: at a rate within `RATES`; places: with joints where detectors have them,
    see `PLACES`. missing, of all: with keypoints missing alone, and as many with some missing in stretches.
    """

    study: float = 0.5
    cameras: float = 0.75
    rates: float = 0.75
    places: float = 0.6
    missing: float = 0.3


class Footage:
    """Training batches without end: footage[step] gives keypoints and root-relative poses of one step.

    Keypoints are screen-normalised, (windows, frames, 17, 2); poses are metres in camera axes, (windows, frames, 17,
    3). A motion is drawn in proportion to its number of frames: to draw all subjects equally often costs 5 mm after 6 M
    poses (results/bench/recipe.csv). One shorter than a window is followed by its last frame, as in lifting, or also
    preceded by its first.
    """

    def __init__(
        self,
        takes: Sequence[Take],
        frames: int,
        windows: int,
        seed: int,
        device="cpu",
        variety: Variety = Variety(),
    ):
        self.frames, self.size, self.seed, self.variety = frames, windows, seed, variety
        self.device = torch.device(device)
        self.together = max(1, GATHERED_FRAMES // (windows * frames))
        self.last = (None, None)  # the part that was drawn last, and its windows
        lengths = np.array([len(take.world) for take in takes])

        def on_device(values, dtype=torch.float32):
            return torch.as_tensor(np.asarray(values), dtype=dtype).to(self.device)

        self.world = on_device(np.concatenate([take.world for take in takes]))
        self.starts = on_device(np.cumsum([0, *lengths[:-1]]), torch.int64)
        self.lengths = on_device(lengths, torch.int64)
        self.shares = on_device(lengths)
        rig = RIGS["human36m"]
        orientations = np.array([camera.orientation for camera in rig])
        self.rig_rotations = _matrices(on_device(orientations))
        self.rig_places = on_device([camera.translation for camera in rig])
        self.rig_lenses = on_device([camera.intrinsics for camera in rig])
        self.rig_sizes = on_device([camera.resolution for camera in rig])
        names = [field.name for field in fields(Detector)]
        self.kinds = on_device([[getattr(DETECTORS.get(kind, EXACT), name) for name in names] for kind in KINDS])
        self.kind_shares = on_device(list(KINDS.values()))
        self.mirror = on_device(human36m.mirror, torch.int64)
        self.reach = on_device(REACH)[:, None]
        self.legs = torch.zeros(17, dtype=torch.bool, device=self.device)
        self.legs[list(LEGS)] = True
        self.limbs = torch.zeros(len(LIMBS), 17, device=self.device)
        for row, joints in enumerate(LIMBS):
            self.limbs[row, list(joints)] = 1

    def __getitem__(self, step: int) -> tuple[Float[Tensor, "w frames 17 2"], Float[Tensor, "w frames 17 3"]]:
        part, place = divmod(step, self.together)
        if self.last[0] != part:
            self.last = part, self.draw(part, self.together * self.size)
        rows = slice(place * self.size, (place + 1) * self.size)
        return tuple(values[rows] for values in self.last[1])

    def draw(self, part: int, count: int) -> tuple[Tensor, Tensor]:
        """The windows of a part: `together` steps, one after the other."""
        random = Draws(torch.Generator(self.device).manual_seed(seed_of(self.seed, part)), count)
        take = random.one_of(self.shares)
        other = random.uniform() >= self.variety.study
        any_rate, free, placed = (
            other & (random.uniform() < share)
            for share in (self.variety.rates, self.variety.cameras, self.variety.places)
        )
        rate = torch.where(any_rate, random.log(*RATES), FPS / (1 + (random.uniform() < 0.5).float()))
        poses, context, inside = self.motion(take, rate, random)
        poses = measured_bodies(poses, human36m, random.generator)
        poses = torch.where(wide(placed), replaced(poses, random), poses)
        poses, lens, size = self.filmed(poses, context, free, random)
        exact = project_screen(poses, lens, size)
        keypoints = self.detected(exact, poses, rate, random)
        missing = self.missing(keypoints.shape[:3], rate, random)
        keypoints = filled(keypoints, missing)
        # Padding repeats frames as they were detected.
        keypoints, poses = (torch.take_along_dim(values, inside[:, :, None, None], 1) for values in (keypoints, poses))
        keypoints = torch.where(wide(free), on_screen(keypoints), keypoints)
        poses = poses - poses[:, :, [human36m.root]]
        flip = wide(random.uniform() < 0.5)
        return tuple(torch.where(flip, mirrored(values, human36m), values) for values in (keypoints, poses))

    def motion(self, take: Tensor, rate: Tensor, random: "Draws") -> tuple[Tensor, Tensor, Tensor]:
        """Poses of the windows, poses of the stretches that the camera keeps in view, and the frames that are real.

        World coordinates, the middle of the path above the origin, turned at random about the vertical.
        """
        start, last = self.starts[take], (self.lengths[take] - 1).float()
        step = FPS / rate
        spare = last - (self.frames - 1) * step  # negative if the motion is shorter than the window
        share = torch.where((spare < 0) & (random.uniform() < 0.5), 0.0, random.uniform())
        begin = share * spare
        frames = torch.arange(self.frames, device=self.device)
        times = begin[:, None] + step[:, None] * frames
        first = (-begin / step).ceil().clamp_min(0)
        final = ((last - begin) / step).floor().clamp(max=self.frames - 1)
        inside = torch.minimum(torch.maximum(frames, first[:, None]), final[:, None]).long()
        ends = torch.stack([begin, times[:, -1]], dim=1).clamp_min(0).minimum(last[:, None])
        whole = torch.stack([torch.zeros_like(last), last], dim=1)
        low, high = torch.where((random.uniform() < 0.5)[:, None], ends, whole)[:, :, None].unbind(1)
        looks = low + (high - low) * torch.linspace(0, 1, TIMES, device=self.device)
        poses, context = (self.at(start, last, moments) for moments in (times, looks))
        path = context[:, :, human36m.root, :2]
        middle = (path.amin(dim=1) + path.amax(dim=1)) / 2
        angle = random.uniform(-math.pi, math.pi)
        upright = torch.stack([torch.zeros_like(angle), torch.zeros_like(angle), angle], dim=1)
        middle, turn = torch.nn.functional.pad(middle, (0, 1))[:, None, None], _rotations(upright)
        poses, context = (turned(values - middle, turn) for values in (poses, context))
        return poses, context, inside

    def at(self, start: Tensor, last: Tensor, times: Tensor) -> Float[Tensor, "w times 17 3"]:
        """Poses at times in frames of the recording, interpolated; at the ends, the first or last one."""
        times = times.clamp_min(0).minimum(last[:, None])
        before = times.floor()
        after = (before + 1).minimum(last[:, None])
        share = (times - before)[:, :, None, None]
        one, other = (self.world[start[:, None] + index.long()] for index in (before, after))
        return torch.lerp(one, other, share)

    def filmed(self, poses: Tensor, context: Tensor, free: Tensor, random: "Draws") -> tuple[Tensor, Tensor, Tensor]:
        """Poses in camera axes, with the intrinsics and image sizes of the cameras; free: which are not of the rig."""
        # A camera of Human3.6M, set up anew: at another distance, turned by some degrees.
        camera = random.one_of(torch.ones(len(self.rig_places), device=self.device))
        tilts = _rotations(random.normal(3) * 0.03)
        rotation = self.rig_rotations[camera] @ tilts
        place = self.rig_places[camera] * random.log(0.85, 1.25)[:, None] + 0.1 * random.normal(3)
        # Any other camera: it looks at the middle of the motion from where all of it is in the image.
        down, roll = random.uniform(*DOWN), ROLL * random.normal()
        level, forward = torch.zeros_like(down), torch.stack([0 * down, down.cos(), -down.sin()], dim=1)
        right = torch.stack([level + 1, level, level], dim=1)
        axes = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=2)
        axes = axes @ _rotations(torch.stack([level, level, roll], dim=1))
        middle = (context.amin(dim=(1, 2)) + context.amax(dim=(1, 2))) / 2
        rotation = torch.where(free[:, None, None], axes, rotation)
        place = torch.where(free[:, None], middle, place)
        poses, context = (turned(values - place[:, None, None], rotation.mT) for values in (poses, context))

        tall = torch.tensor(list(SHAPES), device=self.device)[random.one_of(list(SHAPES.values()))]
        focal = 1000 * tall.clamp_min(1) * random.log(*LENSES)  # pixels of an image 1000 wide
        size = torch.stack([torch.full_like(tall, 1000), 1000 * tall], dim=1)
        bend = 0.03 * random.normal()
        lens = torch.stack([focal, focal, size[:, 0] / 2, size[:, 1] / 2, bend, *[level] * 4], dim=1)
        lens = torch.where(free[:, None], lens, self.rig_lenses[camera])
        size = torch.where(free[:, None], size, self.rig_sizes[camera])

        part = torch.where(free, random.log(*FILLED), FRAMED)
        slope = torch.minimum(lens[:, 2:4], size - lens[:, 2:4]) / lens[:, :2]  # of the image's edges
        back = (context[..., :2].abs() / (part[:, None] * slope)[:, None, None] - context[..., 2:]).amax(dim=(1, 2, 3))
        back = torch.where(free, back, back.clamp_min(0))
        back = torch.maximum(back, NEAREST - context[..., 2].amin(dim=(1, 2)))
        back = torch.maximum(back, NEAREST - poses[..., 2].amin(dim=(1, 2)))
        # The part of the image that the motion leaves free lies on any side.
        aside = random.uniform(-1, 1, 2) * (1 - part[:, None]) * slope * back[:, None] * free[:, None]
        shift = torch.cat([aside, back[:, None]], dim=1)
        return poses + shift[:, None, None], lens, size

    def detected(self, exact: Tensor, poses: Tensor, rate: Tensor, random: "Draws") -> Tensor:
        """`virtual.simulate_detector` of the kinds of `KINDS`, each window by one with 0.5 to 1.5 times the errors."""
        kind = self.kinds[random.one_of(self.kind_shares)]
        offset, jitter, correlation, blur, swaps, misses, stretch = kind[:, :, None, None].unbind(1)
        offset, jitter, swaps, misses = (
            values * random.uniform(0.5, 1.5)[:, None, None] for values in (offset, jitter, swaps, misses)
        )
        pace = (FPS / rate)[:, None, None]  # frames of the simulation from one frame to the next
        count, frames = exact.shape[:2]
        percent = pixel_height(exact, poses) / 100

        reported, mirror = exact, exact[:, :, self.mirror]
        for share, joints in ((0.75, torch.ones_like(self.legs)), (0.25, self.legs)):
            active, _ = stretches(share * swaps, stretch / pace, (count, frames, 1), random)
            reported = torch.where((active & joints)[..., None], mirror, reported)
        active, begin = stretches(misses, stretch / pace, (count, frames, 17), random)
        before = (begin - 1).clamp_min(0)
        hold = torch.gather(random.uniform(0, 1, frames, 17) < 0.5, 1, begin) & (begin > 0)
        replaced = torch.where(
            hold[..., None], torch.take_along_dim(reported, before[..., None], 1), reported[:, :, self.mirror]
        )
        reported = torch.where(active[..., None], replaced, reported)

        speed = torch.linalg.vector_norm(exact.diff(dim=1, prepend=exact[:, :1]), dim=-1, keepdim=True)
        speed = speed / percent / pace[..., None]
        u = random.uniform(-0.5, 0.5, frames, 34)
        noise = -u.sign() * (1 - 2 * u.abs()).clamp_min(1e-6).log() / math.sqrt(2)  # Laplace's, of variance 1
        keep = correlation**pace
        lag = torch.arange(frames, device=self.device)[:, None] - torch.arange(frames, device=self.device)
        response = (keep ** lag.clamp_min(0) * (1 - keep**2).sqrt()).tril()
        response[:, :, 0] /= (1 - keep[..., 0] ** 2).sqrt()  # stationary from the first frame on
        noise = (response @ noise).unflatten(2, (17, 2))
        error = offset[..., None] * random.normal(1, 17, 2) + jitter[..., None] * (1 + blur[..., None] * speed) * noise
        return reported + self.reach * error * percent

    def missing(self, shape, rate: Tensor, random: "Draws") -> Bool[Tensor, "w frames 17"]:
        """Which keypoints are missing: alone, and for stretches of up to 0.8 s one by one or by limb."""
        alone = random.uniform(0, 0.4) * (random.uniform() < self.variety.missing)
        lost = random.uniform(0, 1, *shape[1:]) < alone[:, None, None]
        share = random.uniform(0, 0.2) * (random.uniform() < self.variety.missing)
        length = random.uniform(0.05, 0.8) * rate
        share, length = share[:, None, None], length[:, None, None]
        joints, _ = stretches(share / 2, length, tuple(shape), random)
        limbs, _ = stretches(share / 2, length, (*shape[:2], len(self.limbs)), random)
        return lost | joints | (limbs.float() @ self.limbs > 0)


class Draws:
    """Random numbers for `count` windows: each method gives one for each, or an array of the given shape for each."""

    def __init__(self, generator: torch.Generator, count: int):
        self.generator, self.count = generator, count

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        values = torch.rand(self.count, *shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * values

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.count, *shape, generator=self.generator, device=self.generator.device)

    def log(self, low: float, high: float) -> Tensor:
        """Log-uniform: halving is as likely as doubling."""
        return self.uniform(math.log(low), math.log(high)).exp()

    def one_of(self, shares) -> Tensor:
        """Indices, each as likely as its share."""
        shares = torch.as_tensor(shares, device=self.generator.device)
        return torch.multinomial(shares, self.count, replacement=True, generator=self.generator)


def wide(values: Tensor) -> Tensor:
    """One value a window, to be broadcast over frames, joints and axes."""
    return values[:, None, None, None]


def turned(points: Float[Tensor, "w frames 17 3"], rotation: Float[Tensor, "w 3 3"]) -> Tensor:
    return (points.flatten(1, 2) @ rotation.mT).view_as(points)


def _matrices(quaternions: Float[Tensor, "some 4"]) -> Float[Tensor, "some 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    angle = 2 * quaternions[:, :1].clamp(-1, 1).acos()
    return _rotations(torch.nn.functional.normalize(quaternions[:, 1:], dim=1) * angle)


def replaced(poses: Float[Tensor, "w frames 17 3"], random: Draws) -> Float[Tensor, "w frames 17 3"]:
    """The same motions with some joints at other places of the body, see `PLACES`; one choice for a window."""
    index = human36m.joints.index
    hips, shoulders = (
        (poses[:, :, index(f"L{joint}")] + poses[:, :, index(f"R{joint}")]) / 2 for joint in ("Hip", "Shoulder")
    )
    up = torch.nn.functional.normalize(shoulders - hips, dim=-1)
    right = poses[:, :, index("RShoulder")] - poses[:, :, index("LShoulder")]
    forward = torch.nn.functional.normalize(torch.linalg.cross(up, right), dim=-1)
    moved = poses.clone()
    for joint, (along, ahead) in PLACES.items():
        # The head also leans as it did: its recorded place is kept up to a constant of the window.
        base = hips if joint == "Hip" else shoulders
        target = random.uniform(*along)[:, None, None] * up + random.uniform(*ahead)[:, None, None] * forward
        recorded = poses[:, :, index(joint)] - base
        height, depth = ((recorded * axis).sum(-1, keepdim=True).mean(1, keepdim=True) for axis in (up, forward))
        moved[:, :, index(joint)] += target - height * up - depth * forward
    spine = (moved[:, :, index("Hip")] + moved[:, :, index("Thorax")]) / 2
    moved[:, :, index("Spine")] = spine
    return moved


def pixel_height(keypoints: Float[Tensor, "w frames 17 2"], poses: Float[Tensor, "w frames 17 3"]) -> Tensor:
    """`virtual.pixel_height` in units of the keypoints, (windows, frames, 1, 1)."""
    chain = torch.tensor([(3, 2), (2, 1), (0, 7), (7, 8), (8, 9), (9, 10)])
    bones = poses[:, :, chain[:, 0]] - poses[:, :, chain[:, 1]]
    metres = torch.linalg.vector_norm(bones, dim=-1).mean(dim=1).sum(dim=-1)
    spread = keypoints.std(dim=2, correction=0).sum(-1) / poses[..., :2].std(dim=2, correction=0).sum(-1)
    return wide(metres) * spread[:, :, None, None]


def stretches(share: Tensor, length: Tensor, shape, random: Draws) -> tuple[Tensor, Tensor]:
    """Random stretches of frames: which frames are in one, and the first frame of the last one so far (0: none).

    share, length: (windows, 1, 1), the sum of their lengths as a part of all frames, and their mean length in frames.
    shape: (windows, frames, columns), each column by itself. As `virtual._stretches`.
    """
    length = length.clamp_min(1.0)
    begins = random.uniform(0, 1, *shape[1:]) < share / length
    u = random.uniform(0, 1, *shape[1:]).clamp_min(1e-9)
    lengths = (u.log() / (1 - 1 / length).clamp_min(1e-9).log()).ceil().clamp_min(1)  # geometric
    frame = torch.arange(shape[1], device=u.device)[:, None].expand(shape[1:]).expand(shape)
    ends = torch.where(begins, frame + lengths, 0).cummax(dim=1).values
    return ends > frame, torch.where(begins, frame, 0).cummax(dim=1).values


def filled(keypoints: Float[Tensor, "w frames 17 2"], missing: Bool[Tensor, "w frames 17"]) -> Tensor:
    """Missing keypoints by linear interpolation, as `detections.fill_gaps` does; a joint that is never there stays."""
    there = ~missing | missing.all(dim=1, keepdim=True)
    frames = missing.shape[1]
    frame = torch.arange(frames, device=missing.device)[:, None].expand(missing.shape)
    before = torch.where(there, frame, -1).cummax(dim=1).values
    after = frames - 1 - torch.where(there, frames - 1 - frame, -1).flip(1).cummax(dim=1).values.flip(1)
    left, right = torch.where(before < 0, after, before), torch.where(after >= frames, before, after)
    share = ((frame - left) / (right - left).clamp_min(1)).clamp(0, 1)[..., None].to(keypoints.dtype)
    one, other = (torch.take_along_dim(keypoints, index[..., None], 1) for index in (left, right))
    return torch.lerp(one, other, share)


def on_screen(keypoints: Float[Tensor, "w frames 17 2"]) -> Float[Tensor, "w frames 17 2"]:
    """`mixste.wild.quality.on_screen` in screen units: very large and very small people as lifting shows them."""
    height = (keypoints[..., 1].amax(dim=2) - keypoints[..., 1].amin(dim=2)).median(dim=1).values
    middle = keypoints.flatten(1, 2).median(dim=1).values * (height < HEIGHTS[0])[:, None]
    scale = MEDIAN_HEIGHT / height.clamp_min(1e-3)
    same = (height >= HEIGHTS[0]) & (height <= HEIGHTS[1])
    return torch.where(wide(same), keypoints, (keypoints - middle[:, None, None]) * wide(scale))
