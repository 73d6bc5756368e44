"""What people bring: kinds of files that public bug reports describe, each held against the plain form of one walk.

The plain form is a list of COCO results. Every other file is made from the same numbers, so that the joints of
human36m must come out the same.
"""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_formats import COCO, PERSON, words

from mixste.data import DataError
from mixste.data.readers import structures
from mixste.data.readers.detections import LAYOUTS, canonical_names, follow, to_human36m
from mixste.data.readers.formats import READERS, read
from mixste.data.readers.structures import is_clip
from mixste.data.readers.timing import in_order, in_seconds, numbers_in, on_grid
from mixste.skeleton import human36m
from mixste.wild.lift import clips_in, lift
from mixste.wild.video import SUFFIXES

SIZE = (1920, 1080)
AT = [PERSON[name] for name in COCO]
FRAMES = 12
# (frames, 17, 3): across the image and swaying, so that frames, points and axes are all told apart.
WALK = np.concatenate([np.tile(AT, (FRAMES, 1, 1)), np.full((FRAMES, 17, 1), 0.9)], axis=2)
WALK[..., 0] += 40 * np.arange(FRAMES)[:, None]
WALK[..., 1] += 9 * np.sin(np.arange(FRAMES)[:, None] + np.arange(17))
ONE = dict(zip(COCO, range(17), strict=True))
JOINTS = to_human36m(WALK[..., :2], LAYOUTS["coco17"])


def body(order: str, frame: int) -> np.ndarray:
    """(points, 3) in the order of another layout; neck and middle of the hips from their sides, others unseen."""
    middle = {"Neck": ("left_shoulder", "right_shoulder"), "MidHip": ("left_hip", "right_hip")}
    places = {point: [ONE[name]] for name, point in zip(COCO, LAYOUTS["coco17"], strict=True)}
    places |= {point: [ONE[side] for side in sides] for point, sides in middle.items()}
    return np.array([WALK[frame, places[point]].mean(axis=0) if point in places else (0, 0, 0) for point in order])


def joints(found, person=0) -> np.ndarray:
    return to_human36m(follow(found, person)[0], found.names)


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def results(walk=WALK, **more) -> list[dict]:
    return [{"image_id": f"{k}.jpg", "keypoints": one.ravel().tolist()} | more for k, one in enumerate(walk)]


def openpose(walk=WALK, key="pose_keypoints_2d") -> list[dict]:
    return [{"people": [{key: np.ravel(one).tolist()}]} for one in walk]


def mmpose(names: list[str], walk, **more) -> dict:
    people = [[{"keypoints": one[:, :2].tolist(), "keypoint_scores": one[:, 2].tolist()}] for one in walk]
    frames = [{"frame_id": k, "instances": one} for k, one in enumerate(people, 1)]
    return {"meta_info": {"keypoint_id2name": {str(k): n for k, n in enumerate(names)}}, "instance_info": frames}


def table(walk=WALK, names=COCO, style="{}_x,{}_y,{}_score", first="", column=None) -> str:
    lines = [first + ",".join(style.format(*[name] * style.count("{}")) for name in names)]
    for k, one in enumerate(walk):
        lines.append(",".join(map(repr, [*([column[k]] if column is not None else []), *one.ravel().tolist()])))
    return "\n".join(lines) + "\n"


def same(path, expected=JOINTS, notes=0, **options) -> str:
    """The file reads as the plain form does, with so many notes; the last of them."""
    found = read(path, resolution=SIZE, **options)
    np.testing.assert_allclose(joints(found), expected, atol=1e-4)
    assert len(found.notes) == notes, found.notes
    return found.notes[-1] if notes else ""


def test_the_plain_form(tmp_path):
    same(save(tmp_path / "a.json", results()))


# --- whose points ----------------------------------------------------------------------------------------------


def test_whole_bodies_with_names(tmp_path):
    walk = np.concatenate([WALK, np.zeros((FRAMES, 116, 3))], axis=1)
    same(save(tmp_path / "a.json", mmpose([*COCO, *(f"face-{k}" for k in range(116))], walk)))


def test_human36m_by_names_in_any_order_and_spelling(tmp_path):
    names = words(
        "root right_hip right_knee right_foot left_hip left_knee left_foot spine thorax neck_base head left_shoulder "
        "left_elbow left_wrist right_shoulder right_elbow right_wrist"
    )
    walk = np.concatenate([JOINTS, np.ones((FRAMES, 17, 1))], axis=2)
    same(save(tmp_path / "a.json", mmpose(names, walk)))
    order = np.random.default_rng(0).permutation(17)
    same(save(tmp_path / "b.json", mmpose([names[k].upper() for k in order], walk[:, order])))


@pytest.mark.parametrize(
    ("name", "point"),
    [
        *[("shoulder_left", "LShoulder"), ("kneeRight", "RKnee"), ("WristL", "LWrist"), ("l.ear", "LEar")],
        *[("LEFT_EYE_INNER", "LEyeInner"), ("rknee", "RKnee"), ("mid hip", "MidHip"), (b"nose", "Nose")],
        *[("left_thumb1", "left_thumb1"), ("p12", "p12"), ("heelRight", "RHeel"), ("pelvis", "MidHip")],
    ],
)
def test_names_of_points(name, point):
    assert canonical_names([name, "Tail"]) == (point, "Tail")


