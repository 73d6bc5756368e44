"""Virtual cameras and simulated 2D detectors for motion capture without images.

World axes are metres with Z up and the floor at Z = 0; joints are in human36m order unless said otherwise.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter
from scipy.spatial.transform import Rotation

from mixste.camera import Camera, project, world_to_camera
from mixste.data.cameras import cameras
from mixste.data.clips import Clip
from mixste.io import DataError
from mixste.skeleton import Skeleton, human36m

# --- cameras ---------------------------------------------------------------------------------------------------


def _calibrated(dataset: str, centre: tuple[float, float]) -> tuple[Camera, ...]:
    """The published cameras around subject S1, moved so that their optical axes meet above the origin.

    centre: where they meet, metres on the floor.
    """
    return tuple(
        replace(camera, name=f"C{number}", translation=tuple(np.array(camera.translation) - [*centre, 0]))
        for number, camera in enumerate(cameras(dataset, "S1"), 1)
    )


def _ring(*views, aim: float, **lens) -> tuple[Camera, ...]:
    """Cameras at (azimuth in degrees, distance, height) that look at the point `aim` metres above the origin.

    Rounded to a picometre: the last bits of sines and norms differ between machines, and with them the fingerprint of
    the data.
    """
    ring = []
    for number, (azimuth, distance, height) in enumerate(views):
        angle = np.radians(azimuth)
        place = np.array([distance * np.cos(angle), distance * np.sin(angle), height])
        forward = np.array([0, 0, aim]) - place
        forward /= np.linalg.norm(forward)
        right = np.array([-np.sin(angle), np.cos(angle), 0])
        axes = np.stack([right, np.cross(forward, right), forward], axis=1)  # columns: camera x, y, z in the world
        orientation = Rotation.from_matrix(axes).as_quat(canonical=True, scalar_first=True)
        ring.append(Camera(f"C{number + 1}", tuple(orientation.round(12)), tuple(place.round(12)), **lens))
    return tuple(ring)


RIGS: dict[str, tuple[Camera, ...]] = {
    "human36m": _calibrated("human36m", centre=(0.0, 0.3)),
    "humaneva": _calibrated("humaneva", centre=(-0.1, 0.0)),
    # Not MPI-INF-3DHP's calibration, but a set like it: wide lenses (69° across) at chest, ceiling and knee height.
    "mpi_inf_3dhp": _ring(
        *[(0, 3.4, 1.3), (50, 3.6, 1.4), (95, 3.4, 2.6), (140, 3.7, 1.3)],
        *[(185, 3.5, 0.5), (230, 3.6, 1.4), (275, 3.4, 2.8), (320, 3.8, 0.6)],
        aim=0.9,
        focal=(1490.0, 1490.0),
        center=(1024.0, 1024.0),
        resolution=(2048, 2048),
    ),
}

FRAMED = 0.95  # fraction of the half image that a motion may reach into


def random_of(*key) -> np.random.Generator:
    """A generator seeded by the key alone, whatever was drawn before."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def _set_up(camera: Camera, rng: np.random.Generator) -> Camera:
    """The camera as set up on another day: about 1.5° and 10 cm off, as between the subjects of Human3.6M."""
    tilt = Rotation.from_rotvec(np.radians(rng.normal(0, 1.0, 3)))
    orientation = Rotation.from_quat(camera.orientation, scalar_first=True) * tilt
    return replace(
        camera,
        orientation=tuple(orientation.as_quat(scalar_first=True)),
        translation=tuple(np.array(camera.translation) + rng.normal(0, 0.06, 3)),
    )


def _back_off(poses: Float[np.ndarray, "frames joints 3"], camera: Camera) -> float:
    """Metres that the camera retreats along its optical axis until every joint of every frame is in the image."""
    width, height = camera.resolution
    free = np.minimum(camera.center, np.array([width, height]) - camera.center)
    slope = FRAMED * free / np.array(camera.focal)  # largest |x| / z and |y| / z in view
    return max(0.0, float((np.abs(poses[..., :2]) / slope - poses[..., 2:]).max()))


