"""The published calibrations of Human3.6M and HumanEva."""

import json
from pathlib import Path

import numpy as np

from mixste.camera import Camera

# HumanEva's published file has no lenses: one of 45° across, without distortion, frames its capture space.
ASSUMED_LENS = {"focal": (772.0, 772.0), "center": (320.0, 240.0)}


def published(dataset: str) -> dict:
    """The calibration file of "human36m" or "humaneva": millimetres, quaternions (w, x, y, z), pixels."""
    return json.loads((Path(__file__).parent / f"{dataset}_cameras.json").read_text())


def cameras(dataset: str, subject: str) -> list[Camera]:
    """The cameras as calibrated for a subject, in the order of the published archives; metres.

    HumanEva's lenses are `ASSUMED_LENS`.
    """
    calibration = published(dataset)
    calibrated = []
    for name, pose in zip(calibration["camera_order"], calibration["extrinsics"][subject], strict=True):
        lens = ASSUMED_LENS | {"resolution": tuple(calibration.get("resolution", ()))}
        if "intrinsics" in calibration:
            intrinsics = calibration["intrinsics"][name]
            lens = {
                "focal": tuple(intrinsics["focal_length"]),
                "center": tuple(intrinsics["center"]),
                "radial": tuple(intrinsics["radial_distortion"]),
                "tangential": tuple(intrinsics["tangential_distortion"]),
                "resolution": (intrinsics["res_w"], intrinsics["res_h"]),
            }
        translation = tuple(np.array(pose["translation"]) / 1000)
        calibrated.append(Camera(name, tuple(pose["orientation"]), translation, **lens))
    return calibrated