def test_names_that_leave_joints_open_or_come_twice_are_refused(tmp_path):
    path = save(tmp_path / "a.json", mmpose(["tail", *COCO[1:]], WALK))
    same(save(tmp_path / "b.json", mmpose([f"p{k}" for k in range(17)], WALK)), layout="coco17")
    with pytest.raises(DataError, match="expected point 1 to be Neck, as in layout body18, found LEye"):
        read(
            save(tmp_path / "c.json", mmpose(["tail", *COCO[1:12], *"abcdef"], WALK[:, [*range(17), 0]])),
            layout="body18",
        )
    assert np.isfinite(joints(read(path, resolution=SIZE))).all()  # ears for the nose
    with pytest.raises(DataError, match=r"none for Hip, RHip, RKnee, .* among tail, LEye"):
        read(save(tmp_path / "d.json", mmpose(["tail", *COCO[1:12], *"abcde"], WALK)), resolution=SIZE)
    with pytest.raises(DataError, match="every point once, found 'LEye' and 'left_eye'"):
        read(save(tmp_path / "e.json", mmpose(["LEye" if k == 0 else n for k, n in enumerate(COCO)], WALK)))


def test_names_win_over_the_order_of_a_layout(tmp_path):
    names = sorted(COCO)
    path = save(tmp_path / "a.csv", table(WALK[:, [ONE[name] for name in names]], names))
    assert "identified by their names in the file" in same(path, notes=1, layout="coco17")


def test_numbered_columns_in_the_order_of_their_numbers(tmp_path):
    walk = np.stack([body(LAYOUTS["mediapipe33"], k) for k in range(FRAMES)]) / [*SIZE, 1]
    for style in ("x{}", "y{}", "v{}"), ("{}_x", "{}_y", "{}_visibility"), ("lm{}.x", "lm{}.y", "lm{}.c"):
        columns = {form.format(k + 1): walk[:, k, axis] for k in range(33) for axis, form in enumerate(style)}
        lines = [",".join(sorted(columns))]
        lines += [",".join(repr(float(columns[name][k])) for name in sorted(columns)) for k in range(FRAMES)]
        assert "mediapipe33 inferred from their number" in same(save(tmp_path / "a.csv", "\n".join(lines)), notes=1)
    with pytest.raises(DataError, match="numbered from 0 or 1 without a gap, found 3 from 1 to 4"):
        read(save(tmp_path / "b.csv", "x1,y1,x2,y2,x4,y4\n1,1,1,1,1,1\n"))


def test_seventeen_points_by_where_they_lie(tmp_path):
    np.savez(tmp_path / "coco.npz", keypoints=WALK)
    assert "layout coco17 inferred" in same(tmp_path / "coco.npz", notes=1)
    np.savez(tmp_path / "own.npz", keypoints=JOINTS)
    assert "layout human36m inferred" in same(tmp_path / "own.npz", notes=1)
    same(save(tmp_path / "own.json", results(np.concatenate([JOINTS, np.ones((FRAMES, 17, 1))], axis=2))), notes=1)


def test_eighteen_points_with_the_middle_of_the_hips(tmp_path):
    walk = [body(LAYOUTS["body25"][:18], k) for k in range(FRAMES)]
    content = {f"{k}.jpg": {"bodies": [{"joints": one.ravel().tolist()}]} for k, one in enumerate(walk)}
    found = read(save(tmp_path / "a.json", content), resolution=SIZE)
    np.testing.assert_allclose(
        np.delete(joints(found), 10, axis=1), np.delete(JOINTS, 10, axis=1)
    )  # one ear is missing
    assert "first of body25" in found.notes[0]


# --- what a frame and a person are -----------------------------------------------------------------------------


def test_formats_of_alphapose_and_old_openpose(tmp_path):
    walk = [body(LAYOUTS["body18"], k) for k in range(FRAMES)]
    cmu = {f"{k}.jpg": {"bodies": [{"joints": one.ravel().tolist()}]} for k, one in enumerate(walk)}
    same(save(tmp_path / "cmu.json", cmu))
    same(save(tmp_path / "open.json", {f"{k}.jpg": one for k, one in enumerate(openpose(walk))}))
    for k in range(FRAMES):
        save(tmp_path / "old" / f"{k:03}.json", openpose(walk, "pose_keypoints")[k])
        save(tmp_path / "pairs" / f"{k:03}.json", openpose([one[:, :2] for one in walk])[k])
    same(tmp_path / "old")
    same(tmp_path / "pairs")


@pytest.mark.parametrize("nothing", [None, []])
def test_people_without_points_are_left_out(tmp_path, nothing):
    frames = openpose()
    frames[3]["people"].append({"pose_keypoints_2d": nothing})
    for k, frame in enumerate(frames):
        save(tmp_path / "clip" / f"c_{k}_keypoints.json", frame)
    same(tmp_path / "clip")


def test_frames_before_the_first_person_are_there(tmp_path):
    found = read(save(tmp_path / "a.json", results()[3:]), resolution=SIZE)
    assert np.isnan(joints(found)[:3]).all()
    np.testing.assert_allclose(joints(found)[3:], JOINTS[3:])
    assert found.notes == ("the file starts at frame 3: frames 0 to 2 are taken as frames without people",)
    same(save(tmp_path / "b.json", mmpose(COCO, WALK)))  # which lists every frame, from 1