def film(
    world: Float[np.ndarray, "frames joints 3"],
    *,
    subject: str,
    action: str,
    take: str = "",
    fps: float,
    rig: str = "human36m",
    keypoints: str = "gt",
    seed: int = 0,
) -> list[Clip]:
    """The motion as seen by every camera of a rig: one Clip per camera.

    world: metres, Z up, the 17 joints of human36m. The middle of its path is moved horizontally to the rig's centre;
    heights are kept. The cameras' poses vary a little between subjects, and a camera retreats along its optical axis
    if the motion would leave its image. keypoints: "gt" for the exact projection, or one of DETECTORS. The result
    depends on the arguments alone. Raises DataError for an unknown rig or detector, or a motion of the wrong shape.
    """
    if rig not in RIGS:
        raise DataError(f"unknown camera rig {rig!r}: expected one of {', '.join(RIGS)}")
    world = np.asarray(world, dtype=np.float64)
    if world.ndim != 3 or world.shape[1:] != (17, 3) or len(world) == 0:
        raise DataError(f"{subject} {action} {take}: a motion must be (frames, 17, 3), found {world.shape}")
    if not np.isfinite(world).all():
        frame = int(np.argwhere(~np.isfinite(world))[0, 0])
        raise DataError(f"{subject} {action} {take}: a motion must be finite, found NaN or infinity in frame {frame}")
    path = world[:, human36m.root, :2]
    world = world - np.array([*(path.min(axis=0) + path.max(axis=0)) / 2, 0])

    clips = []
    for camera in RIGS[rig]:
        camera = _set_up(camera, random_of(seed, "camera", rig, subject, camera.name))
        poses = world_to_camera(world, camera.orientation, camera.translation)
        poses[..., 2] += _back_off(poses, camera)
        poses = poses.astype(np.float32)
        exact = project(poses, camera.intrinsics)
        rng = random_of(seed, "detector", keypoints, rig, subject, action, take, camera.name)
        clips.append(
            Clip(
                subject=subject,
                action=action,
                take=take,
                camera=camera.name,
                fps=fps,
                resolution=camera.resolution,
                keypoints=exact if keypoints == "gt" else simulate_detector(exact, poses, rng, keypoints),
                poses=poses,
                intrinsics=camera.intrinsics,
            )
        )
    return clips


# --- detector --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detector:
    """The error model of a detector. Sizes are in % of the person's height in pixels, for a resting joint of reach 1.

    offset: constant displacement of each joint in a clip (the detector's definition of the joint is not the label's).
    jitter, correlation: standard deviation of the noise around it, and its lag-1 autocorrelation. blur: growth of the
    jitter per % of the height moved in a frame. swaps: rate at which left and right are exchanged; as swapped stretches
    overlap, the fraction of frames is 1 − exp(−swaps). misses: the same for missed joints. stretch: mean length of
    both, frames.
    """

    offset: float
    jitter: float
    correlation: float
    blur: float
    swaps: float
    misses: float
    stretch: float


# OpenPose and MediaPipe are fitted, on the synthetic source, to errors measured on real videos (12 limb joints, % of
# the height: median 1.92 and 2.41, 95th percentile 4.07 and 23.4, autocorrelation 0.19 and 0.82 around an offset of
# 1.74 and 4.42). A CPN fine-tuned on the data set is more accurate: its errors are set to 60 % of OpenPose's.
DETECTORS = {
    "cpn": Detector(offset=0.83, jitter=0.5, correlation=0.12, blur=0.25, swaps=0.0003, misses=0.001, stretch=3.0),
    "openpose": Detector(
        offset=1.38, jitter=0.85, correlation=0.12, blur=0.25, swaps=0.0004, misses=0.002, stretch=3.0
    ),
    "mediapipe": Detector(offset=1.3, jitter=0.7, correlation=0.8, blur=0.25, swaps=0.40, misses=0.01, stretch=6.0),
}

# Errors grow with the distance from the trunk: wrists and ankles have larger ones than shoulders and hips.
REACH = np.array([0.8, 0.9, 1.0, 1.1, 0.9, 1.0, 1.1, 0.8, 0.8, 0.8, 0.9, 0.9, 1.0, 1.2, 0.9, 1.0, 1.2])


