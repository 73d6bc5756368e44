"""Files for other tools, read back by those tools' own readers, or by hand."""

import base64
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_outputs import a_lifted, a_person
from test_viewer import browser, visit

from mixste.skeleton import human36m
from mixste.wild import motion, outputs
from mixste.wild.lift import OUTPUTS, lift
from mixste.wild.outputs import World, write_bvh

MARKERS = ["Hip", "RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Spine", "Neck", "Nose", "Head"]
MARKERS += ["LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist"]


def expected(lifted) -> np.ndarray:
    """As documented: y up, z towards the camera, the lowest joint at 0, the hip above the origin."""
    upright = lifted.poses.astype(float) * [1, -1, -1]
    return upright - [0, upright[..., 1].min(), 0]


def a_walker(frames=5) -> World:
    """One metre to the camera's right and two away from it, at a height of 0.9."""
    poses = a_person(frames) * 0.1 + [1, 2, 0.9]
    return World(poses, np.zeros((frames, 2), bool), 1000.0, np.eye(3), np.zeros(3))


# --- TRC -------------------------------------------------------------------------------------------------------


def test_trc_of_two_frames_by_hand(tmp_path):
    poses = np.zeros((2, 17, 3), dtype=np.float32)
    poses[:, 3] = [-0.125, 0.75, 0.25]  # the right foot: left of the hip in the image, below, farther away
    poses[1, 10] = [0, -0.5, 0]
    motion.write_trc(replace(a_lifted(poses=poses), fps=29.97), tmp_path / "walk.trc")
    lines = [line.split("\t") for line in (tmp_path / "walk.trc").read_text().split("\n")]
    assert lines[0] == ["PathFileType", "4", "(X/Y/Z)", "walk.trc"]
    units = dict(zip(lines[1], lines[2], strict=True))
    assert (units["DataRate"], units["NumFrames"], units["NumMarkers"], units["Units"]) == ("29.97", "2", "17", "m")
    assert lines[3][2::3] == MARKERS
    assert lines[4][:5] == ["", "", "X1", "Y1", "Z1"]
    assert lines[5] == [""]
    assert lines[6][:5] == ["1", "0.000000", "0.000000", "0.750000", "0.000000"]
    assert lines[6][11:14] == ["-0.125000", "0.000000", "-0.250000"]
    assert lines[7][:2] == ["2", "0.033367"]
    assert lines[7][32:35] == ["0.000000", "1.250000", "0.000000"]
    assert len(lines) == 9
    assert {len(line) for line in lines[6:8]} == {2 + 3 * 17}


def test_opensim_opens_trc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where OpenSim writes its log
    opensim = pytest.importorskip("opensim", reason="OpenSim's own reader is not installed (pip install opensim)")
    lifted = replace(a_lifted(poses=a_person(40)), fps=29.97)
    motion.write_trc(lifted, tmp_path / "walk.trc")
    table = opensim.TimeSeriesTableVec3(str(tmp_path / "walk.trc"))
    assert list(table.getColumnLabels()) == MARKERS
    assert table.getTableMetaDataString("Units") == "m"
    np.testing.assert_allclose(table.getIndependentColumn(), np.arange(40) / 29.97, atol=1e-6)
    points = [[table.getRowAtIndex(frame)[marker].to_numpy() for marker in range(17)] for frame in range(40)]
    np.testing.assert_allclose(points, expected(lifted), atol=1e-6)
    assert opensim.MarkerData(str(tmp_path / "walk.trc")).getNumMarkers() == 17  # as inverse kinematics reads it


# --- C3D -------------------------------------------------------------------------------------------------------