def test_annotations_with_another_category(tmp_path):
    images = [{"id": k, "file_name": f"{k:05}.jpg", "width": 1920, "height": 1080} for k in range(FRAMES)]
    people = [{"image_id": k, "category_id": 7, "keypoints": one.ravel().tolist()} for k, one in enumerate(WALK)]
    ball = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}
    dog = {"image_id": 1, "category_id": 2, "keypoints": [1, 1, 2] * 4}
    categories = [{"id": 1, "name": "ball"}, {"id": 2, "name": "dog", "keypoints": list("abcd")}]
    categories.append({"id": 7, "name": "person", "keypoints": COCO})
    content = {"images": images, "annotations": [ball, dog, *people], "categories": categories}
    same(save(tmp_path / "a.json", content))
    images[0]["width"] = 640
    with pytest.raises(DataError, match=r"images of one size, found \[\(640, 1080\), \(1920, 1080\)\]"):
        read(save(tmp_path / "b.json", content))
    with pytest.raises(DataError, match="expected the image of every annotation, found none with id 99"):
        read(save(tmp_path / "c.json", {**content, "annotations": [{**people[0], "image_id": 99}]}))


def test_a_folder_of_frames_is_one_clip_whatever_else_lies_in_it(tmp_path):
    clip = tmp_path / "clip"
    for k, frame in enumerate(openpose()):
        save(clip / f"{k:05}_cam2_keypoints.json", frame if k > 2 else {"people": []})
    for name, content in ("a.json", {"fps": 25}), ("b.json", "{"), ("z.json", results()), ("._c_0.json", "\0"):
        save(clip / name, content)
    assert is_clip(clip)
    found = read(clip, resolution=SIZE)
    assert [len(people) for people in found.people] == [0, 0, 0, *[1] * (FRAMES - 3)]
    np.testing.assert_allclose(joints(found)[3:], JOINTS[3:])
    assert found.notes == ("ignored files that are not frames: a.json, b.json, z.json",)
    save(clip / "00004_cam2_keypoints.json", "{")
    with pytest.raises(DataError, match=r"00004_cam2_keypoints\.json: expected JSON"):
        read(clip, resolution=SIZE)


def test_folders_of_clips_and_of_two_clips(tmp_path):
    for k in range(2):
        save(tmp_path / "clips" / f"clip{k}.json", results())
        save(tmp_path / "two" / f"a_{k}.json", openpose()[k])
        save(tmp_path / "two" / f"b_{k}.json", openpose()[k])
    save(tmp_path / "clips" / "still.json", openpose()[0])
    assert not is_clip(tmp_path / "clips")
    with pytest.raises(DataError, match=r"one file per frame, of one clip, found 2 series: a_0\.json, b_0\.json"):
        read(tmp_path / "two")
    assert not is_clip(tmp_path)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["00000_cam2", "00001_cam2", "00003_cam2"], [0, 1, 3]),
        (["run7/f_9.png", "run7/f_10.PNG"], [9, 10]),
        (["2024-05-01_12-00-01_7", "2024-05-01_12-00-03_8"], [7, 8]),
        ([4.0, 5.0], [4, 5]),
        (["still"], [0]),
    ],
)
def test_the_number_that_varies(names, numbers):
    assert numbers_in(names) == numbers


@pytest.mark.parametrize("names", [["1_cam1", "1_cam2", "2_cam1", "2_cam2"], ["a", "b"], ["9" * 30, "8" * 30]])
def test_names_of_no_one_clip(names):
    with pytest.raises(DataError, match=r"expected (frame names with a number each|the frames of one clip)"):
        numbers_in(names)


NESTED = {
    "names in the points": lambda: [
        {"keypoints": [{"name": n, "x": x, "y": y, "score": s} for n, (x, y, s) in zip(COCO, one, strict=True)][::-1]}
        for one in WALK.tolist()
    ],
    "places of PoseNet": lambda: [
        {"keypoints": [{"part": n, "position": {"x": x, "y": y}} for n, (x, y, _) in zip(COCO, one, strict=True)]}
        for one in WALK.tolist()
    ],
    "points by name": lambda: [{"keypoints": dict(zip(COCO, one, strict=True))} for one in WALK.tolist()],
    "people in lists": lambda: [[{"bbox": [0, 0, 1, 1], "keypoints": one}] for one in WALK.tolist()],
    "people as arrays": lambda: [
        {"frame_id": k, "keypoints": [one[:, :2].tolist()], "keypoint_scores": [one[:, 2].tolist()]}
        for k, one in enumerate(WALK)
    ],
    "frames by number": lambda: {str(k): [{"keypoints": one}] for k, one in enumerate(WALK.tolist())},
    "our own": lambda: {"keypoints": WALK[..., :2].tolist(), "joints": COCO, "resolution": SIZE, "fps": 30},
    "lists of x and y": lambda: [
        [{"name": "person", "keypoints": {"x": one[:, 0].tolist(), "y": one[:, 1].tolist(), "visible": [0.9] * 17}}]
        for one in WALK
    ],
    "one list of people": lambda: {"predictions": [{"instances": [one]} | one for one in results()]},
    "frames by number in an object": lambda: {
        "frames": {str(k): {"keypoints": one} for k, one in enumerate(WALK.tolist())}
    },
    "arrays and their rate": lambda: {"keypoints": WALK.tolist(), "fps": 30},
    "without scores": lambda: results(WALK[..., :2]),
    "scores of nothing": lambda: results(WALK * [1, 1, 0]),
}


@pytest.mark.parametrize("form", NESTED)
def test_other_ways_to_nest_people(tmp_path, form):
    same(save(tmp_path / "a.json", NESTED[form]()), notes=form in ("scores of nothing", "arrays and their rate"))


