"""ONNX against PyTorch in onnxruntime, and streams against windows cut by hand."""

import runpy
import sys
import types
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixste.accel import accelerate
from mixste.baselines import PoseFormer, VideoPose3D
from mixste.io.install import CHECKOUT
from mixste.model import MixSTE
from mixste.networks import DSTformer, KTPFormer, MotionAGFormer
from mixste.predict import predict
from mixste.skeleton import human36m, mpi_inf_3dhp
from mixste.wild import export
from mixste.wild.export import export_onnx, stream


def shaken(model):
    """Weights that are all at work: some start as zeros."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "model",
    [
        MixSTE(frames=9, dim=16, depth=2, heads=4, drop_path=0.1),
        MixSTE(frames=9, dim=8, depth=1, heads=2, separate_joints=False, attention_scale="model"),
        PoseFormer(frames=9, joint_dim=8, depth=1),
        VideoPose3D(frames=9, channels=16),
        DSTformer(frames=9, dim=16, rep_dim=8, depth=1),
        MotionAGFormer(frames=9, dim=16, rep_dim=8, depth=1),
        KTPFormer(frames=9, dim=16, depth=1),
    ],
    ids=["MixSTE", "joints-together", "PoseFormer", "VideoPose3D", "DSTformer", "MotionAGFormer", "KTPFormer"],
)
def test_onnx_gives_pytorchs_poses_for_any_batch(model, tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = shaken(model).train()
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4  # what the export itself asks for
    assert model.training
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # the weights are inside
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    model.eval()
    for batch in (1, 5):
        keypoints = np.random.default_rng(batch).uniform(-1, 1, (batch, 9, 17, 2)).astype(np.float32)
        [poses] = session.run(None, {"keypoints": keypoints})
        with torch.no_grad():
            np.testing.assert_allclose(poses, model(torch.from_numpy(keypoints)), atol=1e-4)


def test_onnx_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'export to ONNX needs more packages .* -m pip install .*\[onnx\]"'):
        export_onnx(MixSTE(frames=3, dim=8, depth=1, heads=1), tmp_path / "model.onnx")


@pytest.fixture
def exported(monkeypatch):
    """Networks instead of files, which none of the extra's packages needs to write."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(opset18=None))
    networks = []
    monkeypatch.setattr(torch.onnx, "export", lambda model, *args, **options: networks.append(model))
    return networks


def test_onnx_is_of_the_network_itself(tmp_path, monkeypatch, exported):
    model = MixSTE(frames=3, dim=8, depth=1)
    monkeypatch.setattr(export, "onnx_difference", lambda model, path: path.touch() or 0.0)
    export_onnx(accelerate(model), tmp_path / "model.onnx")
    assert exported == [model]


def test_onnx_that_differs_is_not_kept(tmp_path, monkeypatch, exported):
    monkeypatch.setattr(export, "onnx_difference", lambda model, path: 0.002)
    with pytest.raises(RuntimeError, match=r"model\.onnx: expected PyTorch's poses, found some 2\.00 mm off"):
        export_onnx(MixSTE(frames=3, dim=8, depth=1, heads=1), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# --- streams ---------------------------------------------------------------------------------------------------

KEYPOINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (13, 17, 2)).astype(np.float32)


