"""The page's numbers decoded by hand, and, where Chromium is installed, what a reader does with it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from nbconvert import HTMLExporter
from PIL import Image

from mixste.baselines import VideoPose3D
from mixste.data import Clip
from mixste.model import MixSTE
from mixste.skeleton import mpi_inf_3dhp
from mixste.study.notebooks import notebooks
from mixste.wild.outputs import Lifted, write_npz
from mixste.wild.video import save_mp4
from mixste.wild.viewer import view, view_attention, view_people


def a_clip(frames=120, joints=17, seed=0) -> Clip:
    rng = np.random.default_rng(seed)
    poses = rng.normal([0.5, 0.2, 5], 0.4, (frames, joints, 3))
    keypoints = rng.uniform(0, 1000, (frames, joints, 2))
    return Clip("S1", "Walking", "C1", 50.0, (1000, 1002), keypoints.astype(np.float32), poses.astype(np.float32))


def content(viewer) -> dict:
    return json.loads(re.search(r"const data = (.*);\n", viewer.html)[1])


def unpacked(packed: dict, *shape) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["values"]), "<i2").reshape(shape) * packed["scale"]


def test_the_page_holds_the_poses_around_their_root_and_the_keypoints():
    clip = a_clip()
    data = content(view(clip))
    [truth] = data["series"]
    assert truth["name"] == "truth"
    np.testing.assert_allclose(unpacked(truth["poses"], 120, 17, 3), clip.poses - clip.poses[:, :1], atol=0.00006)
    np.testing.assert_allclose(unpacked(data["image"]["points"][0], 120, 17, 2), clip.keypoints, atol=0.06)
    assert data["image"]["size"] == [1000, 1002]
    assert (data["fps"], data["frames"], data["curves"]) == (50.0, 120, [])
    left = {data["joints"][joint] for joint, side in enumerate(data["sides"]) if side == 1}
    assert left == {"LHip", "LKnee", "LFoot", "LShoulder", "LElbow", "LWrist"}


def test_poses_too_large_for_the_unit_get_a_coarser_one():
    poses = np.zeros((3, 17, 3))
    poses[:, 5, 0] = [10.0, -12.5, 0.0]  # metres: 32767 tenths of a millimetre reach to 3.3 only
    [one] = content(view(poses))["series"]
    assert one["poses"]["scale"] == pytest.approx(0.001)
    np.testing.assert_allclose(unpacked(one["poses"], 3, 17, 3), poses, atol=0.0006)


def test_the_curve_is_the_mean_distance_from_the_first():
    clip = a_clip(4)
    off = clip.poses.copy()
    off[:, 5] += [0.03, 0.0, 0.04]  # one joint of 17 is 50 mm off
    off[2:, 6, 1] += 0.017
    off += np.array([0.3, 0.1, 2.0], dtype=np.float32)  # the root's place does not count
    poses = {"ours": off, "same": torch.from_numpy(clip.poses)}
    data = content(view(clip, poses, colors={"ours": "#123456"}))
    assert [one["name"] for one in data["series"]] == ["truth", "ours", "same"]
    assert [one.get("colour") for one in data["series"]] == [None, "#123456", None]
    assert data["curves"] == [None, [2.9, 2.9, 3.9, 3.9], [0.0] * 4]


def test_the_root_of_other_skeletons_is_theirs():
    poses = np.random.default_rng(1).normal(size=(5, 17, 3)) / 3
    data = content(view(poses, skeleton=mpi_inf_3dhp, fps=25))
    np.testing.assert_allclose(unpacked(data["series"][0]["poses"], 5, 17, 3), poses - poses[:, 14:15], atol=0.00006)
    assert data["joints"][14] == "Pelvis"
    assert data["fps"] == 25
    assert len(content(view(poses[:, :15]))["joints"]) == 15  # HumanEva's, by their number


def test_a_part_of_the_frames_keeps_its_numbers():
    clip = a_clip(20)
    data = content(view(clip, clip.poses, frames=slice(5, 12)))
    assert (data["first"], data["frames"]) == (5, 7)
    assert [len(curve) for curve in data["curves"][1:]] == [7]
    expected = (clip.poses - clip.poses[:, :1])[5:12]
    np.testing.assert_allclose(unpacked(data["series"][1]["poses"], 7, 17, 3), expected, atol=0.00006)


def test_lifted_files_can_be_shown(tmp_path):
    clip = a_clip(9)
    lifted = Lifted("walk", 30.0, (640, 480), clip.keypoints, clip.poses, np.zeros((9, 17), dtype=bool))
    write_npz(lifted, tmp_path / "walk.npz")
    data = content(view(tmp_path / "walk.npz", {"again": clip.poses}))
    assert [one["name"] for one in data["series"]] == ["walk", "again"]
    assert (data["fps"], data["image"]["size"]) == (30.0, [640, 480])


def test_people_of_one_clip_are_shown_together_and_not_compared():
    one, two = (lifted(a_clip(9, seed=seed), f"person{seed}") for seed in (0, 1))
    data = content(view_people([one, two]))
    assert [series["name"] for series in data["series"]] == ["person0", "person1"]
    assert data["curves"] == []
    for points, person in zip(data["image"]["points"], (one, two), strict=True):
        np.testing.assert_allclose(unpacked(points, 9, 17, 2), person.keypoints, atol=0.06)
    for wrong in ([], [one, lifted(a_clip(8), "other")]):
        with pytest.raises(ValueError, match="expected people lifted from one clip"):
            view_people(wrong)


def test_the_page_holds_the_frames_of_the_film(tmp_path):
    """Frame k is grey of 10 k: all of them, and those of a part."""
    av = pytest.importorskip("av")
    save_mp4([Image.new("RGB", (800, 600), (10 * k,) * 3) for k in range(24)], 25, tmp_path / "film.mp4")
    shown = replace(lifted(a_clip(24), film=tmp_path / "film.mp4"), fps=25.0)
    for frames in (slice(None), slice(5, 20)):
        url = content(view(shown, frames=frames))["image"]["film"]
        kind, _, text = url.partition("base64,")
        assert kind == "data:video/mp4;"
        with av.open(io.BytesIO(base64.b64decode(text))) as video:
            pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert np.shape(pictures)[1:] == (480, 640, 3)
        np.testing.assert_allclose(np.mean(pictures, axis=(1, 2, 3)), 10 * np.arange(24)[frames], atol=3)
    assert "film" not in content(view(lifted(a_clip(24))))["image"]


def lifted(clip: Clip, name="walk", **more) -> Lifted:
    filled = np.zeros(clip.poses.shape[:2], dtype=bool)
    return Lifted(name, clip.fps, clip.resolution, clip.keypoints, clip.poses, filled, **more)


def test_the_page_is_small_fetches_nothing_and_never_changes():
    clip = a_clip()
    viewer = view(clip, {"ours": clip.poses + np.float32(0.1)})
    # Two bodies and the keypoints take 8 numbers a joint of 2 bytes each, in base64 a third more.
    assert len(viewer._repr_html_().encode()) < 23_500 + 13_000 + 120 * 17 * 8 * 2 * 4 / 3  # page, picture, numbers
    assert not re.search(r"https?:|//cdn|\bsrc=|\bimport\b|url\(", viewer.html)
    assert viewer.html == view(clip, {"ours": clip.poses + np.float32(0.1)}).html


def test_the_notebook_frame_holds_exactly_the_page(tmp_path):
    viewer = view({'a "</script>" & <b>': a_clip(2).poses})
    assert "</script>" not in viewer.html.split("const data = ")[1].split("\n")[0]
    assert content(viewer)["series"][0]["name"] == 'a "</script>" & <b>'
    frame = viewer._repr_html_()
    shown = re.fullmatch(r'<div class="still">.*</div><iframe srcdoc="([^"]*)".*</iframe>', frame, re.DOTALL)
    assert html.unescape(shown[1]) == viewer.html
    viewer.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == viewer.html


@pytest.mark.parametrize("joints", [15, 17])
@pytest.mark.parametrize("keypoints", [True, False])
def test_a_still_picture_of_the_first_frame_stands_beside_the_page(joints, keypoints):
    """What JupyterLab shows of a notebook that it does not trust: it removes the frame, and keeps the image."""
    clip = a_clip(50, joints)
    viewer = view(clip if keypoints else clip.poses, {'a "peer"': clip.poses[::-1]})
    png = re.match(r'<div class="still"><img src="data:image/png;base64,([^"]*)" alt="[^"]*"><p>', viewer._repr_html_())
    assert len(png[1]) < 40_000
    with Image.open(io.BytesIO(base64.b64decode(png[1]))) as picture:
        squares = 3 if keypoints else 2
        assert picture.size == (squares * 280, 280)
        pixels = np.asarray(picture.convert("RGB")).reshape(280, squares, 280, 3)
    for square in range(squares):
        red, _, blue = pixels[:, square].reshape(-1, 3).astype(int).T
        assert (red > blue + 80).sum() > 100, "the left side"
        assert (blue > red + 80).sum() > 100, "the right side"


def test_the_still_picture_shows_the_first_of_the_frames_asked_for():
    clip = a_clip(20)
    later = view(clip.poses[7:], {"same": clip.poses[7:]})
    assert view(clip.poses, {"same": clip.poses}, frames=slice(7, 12)).still.tobytes() == later.still.tobytes()
    assert view(clip.poses, {"same": clip.poses}).still.tobytes() != later.still.tobytes()


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ([], "expected a clip, poses or a file"),
        ([np.zeros((4, 17, 3)), np.zeros((5, 17, 3))], r"as many as prediction's \(4, 17, 3\), found \(5, 17, 3\)"),
        ([np.zeros((4, 17, 2))], r"found an array \(4, 17, 2\)"),
        ([np.zeros((0, 17, 3))], r"expected poses \(frames, joints, 3\), found an array \(0, 17, 3\)"),
        ([np.full((4, 17, 3), np.nan)], "expected finite poses, found NaN or infinity"),
        ([np.zeros((4, 5, 3))], "17 joints"),
        (["nowhere.npz"], "nowhere.npz: expected the .npz of a lifted clip, found no such file"),
    ],
)
def test_what_cannot_be_shown_is_said(shown, message):
    with pytest.raises(ValueError, match=message):
        view(*shown)


@pytest.mark.parametrize("frames", [slice(7, 9), slice(0, 4, 2), slice(2, 2)])
def test_frames_must_follow_each_other_in_the_clip(frames):
    with pytest.raises(ValueError, match="within 0–3"):
        view(np.zeros((4, 17, 3)), frames=frames)


# --- attention -------------------------------------------------------------------------------------------------


def shares(text: str, *shape) -> np.ndarray:
    return (np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape) / 255.0) ** 2


def test_attention_is_what_the_model_attends_to_in_groups_of_frames():
    torch.manual_seed(0)
    model = MixSTE(frames=7, dim=16, depth=2, heads=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    clip = a_clip(20)
    attention = content(view_attention(model, clip, start=4, cells=3))["attention"]
    assert (attention["group"], attention["cells"], attention["layers"], attention["heads"]) == (3, 3, 2, 2)
    spatial = shares(attention["spatial"], 2, 3, 2, 17, 17)
    temporal = shares(attention["temporal"], 2, 17, 2, 3, 3)

    # The first block by hand, from Eq. 3: softmax(q kᵀ / √(dim / heads)).
    keypoints = torch.from_numpy(clip.keypoints[4:11]) / 500 - torch.tensor([1, 1.002])
    with torch.no_grad():
        x = model.embed(keypoints) + model.joint_position
        attn = model.spatial_blocks[0].attn
        q, k, _ = attn.qkv(model.spatial_blocks[0].norm1(x)).split(16, dim=-1)
        head = (q[..., 8:] @ k[..., 8:].transpose(1, 2) / 8**0.5).softmax(-1)  # the second head: (frames, 17, 17)
    groups = torch.stack([head[0:3].mean(0), head[3:6].mean(0), head[6]])
    np.testing.assert_allclose(spatial[0, :, 1], groups.numpy(), atol=0.005)
    np.testing.assert_allclose(spatial.sum(-1), 1, atol=0.03)
    np.testing.assert_allclose(temporal.sum(-1), 1, atol=0.02)


def test_attention_that_knows_no_preference_is_even():
    model = MixSTE(frames=9, dim=8, depth=1, heads=1)
    torch.nn.init.zeros_(model.spatial_blocks[0].attn.qkv.weight)
    torch.nn.init.zeros_(model.temporal_blocks[0].attn.qkv.weight)
    for block in (model.spatial_blocks[0], model.temporal_blocks[0]):
        torch.nn.init.zeros_(block.attn.qkv.bias)
    attention = content(view_attention(model, a_clip(4), cells=4))["attention"]  # groups of 3 frames
    np.testing.assert_allclose(shares(attention["spatial"], 3, 17, 17), 1 / 17, atol=0.002)
    np.testing.assert_allclose(shares(attention["temporal"], 17, 3, 3), 1 / 3, atol=0.003)


def test_attention_of_frames_without_joint_separation_is_one_sequence():
    model = MixSTE(frames=3, dim=8, depth=1, heads=2, separate_joints=False)
    attention = content(view_attention(model, a_clip(5)))["attention"]
    assert attention["sequences"] == 1
    assert shares(attention["temporal"], 1, 1, 2, 3, 3).shape[1] == 1


def test_attention_of_what_has_none_is_refused():
    with pytest.raises(ValueError, match="VideoPose3D"):
        view_attention(VideoPose3D(frames=3, channels=8), a_clip(5))
    with pytest.raises(ValueError, match="within 0–4, found 5"):
        view_attention(MixSTE(frames=3, dim=8, depth=1, heads=2), a_clip(5), start=5)


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebooks_keep_viewers_small_and_do_not_compare_them(path):
    """Their numbers differ in the last digit from processor to processor."""
    for cell in nbformat.read(path, as_version=4).cells:
        if re.search(r"\bview(er\.view(_attention)?)?\(", cell.source) and cell.cell_type == "code":
            assert "nbval-ignore-output" in cell.metadata.tags
            assert all(len(output.data["text/html"]) < 200_000 for output in cell.outputs)


# --- in a browser ----------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open pages with")


def visit(page: str, script: str, path) -> dict:
    """What `script` puts into `found` once the page is open."""
    tail = f"""<pre id=found></pre><script>onload = async () => {{
const found = {{}};
try {{ {script} }} catch (error) {{ found.error = String(error); }}
document.getElementById('found').textContent = JSON.stringify(found);
}}</script>"""
    path.write_text(page + tail, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1000,600",
        "--virtual-time-budget=2000",
    ]
    dom = subprocess.run([CHROMIUM, *options, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom.stdout, re.DOTALL)[1]))


ACTING = """
const picture = canvas => canvas.toDataURL();
const mouse = (canvas, type, x, y, more = {}) => canvas.dispatchEvent(new PointerEvent(type,
  { clientX: canvas.getBoundingClientRect().x + x, clientY: canvas.getBoundingClientRect().y + y, bubbles: true,
    cancelable: true, pointerId: 1, ...more }));