def test_images_of_mmpose_one_by_one(tmp_path):
    order = np.random.default_rng(0).permutation(17)
    for k, one in enumerate(WALK[:, order]):
        people = [{"keypoints": p[:, :2].tolist(), "keypoint_scores": [0.9] * 17, "bbox": []} for p in (one, one * 0.5)]
        meta = {"keypoint_id2name": {str(place): COCO[point] for place, point in enumerate(order)}}
        save(tmp_path / "clip" / f"results_{k:03}.json", {"meta_info": meta, "instance_info": people})
    same(tmp_path / "clip")
    assert len(read(tmp_path / "clip" / "results_000.json", resolution=SIZE).people[0]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"keypoints": WALK.tolist()}, "the people of one frame, found 12 in one place"),
        (results(image_id=1), "the people of one frame, found 12 in one place"),
        ({"person_1": {"keypoints": WALK.tolist()}, "person_2": {"keypoints": WALK.tolist()}}, "in one place"),
        ([{"name": "nose", "x": k, "y": k} for k in range(9)], "found the point nose twice"),
        ([{"keypoints": list(map(str, one))} for one in WALK.reshape(FRAMES, 51)], "the text or number '500.0'"),
        ([{"preds": [one]} for one in WALK.tolist()], "under names such as keypoints, found 'preds'"),
        ([{"people": {"1": {"keypoints": one}}} for one in WALK.tolist()], "names such as keypoints, found '1'"),
        ({"keypoints": [{"0": one} for one in WALK.tolist()]}, "frame 0: .* found a list of points in place of one"),
        (
            [{"time": t, "keypoints": one} for t, one in zip("ab", WALK.tolist(), strict=False)],
            "a time for every frame",
        ),
        ({"keypoints": WALK.tolist(), "fps": 9, "conf": [[[1]], []]}, "expected numbers in conf, found another type"),
        ({"width": 640, "height": "x", "people": [{"keypoints": WALK[0].tolist()}]}, "expected width and height"),
    ],
)
def test_what_might_be_read_wrongly_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(save(tmp_path / "a.json", content), resolution=SIZE)


def test_frames_of_controlnet(tmp_path):
    order = LAYOUTS["body18"]
    size = {"canvas_width": 1920, "canvas_height": 1080}
    frames = [frame | size for frame in openpose([body(order, k) for k in range(FRAMES)])]
    paths = [save(tmp_path / "folder" / f"pose_{k}.json", [frame]) for k, frame in enumerate(frames)]
    for path in save(tmp_path / "list.json", frames), paths[0].parent:
        found = read(path)
        assert found.resolution == SIZE
        np.testing.assert_allclose(joints(found)[:, 11:], JOINTS[:, 11:])
    assert is_clip(paths[0].parent)


def test_rate_and_size_beside_the_frames_of_a_list(tmp_path):
    about = {"fps": 25, "width": 1920, "height": 1080}
    frames = [{"frame": k, "people": [{"keypoints": one}]} | about for k, one in enumerate(WALK.tolist())]
    found = read(save(tmp_path / "a.json", frames))
    assert (found.fps, found.resolution) == (25, SIZE)


def test_scores_beside_the_points_by_any_name(tmp_path):
    for name in "conf", "confidences", "visibility":
        people = [{"keypoints": one[:, :2].tolist(), name: [0.0, *[0.9] * 16]} for one in WALK]
        found = read(save(tmp_path / "a.json", people), resolution=SIZE)
        assert (found.people[0][0, :2, 2] == [0, 0.9]).all()


@pytest.mark.parametrize("about", [{"fps": 25}, {"info": {"fps": 25.0}}, {"metadata": {"frame_rate": 25}}])
def test_rate_and_size_that_an_object_says(tmp_path, about):
    for size in (
        {"width": 1920, "height": 1080},
        {"video": {"width": 1920, "height": 1080}},
        {"resolution": [1920, 1080]},
    ):
        frames = [{"frame": k, "people": [{"keypoints": one}]} for k, one in enumerate(WALK.tolist())]
        found = read(save(tmp_path / "a.json", {"frames": frames, **about, **size}))
        assert (found.fps, found.resolution) == (25, SIZE)
        np.testing.assert_allclose(joints(found), JOINTS)


@pytest.mark.parametrize("form", ["{}", "00:00:{:06.3f}", "2026-11-30T12:00:{:06.3f}Z"])
def test_times_beside_numbers_of_frames(tmp_path, form):
    for more in {}, {"frame": 0}:
        one = [
            {**results()[k], "timestamp": form.format(k / 25)} | ({"image_id": k} if more else {}) for k in range(12)
        ]
        one = one if more else [{key: value for key, value in frame.items() if key != "image_id"} for frame in one]
        assert read(save(tmp_path / "a.json", one), resolution=SIZE).fps == pytest.approx(25)
    rows = table(first="frame,time,", column=[f"{k},{form.format(k / 25)}" for k in range(FRAMES)]).replace("'", "")
    assert read(save(tmp_path / "a.csv", rows), resolution=SIZE).fps == pytest.approx(25)


def test_columns_that_are_not_needed_tell_nothing_of_units(tmp_path):
    walk = np.concatenate([WALK / [*SIZE, 1], (WALK - WALK[:, 11:12]) / [400, 400, 1] + [0, 0, 0.9]], axis=1)
    same(save(tmp_path / "a.csv", table(walk, [*COCO, *(f"{name}_world" for name in COCO)])), notes=1)


