"""Files read back by something else than what wrote them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from mixste.data import DataError
from mixste.skeleton import human36m
from mixste.wild import outputs
from mixste.wild.outputs import Lifted, pictures, write_bvh, write_csv, write_gif, write_json, write_mp4, write_npz
from mixste.wild.video import film, save_mp4


def a_lifted(frames=6, seed=0, poses=None) -> Lifted:
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.4, (frames, 17, 3)) if poses is None else poses
    poses = (poses - poses[:, :1]).astype(np.float32)
    keypoints = rng.uniform(0, 480, (len(poses), 17, 2)).astype(np.float32)
    return Lifted("walk", 25.0, (640, 480), keypoints, poses, rng.random((len(poses), 17)) < 0.1, ("mind the gap",))


def a_person(frames: int, seed=0) -> np.ndarray:
    """Poses with bones of constant length that point anywhere: (frames, 17, 3), camera axes."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 0.5, 17)
    lengths[list(human36m.right)] = lengths[list(human36m.left)]
    directions = rng.normal(size=(frames, 17, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    poses = np.zeros((frames, 17, 3))
    for parent, child in sorted(human36m.bones, key=lambda bone: bone[1]):
        poses[:, child] = poses[:, parent] + lengths[child] * directions[:, child]
    return poses


def test_npz_comes_back(tmp_path):
    lifted = a_lifted()
    write_npz(lifted, tmp_path / "walk.npz")
    again = Lifted.read(tmp_path / "walk.npz")
    for name in ("keypoints", "poses", "filled"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lifted, name))
    assert (again.name, again.fps, again.resolution, again.notes) == ("walk", 25.0, (640, 480), ("mind the gap",))
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as file:
        assert tuple(file["joints"]) == human36m.joints


def test_a_file_that_is_no_lifted_clip_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    (tmp_path / "text.npz").write_text("poses")
    with pytest.raises(DataError, match=r"other\.npz: expected the \.npz of a lifted clip, found"):
        Lifted.read(tmp_path / "other.npz")
    for name, value in {
        "poses": np.zeros((6, 16, 3)),
        "filled": np.ones(2),
        "fps": np.nan,
        "resolution": [1, 2, 3],
    }.items():
        write_npz(a_lifted(), tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz", **{**np.load(tmp_path / "a.npz"), name: value})
        with pytest.raises(DataError, match=r"b\.npz: expected .*lifted clip.*, found"):
            Lifted.read(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"text\.npz: expected the \.npz of a lifted clip, found"):
        Lifted.read(tmp_path / "text.npz")


def test_csv_and_json_hold_the_poses(tmp_path):
    lifted = a_lifted()
    write_csv(lifted, tmp_path / "walk.csv")
    table = pd.read_csv(tmp_path / "walk.csv")
    assert list(table.columns[:5]) == ["frame", "seconds", "Hip_x", "Hip_y", "Hip_z"]
    np.testing.assert_allclose(table["seconds"], np.arange(6) / 25)
    np.testing.assert_allclose(table["LWrist_y"], lifted.poses[:, 13, 1], atol=6e-6)

    write_json(lifted, tmp_path / "walk.json")
    content = json.loads((tmp_path / "walk.json").read_text())
    np.testing.assert_allclose(content["poses"], lifted.poses, atol=6e-6)
    np.testing.assert_allclose(content["keypoints"], lifted.keypoints, atol=0.006)
    assert content["filled"] == lifted.filled.tolist()
    assert content["parents"][content["joints"].index("LElbow")] == content["joints"].index("LShoulder")
    assert content["notes"] == ["mind the gap"]


# --- BVH: read by a parser of its own, and posed by turning each joint's frame ----------------------------------


def posed(text: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], float]:
    """Places of all joints (frames, 3), their offsets, and the time of a frame, from the text alone."""
    words = text.split()
    motion = words.index("MOTION")
    rows = np.array(words[motion + 6 :], dtype=float).reshape(int(words[motion + 2]), -1)
    parents, offsets, columns, stack, name, column, k = {}, {}, {}, [], "", 0, 1
    while k < motion:
        match words[k]:
            case "ROOT" | "JOINT":
                name = words[k + 1]
                parents[name], k = stack[-1] if stack else None, k + 2
            case "End":
                name, k = f"{name} end", k + 2
                parents[name] = stack[-1]
            case "{":
                stack.append(name)
                k += 1
            case "}":
                stack.pop()
                k += 1
            case "OFFSET":
                offsets[name], k = np.array(words[k + 1 : k + 4], dtype=float), k + 4
            case "CHANNELS":
                count = int(words[k + 1])
                columns[name] = list(zip(words[k + 2 : k + 2 + count], rows.T[column : column + count], strict=True))
                column, k = column + count, k + 2 + count
    assert stack == []
    assert column == rows.shape[1]

    places, turns = {}, {}
    for name, parent in parents.items():
        place, turn = np.tile(offsets[name], (len(rows), 1)), np.tile(np.eye(3), (len(rows), 1, 1))
        for channel, values in columns.get(name, []):
            axis = "XYZ".index(channel[0])
            if channel.endswith("position"):
                place[:, axis] += values
            else:
                turn = turn @ Rotation.from_rotvec(np.radians(values)[:, None] * np.eye(3)[axis]).as_matrix()
        if parent is not None:
            place = places[parent] + np.einsum("fab,fb->fa", turns[parent], place)
            turn = turns[parent] @ turn
        places[name], turns[name] = place, turn
    return places, offsets, float(words[motion + 5])


def test_bvh_poses_are_the_poses(tmp_path):
    lifted = a_lifted(poses=a_person(40))
    write_bvh(lifted, tmp_path / "walk.bvh")
    places, offsets, time = posed((tmp_path / "walk.bvh").read_text())
    assert time == pytest.approx(1 / 25)
    joints = np.stack([places[name] for name in human36m.joints], axis=1)
    # Camera axes have y down and z away, BVH y up and z towards the viewer.
    np.testing.assert_allclose(joints - joints[:, :1], lifted.poses * [1, -1, -1], atol=1e-4)
    assert joints[..., 1].min() == pytest.approx(0, abs=1e-4)
    assert np.ptp(joints[:, 0], axis=0).max() == 0
    # At rest a T that faces +z, so that the person's left is at +x and the head above.
    assert offsets["LShoulder"][0] > 0 > offsets["RShoulder"][0]
    assert offsets["Head"][1] > 0 > offsets["LKnee"][1]


def test_bvh_bones_have_their_median_length_and_point_where_the_poses_do(tmp_path):
    poses = a_person(9)
    stretched = poses.copy()
    stretched[:4, 13] += 0.3 * (poses[:4, 13] - poses[:4, 12])  # a wrist too far off in 4 of 9 frames
    lifted = a_lifted(poses=stretched)
    write_bvh(lifted, tmp_path / "walk.bvh")
    places, offsets, _ = posed((tmp_path / "walk.bvh").read_text())
    joints = np.stack([places[name] for name in human36m.joints], axis=1)
    np.testing.assert_allclose(joints - joints[:, :1], (poses - poses[:, :1]) * [1, -1, -1], atol=1e-4)
    assert np.linalg.norm(offsets["LWrist"]) == pytest.approx(np.linalg.norm(poses[0, 13] - poses[0, 12]), abs=1e-4)


def test_bvh_of_bodies_in_a_line_or_a_point(tmp_path):
    # Every bone along its direction at rest, against it, and without length.
    at_rest = np.zeros((17, 3))
    steps = {
        "Hip": (0, 0),
        "Shoulder": (0.1, 0),
        "Elbow": (0.3, 0),
        "Wrist": (0.3, 0),
        "Knee": (0, 0.4),
        "Foot": (0, 0.4),
    }
    for parent, child in sorted(human36m.bones, key=lambda bone: bone[1]):
        name = human36m.joints[child]
        side = {"L": 1, "R": -1}.get(name[0], 0)
        x, y = steps.get(name[1:], (0, -0.2)) if side else (0, -0.2)
        at_rest[child] = at_rest[parent] + [side * x, y, 0]
    poses = np.stack([at_rest, -at_rest, at_rest, at_rest])
    write_bvh(a_lifted(poses=poses), tmp_path / "line.bvh")
    places, _, _ = posed((tmp_path / "line.bvh").read_text())
    joints = np.stack([places[name] for name in human36m.joints], axis=1)
    np.testing.assert_allclose(joints - joints[:, :1], poses * [1, -1, -1], atol=1e-4)

    write_bvh(a_lifted(poses=np.zeros((3, 17, 3))), tmp_path / "point.bvh")
    places, _, _ = posed((tmp_path / "point.bvh").read_text())
    np.testing.assert_allclose([places[name] for name in human36m.joints], 0, atol=1e-4)


@pytest.mark.parametrize("write", [write_csv, write_json, write_bvh])
def test_a_long_clip_is_written_in_parts_as_a_short_one_at_once(write, tmp_path, monkeypatch):
    turns = np.linspace(0, 30, 100)  # radians, five times around
    spun = a_person(1) * np.ones((100, 1, 1))
    spun = np.stack([Rotation.from_rotvec([0, turn, 0]).apply(pose) for turn, pose in zip(turns, spun, strict=True)])
    lifted = a_lifted(poses=spun)
    write(lifted, tmp_path / "once")
    monkeypatch.setattr(outputs, "PART", 7)
    write(lifted, tmp_path / "parts")
    assert (tmp_path / "parts").read_text() == (tmp_path / "once").read_text()


def test_pictures_of_a_long_clip_are_of_its_first_frames(tmp_path, monkeypatch):
    monkeypatch.setitem(outputs.MAX_FRAMES, "gif", 4)
    write_gif(a_lifted(10), tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as picture:
        assert picture.n_frames == 4


def test_bvh_angles_do_not_jump(tmp_path):
    # A person who turns round twice on the spot.
    angles = np.linspace(0, 4 * np.pi, 100)
    body = a_person(1, seed=3)[0]
    poses = np.stack([Rotation.from_euler("y", angle).apply(body) for angle in angles])
    write_bvh(a_lifted(poses=poses), tmp_path / "turn.bvh")
    values = (tmp_path / "turn.bvh").read_text().split("Frame Time:")[1].split("\n")[1:-1]
    values = np.array([row.split() for row in values], dtype=float)
    assert np.abs(np.diff(values[:, 3:], axis=0)).max() <= 180


# --- GIF -------------------------------------------------------------------------------------------------------


def test_gif_moves_at_the_clips_pace(tmp_path):
    poses = a_person(1)[0] * np.linspace(0.5, 1, 20)[:, None, None]
    lifted = a_lifted(poses=poses)
    write_gif(Lifted("walk", 50.0, (640, 480), lifted.keypoints, lifted.poses, lifted.filled), tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as video:
        assert (video.size, video.n_frames, video.info["duration"]) == (
            (480, 240),
            10,
            40,
        )  # every second of 20 at 50 Hz
        colours = {colour for _, colour in video.convert("RGB").getcolors(10000)}

    def near(colour):
        return min(np.abs(np.subtract(colour, other)).max() for other in colours)

    assert near((209, 73, 91)) < 8
    assert near((31, 111, 180)) < 8
    assert near((255, 255, 255)) < 8


@pytest.mark.parametrize(("fps", "frames"), [(30.0, 30), (60.0, 30), (29.97, 30), (50.0, 25)])
def test_a_second_of_gif_takes_a_second(tmp_path, fps, frames):
    """Though the file counts hundredths of a second, which a thirtieth is not."""
    lifted = a_lifted(poses=a_person(1)[0] * np.linspace(0.5, 1, round(fps))[:, None, None])
    write_gif(Lifted("walk", fps, (640, 480), lifted.keypoints, lifted.poses, lifted.filled), tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as picture:
        durations = [picture.seek(frame) or picture.info["duration"] for frame in range(picture.n_frames)]
    assert (len(durations), sum(durations)) == (frames, 1000)


def test_mp4_has_every_frame_at_the_clips_pace(tmp_path):
    av = pytest.importorskip("av")
    lifted = a_lifted(frames=10)
    write_mp4(lifted, tmp_path / "walk.mp4", height=121)
    with av.open(str(tmp_path / "walk.mp4")) as video:
        [stream] = video.streams
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 25)
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert np.shape(shown) == (10, 120, 242, 3)  # no odd sides in this codec
    drawn = list(pictures(lifted.keypoints, lifted.resolution, [lifted.poses], 121))
    for frame, picture in zip(shown, drawn, strict=True):
        assert np.abs(frame - np.asarray(picture, dtype=float)[:120]).mean() < 6


def test_mp4_shows_the_film_behind_the_keypoints(tmp_path):
    av = pytest.importorskip("av")
    save_mp4([Image.new("RGB", (640, 480), (0, 40 * k, 0)) for k in range(6)], 25, tmp_path / "film.mp4")
    lifted = replace(a_lifted(frames=6), film=tmp_path / "film.mp4")
    write_mp4(lifted, tmp_path / "walk.mp4", height=120)
    with av.open(str(tmp_path / "walk.mp4")) as video:
        shown = np.array([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert shown.shape == (6, 120, 160 + 120, 3)  # the film in its shape, the pose in a square
    np.testing.assert_allclose(np.median(shown[:, :, :160, 1], axis=(1, 2)), 40 * np.arange(6), atol=6)
    drawn = next(pictures(lifted.keypoints, lifted.resolution, [lifted.poses], 120, film=film(lifted.film, 25, 6)))
    assert np.abs(shown[0] - np.asarray(drawn, dtype=float)).mean() < 6


def test_the_floor_is_under_the_lowest_joint():
    """Of a pose without width or depth: its foot stands in the middle of the lines, and they do not move with it."""
    poses = np.zeros((2, 17, 3))
    poses[:, 10, 1] = -2  # a head far above the hip, metres, y down
    poses[0, 3, 1], poses[1, 3, 1] = 1.0, 0.5  # a foot below it
    first, second = (np.asarray(picture).astype(int) for picture in pictures(None, None, [poses], 300))
    grey = (np.abs(first - 0xD4).max(axis=-1) < 8) & (np.abs(second - 0xD4).max(axis=-1) < 8)
    rows, columns = np.nonzero(grey)
    red, _, blue = np.moveaxis(first, -1, 0)
    foot = np.argwhere(blue > red + 80)[:, 0].max()
    assert abs((rows.min() + rows.max()) / 2 - foot) < 4
    assert abs((columns.min() + columns.max()) / 2 - 150) < 9
