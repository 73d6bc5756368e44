import collections
import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_cgspeed import MAX_NAMES, cgspeed
from test_open_mocap import LIMBS, amc, as_repositories, asf, bone_lengths, count_reads, pack, unpack

from mixste.data import DataError, load
from mixste.data.sources import open_mocap, open_people
from mixste.data.sources.open_mocap import PINNED
from mixste.data.sources.open_people import (
    COLLECTIONS,
    STEP,
    card,
    compare_formats,
    dequantize,
    load_people,
    quantize,
)
from mixste.data.sources.people import CMU_ACTIONS, PEOPLE, Person
from mixste.skeleton import human36m

CACHE = Path(os.environ.get("MIXSTE_CACHE") or open_mocap.HOME / ".cache" / "mixste")  # the checkout's own


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    """No data set, cache or checkout but the test's own."""
    monkeypatch.delenv("MIXSTE_DATA", raising=False)
    monkeypatch.setenv("MIXSTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(open_mocap, "HOME", tmp_path / "home")


# Small recordings in the layouts of the six repositories; all show the same walk.
CMU = "data/CMU/asfamc/subjects"
GRAPHS = "MotionGraphs/resources/mocap"
WALKING = "sample-mocap-data/Walking/BVH"
FILES = {
    "hdm05": {
        "train/1/HDM_bd.asf": asf(),
        "train/1/HDM_bd_depositFloorR_001_120.amc": amc(120),
        "train/3/HDM_bd.asf": asf(),
        "train/3/HDM_bd_grabHighR_001_120.amc": amc(120),
        "test/10/HDM_mm.asf": asf(),
        "test/10/HDM_mm_squat1Reps_037_120.amc": amc(97),
    },
    "cmu": {
        f"{CMU}/01/01.asf": asf(),
        **{f"{CMU}/01/01_{trial:02}.amc": amc(70) for trial in (2, 3, 4)},
        f"{CMU}/01/01_10.amc": amc(400, jump_at=200),
        f"{CMU}/02/02.asf": asf(),
        f"{CMU}/02/02_01.amc": amc(130),
    },
    "motion-graphs": {
        f"{GRAPHS}/05/05.asf": asf(),
        f"{GRAPHS}/05/05_02.amc": amc(130),
        f"{GRAPHS}/02/02.asf": "the same again",
        f"{GRAPHS}/labeled/05_02.amc": "the same again",
    },
    "motion-viewer": {"data/06/06_14.bvh": cgspeed(120)},
    "Mocap-Data-Utilities": {
        f"{WALKING}/35_17.bvh": cgspeed(120),
        "sample-mocap-data/02/02_01.bvh": cgspeed(130),
    },
    "bvh11": {"resources/131_03.bvh": cgspeed(121, MAX_NAMES, t_pose=False)},
}


@pytest.fixture
def root(tmp_path):
    for name, files in FILES.items():
        unpack(files, tmp_path / "data" / name)
    return tmp_path / "data"


lenient = pytest.mark.filterwarnings("ignore:open-people is without")


# --- what the loader makes of them -------------------------------------------------------------------------------


@lenient
def test_subjects_are_split_and_unseen_takes_kept_back(root):
    dataset = load("open-people", root)
    assert dataset.title == "open mocap, unseen people (HDM05 + CMU)"
    assert dataset.licence == "HDM05: CC BY-SA 3.0; CMU: free to use, not to be resold as data"

    def takes(clips):
        return {(clip.subject, clip.action, clip.take) for clip in clips}

    assert takes(dataset.train) == {
        *(("cmu_01", "Playground", f"0{trial}") for trial in (2, 3, 4)),
        ("cmu_35", "Run", "17"),
        ("cmu_131", "Hop", "03"),
    }
    # the last of cmu_01's four takes, in both of the parts that a jump left
    assert takes(dataset.unseen_takes) == {("cmu_01", "Playground", "10-1"), ("cmu_01", "Playground", "10-2")}
    assert takes(dataset.validation) == {
        ("hdm_bd", "Deposit on floor", "001"),
        ("hdm_bd", "Grab high", "001"),
        ("cmu_02", "Walk", "01"),
    }
    assert takes(dataset.test) == {
        ("hdm_mm", "Squat", "037"),
        ("cmu_05", "Dance", "02"),
        ("cmu_06", "Basketball", "14"),
    }
    assert len({clip.name for clip in dataset.clips}) == len(dataset.clips) == 13 * 4


@lenient
def test_both_formats_give_the_same_motion_at_50_hz_without_the_t_pose(root):
    takes, _ = open_people._load(root, strict=False)
    worlds = {take.subject: take.world for take in takes if take.name in ("02", "14", "17", "03", "001")}
    for subject in ("cmu_06", "cmu_35"):  # 120 frames after the T-pose, as many as hdm_bd's
        assert len(worlds[subject]) == 50
        np.testing.assert_allclose(worlds[subject], worlds["hdm_bd"], atol=1e-4)
    assert len(worlds["cmu_131"]) == 51  # 121 frames, none of them a T-pose
    np.testing.assert_allclose(worlds["cmu_131"][:45], worlds["hdm_bd"][:45], atol=1e-4)


@lenient
def test_archives_folders_and_checkouts_look_alike(root, tmp_path):
    expected = load_people(root).fingerprint
    for name, files in FILES.items():
        pack(files, tmp_path / "archives" / f"{name}.tar.xz")
        unpack(files, tmp_path / "one")
    everything = pack({key: text for files in FILES.values() for key, text in files.items()}, tmp_path / "all.tar.xz")
    for other in (tmp_path / "archives", tmp_path / "one", everything):
        assert load_people(other).fingerprint == expected, other
        assert card(other)["sha256"].equals(card(root)["sha256"])


def test_each_missing_repository_is_one_sentence_and_strict_refuses(root):
    shutil.rmtree(root / "motion-viewer")
    with pytest.warns(UserWarning, match="open-people is without") as caught:
        dataset = load_people(root)
    sentences = [str(warning.message) for warning in caught]
    assert len(sentences) == 6
    assert all(sentence.startswith("open-people is without ") for sentence in sentences)
    assert (
        "without cmu_06, cmu_07, cmu_08 of https://github.com/chrystianosaraujo/motion-viewer: run `mixste data fetch"
        in (sentences[3])
    )
    assert "cmu_01 (4 of 14 takes), cmu_02 (1 of 10 takes), cmu_03 of https" in sentences[1]
    assert "cmu_06" not in dataset.subjects
    table, problems = open_people.check(root)
    assert problems == sentences
    assert table.set_index("repository").loc["https://github.com/cyun9601/CMU-MOCAP-Data", "takes"] == "5 of 28"
    with pytest.raises(DataError, match=r"^open-people: expected all 27 subjects, found it without hdm_bd \(2 of 62"):
        load_people(root, strict=True)


def test_strict_accepts_what_is_whole(root, monkeypatch):
    counts = collections.Counter(
        open_people._person(name.rsplit("/", 1)[-1])
        for files in FILES.values()
        for name, text in files.items()
        if "again" not in text and not name.endswith(".asf") and "sample-mocap-data/02" not in name
    )
    people = {name: Person(it.split, counts[name], it.motions) for name, it in PEOPLE.items()}
    monkeypatch.setattr(open_people, "PEOPLE", people)
    assert load_people(root, strict=True).fingerprint == load_people(root).fingerprint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (f"cmu/{CMU}/01/01_03.amc", amc(50)[:-30], r"01_03\.amc, line \d+"),
        ("hdm05/train/1/HDM_tr_kickLFront1Reps_001_120.amc", amc(50), r"expected its skeleton HDM_tr\.asf"),
        (f"motion-graphs/{GRAPHS}/05/05.asf", "nonsense", r"05\.asf: expected a :hierarchy"),
        ("motion-viewer/data/06/06_14.bvh", "nonsense", r"06_14\.bvh, line 1: expected"),
    ],
)
def test_faulty_files(root, name, text, message):
    unpack({name: text}, root)
    with pytest.raises(DataError, match=message):
        load_people(root)