stage.setPointerCapture = time.setPointerCapture = () => {};  // wants a real pointer
"""


@pytest.mark.slow
@browser
def test_a_reader_turns_zooms_seeks_and_overlays(tmp_path):
    clip = a_clip(101)
    page = view(clip, {"ours": clip.poses + np.random.default_rng(3).normal(0, 0.05, clip.poses.shape)}).html
    found = visit(
        page,
        ACTING
        + """
draw();
const seen = [picture(stage)];
const differs = () => { seen.push(picture(stage)); return seen.at(-1) !== seen.at(-2); };
found.start = $('now').textContent;
mouse(stage, 'pointermove', 700, 100, { buttons: 0, movementX: 50, movementY: 9 });
found.hovering = differs();
mouse(stage, 'pointerdown', 600, 100, { buttons: 1 });
mouse(stage, 'pointermove', 650, 110, { buttons: 1, movementX: 50, movementY: 10 });
found.turned = differs();
found.yaw = state.yaw;
stage.dispatchEvent(new WheelEvent('wheel', { clientX: 600, clientY: 100, deltaY: -200, cancelable: true }));
found.zoomed = differs();
found.zoom = state.zoom;
stage.ondblclick();
found.back = picture(stage) === seen[0];
const width = time.clientWidth - 48 - 10;
mouse(time, 'pointerdown', 48 + 0.3 * width, 50, { buttons: 1 });
found.clicked = $('now').textContent;
mouse(time, 'pointermove', 48 + 0.8 * width, 50, { buttons: 1 });
found.dragged = state.frame;
document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }));
found.left = state.frame;
found.titles = panels().map(panel => panel.title());
$('overlay').click();
found.overlaid = panels().length;
$('play').click();
const from = performance.now(), frame = state.frame;
clock = from;
tick(from + 101);
found.played = state.frame - frame;
$('speed').value = '0.5';
tick(from + 201);
found.slowly = state.frame - frame;
$('play').click();
tick(from + 1000);
found.paused = state.frame - frame;
""",
        tmp_path / "page.html",
    )
    assert found["start"] == "frame 0 of 0–100 · 0.00 s"
    assert (found["hovering"], found["turned"], found["zoomed"], found["back"]) == (False, True, True, True)
    assert found["yaw"] == pytest.approx(0.0)  # 50 pixels at 0.01 from 0.5
    assert found["zoom"] == pytest.approx(np.exp(0.2))
    assert found["clicked"] == "frame 30 of 0–100 · 0.60 s"
    assert (found["dragged"], found["left"]) == (80, 79)
    assert found["titles"][:2] == ["keypoints, 1000 × 1002 px", "truth"]
    assert re.fullmatch(r"ours  \d+ mm", found["titles"][2])
    assert found["overlaid"] == 2
    assert (found["played"], found["slowly"], found["paused"]) == (5, 7, 7)  # 101 ms at 50 Hz, then 100 ms at 25 Hz


@pytest.mark.slow
@browser
def test_exported_notebooks_show_both_viewers(tmp_path):
    model = MixSTE(frames=9, dim=8, depth=3, heads=2)
    clip = a_clip(9)
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": viewer._repr_html_(), "text/plain": repr(viewer)})
        for viewer in (view(clip, clip.poses), view_attention(model, clip))
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("view()", outputs=outputs)])
    page, _ = HTMLExporter().from_notebook_node(notebook)
    page = re.sub(r"<script src=.*?</script>", "", page)  # nbconvert's own formulas and requirements come from afar
    found = visit(
        page,
        """