def test_c3d_is_read_by_another_library(tmp_path):
    pytest.importorskip("c3d")
    ezc3d = pytest.importorskip("ezc3d")
    lifted = replace(a_lifted(poses=a_person(40)), fps=29.97)
    motion.write_c3d(lifted, tmp_path / "walk.c3d")
    file = ezc3d.c3d(str(tmp_path / "walk.c3d"))
    about = {name: value["value"] for name, value in file["parameters"]["POINT"].items() if name != "__METADATA__"}
    assert about["LABELS"] == MARKERS
    assert (about["UNITS"], about["X_SCREEN"], about["Y_SCREEN"]) == (["mm"], ["+X"], ["+Y"])
    assert about["RATE"][0] == pytest.approx(29.97)
    points = file["data"]["points"].transpose(2, 1, 0)  # (frames, markers, 4)
    np.testing.assert_allclose(points[..., :3], 1000 * expected(lifted), atol=1e-3)
    assert (file["data"]["meta_points"]["residuals"] >= 0).all()  # no marker is marked as missing


@pytest.mark.slow
def test_c3d_of_a_long_clip_has_its_first_frames(tmp_path):
    """65,535 would mean "unknown" to some readers."""
    pytest.importorskip("c3d")
    ezc3d = pytest.importorskip("ezc3d")
    lifted = a_lifted(frames=65_600)
    motion.write_c3d(lifted, tmp_path / "walk.c3d")
    points = ezc3d.c3d(str(tmp_path / "walk.c3d"))["data"]["points"]
    assert points.shape[2] == outputs.MAX_FRAMES["c3d"] == 65_534
    np.testing.assert_allclose(points[:3, :, -1].T, 1000 * expected(lifted.cut("c3d"))[-1], atol=1e-3)


def test_without_the_extra_it_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "c3d", None)
    with pytest.raises(ImportError, match=r"package c3d, which is not installed: .*\[c3d\]"):
        motion.write_c3d(a_lifted(), tmp_path / "walk.c3d")
    with pytest.raises(ImportError, match=r"\[c3d\]"):
        lift(tmp_path, tmp_path / "out", SimpleNamespace(layout="human36m"), outputs=["npz", "c3d"])
    assert list(tmp_path.iterdir()) == []


# --- glTF: played by hand, from the format's definition ---------------------------------------------------------


