"""On systems without what only Unix has, everything can be imported, and a clip lifted."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp")))  # None: cannot be imported

import numpy as np, torch
import mixste
from mixste.wild.lift import lift

for module in pkgutil.walk_packages(mixste.__path__, "mixste."):
    if module.name.split(".")[-1] not in ("__main__", "kernels", "hopper", "hopper_gelu"):  # of CUDA
        importlib.import_module(module.name)
torch.manual_seed(0)
points = np.random.default_rng(0).uniform(300, 700, (5, 17, 2))
np.savez("clip.npz", keypoints=points, joints=np.array(mixste.skeleton.human36m.joints))
[lifted] = lift("clip.npz", "out", mixste.MixSTE(27, 17, 8, 1, 2), resolution=(1000, 1000))
print(lifted.poses.shape)
"""


def test_nothing_needs_unix(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(5, 17, 3)\n", done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 5