def test_ids_of_any_kind(tmp_path):
    for name in "anna", [3.0], 3, "3":
        found = read(save(tmp_path / "a.json", results(idx=name)), resolution=SIZE)
        assert found.ids == [["anna" if name == "anna" else "3"]] * FRAMES
    one, other = results(idx=-1), results(WALK + np.array([900, 0, 0]), idx=5)
    found = read(save(tmp_path / "b.json", [*one, *other]), resolution=SIZE)
    assert found.ids == [[None, "5"]] * FRAMES
    np.testing.assert_allclose(joints(found), JOINTS)


# --- arrays ----------------------------------------------------------------------------------------------------


def test_mhformers_arrays_and_bare_ones(tmp_path):
    np.savez(tmp_path / "a.npz", reconstruction=JOINTS[None])
    assert "MHFormer" in same(tmp_path / "a.npz", notes=1)
    np.save(tmp_path / "b.npy", WALK)
    same(tmp_path / "b.npy", layout="coco17")
    np.savez(tmp_path / "rate.npz", keypoints=WALK, fps=0)
    assert read(tmp_path / "rate.npz", layout="coco17", resolution=SIZE).fps is None
    two = np.stack([WALK * [0.5, 0.5, 1], WALK])
    for name, array in ("people", two), ("frames", two.swapaxes(0, 1)):
        np.save(tmp_path / f"{name}.npy", array)
        assert "2 people in 12 frames" in same(tmp_path / f"{name}.npy", layout="coco17", notes=1)
    np.savez(
        tmp_path / "mixed.npz",
        keypoints=[people[:: 1 - 2 * (k % 3 > 1)] for k, people in enumerate(two.swapaxes(0, 1))],
    )
    assert "change places" in same(tmp_path / "mixed.npz", layout="coco17", notes=2)
    for name, array in ("rows", WALK.reshape(FRAMES, 51)), ("pairs", WALK[..., :2].reshape(FRAMES, 34)):
        np.savez(tmp_path / name, array)
        same(tmp_path / f"{name}.npz", layout="coco17")
    np.savez(tmp_path / "still.npz", keypoints=WALK[0])
    same(tmp_path / "still.npz", JOINTS[:1], layout="coco17")


def test_names_as_bytes_or_objects(tmp_path):
    for kind in "S", "U", object:
        np.savez(tmp_path / "a.npz", keypoints=WALK, joints=np.array(COCO, kind))
        same(tmp_path / "a.npz")


def test_scores_of_another_order_are_refused(tmp_path):
    for scores in WALK[..., 2].T, WALK[:6, :, 2]:
        np.savez(tmp_path / "a.npz", keypoints=WALK[..., :2], scores=scores)
        with pytest.raises(DataError, match=r"a score for every point, \(12, 1, 17\), found an array \("):
            read(tmp_path / "a.npz", layout="coco17", resolution=SIZE)
    two = np.stack([WALK, WALK * [0.5, 0.5, 0]])[:, :2]
    np.savez(tmp_path / "b.npz", keypoints=two[..., :2], scores=two[..., 2])  # as many people as frames
    assert [frame[:, 0, 2].tolist() for frame in read(tmp_path / "b.npz", "npz", "coco17", SIZE).people] == [
        [0.9, 0.9],
        [0.0, 0.0],
    ]


def objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_what_videopose3d_writes_of_detectron(tmp_path):
    people = [np.stack([*one.T[:2], np.zeros(17), one.T[2]])[None] for one in WALK]  # (1, 4, 17)
    boxes = objects([[[], np.ones((1, 5))]] * FRAMES)
    people[2] = np.concatenate([people[2] + 700, people[2]])
    keypoints, size = objects([[[], one] for one in people]), {"w": 1920, "h": 1080}
    keypoints[5] = []
    np.savez(tmp_path / "clip.mp4.npz", boxes=boxes, segments=objects([None]), keypoints=keypoints, metadata=size)
    found = read(tmp_path / "clip.mp4.npz")
    assert (found.resolution, [len(frame) for frame in found.people]) == (SIZE, [1, 1, 2, 1, 1, 0, *[1] * 6])
    np.testing.assert_allclose(np.delete(joints(found), 5, axis=0), np.delete(JOINTS, 5, axis=0))


def test_what_videopose3d_makes_of_a_video_of_ones_own(tmp_path):
    about = {"layout_name": "coco", "num_joints": 17, "video_metadata": {"a.mp4": {"w": 1920, "h": 1080}}}
    videos = {"a.mp4": {"custom": [WALK[..., :2].astype(np.float32)]}}
    np.savez(tmp_path / "data_2d_custom_own.npz", positions_2d=videos, metadata=about)
    same(tmp_path / "data_2d_custom_own.npz")
    np.savez(tmp_path / "two.npz", positions_2d=videos | {"b.mp4": videos["a.mp4"]}, metadata=about)
    with pytest.raises(DataError, match=r"one clip in the file, found 2: a\.mp4/custom, b\.mp4/custom"):
        read(tmp_path / "two.npz")


# --- units -----------------------------------------------------------------------------------------------------