@lenient
def test_other_recordings_are_left_alone(root):
    before = load_people(root).fingerprint
    others = {
        f"cmu/{CMU}/01/01_99.amc": amc(50),
        f"motion-graphs/{GRAPHS}/05/05_02_copy.amc": "another name",
        f"Mocap-Data-Utilities/{WALKING}/15_01.bvh": "another subject",
        "bvh11/resources/131_14.bvh": "another trial",
        "hdm05/train/1/HDM_bd_swim_001_120.amc": "another label",
    }
    unpack(others, root)
    assert load_people(root).fingerprint == before


@lenient
def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"open-people: expected the recordings of HDM05 and CMU, .*data fetch open"):
        load_people(tmp_path / "empty")
    with pytest.raises(DataError, match=r"open-people: expected files such as train/.*, found none"):
        load_people(pack({"notes.txt": "nothing"}, tmp_path / "other.tar.xz"))
    short = {f"{CMU}/01/01.asf": asf(), f"{CMU}/01/01_02.amc": amc(20)}
    with pytest.raises(DataError, match="expected at least one clip"):
        load_people(pack(short, tmp_path / "short.tar.xz"))


# --- the cache ---------------------------------------------------------------------------------------------------


@lenient
def test_a_second_load_reads_nothing_and_gives_the_same_numbers(root, tmp_path, monkeypatch):
    files = count_reads(monkeypatch)
    first = load_people(root)
    assert len(files) == 9
    assert load_people(root).fingerprint == first.fingerprint
    assert len(files) == 9
    with np.load(tmp_path / "cache" / "open-people.npz", allow_pickle=False) as stored:
        assert stored["joints"].dtype == np.int16
        assert all(stored[key].dtype != object for key in stored)