const [poses, attention] = [...document.querySelectorAll('iframe')].map(frame => frame.contentWindow);
const drawn = page => {
  const canvas = page.document.getElementById('stage'), { width, height } = canvas;
  return canvas.getContext('2d').getImageData(0, 0, width, height).data.some(value => value > 0);
};
found.drawn = [poses, attention].map(drawn);
found.stills = [...document.querySelectorAll('.still')].map(still => still.getBoundingClientRect().height);
found.scrolls = [poses, attention].map(page => page.document.documentElement.scrollHeight > page.innerHeight);
const background = () => poses.getComputedStyle(poses.document.body).backgroundColor, light = background();
document.body.dataset.jpThemeLight = 'false';
await new Promise(done => setTimeout(done, 50));
found.darkens = [light, background()];
const page = attention.document, pick = (id, value) => {
  const list = page.getElementById(id), before = page.getElementById('stage').toDataURL();
  list.value = value;
  list.onchange();
  return [list.options.length, before !== page.getElementById('stage').toDataURL()];
};
found.layer = pick('layer', 2);
found.head = pick('head', 2);
found.joint = pick('joint', 13);
""",
        tmp_path / "notebook.html",
    )
    assert found == {
        "drawn": [True, True],
        "stills": [0, 0],
        "scrolls": [False, False],
        "darkens": ["rgb(255, 255, 255)", "rgb(17, 17, 17)"],
        "layer": [3, True],
        "head": [3, True],
        "joint": [17, True],
    }