def glb(path) -> tuple[dict, list[np.ndarray]]:
    """The content of a .glb and its accessors as arrays."""
    data = path.read_bytes()
    magic, version, size, text = np.frombuffer(data[:16], "<u4").tolist()
    assert (magic, version, size) == (0x46546C67, 2, len(data))
    content, binary = json.loads(data[20 : 20 + text]), data[28 + text :]
    arrays = []
    for accessor in content["accessors"]:
        view = content["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        kind = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        raw = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        arrays.append(np.frombuffer(raw, kind).reshape(accessor["count"], -1))
    return content, arrays


def played(content: dict, arrays: list[np.ndarray], frame: int) -> dict[int, np.ndarray]:
    """The matrix of every node in the scene at a frame."""
    local = [{"translation": (0, 0, 0), "rotation": (0, 0, 0, 1)} | node for node in content["nodes"]]
    [animation] = content["animations"]
    for channel in animation["channels"]:
        sampler = animation["samplers"][channel["sampler"]]
        local[channel["target"]["node"]][channel["target"]["path"]] = arrays[sampler["output"]][frame]
    matrices = {}

    def place(node: int, above: np.ndarray) -> None:
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_quat(local[node]["rotation"]).as_matrix()
        matrix[:3, 3] = local[node]["translation"]
        matrices[node] = above @ matrix
        for child in content["nodes"][node].get("children", ()):
            place(child, matrices[node])

    for root in content["scenes"][content["scene"]]["nodes"]:
        place(root, np.eye(4))
    return matrices


def test_glb_played_by_hand_is_the_pose_at_its_time(tmp_path):
    lifted = a_lifted(poses=a_person(40))
    motion.write_glb(lifted, tmp_path / "walk.glb")
    content, arrays = glb(tmp_path / "walk.glb")
    node = {one["name"]: number for number, one in enumerate(content["nodes"])}
    for frame in (0, 17, 39):
        matrices = played(content, arrays, frame)
        joints = np.array([matrices[node[name]][:3, 3] for name in human36m.joints])
        np.testing.assert_allclose(joints, expected(lifted)[frame], atol=1e-5)
    [animation] = content["animations"]
    for sampler in animation["samplers"]:
        np.testing.assert_allclose(arrays[sampler["input"]][:, 0], np.arange(40) / 25)
    assert content["asset"]["extras"]["notes"] == ["mind the gap"]

    # Turns between frames are the short way round.
    for channel in animation["channels"]:
        if channel["target"]["path"] == "rotation":
            turns = arrays[animation["samplers"][channel["sampler"]]["output"]]
            assert (np.sum(turns[1:] * turns[:-1], axis=1) >= -1e-6).all()


def test_the_body_of_a_glb_lies_along_the_bones_with_its_sides_coloured(tmp_path):
    lifted = a_lifted(poses=a_person(3))
    motion.write_glb(lifted, tmp_path / "walk.glb")
    content, arrays = glb(tmp_path / "walk.glb")
    [skin], [mesh] = content["skins"], content["meshes"]
    [primitive] = mesh["primitives"]
    corners, carriers, weights, colours = (
        arrays[primitive["attributes"][name]] for name in ("POSITION", "JOINTS_0", "WEIGHTS_0", "COLOR_0")
    )
    about = content["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_allclose([about["min"], about["max"]], [corners.min(axis=0), corners.max(axis=0)])
    inverse = arrays[skin["inverseBindMatrices"]].reshape(-1, 4, 4).swapaxes(1, 2)  # stored column by column
    matrices = played(content, arrays, 2)
    mine = np.array([matrices[skin["joints"][k]] @ inverse[k] for k in carriers[:, 0]])
    moved = np.einsum("vab,vb->va", mine, np.c_[corners, np.ones(len(corners))])[:, :3]
    np.testing.assert_array_equal(weights, np.tile([1, 0, 0, 0], (len(corners), 1)))
    pose = expected(lifted)[2]
    for bone, (parent, child) in zip(moved.reshape(16, -1, 3), sorted(human36m.bones, key=lambda b: b[1]), strict=True):
        away = [np.linalg.norm(bone - pose[joint], axis=1).min() for joint in (parent, child)]
        np.testing.assert_allclose(away, 0, atol=1e-5)
        low, high = np.minimum(pose[parent], pose[child]) - 0.1, np.maximum(pose[parent], pose[child]) + 0.1
        assert ((bone >= low) & (bone <= high)).all()
    sides = colours.reshape(16, -1, 3)[:, 0]
    red, _, blue = sides.T
    assert {human36m.joints[k + 1][0] for k in np.flatnonzero(red > 2 * blue)} == {"L"}
    assert {human36m.joints[k + 1][0] for k in np.flatnonzero(blue > 2 * red)} == {"R"}


def test_trimesh_opens_glb(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    motion.write_glb(a_lifted(poses=a_person(3)), tmp_path / "walk.glb")
    scene = trimesh.load(str(tmp_path / "walk.glb"))
    [body] = scene.geometry.values()
    assert len(body.faces) == 16 * 8
    assert body.volume > 0  # triangles face outwards
    assert set(human36m.joints) <= set(scene.graph.nodes)


def test_glb_keeps_to_the_schema_of_its_format(tmp_path):
    """The Khronos Group's, which trimesh has."""
    gltf = pytest.importorskip("trimesh.exchange.gltf")
    motion.write_glb(a_lifted(poses=a_person(3)), tmp_path / "walk.glb")
    jsonschema.validate(glb(tmp_path / "walk.glb")[0], gltf.get_schema())


@pytest.mark.slow
@browser
def test_three_js_plays_glb(tmp_path):
    """The loader and the player of the library that most pages show glTF with; a copy is in trimesh's wheel."""
    util = pytest.importorskip("trimesh").util
    archive = pytest.importorskip("trimesh").resources.get_bytes("templates/viewer.zip")
    page = util.decompress(archive, file_type="zip")["viewer.html.template"].read().decode()
    page, start, _ = page.rpartition("init();")
    assert start
    lifted = a_lifted(poses=a_person(10))
    motion.write_glb(lifted, tmp_path / "walk.glb")
    data = base64.b64encode((tmp_path / "walk.glb").read_bytes()).decode()
    script = f"""
const bytes = Uint8Array.from(atob('{data}'), letter => letter.charCodeAt(0));
const file = await new Promise((done, fail) => new THREE.GLTFLoader().parse(bytes.buffer, '', done, fail));
const mixer = new THREE.AnimationMixer(file.scene), [clip] = file.animations;
mixer.clipAction(clip).play();
found.seconds = clip.duration;
found.frames = [0, 4, 9].map(frame => {{
  mixer.setTime(Math.min(frame / 25, clip.duration - 1e-6));
  file.scene.updateMatrixWorld(true);
  const place = name => file.scene.getObjectByName(name).getWorldPosition(new THREE.Vector3()).toArray();
  return {list(human36m.joints)}.map(place);
}});
const body = file.scene.getObjectByName('body');
found.skinned = body.isSkinnedMesh;
found.corners = body.geometry.attributes.position.count;
"""
    found = visit(page + "</script>", script, tmp_path / "page.html")
    assert found["seconds"] == pytest.approx(9 / 25)
    np.testing.assert_allclose(found["frames"], expected(lifted)[[0, 4, 9]], atol=1e-4)
    assert (found["skinned"], found["corners"]) == (True, 16 * 24)


# --- all of them -----------------------------------------------------------------------------------------------


def test_a_walker_in_the_world_walks_in_every_file(tmp_path):
    """z up and y away there; y up and z towards the camera here."""
    world = a_walker()
    lifted = replace(a_lifted(poses=a_person(5, seed=1)), world=world)
    upright = np.stack([world.poses[..., 0], world.poses[..., 2], -world.poses[..., 1]], axis=-1)
    np.testing.assert_allclose(lifted.upright(slice(1, 3)), upright[1:3])
    motion.write_trc(lifted, tmp_path / "walk.trc")
    rows = np.loadtxt(tmp_path / "walk.trc", skiprows=5)[:, 2:].reshape(-1, 17, 3)
    np.testing.assert_allclose(rows, upright, atol=1e-6)
    motion.write_glb(lifted, tmp_path / "walk.glb")
    content, arrays = glb(tmp_path / "walk.glb")
    np.testing.assert_allclose(played(content, arrays, 4)[0][:3, 3], upright[4, 0], atol=1e-6)
    write_bvh(lifted, tmp_path / "walk.bvh")
    rows = (tmp_path / "walk.bvh").read_text().split("Frame Time:")[1].split("\n")[1:-1]
    np.testing.assert_allclose([[float(x) for x in row.split()[:3]] for row in rows], upright[:, 0], atol=1e-5)


def test_bones_have_one_length_on_both_sides(tmp_path):
    poses = a_person(9)
    poses[:, 6] += 0.1 * (poses[:, 6] - poses[:, 5]) / np.linalg.norm(poses[:, 6] - poses[:, 5], axis=-1)[:, None]
    lengths = [np.linalg.norm(poses[0, foot] - poses[0, knee]) for foot, knee in ((3, 2), (6, 5))]
    assert lengths[1] == pytest.approx(lengths[0] + 0.1)
    offsets = outputs.rest_offsets(a_lifted(poses=poses))
    np.testing.assert_allclose(np.linalg.norm(offsets[[3, 6]], axis=1), np.mean(lengths), atol=1e-5)


@pytest.mark.parametrize("kind", ["trc", "c3d", "glb", "bvh"])
def test_bodies_in_a_point_and_single_frames_are_written(tmp_path, kind):
    pytest.importorskip("c3d")
    OUTPUTS[kind](a_lifted(poses=np.zeros((1, 17, 3))), tmp_path / f"point.{kind}")
    assert (tmp_path / f"point.{kind}").stat().st_size > 0


def test_a_long_trc_is_written_in_parts_as_a_short_one_at_once(tmp_path, monkeypatch):
    lifted = a_lifted(frames=100)
    motion.write_trc(lifted, tmp_path / "once")
    monkeypatch.setattr(outputs, "PART", 7)
    motion.write_trc(lifted, tmp_path / "parts")
    assert (tmp_path / "parts").read_text() == (tmp_path / "once").read_text()