@given(hnp.arrays(np.float32, (3, 17, 3), elements=st.floats(-0.75, 0.75, width=32)), st.floats(-50, 50))
def test_quantization_moves_no_joint_by_more_than_half_a_step(world, far):
    world = world + np.float32(far)
    again = dequantize(*quantize(world))
    assert again.dtype == np.float32
    np.testing.assert_allclose(again, world, atol=STEP / 2 + 1e-5)  # 1e-5: single precision at 50 m
    np.testing.assert_array_equal(again[:, human36m.root], world[:, human36m.root])


def test_a_joint_too_far_from_the_hip():
    world = np.zeros((1, 17, 3), np.float32)
    world[0, 16] = 1.7
    with pytest.raises(DataError, match=r"expected joints within 1\.64 m of the hip, found one beyond"):
        quantize(world)


# --- the tables --------------------------------------------------------------------------------------------------


def test_the_split():
    splits = {
        split: {name for name, it in PEOPLE.items() if it.split == split} for split in ("train", "validation", "test")
    }
    assert {split: len(people) for split, people in splits.items()} == {"train": 16, "validation": 3, "test": 8}
    assert {"hdm_mm", "hdm_tr", "cmu_03"} < splits["test"]  # those of the tables of eight subjects
    assert "hdm_bd" in splits["validation"]
    for people in splits.values():  # hard and everyday subjects in each
        assert {PEOPLE[name].hard for name in people} == {True, False}
    for pair in (("16", "17"), ("29", "49"), ("27", "135"), ("10", "35"), ("10", "17"), ("07", "08"), ("01", "16")):
        assert len({PEOPLE[f"cmu_{number}"].split for number in pair}) == 1, pair


