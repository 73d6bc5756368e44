"""What several figures share: the look, the label of the source, and people drawn in true proportion."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixste.files import replacing
from mixste.skeleton import Skeleton
from mixste.study.plan import Profile
from mixste.study.runs import ROOT

SIDES = {"left": "#c44e52", "right": "#4c72b0", "middle": "#444444"}

# Seen from the side, the camera's axes turn into the page's: x right, y up.
VIEWS = {"front": ((0, 1), (1, -1)), "side": ((2, 1), (1, -1)), "top": ((0, 2), (1, 1))}


def style() -> None:
    """The study's look, with light figures that a notebook can carry."""
    sns.set_theme(style="whitegrid", context="notebook", rc={"figure.dpi": 72, "axes.titlesize": "medium"})


def save_figure(figure: Figure, name: str, profile: Profile) -> None:
    """Write figures/<profile>/<name>.png, with the profile and its data named in the picture, and say so."""
    figure.text(0.995, 0.005, f"{profile.name}: {profile.title}", ha="right", va="bottom", fontsize=7, color="#666666")
    path = Path(ROOT) / "figures" / profile.name / f"{name}.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    print(f"figures/{profile.name}/{name}.png")


def side_of(joint: int, skeleton: Skeleton) -> str:
    return "left" if joint in skeleton.left else "right" if joint in skeleton.right else "middle"


def draw_pose(axes: Axes, pose: Float[np.ndarray, "joints 3"], skeleton: Skeleton, view: str = "front", **line) -> None:
    """One pose in camera axes, seen from the camera ("front"), from its right ("side") or from above ("top")."""
    (across, up), signs = VIEWS[view]
    draw_bones(axes, pose[:, [across, up]] * np.array(signs), skeleton, **line)
    axes.set_aspect("equal")


def draw_bones(axes: Axes, points: Float[np.ndarray, "joints 2"], skeleton: Skeleton, **line) -> None:
    """Bones between points of the plane, left and right in their colours."""
    for parent, child in skeleton.bones:
        color = line.get("color", SIDES[side_of(child, skeleton)])
        axes.plot(*points[[parent, child]].T, **{"linewidth": 2, "solid_capstyle": "round", **line, "color": color})


def show(figure: Figure) -> None:
    """Show a figure in a notebook, once."""
    plt.show()
    plt.close(figure)
