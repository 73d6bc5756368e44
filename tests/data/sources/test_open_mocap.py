import dataclasses
import io
import itertools
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixste.camera import project
from mixste.data import DataError
from mixste.data.readers import asf_amc, bvh
from mixste.data.sources import open_mocap, open_people
from mixste.data.sources.open_mocap import Collection, fetch, load_styles, resample, split_pairs
from mixste.data.sources.open_people import load_people
from mixste.skeleton import human36m

pytestmark = pytest.mark.filterwarnings("ignore:open-people is without")  # these tests are of a few subjects


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    """No data set, cache or checkout but the test's own."""
    monkeypatch.delenv("MIXSTE_DATA", raising=False)
    monkeypatch.setenv("MIXSTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(open_mocap, "HOME", tmp_path / "home")


# --- small recordings in the published formats and layouts -------------------------------------------------------

# name, parent, inches to the far end, dof: a person of 68 inches with arms held out
BONES = [
    ("lowerback", "root", (0, 4, 0), "rx ry rz"),
    ("upperback", "lowerback", (0, 4, 0), "rx ry rz"),
    ("thorax", "upperback", (0, 4, 0), ""),
    ("lowerneck", "thorax", (0, 3, 0), ""),
    ("upperneck", "lowerneck", (0, 3, 0), ""),
    ("head", "upperneck", (0, 3, 0), ""),
]
for side, x in (("l", 1), ("r", -1)):
    BONES += [
        (f"{side}hipjoint", "root", (4 * x, 0, 0), ""),
        (f"{side}femur", f"{side}hipjoint", (0, -17, 0), "rx ry rz"),
        (f"{side}tibia", f"{side}femur", (0, -16, 0), "rx"),
        (f"{side}clavicle", "thorax", (6 * x, 2, 0), ""),
        (f"{side}humerus", f"{side}clavicle", (11 * x, 0, 0), "rx ry rz"),
        (f"{side}radius", f"{side}humerus", (10 * x, 0, 0), "rx"),
    ]


def asf() -> str:
    blocks = [
        f"begin\nname {name}\ndirection {x} {y} {z}\nlength 1\naxis 0 0 0 XYZ\n" + f"dof {dof}\n" * bool(dof) + "end\n"
        for name, _, (x, y, z), dof in BONES
    ]
    tree = "".join(f"{parent} {name}\n" for name, parent, _, _ in BONES)
    root = "order TX TY TZ RX RY RZ\naxis XYZ\nposition 0 0 0\norientation 0 0 0\n"
    return f":units\nlength 1.0\nangle deg\n:root\n{root}:bonedata\n{''.join(blocks)}:hierarchy\nbegin\n{tree}end\n"


def amc(frames: int, jump_at: int | None = None, swing: float = 40.0) -> str:
    """Walks along z and swings the left leg; jumps a metre to the side at a frame."""
    rows = [":DEGREES"]
    for frame in range(frames):
        aside = 39.37 if jump_at is not None and frame >= jump_at else 0.0
        rows += [str(frame + 1), f"root {aside} 33 {0.3 * frame} 0 0 0"]
        for name, _, _, dof in BONES:
            turn = swing * np.sin(frame / 20) if name == "lfemur" else 0.0
            rows += [" ".join([name, f"{turn:.4f}", *["0"] * (len(dof.split()) - 1)])] * bool(dof)
    return "\n".join(rows) + "\n"


def bvh_text(frames: int) -> str:
    offsets = {"Hips": (0, 90, 0), "Chest": (0, 25, 0), "Neck": (0, 16, 0), "Head": (0, 7, 0)}
    parents = {"Hips": None, "Chest": "Hips", "Neck": "Chest", "Head": "Neck"}
    for side, x in (("L", 1), ("R", -1)):
        chain = [("UpperLeg", "Hips", (7 * x, 0, 0)), ("LowerLeg", None, (0, -39, 0)), ("Foot", None, (0, -41, 0))]
        chain += [
            ("UpperArm", "Chest", (11 * x, 10, 0)),
            ("LowerArm", None, (24 * x, 0, 0)),
            ("Hand", None, (22 * x, 0, 0)),
        ]
        for name, parent, offset in chain:
            offsets[f"{name}_{side}"], parents[f"{name}_{side}"] = offset, parent or [*parents][-1]

    def joint(name: str) -> str:
        inner = "".join(joint(child) for child, parent in parents.items() if parent == name)
        inner = inner or "End Site\n{\nOFFSET 0 0 0\n}\n"
        channels = "3 Zrotation Xrotation Yrotation"
        if name == "Hips":
            channels = "6 Xposition Yposition Zposition Zrotation Xrotation Yrotation"
        x, y, z = offsets[name]
        return (
            f"{'JOINT' if parents[name] else 'ROOT'} {name}\n{{\nOFFSET {x} {y} {z}\nCHANNELS {channels}\n{inner}}}\n"
        )

    rows = [" ".join(map(str, [0, 90, 2 * frame, *[0] * (3 * len(offsets))])) for frame in range(frames)]
    return f"HIERARCHY\n{joint('Hips')}MOTION\nFrames: {frames}\nFrame Time: 0.0333333\n" + "\n".join(rows) + "\n"


SUBJECTS = {
    "hdm05": {
        "train/1/HDM_bd.asf": asf(),
        "train/1/HDM_bd_depositFloorR_001_120.amc": amc(120),
        "train/5/HDM_dg.asf": asf(),
        "train/5/HDM_dg_kickLFront1Reps_004_120.amc": amc(150),
        "test/10/HDM_mm.asf": asf(),
        "test/10/HDM_mm_squat1Reps_037_120.amc": amc(97),
        "test/10/HDM_mm_squat1Reps_037_120.amc.mat": "something else",
    },
    "cmu": {
        "data/CMU/asfamc/subjects/01/01.asf": asf(),
        "data/CMU/asfamc/subjects/01/01_07.amc": amc(400, jump_at=200),
        "data/CMU/asfamc/subjects/03/03.asf": asf(),
        "data/CMU/asfamc/subjects/03/03_01.amc": amc(130),
        "data/CMU/asfamc/subjects/04/04_01.amc": "not asked for",
    },
}
STYLES = {
    "bandai-namco": {
        f"dataset/Bandai-Namco-Research-Motiondataset-2/data/dataset-2_{content}_{style}_001.bvh": bvh_text(frames)
        for content, style, frames in itertools.chain(
            itertools.product(
                ("walk", "run", "wave-left-hand"), ("active", "old", "normal", "youthful", "zany"), (150,)
            ),
            [("walk", "short", 140)],
        )
    }
}


def unpack(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pack(files: dict[str, str], archive: Path, prefix: str = "") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=0) as tar:
        for name, text in reversed(files.items()):  # skeletons after motions
            member = tarfile.TarInfo(prefix + name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return archive


@pytest.fixture
def subjects(tmp_path) -> Path:
    for name, files in SUBJECTS.items():
        unpack(files, tmp_path / "data" / name)
    return tmp_path / "data"


# --- what the loaders make of them -------------------------------------------------------------------------------


def test_a_take_of_n_frames_at_120_hz_covers_the_same_time_at_50(subjects):
    lengths = {clip.subject: len(clip) for clip in load_people(subjects).test}
    assert lengths == {"hdm_mm": 41, "cmu_03": 54}  # frames 0, 2.4, …, 96 of 97, and up to 127.2 of 130


def test_takes_are_cut_around_jumps(subjects):
    parts = [clip for clip in load_people(subjects).train if clip.subject == "cmu_01" and clip.camera == "C1"]
    # a metre between frames 199 and 200, and 0.2 s = 24 frames on either side: frames 0 to 175 and 224 to 399 stay
    assert [len(part) for part in parts] == [73, 73]
    for part in parts:
        steps = np.linalg.norm(np.diff(part.poses[:, human36m.root], axis=0), axis=1)
        np.testing.assert_allclose(steps, 0.3 * 0.0254 * 2.4, atol=2e-5)


def test_the_person_stands_upright_left_on_the_left_and_walks_ahead(subjects):
    takes, _ = open_people._load(subjects, strict=False)
    world = next(take.world for take in takes if take.subject == "hdm_dg")
    joints = dict(zip(human36m.joints, world[0], strict=True))
    inch = 0.0254
    np.testing.assert_allclose(joints["RFoot"], [-4 * inch, 0, 0], atol=1e-4)
    np.testing.assert_allclose(joints["Head"], [0, 0, (33 + 21) * inch], atol=1e-4)
    np.testing.assert_allclose(joints["LWrist"], [27 * inch, 0, (33 + 14) * inch], atol=1e-4)
    # Y up, so that z of the file comes towards a reader who has x to the right: -y of a world with Z up
    walk = world[-1, 0] - world[0, 0]
    assert walk[1] < -0.5
    left = world[0, human36m.joints.index("LHip")] - world[0, human36m.joints.index("RHip")]
    assert np.cross(left, [0, 0, 1]) @ walk > 0  # ahead is where left x up points


@pytest.mark.parametrize(("keypoints", "rig", "cameras"), [("cpn", "human36m", 4), ("gt", "humaneva", 3)])
def test_detectors_and_rigs(subjects, keypoints, rig, cameras):
    dataset = load_people(subjects, keypoints=keypoints, rig=rig)
    assert dataset.keypoints == keypoints
    assert len({clip.camera for clip in dataset.clips}) == cameras
    clip = dataset.test[0]
    exact = project(clip.poses, clip.intrinsics)
    assert np.allclose(clip.keypoints, exact, atol=1e-2) == (keypoints == "gt")


def test_unknown_options(subjects):
    with pytest.raises(DataError, match="unknown camera rig"):
        load_people(subjects, rig="moon")


# --- where recordings may be -------------------------------------------------------------------------------------


def test_archives_folders_and_checkouts_look_alike(subjects, tmp_path, monkeypatch):
    expected = load_people(subjects).fingerprint
    archives = tmp_path / "archives"
    for name, files in SUBJECTS.items():
        pack(files, archives / f"{name}.tar.xz")
        unpack(files, tmp_path / "one")
        unpack(files, tmp_path / "clones" / f"some-clone-of-{name}")
        unpack(files, tmp_path / "all" / "open" / name)
    every = pack(SUBJECTS["hdm05"] | SUBJECTS["cmu"], tmp_path / "every.tar.xz", prefix="repository-0123/")
    for root in (archives, tmp_path / "one", tmp_path / "clones", tmp_path / "all", every):
        assert load_people(root).fingerprint == expected, root
    monkeypatch.setenv("MIXSTE_DATA", str(archives))
    assert load_people().fingerprint == expected
    # MIXSTE_DATA may hold other data sets only; then what `mixste data fetch open` brought is found
    monkeypatch.setenv("MIXSTE_DATA", str(tmp_path / "cache"))
    shutil.copytree(subjects, tmp_path / "home" / "data" / "open")
    assert load_people().fingerprint == expected


def test_an_archive_with_one_collection_says_so(tmp_path):
    dataset = load_people(pack(SUBJECTS["hdm05"], tmp_path / "hdm05.tar.xz"))
    assert dataset.title == "open mocap, unseen people (HDM05)"
    assert dataset.licence == "HDM05: CC BY-SA 3.0"
    assert set(dataset.subjects) == {"hdm_bd", "hdm_dg", "hdm_mm"}


def test_missing_recordings_say_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match=r"expected the recordings of HDM05 and CMU, .*mixste data fetch open.*MIXSTE_DATA"
    ):
        load_people()
    unpack(SUBJECTS["hdm05"], tmp_path / "half")
    with pytest.raises(DataError, match=r"expected the recordings of Bandai-Namco, found none in .*half"):
        load_styles(tmp_path / "half")
    with pytest.raises(DataError, match=r"expected files such as dataset/.* in .*hdm05\.tar\.xz, found none"):
        load_styles(pack(SUBJECTS["hdm05"], tmp_path / "hdm05.tar.xz"))


def test_damaged_and_hostile_archives(tmp_path, monkeypatch):
    archive = pack(SUBJECTS["hdm05"], tmp_path / "whole.tar.xz")
    cut = tmp_path / "cut.tar.xz"
    cut.write_bytes(archive.read_bytes()[:-2000])
    text = tmp_path / "text.tar"
    text.write_text("no archive at all")
    for path in (cut, text):
        with pytest.raises(DataError, match=f"{path.name}: expected a whole tar archive, found"):
            load_people(path)

    # links are no recordings, and a name that leads out of the folder leads nowhere: nothing is unpacked
    hostile = tmp_path / "inside" / "hostile.tar"
    hostile.parent.mkdir()
    with tarfile.open(hostile, "w") as tar:
        link = tarfile.TarInfo("train/1/HDM_bd_squat1Reps_001_120.amc")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, content in SUBJECTS["hdm05"].items():
            member = tarfile.TarInfo(f"../../{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    before = sorted(tmp_path.rglob("*.amc"))
    assert {clip.action for clip in load_people(hostile).clips} == {"Deposit on floor", "Kick", "Squat"}
    assert {clip.take for clip in load_people(hostile).select(actions=["Squat"]).clips} == {"037"}
    assert sorted(tmp_path.rglob("*.amc")) == before

    monkeypatch.setattr(open_mocap, "LARGEST", 10_000)
    with pytest.raises(DataError, match="unpacks to at most 10,000 bytes, found more"):
        load_people(tmp_path / shutil.copy(archive, tmp_path / "large.tar.xz"))


# --- the cache ---------------------------------------------------------------------------------------------------


def count_reads(monkeypatch) -> list[str]:
    read, files = asf_amc.read_amc, []

    def counting(text, skeleton, file):
        files.append(file)
        return read(text, skeleton, file)

    monkeypatch.setattr(asf_amc, "read_amc", counting)
    return files


def test_a_second_load_reads_nothing_and_a_changed_file_is_noticed(subjects, tmp_path, monkeypatch):
    files = count_reads(monkeypatch)
    first = load_people(subjects)
    assert len(files) == 5
    assert load_people(subjects).fingerprint == first.fingerprint
    assert len(files) == 5
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["open-people.npz"]
    with np.load(tmp_path / "cache" / "open-people.npz", allow_pickle=False) as stored:
        assert all(stored[key].dtype != object for key in stored)

    changed = subjects / "cmu/data/CMU/asfamc/subjects/03/03_01.amc"
    changed.write_text(amc(130, swing=41.0))
    state = changed.stat()
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    assert load_people(subjects).fingerprint != first.fingerprint
    assert len(files) == 10
    changed.unlink()
    with pytest.raises(StopIteration):
        next(clip for clip in load_people(subjects).clips if clip.subject == "cmu_03")


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_cache_is_made_anew(subjects, tmp_path, monkeypatch, damage):
    first = load_people(subjects)
    cache = tmp_path / "cache" / "open-people.npz"
    content = bytearray(cache.read_bytes())
    if damage == "flipped":
        content[-len(content) // 2] ^= 0xFF
    cache.write_bytes({"cut": content[:-100], "flipped": content, "other": b"not a zip file", "empty": b""}[damage])
    files = count_reads(monkeypatch)
    with pytest.warns(UserWarning, match=r"open-people\.npz is damaged and is written again"):
        again = load_people(subjects)
    assert len(files) == 5
    assert again.fingerprint == first.fingerprint
    assert load_people(subjects).fingerprint == first.fingerprint
    assert len(files) == 5


def test_a_cache_that_cannot_be_written_is_no_obstacle(subjects, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MIXSTE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="open-people will be read from its files again next time"):
        assert load_people(subjects).test


# --- resampling --------------------------------------------------------------------------------------------------


def wave(frequency: float, fps: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * fps)) / fps
    return np.broadcast_to((0.3 * np.sin(2 * np.pi * frequency * time) + time)[:, None, None], (len(time), 17, 3))


@pytest.mark.parametrize("fps", [120.0, 1 / 0.0333333, 100.0, 50.0])
def test_motions_keep_their_path_in_time(fps):
    found = resample(wave(2.0, fps, 4), fps)
    expected = wave(2.0, 50, 4)[: len(found)]
    assert abs(len(found) - 200) <= 2
    assert np.abs(found - expected)[5:-5].max() < 2e-3
    assert np.abs(found - expected).max() < 2e-2  # the ends, beyond which nothing is known


@pytest.mark.parametrize("fps", [120.0, 1 / 0.0333333])
def test_who_stands_still_does_not_tremble(fps):
    np.testing.assert_allclose(resample(np.full((200, 17, 3), 3.0), fps), 3.0, atol=2e-5)


def test_what_50_hz_cannot_hold_is_filtered_out():
    straight = wave(0.0, 120.0, 4.0)
    shaking = straight + 0.1 * (wave(45.0, 120.0, 4.0) - straight)  # taken every 2.4 frames it would show as 5 Hz
    np.testing.assert_allclose(resample(shaking, 120.0)[20:-20], resample(straight, 120.0)[20:-20], atol=1e-3)


# --- unseen styles -----------------------------------------------------------------------------------------------


def test_styles_are_split_by_pairs_and_short_clips_left_out(tmp_path):
    dataset = load_styles(unpack(STYLES["bandai-namco"], tmp_path / "bandai"))
    assert dataset.title == "open mocap, unseen styles (Bandai-Namco)"
    assert dataset.licence == "Bandai-Namco: CC BY-NC 4.0"
    assert {clip.take for clip in dataset.clips if clip.action == "Wave left hand"} == {
        *("active-2-001", "elderly-2-001", "normal-2-001", "youthful-2-001", "zany-2-001")
    }
    pairs = {
        split: {(clip.action, clip.take.split("-")[0]) for clip in getattr(dataset, split)}
        for split in ("train", "validation", "test")
    }
    # Run, Walk, Wave left hand are 0, 1, 2; active, elderly, normal, youthful, zany 0 to 4: sums of 0 or 5 are the test
    assert pairs["test"] == {("Run", "active"), ("Walk", "zany"), ("Wave left hand", "youthful")}
    assert pairs["validation"] == {("Run", "elderly"), ("Walk", "active")}
    assert len(pairs["train"]) == 10
    assert {len(clip) for clip in dataset.clips} == {249}  # 150 frames at 30 Hz


@given(st.sets(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("ABCDEFGHIJK")), min_size=1))
def test_every_pair_is_in_one_split_and_lone_contents_in_training(pairs):
    splits = split_pairs(pairs)
    assert splits.keys() == pairs
    for content, style in pairs:
        if sum(pair[0] == content for pair in pairs) == 1:
            assert splits[content, style] == "train"


def test_a_full_grid_keeps_a_fifth_for_the_test_and_trains_on_every_content_and_style():
    pairs = set(itertools.product("abcdefghij", "ABCDEFGHIJ"))
    splits = split_pairs(pairs)
    kinds = list(splits.values())
    assert (kinds.count("test"), kinds.count("validation")) == (20, 10)
    trained = {pair for pair, split in splits.items() if split == "train"}
    assert {pair[0] for pair in trained} == set("abcdefghij")
    assert {pair[1] for pair in trained} == set("ABCDEFGHIJ")


def test_a_file_with_another_name(tmp_path):
    unpack({"dataset/x/data/dataset-1_walk.bvh": bvh_text(150)}, tmp_path / "bandai")
    with pytest.raises(DataError, match=r"dataset-1_walk\.bvh: expected a name such as"):
        load_styles(tmp_path / "bandai")


# --- fetching ----------------------------------------------------------------------------------------------------


def as_repositories(collections: dict[str, dict[str, str]], folder: Path) -> dict[str, Collection]:
    """Small recordings as local git repositories, each a commit behind its branch."""
    sources = {}
    for name, files in collections.items():
        place = unpack(files | {"README.md": "large and of no use"}, folder / name)

        def git(*arguments, place=place):
            who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
            process = subprocess.run(["git", *who, "-C", place, *arguments], check=True, capture_output=True, text=True)
            return process.stdout.strip()

        git("init", "--quiet")
        git("config", "uploadpack.allowFilter", "true")
        git("add", ".")
        git("commit", "--quiet", "-m", "recordings")
        commit = git("rev-parse", "HEAD")
        git("rm", "--quiet", "-r", ".")
        git("commit", "--quiet", "-m", "moved elsewhere")
        sources[name] = dataclasses.replace(open_mocap.PINNED[name], repository=place.as_uri(), commit=commit)
    return sources


@pytest.fixture
def repositories(tmp_path) -> dict[str, Collection]:
    return as_repositories(SUBJECTS, tmp_path / "repositories")


def test_fetch_brings_the_pinned_recordings_and_nothing_else(repositories, subjects, tmp_path):
    target = tmp_path / "home" / "data" / "open"
    assert fetch(sources=repositories) == target
    assert load_people().fingerprint == load_people(subjects).fingerprint
    brought = {path.name for path in target.rglob("*") if path.is_file() and ".git" not in path.parts}
    assert brought == {Path(name).name for files in SUBJECTS.values() for name in files} - {
        "04_01.amc",
        "HDM_mm_squat1Reps_037_120.amc.mat",
    }
    # once complete it needs no repository, and brings back what was lost
    shutil.move(tmp_path / "repositories", tmp_path / "gone")
    lost = next(target.rglob("03_01.amc"))
    lost.unlink()
    fetch(target, repositories)
    assert lost.is_file()


def test_fetch_goes_on_where_it_was_interrupted(repositories, tmp_path):
    """A repository that is gone does not keep the next one from being fetched."""
    gone = dataclasses.replace(repositories["cmu"], repository="file:///nowhere/at/all")
    sentence = r"^file:///nowhere/at/all: git fetch failed in .*cmu \(exit status \d+\): check the network"
    with pytest.raises(DataError, match=sentence):
        fetch(tmp_path / "open", {"cmu": gone} | {"hdm05": repositories["hdm05"]})
    assert set(load_people(tmp_path / "open").subjects) == {"hdm_bd", "hdm_dg", "hdm_mm"}
    fetch(tmp_path / "open", repositories)
    assert len(load_people(tmp_path / "open").test) == 8


def test_fetch_of_a_commit_that_is_not_there(repositories, tmp_path):
    with pytest.raises(DataError, match=r"git fetch failed in .*cmu"):
        fetch(tmp_path / "open", {"cmu": dataclasses.replace(repositories["cmu"], commit="0" * 40)})


def test_fetch_without_git(repositories, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs git, found none"):
        fetch(tmp_path / "open", repositories)


def test_the_pinned_commits_are_whole():
    for source in open_mocap.PINNED.values():
        assert source.repository.startswith("https://github.com/")
        assert len(source.commit) == 40
        assert int(source.commit, 16) > 0


# --- the real recordings -----------------------------------------------------------------------------------------

# Right thigh and shank in metres, measured when the recordings were chosen (SOURCES).
LIMBS = {
    "hdm_bd": (0.420, 0.402),
    "hdm_bk": (0.437, 0.494),
    "hdm_dg": (0.368, 0.437),
    "hdm_mm": (0.409, 0.378),
    "hdm_tr": (0.395, 0.462),
    "cmu_01": (0.420, 0.424),
    "cmu_02": (0.428, 0.407),
    "cmu_03": (0.390, 0.436),
    "bandai": (0.391, 0.410),
}
# A take of each in which the person walks or jogs; cmu_01 climbs.
WALKS = {
    *("HDM_bd_jogLeftCircle4StepsRstart_001_120.amc", "HDM_bk_jogLeftCircle4StepsRstart_003_120.amc"),
    *("HDM_dg_jogLeftCircle4StepsRstart_008_120.amc", "HDM_mm_jogLeftCircle4StepsRstart_011_120.amc"),
    *("HDM_tr_jogLeftCircle4StepsRstart_014_120.amc", "01_01.amc", "02_01.amc", "03_01.amc"),
}


def bone_lengths(world, parent, child) -> np.ndarray:
    a, b = human36m.joints.index(parent), human36m.joints.index(child)
    return np.linalg.norm(world[:, a].astype(np.float64) - world[:, b], axis=-1)


def check_body(subject: str, world: np.ndarray) -> None:
    for bone, expected in zip((("RHip", "RKnee"), ("RKnee", "RFoot")), LIMBS[subject], strict=True):
        assert np.median(bone_lengths(world, *bone)) == pytest.approx(expected, abs=1.5e-3)
    for side, bones in itertools.product("LR", (("Hip", "Knee"), ("Knee", "Foot"), ("Elbow", "Wrist"))):
        assert np.ptp(bone_lengths(world, *(side + joint for joint in bones))) < 6e-3
    feet = world[:, [human36m.joints.index("RFoot"), human36m.joints.index("LFoot")], 2].min(axis=1)
    assert -0.05 < feet.min() < 0.2  # ankles, over a floor at zero
    assert world[0, human36m.joints.index("Head"), 2] - feet[0] > 1.2  # upright at first


@pytest.fixture(scope="module")
def walks(open_root) -> list[open_mocap.Take]:
    """One take of each of eight subjects, read from the real files."""
    paths = open_mocap.find("open-people", ("hdm05", "cmu"), open_root)
    patterns = [pattern for name in ("hdm05", "cmu") for pattern in open_mocap.PINNED[name].files]
    texts = dict(open_mocap.texts(paths, patterns))
    return [take for file in sorted(WALKS) for take in open_people._takes_of(file, texts)]


def test_real_people_have_their_limbs_and_walk_ahead(walks):
    assert {take.subject for take in walks} == LIMBS.keys() - {"bandai"}
    for take in walks:
        check_body(take.subject, take.world)
        if take.subject != "cmu_01":
            left = take.world[:, human36m.joints.index("LHip")] - take.world[:, human36m.joints.index("RHip")]
            ahead = np.cross(left, [0, 0, 1])[5:]
            moved = take.world[5:, 0] - take.world[:-5, 0]
            moving = np.linalg.norm(moved[:, :2], axis=1) > 0.05  # half a metre a second
            assert moving.sum() > 20
            assert np.mean(np.sum(ahead * moved, axis=1)[moving] > 0) > 0.95, take.subject


def test_real_bandai_namco(open_root):
    paths = open_mocap.find("open-styles", ("bandai-namco",), open_root)
    texts = open_mocap.texts(paths, list(open_mocap.PINNED["bandai-namco"].files))
    bows = [(name, text) for name, text in itertools.islice(texts, 6) if "_bow_" in name]
    assert bows
    for name, text in bows:
        world = bvh.joints(bvh.read_bvh(text, name))[..., [0, 2, 1]] * [1, -1, 1]
        check_body("bandai", world)
        joints = dict(zip(human36m.joints, world.swapaxes(0, 1), strict=True))
        lowest = joints["Head"][:, 2].argmin()
        ahead = np.cross(joints["LHip"] - joints["RHip"], [0, 0, 1])[lowest]
        assert (joints["Head"] - joints["Hip"])[lowest] @ ahead > 0  # a bow leans to the front


@pytest.mark.slow
def test_all_real_styles(open_root):
    dataset = load_styles(open_root)

    def pairs(clips):
        return {(clip.action, clip.take.rsplit("-", 2)[0]) for clip in clips}

    train, validation, test = pairs(dataset.train), pairs(dataset.validation), pairs(dataset.test)
    assert not train & test
    assert not train & validation
    assert not validation & test
    for held_out in (test, validation):
        assert {content for content, _ in held_out} < {content for content, _ in train}
        assert {style for _, style in held_out} <= {style for _, style in train}
    assert len(dataset.clips) == 1260 * 4  # as counted when the recordings were chosen
    assert min(map(len, dataset.clips)) >= 243
    assert 0.15 < sum(map(len, dataset.test)) / sum(map(len, dataset.clips)) < 0.25
