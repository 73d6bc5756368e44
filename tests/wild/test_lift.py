"""From files to files, with a small network whose answers are compared with `predict`."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from mixste.camera import normalize_screen
from mixste.cli import lift as command
from mixste.data import DataError
from mixste.data.readers.detections import LAYOUTS, Detections
from mixste.data.readers.formats import read
from mixste.io.files import replacing
from mixste.model import MixSTE
from mixste.networks import DSTformer
from mixste.predict import predict
from mixste.skeleton import human36m
from mixste.wild.lift import OUTPUTS, clips_in, lift, lift_clip
from mixste.wild.outputs import MAX_FRAMES, Lifted

# A person of human36m, 400 pixels tall: usual in an image 1000 wide.
STANDING = np.array(
    [
        *[(500, 500), (475, 500), (472, 600), (470, 700), (525, 500), (528, 600), (530, 700)],
        *[(500, 440), (500, 380), (500, 345), (500, 300), (540, 385), (560, 440), (570, 500)],
        *[(460, 385), (440, 440), (430, 500)],
    ],
    dtype=float,
)


@pytest.fixture(scope="module")
def model() -> MixSTE:
    torch.manual_seed(0)
    model = MixSTE(frames=9, dim=16, depth=1, heads=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def moving(frames=20) -> np.ndarray:
    sway = 30 * np.sin(np.arange(frames) / 3)[:, None, None] * np.array([1, 0.2])
    return STANDING + sway


def detections(points, resolution=(1000, 1000), fps=50.0, names=human36m.joints, **options) -> Detections:
    seen = np.isfinite(points).all(axis=-1, keepdims=True)
    people = np.concatenate([np.where(seen, points, 0), seen], axis=-1)
    return Detections("clip", names, list(people[:, None]), resolution, fps, ids=[["0"]] * len(points), **options)


def test_a_clip_is_lifted_as_predict_does_and_root_relative(model):
    lifted = lift_clip(detections(moving()), model)
    expected = predict(model, normalize_screen(moving(), 1000, 1000))
    np.testing.assert_allclose(lifted.poses, expected - expected[:, :1], atol=1e-6)
    np.testing.assert_allclose(lifted.keypoints, moving())
    assert (lifted.fps, lifted.resolution, lifted.notes, lifted.filled.any()) == (50.0, (1000, 1000), (), False)


def test_poses_that_are_not_in_metres_are_told():
    weights = DSTformer(9, dim=8, rep_dim=8, depth=1, heads=2)
    assert lift_clip(detections(moving()), weights).notes == ()
    weights.metres = False
    assert "poses are in screen units, not in metres" in lift_clip(detections(moving()), weights).notes[0]


def test_gaps_are_filled_marked_and_long_ones_told(model):
    points = moving(100)
    points[10:14, 13] = np.nan
    lifted = lift_clip(detections(points), model)
    assert np.argwhere(lifted.filled).tolist() == [[frame, 13] for frame in range(10, 14)]
    step = (points[14, 13] - points[9, 13]) / 5
    np.testing.assert_allclose(lifted.keypoints[11, 13], points[9, 13] + 2 * step)
    assert lifted.notes == ()

    points[40:66] = np.nan  # 26 frames at 50 Hz are more than half a second
    lifted = lift_clip(detections(points), model)
    assert np.isfinite(lifted.poses).all()
    [note] = lifted.notes
    assert note.startswith("in 26 of 100 frames, the first 40, the last 65,")


def test_frames_without_the_person_are_told(model):
    points = moving()
    points[[0, 1, 9]] = np.nan
    lifted = lift_clip(detections(points, notes=("read so",)), model)
    assert lifted.filled.all(axis=1).nonzero()[0].tolist() == [0, 1, 9]
    assert lifted.notes == (
        "read so",
        "the person is not detected in 3 of 20 frames, the first 0, the last 9: filled in",
    )


def test_people_who_do_not_stand_are_told(model):
    upward = moving() * [1, -1] + [0, 1000]
    for points, said in (upward, "upside down"), (moving()[..., ::-1], "on their side"):
        [note] = lift_clip(detections(points), model).notes
        assert said in note


@pytest.mark.parametrize("part", [5, 11, 12, 100])
def test_jumps_of_a_person_are_told(model, part, monkeypatch):
    monkeypatch.setattr("mixste.data.readers.detections.PART", part)
    points = moving()
    points[12:] += 300
    points[16, 3:] = np.nan  # fewer points are no jump
    [note] = [note for note in lift_clip(detections(points), model).notes if "frame before" in note]
    assert note.startswith(f"in 1 of {len(points)} frames, the first 12, the last 12, the person is half their size")
    assert not any("frame before" in note for note in lift_clip(detections(moving()), model).notes)


def test_joints_never_seen_are_named(model):
    points = moving()
    points[:, [3, 6]] = np.nan
    with pytest.raises(DataError, match="expected every joint to be detected in some frame, never found RFoot, LFoot"):
        lift_clip(detections(points), model)


def test_unknown_rates_and_other_people_are_told(model):
    pair = detections(moving(), fps=None)
    two = [np.concatenate([frame, frame * [0.9, 0.9, 1]]) for frame in pair.people]
    lifted = lift_clip(Detections("pair", pair.names, two, pair.resolution), model)
    assert lifted.fps == 30
    assert len(lifted.notes) == 2
    assert "assumed 30" in lifted.notes[0]
    assert lifted.notes[1].startswith("lifted person 0 of 2")
    assert lifted.notes[1].endswith("--person picks another, --person all lifts each")
    second = lift_clip(Detections("pair", pair.names, two, pair.resolution), model, fps=60, person=1)
    np.testing.assert_allclose(second.keypoints, moving() * 0.9)
    assert second.fps == 60


def test_small_people_are_seen_as_if_the_image_were_cropped_around_them(model):
    far = lift_clip(detections(moving() * 0.3), model)
    [note] = far.notes
    assert "in training" in note
    # The pose does not depend on where it lies in the image, nor on the image's size.
    moved = lift_clip(detections(moving() * 0.3 + [90, -40], resolution=(1200, 50)), model)
    np.testing.assert_allclose(moved.poses, far.poses, atol=1e-5)
    # 400 pixels tall, as from an image 0.64 / 2 image widths tall and with the middle joint in the middle.
    side = 400 / 0.32
    middle = np.median(moving(), axis=(0, 1))
    expected = predict(model, normalize_screen(moving() - middle + side / 2, side, side))
    np.testing.assert_allclose(far.poses, expected - expected[:, :1], atol=1e-5)
    np.testing.assert_allclose(far.keypoints, moving() * 0.3)


def test_large_people_are_seen_as_if_the_image_were_extended_on_all_sides(model):
    near = lift_clip(detections(moving() * 3, resolution=(2000, 1000)), model)
    assert near.notes[0].startswith("in 20 of 20 frames a joint is on the edge of the image or outside")
    assert near.notes[1].startswith("the person is 0.60 image widths tall")
    side = 1200 / 0.32  # 1200 pixels tall
    expected = predict(model, normalize_screen(moving() * 3 - [1000, 500] + side / 2, side, side))
    np.testing.assert_allclose(near.poses, expected - expected[:, :1], atol=1e-5)
    np.testing.assert_allclose(near.keypoints, moving() * 3)


@pytest.mark.parametrize(
    ("joints", "layout", "message"),
    [
        (15, "humaneva15", r"human36m's 17 joints, found one of 15 joints \(humaneva15\)"),
        (17, "mpi_inf_3dhp", r"human36m's 17 joints, found one of 17 joints \(mpi_inf_3dhp\)"),
        (17, None, "found one of 17 joints whose file does not say which: if it was, give --network-layout human36m"),
        (16, None, r"found one of 16 joints \(no layout known here\)"),
    ],
)
def test_networks_of_other_layouts_are_refused_before_anything_is_read(joints, layout, message, tmp_path):
    network = MixSTE(frames=3, joints=joints, dim=8, depth=1, heads=1)
    network.layout = layout
    with pytest.raises(DataError, match=message):
        lift_clip(detections(moving()), network)
    with pytest.raises(DataError, match=message):
        lift(tmp_path / "no such file", tmp_path / "out", network)
    assert not (tmp_path / "out").exists()


def three(frames=40) -> Detections:
    """Two people throughout, the second half as tall and to the right, and a third in three frames."""
    first, second = moving(frames) - [200, 0], moving(frames) * 0.5 + [500, 300]
    scores = np.ones((17, 1))
    people = [np.stack([np.c_[one, scores] for one in pair]) for pair in zip(first, second, strict=True)]
    for frame in (5, 6, 7):
        people[frame] = np.concatenate([people[frame], people[frame][1:] * [0.3, 0.3, 1]])
    return Detections("three", human36m.joints, people, (1000, 1000), 50.0)


def test_everyone_who_stays_is_lifted_each_to_files_and_together(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mixste.wild.lift.read", lambda *options: three())
    (tmp_path / "clip.json").write_text("{}")
    run = lift(tmp_path / "clip.json", tmp_path / "out", model, person=None, outputs=["npz", "html"])
    first, second = run
    names = ["clip.html", *(f"clip_person{k}.{kind}" for k in (0, 1) for kind in ("html", "npz"))]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    np.testing.assert_allclose(first.keypoints, moving(40) - [200, 0])
    np.testing.assert_allclose(second.keypoints, moving(40) * 0.5 + [500, 300])
    np.testing.assert_allclose(first.poses, lift_clip(three(), model).poses, atol=1e-5)
    assert first.notes[0].startswith("lifted person 0 of 3, on the left of the image")
    assert second.notes[0].startswith("lifted person 1 of 3, on the right of the image")
    assert first.notes[0].endswith("; people in view for less than a tenth of the clip are left out")
    page = (tmp_path / "out" / "clip.html").read_text()
    assert '"name":"three_person0"' in page
    assert '"name":"three_person1"' in page


def test_everyone_is_placed_on_one_floor(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mixste.wild.lift.read", lambda *options: three())
    (tmp_path / "clip.json").write_text("{}")
    options = {"person": None, "world": True, "outputs": ["npz", "html"]}
    first, second = lift(tmp_path / "clip.json", tmp_path / "out", model, **options)
    np.testing.assert_array_equal(first.world.rotation, second.world.rotation)
    np.testing.assert_array_equal(first.world.position, second.world.position)
    stored = Lifted.read(tmp_path / "out" / "clip_person1.npz").world
    np.testing.assert_allclose(stored.poses, second.world.poses)
    assert '"together":true' in (tmp_path / "out" / "clip.html").read_text()
    errors = list(lift(tmp_path / "clip.json", tmp_path / "out", model, **options, focal=1.0))
    assert ["expected a focal length" in str(error) for error in errors] == [True]


def test_one_of_several_who_cannot_be_lifted_fails_alone(model, tmp_path, monkeypatch):
    def read(*options):
        several = three()
        for people in several.people:
            people[0, [3, 6], 2] = 0  # the first one's feet are out of the picture
        return several

    monkeypatch.setattr("mixste.wild.lift.read", read)
    (tmp_path / "clip.json").write_text("{}")
    error, second = lift(tmp_path / "clip.json", tmp_path / "out", model, person=None, outputs=["npz", "html"])
    assert "never found RFoot, LFoot" in str(error)
    assert second.name == "three_person1"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "clip.html",
        "clip_person1.html",
        "clip_person1.npz",
    ]


# --- folders ---------------------------------------------------------------------------------------------------


def body(layout: str) -> np.ndarray:
    """The standing person as a detector sees them, feet and face as single points."""
    joints = dict(zip(human36m.joints, STANDING, strict=True))
    joints |= {"MidHip": joints["Hip"], "LAnkle": joints["LFoot"], "RAnkle": joints["RFoot"]}
    nose, joints["Neck"] = joints["Neck"], joints["Thorax"]
    return np.array([joints.get(name, nose) for name in LAYOUTS[layout]])


def write_clips(folder):
    """Three clips and a broken one: COCO-style results, arrays, an OpenPose folder."""
    folder.mkdir()
    coco = body("coco17") + np.random.default_rng(0).normal(0, 5, (12, 17, 2))
    results = [{"image_id": k, "keypoints": np.c_[frame, np.ones(17)].ravel().tolist()} for k, frame in enumerate(coco)]
    (folder / "a_coco.json").write_text(json.dumps(results))
    (folder / "b_broken.json").write_text("{")
    np.savez(folder / "c_array.npz", keypoints=moving(), joints=human36m.joints, fps=25)
    (folder / "d_openpose").mkdir()
    for k in range(5):
        people = [{"pose_keypoints_2d": np.c_[body("body25") + k, np.ones(25)].ravel().tolist()}]
        (folder / "d_openpose" / f"f_{k:012}_keypoints.json").write_text(json.dumps({"people": people}))
    (folder / "notes.txt").write_text("not a clip")
    return folder


def test_folders_are_lifted_clip_by_clip_as_they_come(model, tmp_path):
    source = write_clips(tmp_path / "in")
    assert [path.name for path in clips_in(source)] == ["a_coco.json", "b_broken.json", "c_array.npz", "d_openpose"]
    assert clips_in(source / "d_openpose") == [source / "d_openpose"]
    out = tmp_path / "out"
    outputs = [kind for kind in OUTPUTS if kind != "c3d" or find_spec("c3d")]
    run = lift(source, out, model, resolution=(1000, 1000), outputs=outputs)
    first = next(run)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"a_coco.{kind}" for kind in outputs
    )  # written already
    assert len(first.poses) == 12
    broken, array, openpose = run
    assert isinstance(broken, DataError)
    assert "b_broken.json: expected JSON" in str(broken)
    assert (array.name, array.fps, len(array.poses)) == ("c_array", 25.0, 20)
    assert (openpose.name, len(openpose.poses)) == ("d_openpose", 5)
    assert len(list(out.iterdir())) == 3 * len(outputs)
    np.testing.assert_allclose(Lifted.read(out / "c_array.npz").poses, array.poses, atol=1e-6)
    assert "c_array" in (out / "c_array.html").read_text(encoding="utf-8")


def test_a_result_that_cannot_be_written_fails_alone_and_long_names_do_not(model, tmp_path):
    clip = (write_clips(tmp_path / "clips") / "c_array.npz").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "out" / "b.npz").mkdir(parents=True)
    for name in "a", "b", "c" * 250:
        (tmp_path / "in" / f"{name}.npz").write_bytes(clip)
    first, taken, long = lift(tmp_path / "in", tmp_path / "out", model, resolution=(1000, 1000), outputs=["npz"])
    assert "b.npz: could not write" in str(taken)
    assert (first.name, long.name) == ("a", "c" * 250)


@pytest.mark.parametrize("training", [False, True])
def test_files_are_lifted_by_the_fast_path_and_to_rounding_as_clips_are(model, tmp_path, monkeypatch, training):
    """The network itself is not called, and left in the mode it was in."""
    source = write_clips(tmp_path / "in") / "c_array.npz"
    expected = lift_clip(read(source, resolution=(1000, 1000)), model.eval())
    model.train(training)
    run = lift(source, tmp_path / "out", model, resolution=(1000, 1000), outputs=["npz"])
    monkeypatch.setattr(MixSTE, "forward", None)
    [lifted] = run
    assert all(module.training is training for module in model.modules())
    model.eval()
    np.testing.assert_allclose(lifted.poses, expected.poses, atol=1e-5)


def test_what_was_lifted_can_be_lifted_again(model, tmp_path):
    write_clips(tmp_path / "in")
    [first] = lift(tmp_path / "in" / "c_array.npz", tmp_path / "out", model, resolution=(1000, 1000), outputs=["npz"])
    [again] = lift(tmp_path / "out" / "c_array.npz", tmp_path / "twice", model, outputs=["npz"])
    np.testing.assert_allclose(again.poses, first.poses, atol=1e-4)


def test_clips_of_one_name_do_not_overwrite_each_other(model, tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    table = [f"{name}_{axis}" for name in human36m.joints for axis in "xy"]
    rows = "\n".join(",".join(map(str, frame.ravel())) for frame in moving())
    (tmp_path / "a.csv").write_text(",".join(table) + "\n" + rows)
    list(lift(tmp_path, tmp_path / "out", model, resolution=(1000, 1000), outputs=["json"]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv.json", "a.npz.json"]


def test_several_clips_are_lifted_from_anywhere_but_never_two_to_one_file(model, tmp_path):
    for name in ("a/walk.npz", "a/run.npz", "b/walk.npz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.savez(tmp_path / name, keypoints=moving(), joints=human36m.joints, fps=25, resolution=(1000, 1000))
    walk, out = tmp_path / "a" / "walk.npz", tmp_path / "out"
    results = list(lift([walk, tmp_path / "a" / "run.npz", walk], out, model, outputs=["npz"]))
    assert [result.name for result in results] == ["walk", "run"]
    with pytest.raises(DataError, match=r"clips of different names, found two of walk\.npz"):
        lift([tmp_path / "a", tmp_path / "b" / "walk.npz"], out, model, outputs=["npz"])


def test_three_clips_never_share_an_output(model, tmp_path):
    """c.csv of another name's clip and the results of c.csv, where c.npz is there too."""
    source = tmp_path / "in"
    source.mkdir()
    for name in ("c.npz", "c.csv.npz"):
        np.savez(source / name, keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    (source / "c.csv").write_text("x")
    list(lift(source, tmp_path / "out", model, outputs=["json"]))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c.csv.npz.json", "c.npz.json"]


def test_results_never_replace_what_they_come_from(model, tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    before = (tmp_path / "a.npz").read_bytes()
    for source in (tmp_path / "a.npz", tmp_path):
        with pytest.raises(DataError, match=r"another folder for the results: a\.npz in .* would overwrite its input"):
            lift(source, tmp_path, model)
    assert (tmp_path / "a.npz").read_bytes() == before
    (tmp_path / "a.npz").rename(tmp_path / "b_person0.npz")
    np.savez(tmp_path / "b.npz", keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    with pytest.raises(DataError, match=r"b_person0\.npz in .* would overwrite its input"):
        lift(tmp_path, tmp_path, model, person=None, outputs=["npz"])


def test_a_broken_first_file_does_not_stop_the_folder(model, tmp_path):
    source = write_clips(tmp_path / "in")
    (source / "0.json").write_text("[" * 100_000)
    (source / "1.json").write_text('"text"')
    (source / "2.json").mkdir()
    results = list(lift(source, tmp_path / "out", model, resolution=(1000, 1000), outputs=["npz"]))
    errors = [str(result) for result in results if isinstance(result, DataError)]
    assert len(results) - len(errors) == 3
    assert [error.split(": ")[0].rsplit("/", 1)[1] for error in errors] == [
        "0.json",
        "1.json",
        "2.json",
        "b_broken.json",
    ]


@pytest.mark.parametrize("fps", [0.0, -5.0, np.nan, np.inf, 1e-300, 1e300])
def test_impossible_rates_are_refused(model, fps):
    with pytest.raises(DataError, match=r"expected 0\.01 to 10000 frames/s, found"):
        lift_clip(detections(moving()), model, fps=fps)


def test_damaged_weights_write_nothing(tmp_path):
    model = MixSTE(frames=9, dim=16, depth=1, heads=2)
    model.head.bias.data[0] = np.nan
    np.savez(tmp_path / "a.npz", keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    [error] = lift(tmp_path / "a.npz", tmp_path / "out", model)
    assert str(error).startswith("a: poses must be finite, found NaN or infinity in frame 0")
    assert not (tmp_path / "out").exists()


def test_without_the_extra_no_video_is_promised(model, tmp_path, monkeypatch):
    def pyav():
        raise ImportError("no PyAV")

    monkeypatch.setattr("mixste.wild.lift.pyav", pyav)
    with pytest.raises(ImportError, match="no PyAV"):
        lift(write_clips(tmp_path / "in"), tmp_path / "out", model, outputs=["npz", "mp4"])


def test_keypoints_beside_a_video_are_lifted_without_the_extra(model, tmp_path, monkeypatch):
    def detect(path, everyone):
        raise ImportError("no PyAV")

    monkeypatch.setattr("mixste.wild.lift.detect", detect)
    source = write_clips(tmp_path / "in")
    (source / "a_coco.mp4").write_bytes(b"")
    (source / "._a_coco.json").write_bytes(b"")
    results = list(lift(source, tmp_path / "out", model, resolution=(1000, 1000), outputs=["npz"]))
    assert str(results[1]) == f"{source / 'a_coco.mp4'}: no PyAV"
    assert [result.name for result in results if not isinstance(result, DataError)] == [
        "a_coco",
        "c_array",
        "d_openpose",
    ]


def test_options_that_a_video_has_no_use_for_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("mixste.wild.lift.detect", lambda path, everyone: detections(moving()))
    arguments = tmp_path / "film.mp4", tmp_path / "out", model
    [result] = lift(*arguments, resolution=(900, 900), units="shares", fps=25, outputs=["npz"])
    assert "a video has no use for --size, --units" in result.notes
    [result] = lift(*arguments, fps=25, outputs=["npz"])
    assert not any("no use" in note for note in result.notes)


def test_nothing_to_lift_is_said_at_once(model, tmp_path):
    with pytest.raises(DataError, match=r"expected videos, keypoints in .* found none"):
        lift(tmp_path, tmp_path / "out", model)
    (tmp_path / "clip.wmv").touch()
    with pytest.raises(DataError, match=r"clip\.wmv: expected a video \(\.mp4, .* keypoints in .* found \.wmv"):
        lift(tmp_path / "clip.wmv", tmp_path / "out", model)
    with pytest.raises(DataError, match="unknown output 'fbx': expected some of npz, csv"):
        lift(tmp_path, tmp_path / "out", model, outputs=["fbx"])
    for name in ("nowhere.json", "nowhere.mp4"):  # a film, whether or not MediaPipe is installed
        [error] = lift(tmp_path / name, tmp_path / "out", model)
        assert "no such file" in str(error)


def test_points_beyond_any_detector_are_refused(model, tmp_path):
    points = moving()
    points[7, 3] = 1e300
    with pytest.raises(DataError, match=r"clip: expected points in or near .* pixels, found one at 1e\+300 in frame 7"):
        lift_clip(detections(points), model)


def test_a_reader_that_fails_in_its_own_way_stops_no_folder(model, tmp_path, monkeypatch):
    source = write_clips(tmp_path / "in")

    def fail(path, *options):
        if path.name.startswith("a"):
            raise MemoryError
        return read(path, *options)

    monkeypatch.setattr("mixste.wild.lift.read", fail)
    results = list(lift(source, tmp_path / "out", model, resolution=(1000, 1000), outputs=["npz"]))
    assert any("found more than fits into memory" in str(result) for result in results)
    assert any(isinstance(result, Lifted) for result in results)


def test_what_is_whole_when_it_is_stopped_stays_and_nothing_else(model, tmp_path, monkeypatch):
    for name in "abc":
        np.savez(tmp_path / f"{name}.npz", keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    written = []

    def csv(lifted, path):
        written.append(path.name)
        with replacing(path) as temporary:
            temporary.write_text("half of it")
            if path.name == "b.csv":
                raise KeyboardInterrupt

    monkeypatch.setitem(OUTPUTS, "csv", csv)
    with pytest.raises(KeyboardInterrupt):
        list(lift(tmp_path, tmp_path / "out", model, outputs=["npz", "csv"]))
    assert written == ["a.csv", "b.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "a.npz", "b.npz"]
    assert len(Lifted.read(tmp_path / "out" / "b.npz").poses) == len(moving())


def test_a_page_of_a_long_clip_shows_its_first_frames_and_a_note_says_so(model, tmp_path, monkeypatch):
    monkeypatch.setitem(MAX_FRAMES, "html", 15)
    np.savez(tmp_path / "a.npz", keypoints=moving(), joints=human36m.joints, resolution=(1000, 1000))
    [lifted] = lift(tmp_path / "a.npz", tmp_path / "out", model, outputs=["npz", "html"])
    assert len(lifted.poses) == 20
    assert "a.html shows the first 15 of 20 frames" in lifted.notes
    assert '"frames":15' in (tmp_path / "out" / "a.html").read_text()


LONG = """
import resource, sys, time
import numpy as np
from mixste.wild.lift import lift
from mixste.model import MixSTE

start = time.process_time()
[lifted] = lift(sys.argv[1], sys.argv[2], MixSTE(81, dim=8, depth=1, heads=1), outputs=["npz"])
print(len(lifted.poses), time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units, or not at all")
def test_a_million_frames_would_fit_two_gibibytes_and_time_grows_as_they_do(tmp_path):
    """From clips of 50,000 and 200,000 frames."""
    measured = []
    for frames in (50_000, 200_000):
        points = np.resize(moving(1000), (frames, 17, 2)).astype(np.float32)
        np.savez(tmp_path / "a.npz", keypoints=points, joints=human36m.joints, resolution=(1000, 1000), fps=50.0)
        command = [sys.executable, "-c", LONG, str(tmp_path / "a.npz"), str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured.append([float(word) for word in done.stdout.split()])
    (_, short, small), (frames, long, large) = measured
    assert frames == 200_000
    assert long < 6 * short
    assert small + (large - small) * (1_000_000 - 50_000) / 150_000 < 2 << 30


def test_people_are_placed_in_the_world_with_the_focal_length_of_their_file(model, tmp_path):
    for name, focal in (("wide", 700.0), ("millimetres", 35.0)):
        points = {"keypoints": moving(), "joints": human36m.joints, "resolution": (1000, 1000), "fps": 50.0}
        np.savez(tmp_path / f"{name}.npz", **points, focal=focal)
    wrong, right = lift(tmp_path, tmp_path / "out", model, world=True, outputs=("npz",))
    assert isinstance(wrong, DataError)
    assert "millimetres: expected a focal length of 200 to 50000 pixels" in str(wrong)
    assert right.world.focal == 700
    assert Lifted.read(tmp_path / "out" / "wide.npz").world.poses.shape == (20, 17, 3)
    others = list(lift(tmp_path, tmp_path / "out", model, world=True, focal=1000, outputs=("npz",)))
    assert [one.world.focal for one in others] == [1000, 1000]
    plain, _ = lift(tmp_path, tmp_path / "out", model, outputs=("npz",))
    assert plain.world is None


def test_a_focal_length_without_the_world_is_refused():
    with pytest.raises(DataError, match="expected --world with --focal-length"):
        command(Path("clip.npz"), focal_length=1000)