@pytest.mark.parametrize("delay", [0, 2, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_streamed_poses_come_from_the_window_that_ends_a_delay_later(delay, flip):
    model = shaken(MixSTE(frames=5, dim=8, depth=1, heads=2)).eval()
    poses = list(stream(model, iter(KEYPOINTS), delay, flip))
    assert len(poses) == 13
    padded = np.concatenate([KEYPOINTS[:1]] * 5 + [KEYPOINTS])  # the first frame stands before the first
    for frame, pose in enumerate(poses):
        last = min(frame + delay, 12)  # the end of the input ends the windows
        window = padded[last + 5 - 4 : last + 6]
        np.testing.assert_allclose(pose, predict(model, window, flip)[4 - (last - frame)], atol=1e-5)


def test_a_stream_lifts_once_in_several_frames_and_yields_each_frame_once():
    """13 frames, delay 2, once in 4: after frames 5, 9 and at the end, each time from the window that ends there."""
    model = MixSTE(frames=9, dim=8, depth=1, heads=2)
    padded = np.concatenate([np.repeat(KEYPOINTS[:1], 8, axis=0), KEYPOINTS])
    at_the_end = {last: predict(model, padded[last : last + 9]) for last in (5, 9, 12)}
    expected = [
        at_the_end[last][frame - last + 8]
        for last in (5, 9, 12)
        for frame in range(13)
        if ({5: 0, 9: 4, 12: 8}[last] <= frame <= {5: 3, 9: 7, 12: 12}[last])
    ]
    np.testing.assert_allclose(list(stream(model, iter(KEYPOINTS), 2, every=4)), expected, atol=1e-6)
    for every in (0, 8):
        with pytest.raises(ValueError, match="once in 1 to 7 frames"):
            next(stream(model, KEYPOINTS, 2, every=every))


def test_a_stream_waits_for_its_delay_and_no_longer():
    model = MixSTE(frames=9, dim=8, depth=1, heads=2)
    read = []

    def live():
        for number, frame in enumerate(KEYPOINTS):
            read.append(number)
            yield frame

    poses = stream(model, live())
    next(poses)
    assert read == [0, 1, 2, 3, 4]  # half the window, 4 frames, after frame 0
    next(poses)
    assert read[-1] == 5
    assert len(list(poses)) == 11


def test_streams_shorter_than_their_delay_come_at_their_end():
    model = shaken(MixSTE(frames=9, dim=8, depth=1, heads=2))
    assert list(stream(model, [])) == []
    poses = list(stream(model, KEYPOINTS[:2]))
    window = np.concatenate([KEYPOINTS[:1]] * 7 + [KEYPOINTS[:2]])
    np.testing.assert_allclose(poses, predict(model, window)[-2:], atol=1e-5)


def test_peers_stream_too():
    model = shaken(PoseFormer(frames=3, joint_dim=8, depth=1)).eval()
    whole = predict(model, KEYPOINTS)
    poses = list(islice(stream(model, KEYPOINTS), 12))  # its central frame, the default delay, is all it lifts
    np.testing.assert_allclose(poses[1:], whole[1:12], atol=1e-5)


def test_a_stream_accelerates_its_network_once(monkeypatch):
    """Not for each frame: weights would be prepared, and on a GPU work recorded, again and again."""
    accelerated, lifted_by = [], []
    monkeypatch.setattr(export, "accelerate", lambda model: accelerated.append(accelerate(model)) or accelerated[-1])
    monkeypatch.setattr(export, "predict", lambda network, *rest: lifted_by.append(network) or predict(network, *rest))
    assert len(list(stream(MixSTE(frames=5, dim=8, depth=1, heads=2), KEYPOINTS))) == 13
    assert len(accelerated) == 1
    assert all(network is accelerated[0] for network in lifted_by)


def test_a_stream_takes_the_joint_layout_that_the_network_does_not_tell():
    model = shaken(MixSTE(frames=5, dim=8, depth=1, heads=2)).eval()
    expected = list(stream(model, KEYPOINTS))
    model.layout = None
    with pytest.raises(ValueError, match="give skeleton="):
        next(stream(model, KEYPOINTS))
    np.testing.assert_array_equal(list(stream(model, KEYPOINTS, skeleton=human36m)), expected)
    other = np.stack(list(stream(model, KEYPOINTS, skeleton=mpi_inf_3dhp)))
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("delay", [-1, 5])
def test_delays_beyond_the_window_are_refused(delay):
    with pytest.raises(ValueError, match="0–4 frames"):
        next(stream(MixSTE(frames=5, dim=8, depth=1, heads=2), KEYPOINTS, delay))


def test_the_webcam_example_gives_a_pose_for_each_picture_with_a_person(monkeypatch, capsys):
    """With a camera of twelve pictures and a detector that misses the person in the third."""
    pictures = [np.full((480, 640, 3), number, dtype=np.uint8) for number in range(12)]

    class Detector:
        def process(self, picture):
            assert picture.flags.c_contiguous
            places = np.random.default_rng(int(picture[0, 0, 0])).uniform(0.3, 0.7, (33, 2))
            marks = [SimpleNamespace(x=x, y=y) for x, y in places]
            return SimpleNamespace(pose_landmarks=picture[0, 0, 0] != 2 and SimpleNamespace(landmark=marks))

    class Camera:
        def __init__(self, camera):
            assert camera == 0

        def isOpened(self):
            return bool(pictures)

        def read(self):
            return (True, pictures.pop(0)) if pictures else (False, None)

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Camera))
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.pose", SimpleNamespace(Pose=Detector))
    for name in ("mediapipe", "mediapipe.python", "mediapipe.python.solutions"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setattr(sys, "argv", ["webcam.py"])
    small = MixSTE(frames=27, dim=8, depth=1, heads=2)
    monkeypatch.setattr(MixSTE, "from_pretrained", lambda name: small)
    runpy.run_path(str(CHECKOUT / "docs" / "webcam.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) == 11
    with pytest.raises(SystemExit, match="expected a camera or a video, found none at 0"):  # no pictures are left
        runpy.run_path(str(CHECKOUT / "docs" / "webcam.py"), run_name="__main__")