def test_coordinates_from_minus_one_to_one(tmp_path):
    half = np.array(SIZE) / 2
    for k, one in enumerate(WALK):
        scaled = np.concatenate([one[:, :2] / half - 1, one[:, 2:]], axis=1)
        save(tmp_path / "centred" / f"{k}.json", openpose([scaled])[0])
        low = np.concatenate([one[:, :2] / SIZE * 0.6 + [0.3, -0.13], one[:, 2:]], axis=1)  # the head above the middle
        save(tmp_path / "low" / f"{k}.json", openpose([low])[0])
    assert "-1 to 1 over width and height" in same(tmp_path / "centred", notes=1)
    assert "-1 to 1 over width and height" in read(tmp_path / "low", resolution=SIZE).notes[0]
    np.savez(tmp_path / "screen.npz", keypoints=(WALK[..., :2] - half) / half[0], joints=COCO)
    assert "-1 to 1 over the width" in same(tmp_path / "screen.npz", notes=1)
    same(tmp_path / "screen.npz", units="screen")


def test_shares_by_all_points_but_outliers(tmp_path):
    walk = WALK / [*SIZE, 1]
    walk[0, 0, :2] = 900  # one nose of all
    found = read(save(tmp_path / "a.json", results(walk)), resolution=SIZE)
    assert len(found.notes) == 2
    np.testing.assert_allclose(joints(found)[1:], JOINTS[1:])
    assert abs(joints(found)[0] - JOINTS[0]).max() < 50, "ears for the nose"


def test_coordinates_that_are_in_no_image_are_refused(tmp_path):
    metres = (JOINTS - JOINTS[:, :1]) / 400
    columns = [f"{joint}_{axis}" for joint in human36m.joints for axis in "xyz"]
    rows = np.concatenate([metres, metres[..., :1]], axis=2).reshape(FRAMES, -1)
    own = "\n".join([",".join(columns), *(",".join(map(repr, row.tolist())) for row in rows)])
    world = [body(LAYOUTS["mediapipe33"], k)[:, :2] for k in range(FRAMES)]
    world = [(one - (one[23] + one[24]) / 2) / 400 for one in world]
    world = [[{"x": x, "y": y, "z": 0.1, "visibility": 0.9} for x, y in one.tolist()] for one in world]
    with pytest.raises(DataError, match="expected keypoints, found the 3D poses of `mixste lift`"):
        read(save(tmp_path / "own.csv", own), resolution=SIZE)
    flat = save(tmp_path / "flat.csv", own.replace("_z", "_depth"))
    for path in flat, save(tmp_path / "world.json", world):
        with pytest.raises(DataError, match="found people centred on the origin, as in root-relative poses"):
            read(path, resolution=SIZE)
    np.savez(tmp_path / "camera.npz", keypoints=np.concatenate([metres + 1, metres[..., :1] + 4], axis=2))
    with pytest.raises(DataError, match=r"as if in metres: give --units"):
        read(tmp_path / "camera.npz", layout="human36m", resolution=SIZE)
    np.savez(tmp_path / "room.npz", keypoints=metres + 6)  # far from the origin, where numbers alone could be pixels
    with pytest.raises(DataError, match=r"found people 1\.\d pixels tall, as if in metres: give --units"):
        read(tmp_path / "room.npz", layout="human36m", resolution=SIZE)
    assert read(tmp_path / "room.npz", layout="human36m", resolution=SIZE, units="pixels")
    np.save(tmp_path / "room.npy", np.concatenate([JOINTS, JOINTS[..., :1] + 2000], axis=2))  # millimetres
    with pytest.raises(DataError, match=r"found scores of up to 3\d\d\d, as if points were 3D"):
        read(tmp_path / "room.npy", layout="human36m", resolution=SIZE)
    room = table(np.concatenate([WALK[..., :2], WALK[..., :1] + 2000], axis=2), style="{}_x,{}_y,{}_z")
    assert "the z columns are not read" in same(save(tmp_path / "room.csv", room), notes=1)
    parts = (
        f"scorer{',a' * 51}\nbodyparts,{','.join(np.repeat(COCO, 3))}\ncoords{',x,y,z' * 17}\n"  # DeepLabCut's in 3D
    )
    rows = "".join(f"{k},{row}\n" for k, row in enumerate(room.split()[1:]))
    assert "the z columns are not read" in same(save(tmp_path / "rooms.csv", parts + rows), notes=1)
    np.savez(tmp_path / "depth.npz", keypoints=np.concatenate([JOINTS, metres[..., :1] - 1], axis=2))
    with pytest.raises(DataError, match="found negative scores, as if points were 3D"):
        read(tmp_path / "depth.npz", layout="human36m", resolution=SIZE)
    with pytest.raises(
        DataError, match=r"an image of 640 x 480 pixels, found points from \(410, 181\) to .* size right"
    ):
        read(save(tmp_path / "plain.json", results()), resolution=(640, 480))


def test_people_in_the_corner_of_a_larger_image_are_told(tmp_path):
    path = save(tmp_path / "a.json", results())
    [note] = read(path, resolution=(3840, 2160)).notes
    assert note == "everyone is in the upper left quarter of the image: is its size 3840 x 2160 pixels?"


@pytest.mark.parametrize("nowhere", [0, -1, np.nan])
def test_unseen_points_without_scores(tmp_path, nowhere):
    walk = WALK[..., :2].copy()
    walk[4:6, ONE["left_wrist"]] = nowhere
    np.savez(tmp_path / "a.npz", keypoints=walk, joints=COCO)
    found = read(tmp_path / "a.npz", resolution=SIZE)
    assert np.argwhere(np.isnan(joints(found)[..., 0])).tolist() == [[4, 13], [5, 13]]
    told = () if np.isnan(nowhere) else ("2 points at (0, 0) or (-1, -1) are taken as not detected",)
    assert found.notes == told