def test_everyone_comes_from_one_repository_and_every_trial_has_one_action():
    people = [person for name in COLLECTIONS for person in PINNED[name].people]
    assert sorted(people) == sorted(PEOPLE)
    for subject, actions in CMU_ACTIONS.items():
        trials = list(itertools.chain(*actions.values()))
        assert len(set(trials)) == len(trials) == PEOPLE[f"cmu_{subject}"].takes, subject
    assert {f"cmu_{subject}" for subject in CMU_ACTIONS} == {name for name in PEOPLE if name.startswith("cmu")}


def test_unseen_takes_are_the_last_of_frequent_actions_of_training_subjects():
    def takes(subject, action, *names):
        return [open_mocap.Take(subject, action, name, np.zeros((1, 17, 3))) for name in names]

    unseen = open_people.unseen_takes(
        [
            *takes("cmu_14", "Drink", "37", "4", "5", "10-1", "10-2"),
            *takes("cmu_14", "Mop", "13", "15-1", "15-2", "15-3"),  # two takes, one of them in three parts
            *takes("cmu_05", "Dance", "1", "2", "3", "4", "5"),  # a test subject
        ]
    )
    assert unseen == {("cmu_14", "Drink", "37")}


# --- the data card -----------------------------------------------------------------------------------------------


@lenient
def test_the_card_of_small_recordings(root):
    table = card(root)
    assert list(table.index) == [name for name in PEOPLE if name in table.index]
    row = table.loc["cmu_01"]
    assert (row["split"], row["hard"], row["surely distinct"], row["data set"]) == ("train", True, False, "CMU")
    assert (row["actions"], row["takes"], row["clips"], row["longest clip"]) == (1, 4, 5, 73)
    assert (row["frames"], row["unseen frames"]) == (3 * 29 + 2 * 73, 2 * 73)  # as in test_open_mocap
    assert table.loc["hdm_bd", "surely distinct"]
    inches = {"thigh": 17, "shank": 16, "upper arm": 11, "forearm": 10, "ankle to head": 17 + 16 + 12 + 9}
    for limb, length in inches.items():
        np.testing.assert_allclose(table[limb].astype(float), 25.4 * length, atol=0.1)
    assert table["sha256"].str.len().eq(64).all()
    assert table["sha256"].nunique() == len(table)


@lenient
def test_a_changed_file_changes_the_hash_of_its_subject_alone(root):
    before = card(root)["sha256"]
    unpack({f"cmu/{CMU}/02/02_01.amc": amc(131)}, root)
    after = card(root)["sha256"]
    assert list(before.index[before != after]) == ["cmu_02"]


def test_the_formats_are_compared_where_a_trial_has_both(root):
    table = compare_formats(root)
    assert list(table.index) == ["02_01"]
    assert table.max(axis=None) < 1e-3
    shutil.rmtree(root / "Mocap-Data-Utilities/sample-mocap-data/02")
    with pytest.raises(DataError, match="expected a trial both as AMC and as BVH"):
        compare_formats(root)


# --- fetching ----------------------------------------------------------------------------------------------------


@lenient
def test_fetch_brings_all_six_repositories_and_tells_their_sizes(root, tmp_path, capfd):
    repositories = as_repositories(FILES, tmp_path / "repositories")
    target = open_mocap.fetch(sources=repositories)
    printed = capfd.readouterr().out
    assert f"{sum(PINNED[name].megabytes for name in FILES)} MB of recordings in all" in printed
    for name, source in repositories.items():
        assert f"{source.title}: {PINNED[name].megabytes} MB from {source.repository}" in printed
    assert load_people().fingerprint == load_people(root).fingerprint
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {file for file in files if "/.git/" not in file} == {
        f"{name}/{file}" for name, files in FILES.items() for file, text in files.items() if "again" not in text
    }


# --- the real recordings -----------------------------------------------------------------------------------------

