"""Data sources. Each returns the same thing: a PoseDataset of Clips."""

import importlib

from mixste.data.clips import Clip, PoseDataset
from mixste.io import DataError

__all__ = ["SOURCES", "Clip", "DataError", "PoseDataset", "load"]


def load(name: str, root=None, keypoints: str = "gt", **options) -> PoseDataset:
    """The data set `name`.

    name: one of `SOURCES`. root: folder or archive with its files (default: the environment variable MIXSTE_DATA;
    "synthetic" needs none). keypoints: "gt" for ground truth, or a detector. For sources without images, the detector
    is simulated: "cpn", "openpose" or "mediapipe". For the others, it is the <detector> of a file
    data_2d_*_<detector>.npz. Raises DataError, in one sentence, for missing or malformed data.
    """
    if name not in SOURCES:
        raise DataError(f"unknown data source {name!r}: expected one of {', '.join(SOURCES)}")
    module, function = SOURCES[name]
    return getattr(importlib.import_module(module), function)(root=root, keypoints=keypoints, **options)


# Module and function of each name. Imported on demand, so that one source does not load the libraries of the others.
SOURCES = {
    "synthetic": ("mixste.data.sources.synthetic", "load"),
    "open-people": ("mixste.data.sources.open_people", "load_people"),
    "open-styles": ("mixste.data.sources.open_mocap", "load_styles"),
    "human36m": ("mixste.data.sources.human36m", "load"),
    "humaneva": ("mixste.data.sources.humaneva", "load"),
    "mpi_inf_3dhp": ("mixste.data.sources.mpi_inf_3dhp", "load"),
    "pose2sim": ("mixste.data.sources.pose2sim", "load"),
}