# --- tables ----------------------------------------------------------------------------------------------------


def test_tables_as_programs_write_them(tmp_path):
    plain = table()
    forms = {
        "spaces": plain.replace(",", ", "),
        "commas": plain.replace(",", ";").replace(".", ","),
        "tabs": plain.replace(",", "\t"),
        "side last": table(names=["_".join(reversed(name.split("_"))) for name in COCO]),
        "axis first": table(style="x_{},y_{},c_{}"),
        "camel case": table(names=[name.title().replace("_", "") for name in COCO], style="{}X,{}Y,{}Conf"),
        "pixels": table(style="{} X [px],{} Y [px],{} Score"),
        "marked as UTF-8": "\ufeff" + plain.replace("\n", "\r\n"),
        "ends of rows": plain.split("\n", 1)[0] + "\n" + plain.split("\n", 1)[1].replace("\n", ",\n"),
        "an index": table(first=",", column=range(FRAMES)),
        "empty rows at the end": table(first="frame,", column=range(FRAMES)) + ("," * 51 + "\n") * 3,
        "depths of MediaPipe": table(WALK * [1, 1, 0.1], style="{}_x,{}_y,{}_z"),
        "names of images": table(first="image,", column=[f"im_{k:03}.png" for k in range(FRAMES)]).replace("'", ""),
    }
    for name, text in forms.items():
        same(save(tmp_path / f"{name}.csv", text))


def test_deeplabcuts_headings(tmp_path):
    parts, coords = np.repeat(COCO, 3).tolist(), ["x", "y", "likelihood"] * 17
    rows = table(column=range(FRAMES)).split("\n", 1)[1]
    head = [["scorer", *["DLC"] * 51], ["bodyparts", *parts], ["coords", *coords]]
    same(save(tmp_path / "a.csv", "\n".join(map(",".join, head)) + "\n" + rows))
    head3 = [[row[0], "", "", *row[1:]] for row in head]  # labels, with the folder, the clip and the image of each
    labels = "\n".join(f"labeled-data,clip,img{row.replace(',', '.png,', 1)}" for row in rows.split())
    same(save(tmp_path / "labels.csv", "\n".join(map(",".join, head3)) + "\n" + labels))
    head = [[row[0], *row[1:] * 2] for row in (head[0], ["individuals", *["a"] * 51], *head[1:])]
    head[1][52:] = ["b"] * 51
    both = "\n".join(f"{row},{','.join([''] * 51 if k > 3 else ['5'] * 51)}" for k, row in enumerate(rows.split()))
    path = save(tmp_path / "b.csv", "\n".join(map(",".join, head)) + "\n" + both)
    same(path)
    assert read(path, resolution=SIZE).ids[0] == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "times", "fps", "notes"),
    [
        ("frame", np.arange(FRAMES) / 30, 30, 1),
        ("time", np.arange(FRAMES) / 24, 24, 0),
        ("Time (s)", np.arange(FRAMES) / 24, 24, 0),
        ("timestamp", np.arange(FRAMES) * 40, 25, 1),
        ("time_us", np.arange(FRAMES) * 20_000, 50, 1),
    ],
)
def test_columns_of_times(tmp_path, column, times, fps, notes):
    path = save(tmp_path / "a.csv", table(first=f"{column},", column=times.tolist()))
    same(path, notes=notes)
    assert read(path, resolution=SIZE).fps == pytest.approx(fps)


def test_frames_and_times_of_several_people(tmp_path):
    walk = np.stack([WALK, WALK * [0.5, 0.5, 1]], axis=1).reshape(-1, 17, 3)
    frames = np.repeat(np.arange(FRAMES) + 1, 2)
    columns = [f"{k}, {k / 24!r}, {'ab'[row % 2]}" for row, k in enumerate(frames.tolist())]
    text = table(walk, first="frame,seconds,person,", column=columns).replace("'", "")
    found = read(save(tmp_path / "a.csv", text), resolution=SIZE)
    assert (found.ids, found.fps) == ([["a", "b"]] * FRAMES, pytest.approx(24))
    np.testing.assert_allclose(joints(found), JOINTS)
    np.testing.assert_allclose(joints(found, 1), JOINTS / 2)


def test_rows_without_an_id(tmp_path):
    rows = WALK * np.array([0.5, 0.5, 1])
    walk = np.where(np.arange(FRAMES)[:, None, None] % 2, WALK, rows)  # one of two people in each frame
    for name in "", "-1":
        column = [f"{name},{k}" for k in range(FRAMES)]
        path = save(tmp_path / "a.csv", table(walk, first="track,frame_idx,", column=column).replace("'", ""))
        found = read(path, resolution=SIZE)
        assert len(found.tracks) == 2
        np.testing.assert_allclose(joints(found)[1::2], JOINTS[1::2])
    same(save(tmp_path / "rows.csv", table(first="id,", column=range(FRAMES))))


