"""Files written by hand as each detector writes them, from a person whose every landmark is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mixste.data import DataError
from mixste.data.readers.detections import to_human36m
from mixste.data.readers.formats import read
from mixste.data.readers.structures import is_clip
from mixste.skeleton import human36m

# Pixels of a person who faces the camera: their left is on the right of the image.
PERSON = {
    "nose": (500, 200), "left_eye": (510, 190), "right_eye": (490, 190),
    "left_ear": (520, 195), "right_ear": (480, 195),
    "left_shoulder": (560, 280), "right_shoulder": (440, 280), "left_elbow": (580, 380), "right_elbow": (420, 380),
    "left_wrist": (590, 470), "right_wrist": (410, 470), "left_hip": (535, 480), "right_hip": (465, 480),
    "left_knee": (540, 650), "right_knee": (460, 650), "left_ankle": (545, 820), "right_ankle": (455, 820),
    "neck": (500, 275), "mid_hip": (500, 478), "head_top": (500, 140),
}  # fmt: skip


def words(text: str) -> list[str]:
    return text.split()


# The orders that the detectors' own pages print; "-" is a landmark the person above has none of.
COCO = words(
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
)
ARMS_LEGS = (
    "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist {} right_hip right_knee right_ankle "
    "left_hip left_knee left_ankle right_eye left_eye right_ear left_ear"
)
BODY_25 = ["nose", "neck", *ARMS_LEGS.format("mid_hip").split(), *"------"]
BODY_18 = ["nose", "neck", *ARMS_LEGS.format("").split()]
BODY_25B = [*COCO, "neck", "head_top", *"------"]
HALPE_26 = [*COCO, "head_top", "neck", "mid_hip", *"------"]
MEDIAPIPE = words(
    "nose - left_eye - - right_eye - left_ear right_ear - - left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist - - - - - - left_hip right_hip left_knee right_knee left_ankle right_ankle - - - -"
)

# The same person as human36m: limbs are landmarks, the rest as documented.
LIMBS = {
    1: "right_hip", 2: "right_knee", 3: "right_ankle", 4: "left_hip", 5: "left_knee", 6: "left_ankle", 9: "nose",
    11: "left_shoulder", 12: "left_elbow", 13: "left_wrist", 14: "right_shoulder", 15: "right_elbow", 16: "right_wrist",
}  # fmt: skip
EARS = (500, 195 + 0.5 * (195 - 280))  # half as far again from the middle of the shoulders, through that of the ears
PLAIN = {0: (500, 480), 8: (500, 280), 7: (500, 380), 10: EARS}
WITH_NECK = {8: (500, 275), 7: (500, (275 + 478) / 2), 0: (500, 478)}


def joints(trunk: dict, shift=(0, 0)) -> np.ndarray:
    points = {**{joint: PERSON[name] for joint, name in LIMBS.items()}, **trunk}
    return np.array([points[joint] for joint in range(17)], dtype=float) + shift


def triples(order, shift=0.0, score=0.9) -> list[float]:
    return [
        v for name in order for v in ((PERSON[name][0] + shift, PERSON[name][1], score) if name in PERSON else (0,) * 3)
    ]


def lifted_from(detections, person=0) -> np.ndarray:
    points = np.stack([frame[person] for frame in detections.people])
    return to_human36m(np.where(points[..., 2:] > 0, points[..., :2], np.nan), detections.names)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- OpenPose --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "trunk"),
    [
        (BODY_25, {**PLAIN, **WITH_NECK}),
        (BODY_25B, {**PLAIN, 8: (500, 275), 7: (500, 377.5), 10: PERSON["head_top"]}),
        (BODY_18, {**PLAIN, 8: (500, 275), 7: (500, 377.5)}),
    ],
    ids=["BODY_25", "BODY_25B", "COCO"],
)
def test_openpose_folders(tmp_path, order, trunk):
    # Frame 10 sorts before frame 9 by name alone, and nobody was seen in frame 8.
    for frame in (7, 8, 9, 10):
        people = [{"person_id": [-1], "pose_keypoints_2d": triples(order, frame)}] if frame != 8 else []
        write(tmp_path / "walk" / f"cam1_{frame}_keypoints.json", {"version": 1.3, "people": people})
    found = read(tmp_path / "walk", resolution=(1000, 1000))
    assert found.name == "walk"
    assert [len(frame) for frame in found.people] == [1, 0, 1, 1]
    assert found.ids is None
    for index, frame in ((0, 7), (2, 9), (3, 10)):
        points = found.people[index][0]
        np.testing.assert_allclose(to_human36m(points[None, :, :2], found.names)[0], joints(trunk, (frame, 0)))
    assert is_clip(tmp_path / "walk")


def test_a_point_openpose_did_not_see_has_no_place(tmp_path):
    unseen = triples(BODY_25)
    unseen[21:24] = [0, 0, 0]  # point 7, the left wrist
    path = write(tmp_path / "a.json", {"people": [{"pose_keypoints_2d": unseen}]})
    points = lifted_from(read(path, resolution=(1000, 1000)))[0]
    assert np.isnan(points[13]).all()
    assert np.isfinite(np.delete(points, 13, axis=0)).all()


# --- COCO-style ------------------------------------------------------------------------------------------------


def test_detectron2_and_coco_results(tmp_path):
    content = [
        {"image_id": 12, "category_id": 1, "keypoints": triples(COCO, 2), "score": 0.9},
        {"image_id": 10, "category_id": 1, "keypoints": triples(COCO), "score": 0.9},
        {"image_id": 10, "category_id": 1, "keypoints": triples(COCO, 300), "score": 0.5},
    ]
    found = read(write(tmp_path / "results.json", content), resolution=(1000, 1000))
    assert [len(frame) for frame in found.people] == [2, 0, 1]  # image 11 had nobody in it
    np.testing.assert_allclose(to_human36m(found.people[2][:, :, :2], found.names)[0], joints(PLAIN, (2, 0)))


def test_alphapose_follows_people(tmp_path):
    content = [
        {"image_id": f"{frame}.jpg", "keypoints": triples(HALPE_26, 300 * who), "score": 3.1, "idx": who + 1}
        for frame in range(11)
        for who in (0, 1)
    ]
    found = read(write(tmp_path / "alphapose-results.json", content), resolution=(1920, 1080))
    assert found.ids == [["1", "2"]] * 11
    trunk = {**PLAIN, **WITH_NECK, 10: PERSON["head_top"]}
    np.testing.assert_allclose(lifted_from(found, person=1), np.tile(joints(trunk, (300, 0)), (11, 1, 1)))


@pytest.mark.parametrize("form", ["list", "dict", "named"])
def test_mmpose(tmp_path, form):
    pairs = [[x + 1, y] for x, y in (PERSON[name] for name in COCO)]
    people = [{"keypoints": pairs, "keypoint_scores": [0.8] * 17, "bbox": [[0, 0, 9, 9]], "bbox_score": 0.7}]
    content = [{"frame_id": frame, "instances": people if frame else []} for frame in range(3)]
    if form != "list":
        content = {"meta_info": {"dataset_name": "coco"}, "instance_info": content}
    if form == "named":
        content["meta_info"]["keypoint_id2name"] = {str(k): name for k, name in enumerate(COCO)}
    found = read(write(tmp_path / "clip.json", content), resolution=(1000, 1000))
    assert [len(frame) for frame in found.people] == [0, 1, 1]
    np.testing.assert_allclose(to_human36m(found.people[1][:, :, :2], found.names)[0], joints(PLAIN, (1, 0)))


POINTS = [PERSON[name] for name in COCO]


@pytest.mark.parametrize(
    "lines",
    [
        [{"frame": frame, "people": [{"keypoints": triples(COCO, frame)}] if frame else []} for frame in range(3)],
        [{"image_id": frame, "keypoints": triples(COCO, frame)} for frame in (1, 2)],
        [{"fps": 50, "width": 1000, "height": 900}, *([[x + shift, y] for x, y in POINTS] for shift in (1, 2))],
        [[{"track_id": 4, "keypoints": triples(COCO, frame)}] for frame in (1, 2)],
        [{"instance_info": [{"frame_id": k, "instances": [{"keypoints": triples(COCO, k)}]} for k in (1, 2)]}],
    ],
    ids=["frames", "people", "a header and points", "lists of people", "a clip in one line"],
)
def test_json_lines(tmp_path, lines):
    text = "\r\n".join(map(json.dumps, lines)) + "\r\n\r\n"
    (tmp_path / "clip.jsonl").write_text(text, encoding="utf-8", newline="")
    clip = read(tmp_path / "clip.jsonl", resolution=None if "fps" in lines[0] else (1000, 1000))
    assert [len(frame) for frame in clip.people][-2:] == [1, 1]
    np.testing.assert_allclose(lifted_from(replace(clip, people=clip.people[-2:]))[1], joints(PLAIN, (2, 0)))
    if "fps" in lines[0]:
        assert (clip.fps, clip.resolution) == (50, (1000, 900))
    cases = (
        ("{", "expected JSON, found a syntax error in line 2"),
        ('"a"', "expected (x, y and score|a frame number for)"),
        ("[]", "nobody"),
    )
    for line, message in cases:
        (tmp_path / "clip.jsonl").write_text(f"{'{}' if line == '[]' else json.dumps(lines[0])}\n{line}\n")
        with pytest.raises(DataError, match=message):
            read(tmp_path / "clip.jsonl", resolution=(1000, 1000))


def test_mmpose_folder_of_images(tmp_path):
    for frame in range(2):
        person = {"keypoints": [PERSON[name] for name in COCO], "keypoint_scores": [0.8] * 17}
        path = write(tmp_path / "clip" / f"{frame:06}.json", [person] * (frame + 1))
    assert is_clip(path.parent)
    assert [len(frame) for frame in read(tmp_path / "clip", resolution=(1000, 1000)).people] == [1, 2]


@pytest.mark.parametrize("more", ["", " 0.87", " 0.87 3", " 3"], ids=["plain", "confidence", "both", "id"])
@pytest.mark.parametrize("values", [2, 3])
def test_labels_of_yolo(tmp_path, values, more):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "classes.txt").write_text("person\n")
    for number in (1, 2, 4):  # no file for a frame without people
        points = [(x / 1000, y / 2000, 0.9)[:values] for x, y in map(PERSON.get, COCO)]
        line = " ".join(f"{value:.6g}" for point in points for value in point)
        (folder / f"clip_{number}.txt").write_text(f"0 0.5 0.25 0.2 0.35 {line}{more}\n")
    assert is_clip(folder)
    found = read(folder, resolution=(1000, 2000))
    assert [len(frame) for frame in found.people] == [1, 1, 0, 1]
    points = to_human36m(found.people[3][:, :, :2], found.names)[0]
    np.testing.assert_allclose(points, joints(PLAIN), atol=0.01)
    assert found.ids == (None if "3" not in more else [["3"], ["3"], [], ["3"]])
    (folder / "clip_2.txt").write_text("0 0.5 0.25 0.2 0.35\n")
    with pytest.raises(DataError, match=r"clip_2\.txt: expected a class, a box and 17 points a line, found 5 values"):
        read(folder, resolution=(1000, 2000))


def test_texts_are_no_clip(tmp_path):
    for number in range(3):
        (tmp_path / f"log_{number}.txt").write_text("started\n")
    assert not is_clip(tmp_path)


def test_whole_body_layouts_begin_with_the_body(tmp_path):
    content = [{"image_id": 1, "keypoints": [*triples(COCO), *[1.0] * (3 * 116)]}]
    found = read(write(tmp_path / "wholebody.json", content), resolution=(1000, 1000))
    np.testing.assert_allclose(lifted_from(found)[0], joints(PLAIN))


def test_coco_annotations_know_size_and_names(tmp_path):
    order = list(reversed(COCO))  # their own order, which only the names tell
    images = [(77, "f_2.png"), (5, "f_1.png")]
    content = {
        "images": [{"id": i, "file_name": name, "width": 640, "height": 480} for i, name in images],
        "annotations": [{"image_id": 77, "keypoints": triples(order, score=2)}],
        "categories": [{"name": "person", "keypoints": order}],
    }
    found = read(write(tmp_path / "annotations.json", content))
    assert found.resolution == (640, 480)
    assert [len(frame) for frame in found.people] == [0, 1]
    np.testing.assert_allclose(to_human36m(found.people[1][:, :, :2], found.names)[0], joints(PLAIN))


# --- MediaPipe -------------------------------------------------------------------------------------------------


def landmarks(form=dict) -> list:
    points = [PERSON.get(name, (0, 0)) for name in MEDIAPIPE]
    if form is dict:
        return [{"x": x / 1000, "y": y / 2000, "z": 0.1, "visibility": 0.9} for x, y in points]
    return [[x / 1000, y / 2000, 0.1, 0.9] for x, y in points]


@pytest.mark.parametrize(
    "frames",
    [
        [landmarks(), None, landmarks()],
        [landmarks(list), [], landmarks(list)],
        [{"pose_landmarks": [landmarks()]}, {"pose_landmarks": []}, {"pose_landmarks": [landmarks()]}],
        {"frames": [{"landmark": landmarks()}, {}, {"poseLandmarks": landmarks()}]},
        [{"image": {}, "poseLandmarks": seen} for seen in (landmarks(), [], landmarks())],  # of a browser
    ],
)
def test_mediapipe_landmarks_are_shares_of_the_image(tmp_path, frames):
    found = read(write(tmp_path / "landmarks.json", frames), resolution=(1000, 2000))
    assert [len(frame) for frame in found.people] == [1, 0, 1]
    points = found.people[2][0]
    np.testing.assert_allclose(to_human36m(points[None, :, :2], found.names)[0], joints(PLAIN))


# --- arrays and tables -----------------------------------------------------------------------------------------


def test_npz(tmp_path):
    points = np.array([[PERSON[name] for name in COCO]] * 4, dtype=np.float32)
    points[1, COCO.index("left_wrist")] = np.nan
    scores = np.ones((4, 17))
    scores[2, COCO.index("nose")] = 0
    np.savez(tmp_path / "a.npz", keypoints=points, scores=scores, fps=25, resolution=(640, 480))
    found = read(tmp_path / "a.npz", layout="coco17")
    assert (found.fps, found.resolution) == (25.0, (640, 480))
    lifted = lifted_from(found)
    np.testing.assert_allclose(lifted[0], joints(PLAIN))
    assert np.isnan(lifted[1, 13]).all()
    np.testing.assert_allclose(lifted[2, 9], (500, 195))  # ears for the nose
    np.savez(tmp_path / "b.npz", keypoints=points, joints=COCO)
    np.testing.assert_allclose(lifted_from(read(tmp_path / "b.npz", resolution=(1000, 1000)))[3], joints(PLAIN))
    np.savez(tmp_path / "c.npz", keypoints=joints(PLAIN)[None])
    np.testing.assert_allclose(
        lifted_from(read(tmp_path / "c.npz", layout="human36m", resolution=(1000, 1000))), [joints(PLAIN)]
    )


@pytest.mark.parametrize("style", ["{}_x,{}_y,{}_score", "{}.X,{}.Y,{}.Confidence"])
def test_csv_by_name(tmp_path, style):
    header = ",".join(style.format(*[name] * 3) for name in COCO)
    rows = [",".join(map(str, [frame, *triples(COCO, frame)])) for frame in (4, 6)]
    (tmp_path / "a.csv").write_text("\n".join([f"frame,{header}", *rows]))
    found = read(tmp_path / "a.csv", resolution=(1000, 1000))
    assert [len(frame) for frame in found.people] == [1, 0, 1]
    np.testing.assert_allclose(to_human36m(found.people[2][:, :, :2], found.names)[0], joints(PLAIN, (6, 0)))


def test_csv_of_mediapipe_by_number(tmp_path):
    header = ",".join(f"x{k},y{k},z{k},v{k}" for k in range(1, 34))
    row = ",".join(str(value) for point in landmarks(list) for value in point)
    (tmp_path / "a.csv").write_text(f"class,{header}\nwalk,{row}\n")
    np.testing.assert_allclose(lifted_from(read(tmp_path / "a.csv", resolution=(1000, 2000)))[0], joints(PLAIN))


# --- what is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", r"a.json: expected JSON, found"),
        ("a.txt", "", r"a.txt: expected a folder .* found 'txt'"),
        ("a.jsonl", "", r"a.jsonl: expected people, found nobody in any frame"),
        ("a.json", "[]", r"a.json: expected people, found nobody in any frame"),
        ("a.json", '{"people": [{"hands": 1}]}', "under names such as keypoints, found 'hands'"),
        (
            "a.json",
            json.dumps([{"image_id": 1, "keypoints": [1] * 51}]),
            "expected the width and height of the image, found none",
        ),
        (
            "a.json",
            json.dumps([{"image_id": 1, "keypoints": [1] * 21}]),
            "found 7 without names: give --layout, one of human36m, coco17",
        ),
        (
            "a.json",
            json.dumps([{"image_id": 1, "keypoints": [1] * 49}]),
            "score of every point in a row, found 49 numbers",
        ),
        (
            "a.json",
            json.dumps([{"image_id": n, "keypoints": [1] * 51} for n in (139, 581929)]),
            "frames of one clip, found 2 numbered from 139 to 581929",
        ),
        (
            "a.json",
            json.dumps([{"image_id": n, "keypoints": [1] * 51} for n in ("a_1.jpg", "b_1.jpg")]),
            "the frames of one clip, found those of 2: 'a_#', 'b_#'",
        ),
        ("a.csv", "time,angle\n1,2\n", "expected columns such as Nose_x.* in the first line, found time, angle"),
        ("a.csv", "nose_x,nose_y\n1,left\n", "expected a number in column nose_y, found 'left' in row 1"),
        ("a.npz", "not a zip", "expected an .npz file"),
        ("a.json", '"a"', 'expected people or frames, found "a"'),
        ("a.json", "[" * 100_000, "expected JSON, found"),
        (
            "a.csv",
            "frame,nose_x,nose_y\ninf,1,2\n",
            "expected a number for every frame, found text, NaN or infinity",
        ),
    ],
)
def test_bad_files_are_told_in_a_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("resolution", [(0, 0), (-100, 100), (0.5, 0.5), (1920,), (1920, 1080, 3), (10**9, 1), np.inf])
def test_impossible_images_are_refused(tmp_path, resolution):
    np.savez(tmp_path / "a.npz", keypoints=np.ones((3, 17, 2)), joints=human36m.joints, resolution=resolution)
    with pytest.raises(DataError, match=r"a\.npz: expected (an image 1 to 100,000|width and height)"):
        read(tmp_path / "a.npz")


def test_endings_in_capitals_and_formats_of_other_files(tmp_path):
    with open(tmp_path / "A.NPZ", "wb") as file:
        np.savez(file, keypoints=np.ones((3, 17, 2)), joints=human36m.joints, resolution=(1000, 1000))
    assert len(read(tmp_path / "A.NPZ").people) == 3
    with pytest.raises(DataError, match=r"expected a \.json file or folder, as format coco has, found \.npz"):
        read(tmp_path / "A.NPZ", "coco")
    np.savez(tmp_path / "b.npz", points=np.ones(3))
    with pytest.raises(DataError, match="expected an array keypoints, found points"):
        read(tmp_path / "b.npz")


def test_ambiguous_arrays_want_a_layout(tmp_path):
    np.savez(tmp_path / "a.npz", keypoints=np.ones((3, 17, 2)))
    with pytest.raises(DataError, match="found 17 without names: give --layout"):
        read(tmp_path / "a.npz", resolution=(1000, 1000))
    with pytest.raises(DataError, match="expected 25 points of layout body25, found 17"):
        read(tmp_path / "a.npz", layout="body25", resolution=(1000, 1000))
    with pytest.raises(DataError, match="unknown layout 'smpl'"):
        read(tmp_path / "a.npz", layout="smpl")


@pytest.mark.parametrize("order", [BODY_18, BODY_25, BODY_25B, HALPE_26, MEDIAPIPE])
def test_a_layout_inferred_for_an_array_is_told(tmp_path, order):
    points = np.array([[PERSON.get(name, (0, 0)) for name in order]] * 3, dtype=float)
    np.save(tmp_path / "a.npy", points)
    found = read(tmp_path / "a.npy", resolution=(1000, 1000))
    assert any(note.startswith(f"{len(order)} points: layout ") for note in found.notes)
    assert np.isfinite(lifted_from(found)).all()


@pytest.mark.parametrize(
    "order",
    [
        [*COCO, "neck"],  # of TensorRT's pose estimation; OpenPose's 18 points have the neck second
        words(  # of Kinect
            "mid_hip mid_hip neck head_top left_shoulder left_elbow left_wrist left_wrist right_shoulder right_elbow "
            "right_wrist right_wrist left_hip left_knee left_ankle left_ankle right_hip right_knee right_ankle "
            "right_ankle neck left_wrist left_wrist right_wrist right_wrist"
        ),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "json"])
def test_points_of_another_layout_with_a_known_number_are_refused(tmp_path, order, kind):
    points = np.array([[PERSON[name] for name in order]] * 3, dtype=float)
    if kind == "npy":
        np.save(tmp_path / "a.npy", points)
    else:
        write(tmp_path / "a.json", [{"frame": k, "keypoints": person} for k, person in enumerate(points.tolist())])
    with pytest.raises(DataError, match=r"found \d\d without names, in other places than those of body.*--layout"):
        read(tmp_path / f"a.{kind}", resolution=(1000, 1000))


def test_a_close_face_is_no_evidence_of_another_layout(tmp_path):
    person = [(x, y, 0.9 * name.endswith(("nose", "eye", "ear"))) for name in COCO for x, y in [PERSON[name]]]
    write(tmp_path / "a.json", [{"frame": 0, "keypoints": person}])
    assert read(tmp_path / "a.json", resolution=(1000, 1000)).names[0] == "Nose"


@pytest.mark.parametrize(
    ("written", "fps"), [(25, 25), ("29.97", 29.97), ("30000/1001", 30000 / 1001), (0, None), ("x", None)]
)
def test_frame_rates_as_numbers_and_texts(tmp_path, written, fps):
    content = {"fps": written, "frames": [{"people": [{"pose_keypoints_2d": triples(BODY_25)}]}] * 2}
    assert read(write(tmp_path / "a.json", content), resolution=(1000, 1000)).fps == fps


def test_negative_scores_beside_the_points_mean_not_detected(tmp_path):
    points = np.array([[PERSON[name] for name in COCO]] * 3, dtype=float)
    scores = np.where([name.endswith("wrist") for name in COCO], -0.4, 0.9) * np.ones((3, 1))
    np.savez(tmp_path / "a.npz", keypoints=points, scores=scores, joints=COCO)
    people = [{"keypoints": a, "keypoint_scores": b} for a, b in zip(points.tolist(), scores.tolist(), strict=True)]
    write(tmp_path / "b.json", [{"frame_id": k, "instances": [person]} for k, person in enumerate(people)])
    for name in "a.npz", "b.json":
        lifted = lifted_from(read(tmp_path / name, resolution=(1000, 1000)))
        np.testing.assert_array_equal(np.isnan(lifted[0, :, 0]).nonzero()[0], [13, 16])


@pytest.mark.parametrize("value", [0, -1, np.nan, 1e20])
def test_arrays_without_any_point_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", np.full((5, 17, 2), value))
    with pytest.raises(DataError, match="expected people, found no point in any frame"):
        read(tmp_path / "a.npy", resolution=(1000, 1000))


def test_rows_of_mediapipe_with_depths_and_the_axes_of_several_people(tmp_path):
    rows = np.array([landmarks(list)] * 4)
    rows[..., 2] = -0.3
    np.save(tmp_path / "a.npy", rows.reshape(4, 132))
    np.testing.assert_allclose(lifted_from(read(tmp_path / "a.npy", resolution=(1000, 2000)))[0], joints(PLAIN))
    np.save(tmp_path / "b.npy", rows[0])
    np.testing.assert_allclose(lifted_from(read(tmp_path / "b.npy", resolution=(1000, 2000)))[0], joints(PLAIN))
    np.save(tmp_path / "c.npy", np.stack([rows, rows], axis=1)[:3])
    found = read(tmp_path / "c.npy", resolution=np.array([1000, 2000]))
    assert "the array (3, 2, 33, 4) is read as 2 people in 3 frames" in found.notes


def test_arrays_that_hold_code_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "a.npz", keypoints=np.array([Trap()], dtype=object))
    (tmp_path / "sprung").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"found the name '\w+\.open', which plain data has no use for"):
        read(tmp_path / "a.npz", layout="coco17", resolution=(1000, 1000))
    assert not (tmp_path / "sprung").exists()


def test_missing_files_and_empty_folders_are_told(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="expected one file per frame, of one clip, found none"):
        read(tmp_path)