def pixel_height(
    keypoints: Float[np.ndarray, "frames 17 2"], poses: Float[np.ndarray, "frames 17 3"]
) -> Float[np.ndarray, "frames"]:
    """Height of the upright person in pixels at each frame's distance: from ankle to head top along the bones."""
    chain = [(3, 2), (2, 1), (0, 7), (7, 8), (8, 9), (9, 10)]
    metres = sum(np.linalg.norm(poses[:, a] - poses[:, b], axis=-1).mean() for a, b in chain)
    return metres * keypoints.std(axis=1).sum(axis=-1) / poses[..., :2].std(axis=1).sum(axis=-1)


def simulate_detector(
    keypoints: Float[np.ndarray, "frames 17 2"],
    poses: Float[np.ndarray, "frames 17 3"],
    rng: np.random.Generator,
    detector: str = "cpn",
) -> Float[np.ndarray, "frames 17 2"]:
    """The keypoints that a simulated detector reports, given the exact ones (pixels) and poses (metres, camera axes).

    Every joint has a constant offset and correlated, heavy-tailed noise that grows with its speed and its distance from
    the trunk. For stretches of frames, left and right are exchanged, or a joint is missed: reported at its last
    detected position, or on its mirror joint. Never NaN. Raises DataError for an unknown detector.
    """
    if detector not in DETECTORS:
        raise DataError(f'unknown keypoints {detector!r}: expected "gt" or one of {", ".join(DETECTORS)}')
    kind = DETECTORS[detector]
    frames = len(keypoints)
    percent = pixel_height(keypoints, poses)[:, None, None] / 100  # (frames, 1, 1) pixels

    detected = keypoints.astype(np.float64)
    for start, stop, _ in _stretches((frames, 1), kind.swaps, kind.stretch, rng):
        # A detector takes a person's front for the back, or confuses only the legs.
        among = [1, 2, 3, 4, 5, 6] if rng.random() < 0.25 else list(range(17))
        detected[start:stop, among] = keypoints[start:stop, human36m.mirror[among]]
    for start, stop, joint in _stretches((frames, 17), kind.misses, kind.stretch, rng):
        hold = start > 0 and rng.random() < 0.5
        detected[start:stop, joint] = (
            detected[start - 1, joint] if hold else detected[start:stop, human36m.mirror[joint]]
        )

    speed = np.linalg.norm(np.diff(keypoints, axis=0, prepend=keypoints[:1]), axis=-1, keepdims=True) / percent
    noise = rng.laplace(size=(frames, 17, 2)) / np.sqrt(2)  # heavy-tailed, of variance 1
    noise = lfilter([np.sqrt(1 - kind.correlation**2)], [1, -kind.correlation], noise, axis=0)
    offset = kind.offset * rng.standard_normal((17, 2))
    error = offset + kind.jitter * (1 + kind.blur * speed) * noise
    return (detected + REACH[:, None] * error * percent).astype(keypoints.dtype)


def _stretches(shape, share: float, length: float, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(start, stop, column) of random stretches of frames, of mean length `length`, whose lengths sum up to `share`."""
    starts = np.argwhere(rng.random(shape) < share / length)
    return [(start, start + rng.geometric(1 / length), column) for start, column in starts.tolist()]


# --- layouts ---------------------------------------------------------------------------------------------------

# Which joint of human36m stands for each joint of another layout. Nothing is interpolated. Approximate are 3DHP's neck
# (Human3.6M's thorax, from which the shoulders hang too), its head (the neck/nose joint) and both head tops.
_LAYOUTS = {
    "human36m": tuple(range(17)),
    "humaneva15": (0, 8, 11, 12, 13, 14, 15, 16, 4, 5, 6, 1, 2, 3, 10),
    "mpi_inf_3dhp": (10, 8, 14, 15, 16, 11, 12, 13, 1, 2, 3, 4, 5, 6, 0, 7, 9),
}


def relayout(
    points: Float[np.ndarray, "frames 17 axes"], skeleton: Skeleton
) -> Float[np.ndarray, "frames joints axes"]:
    """Keypoints or poses in human36m order as the joints of another skeleton, for stand-ins of licensed data sets."""
    return points[:, list(_LAYOUTS[skeleton.name])]