def test_frames_that_share_a_number_or_a_time_are_told(tmp_path):
    close = WALK[0] + 0.1 * (WALK - WALK[0])  # of a higher frame rate
    rows = table(close, first="time,", column=[round(k / 30, 1) for k in range(FRAMES)])
    frames = [{"frame": k // 3, "keypoints": one} for k, one in enumerate(close.tolist())]
    for path in save(tmp_path / "a.csv", rows), save(tmp_path / "a.json", frames):
        assert "frames people are in one place: are frame numbers or times" in str(read(path, resolution=SIZE).notes)


def test_a_table_that_was_cut_off_is_told(tmp_path):
    path = save(tmp_path / "a.csv", table()[:-100])
    assert "is the file complete?" in read(path, resolution=SIZE).notes[0]


def test_json_with_times(tmp_path):
    frames = [{"timestamp_ms": 20 * k, "landmarks": one} for k, one in enumerate(WALK[..., :2].tolist())]
    found = read(save(tmp_path / "a.json", frames), layout="coco17", resolution=SIZE)
    assert found.fps == pytest.approx(50)
    np.testing.assert_allclose(joints(found), JOINTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a table, found an empty file"),
        ("frame," + table().split("\n")[0] + "\n,1,2\n", "expected a frame number in every row, found none in row 1"),
        (table() + "1," * 60, "expected rows of 51 cells, as in the header, found longer ones"),
        (table().split("\n")[0], "expected people, found nobody in any frame"),
        (table(names=[*COCO, *COCO]), "expected every column once, found nose_x twice: give each person a row"),
        (table(first="time,", column=["soon"] * FRAMES), "a number in column time, found \"'soon'\" in row 1"),
    ],
)
def test_tables_that_are_not_right(tmp_path, text, message):
    path = save(tmp_path / "a.csv", text)
    with pytest.raises(DataError, match=message):
        read(path, resolution=SIZE)


# --- times -----------------------------------------------------------------------------------------------------


def test_even_times_are_the_grid_and_uneven_ones_leave_places_empty():
    assert on_grid((np.arange(9) / 30).round(3))[:2] == (list(range(9)), pytest.approx(8 / 0.267))
    times = [*np.arange(10) / 60, *(10 / 60 + np.arange(10) / 15)]
    places, rate, note = on_grid(np.round(times, 3))  # as .mkv rounds them
    assert (places[:12], places[-1]) == ([*range(11), 14], 46)
    assert rate == pytest.approx(60, rel=1e-3)
    assert "0.016 to 0.067 s" in note
    assert on_grid([0.0, 0.5, 1.0, 2.0, 2.5])[0] == [0, 1, 2, 4, 5]  # one frame was dropped
    with pytest.raises(DataError, match="times of two frames or more, found 1"):
        on_grid([3.0])
    with pytest.raises(DataError, match="times of one clip, found steps of 1e-09 s and of 100 s"):
        on_grid([0, 1e-9, 100, 200])


@pytest.mark.parametrize(
    ("step", "unit"), [(0.04, "seconds"), (1, "seconds"), (40, "milliseconds"), (4e7, "nanoseconds")]
)
def test_units_of_times(step, unit):
    seconds, found = in_seconds(np.arange(9.0) * step)
    assert found == unit
    assert seconds[1] == pytest.approx(1 if step == 1 else 0.04)


def test_clips_begin_where_their_numbers_say():
    def order(numbers, lists_empty_frames):
        people, _, notes = in_order([(number, [number]) for number in numbers], lists_empty_frames)
        return [one[0] if one else None for one in people], notes

    assert order([3, 4, 6], lists_empty_frames=False)[0] == [None, None, None, 3, 4, None, 6]
    assert order([3, 4, 6], lists_empty_frames=True) == ([3, 4, None, 6], ["frame 0 here is number 3 in the file"])
    assert order([90, 91], lists_empty_frames=False)[0] == [90, 91]  # a piece of a longer video
    assert order([1, 2], lists_empty_frames=False) == ([1, 2], [])
    assert in_order([], lists_empty_frames=True)[0] == []


# --- the page --------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[3] / "docs" / "lift.md").read_text(encoding="utf-8")


def test_the_page_lists_the_names_that_are_read():
    shown = re.findall(r"^\| (.+?) \| (`.+`) \|$", PAGE.split("<!-- names: begin -->")[1].split("<!-- names")[0], re.M)
    constants = ("FRAMES", "PEOPLE", "POINTS", "SCORES", "SCORE", "NAMES", "NUMBER", "TIME", "IDS", "FPS", "ABOUT")
    assert [tuple(re.findall("`(.+?)`", cells)) for _, cells in shown] == [
        getattr(structures, name) for name in constants
    ]


def test_the_page_lists_the_files_that_are_read(tmp_path):
    section = PAGE.split("## Input files")[1].split("In JSON")[0]
    endings = {ending for row in section.splitlines() for ending in re.findall(r"`(\.\w+)`", row.split(" | ")[0])}
    assert endings == {f".{kind}" for kind in READERS} | set(SUFFIXES)
    for ending in endings:
        save(tmp_path / f"a{ending}", "")
    assert {path.suffix for path in clips_in(tmp_path)} == endings
    options = set(re.findall("`(--\\w+)", PAGE.split("## What is inferred")[1].split("\n## ")[0]))
    assert "--units" in options
    assert options <= {f"--{name}" for name in ("size", *inspect.signature(lift).parameters)}


def test_tables_in_utf16_are_read(tmp_path):
    columns = [f"{joint}_{axis}" for joint in human36m.joints for axis in "xy"]
    rows = [columns, *([repr(value) for value in frame.ravel().tolist()] for frame in JOINTS)]
    (tmp_path / "sheet.csv").write_bytes("\n".join("\t".join(row) for row in rows).encode("utf-16"))
    np.testing.assert_allclose(joints(read(tmp_path / "sheet.csv", resolution=SIZE)), JOINTS)