# Thousands of frames at 50 Hz, counted when the recordings were chosen (SOURCES).
FRAMES = {"14": 39.5, "29": 29.8, "01": 22.8, "135": 9.7, "49": 9.4, "16": 7.3, "05": 7.1, "06": 5.7, "02": 5.3}
FRAMES |= {"127": 4.9, "35": 4.5, "03": 4.2, "08": 1.5, "09": 1.4, "131": 1.4, "17": 1.3, "12": 0.7, "27": 0.4}
FRAMES |= {"32": 0.4, "26": 0.3, "10": 0.2, "07": 1.7}


@pytest.mark.slow
def test_all_real_people(open_root, monkeypatch):
    monkeypatch.setenv("MIXSTE_CACHE", str(CACHE))  # so that other tests find what is parsed here
    takes, _ = open_people._load(open_root, strict=True)
    assert (CACHE / "open-people.npz").stat().st_size < 24 * 2**20
    by_person = {name: [take.world for take in takes if take.subject == name] for name in PEOPLE}
    for number, thousands in FRAMES.items():
        assert sum(map(len, by_person[f"cmu_{number}"])) / 1e3 == pytest.approx(thousands, abs=0.12), number
    bodies = {}
    for name, worlds in by_person.items():
        world = np.concatenate(worlds)
        assert np.abs(np.diff(worlds[0], axis=0)).max() * 50 < open_mocap.FASTEST
        bodies[name] = []
        for side, bone in itertools.product(
            "RL", (("Hip", "Knee"), ("Knee", "Foot"), ("Shoulder", "Elbow"), ("Elbow", "Wrist"))
        ):
            lengths = bone_lengths(world, *(side + joint for joint in bone))
            bodies[name].append(np.median(lengths))
            assert np.ptp(np.quantile(lengths, [0.001, 0.999])) < 5e-3, (name, side, bone)
        if name in LIMBS:
            assert bodies[name][:2] == pytest.approx(LIMBS[name], abs=1.5e-3)
    # no two skeletons are the same, and none that may be one person's are on two sides of the split
    for one, two in itertools.combinations(PEOPLE, 2):
        difference = np.abs(np.subtract(bodies[one], bodies[two])).max()
        assert difference > 0.01, (one, two)
        assert difference > 0.02 or PEOPLE[one].split == PEOPLE[two].split, (one, two)

    table = card(open_root, strict=True)
    assert table["frames"].sum() == sum(len(take.world) for take in takes)
    assert (table["clips of 243 frames"] == 0).loc[["cmu_07", "cmu_08", "cmu_16", "cmu_35"]].all()
    train = table[table["split"] == "train"]
    assert 0.05 < train["unseen frames"].sum() / train["frames"].sum() < 0.1
    assert (train["unseen frames"] > 0).sum() == 10


@pytest.mark.slow
def test_the_conversion_agrees_with_the_originals_but_for_the_thorax(open_root):
    table = compare_formats(open_root)
    assert list(table.index) == ["02_01", "02_05", "05_01", "49_01", "49_08"]
    below = ["Hip", "RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot", "Spine"]
    assert table[below].max(axis=None) < 0.02
    above = table.drop(columns=below)
    assert above.max(axis=None) < 4
    assert (above.max(axis=1) - above.min(axis=1)).max() < 0.02  # head, arms and neck are displaced alike


def test_the_readers_of_real_files(open_root):
    """The three trials of one repository that needs no long unpacking."""
    paths = open_mocap.find("open-people", ("bvh11",), open_root)
    contents = dict(open_mocap.texts(paths, list(PINNED["bvh11"].files)))
    assert sorted(contents) == ["131_01.bvh", "131_02.bvh", "131_03.bvh"]
    for file in contents:
        (take,) = open_people._takes_of(file, contents)
        assert np.median(bone_lengths(take.world, "RHip", "RKnee")) == pytest.approx(0.407, abs=1.5e-3)
        feet = take.world[:, [human36m.joints.index("RFoot"), human36m.joints.index("LFoot")], 2].min()
        assert 0 < feet < 0.15  # ankles, over a floor at zero
        assert 1.2 < take.world[0, human36m.joints.index("Head"), 2] - feet < 1.6  # upright at first
