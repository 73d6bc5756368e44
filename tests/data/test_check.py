import importlib.util
from pathlib import Path

import licensed
import numpy as np
import pytest

from mixste.data import DataError, load
from mixste.data.check import PUBLISHED, check, lacking
from mixste.study.profiles import PROFILES
from mixste.study.tables import lacking_data


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All three, whole in their clips but not in their frames."""
    root = tmp_path_factory.mktemp("data")
    for name, write in (
        ("human36m", licensed.write_human36m),
        ("humaneva", licensed.write_humaneva),
        ("mpi_inf_3dhp", licensed.write_mpi_inf_3dhp),
    ):
        (root / name).mkdir()
        write(root / name)
    return root


def test_counts_by_subject(root):
    report = check("human36m", root, "cpn_ft_h36m_dbb")
    table = report.table.set_index(["split", "subject"])
    assert table["clips"].to_dict() == {("train", s): 120 for s in ("S1", "S5", "S6", "S7", "S8")} | {
        ("test", "S9"): 120,
        ("test", "S11"): 116,
    }
    # 30 takes of 12, 13, 14, 12, … frames, from four cameras; S11 lacks the first
    assert table.loc[("train", "S6"), "frames"] == 4 * 10 * (12 + 13 + 14)
    assert table.loc[("test", "S11"), "frames"] == 4 * (10 * (12 + 13 + 14) - 12)
    assert report.detectors == ["cpn_ft_h36m_dbb", "gt"]
    assert report.files["data_3d_h36m.npz"] == 1
    assert report.problems == [
        "train: expected 1,559,752 frames over all cameras, found 7,800",
        "test: expected 543,344 frames over all cameras, found 3,072",
    ]
    for part in ("Human3.6M", str(root / "human36m"), "academic use", "vision.imar.ro", "S11", "543,344", "gt"):
        assert part in str(report)


def test_a_whole_copy_has_no_problems(root, monkeypatch):
    monkeypatch.setitem(PUBLISHED["human36m"].frames, "train", 7_800)
    monkeypatch.setitem(PUBLISHED["human36m"].frames, "test", 3_072)
    report = check("human36m", root)
    assert report.problems == []
    assert "complete" in str(report)


def test_only_valid_frames_count(root):
    report = check("mpi_inf_3dhp", root)
    with np.load(root / "mpi_inf_3dhp" / "data_test_3dhp.npz", allow_pickle=True) as archive:
        valid = {name: view["valid"].sum() for name, view in archive["data"].item().items()}
    table = report.table.set_index("subject")
    assert table.loc[list(valid), "frames"].to_dict() == valid
    assert len(report.problems) == 2


def test_missing_people_and_clips(root, tmp_path):
    with np.load(root / "human36m" / "data_3d_h36m.npz", allow_pickle=True) as archive:
        positions = archive["positions_3d"].item()
    del positions["S6"], positions["S9"]["Photo 1"]
    np.savez(tmp_path / "data_3d_h36m.npz", positions_3d=positions)
    assert check("human36m", tmp_path).problems[:2] == [
        "train subject S6: expected 120 clips, found 0",
        "test subject S9: expected 120 clips, found 116",
    ]


def test_humaneva_by_presence(root, tmp_path):
    report = check("humaneva", root)
    assert report.problems == []
    assert str(report).endswith("all subjects are here; their clips and frames are not checked")
    for kind, key in (("3d", "positions_3d"), ("2d", "positions_2d")):
        [path] = (root / "humaneva").glob(f"data_{kind}_*.npz")
        with np.load(path, allow_pickle=True) as archive:
            people = archive[key].item()
        del people["Validate/S2"]
        np.savez(tmp_path / path.name, **{key: people})
    assert check("humaneva", tmp_path).problems == ["test subject S2: expected some clips, found 0"]


def test_every_missing_file_is_named_with_the_tables_that_want_it(root, tmp_path):
    """As `load` finds them: ground-truth keypoints of Human3.6M alone need no file; HumanEva is fine-tuned from it."""
    (tmp_path / "human36m").mkdir()
    (tmp_path / "humaneva").mkdir()
    for file in ("human36m/data_3d_h36m.npz", "humaneva/data_2d_humaneva15_gt.npz"):
        (tmp_path / file).symlink_to(root / file)
    assert lacking("human36m", tmp_path) == []
    assert lacking("human36m", tmp_path, "hrnet") == ["data_2d_h36m_hrnet.npz"]
    assert lacking("humaneva", tmp_path, "sh") == ["data_3d_humaneva15.npz", "data_2d_humaneva15_sh.npz"]
    dhp = ["data_train_3dhp.npz or S*/Seq*/annot.mat"]
    dhp += ["data_test_3dhp.npz or TS*/annot_data.mat or */TS*/annot_data.mat"]
    cpn, detectron = (f"data_2d_h36m_{detector}.npz" for detector in ("cpn_ft_h36m_dbb", "detectron_ft_h36m"))
    expected = {
        "table1": [cpn, detectron],
        "table2": [],
        "table3": dhp,
        "table4": [cpn, "data_3d_humaneva15.npz"],
        **{table: [cpn] for table in ("table5", "table6", "table7", "paper_vs_code", "curves", "rates")},
        "limits": [],
        "more_people": [],
    }
    tables = lacking_data(PROFILES["paper"], tmp_path)
    assert {key: tables[key] for key in expected} == expected
    assert not any(lacking_data(PROFILES["smoke"], tmp_path).values())
    [problem] = check("mpi_inf_3dhp", tmp_path).problems
    assert problem.startswith(f"expected {' and '.join(dhp)} in ")


def test_an_archive_beside_the_originals(root, tmp_path):
    (tmp_path / "data_train_3dhp.npz").symlink_to(root / "mpi_inf_3dhp" / "data_train_3dhp.npz")
    with pytest.raises(DataError, match=r"expected data_test_3dhp\.npz or TS\*/annot_data\.mat"):
        load("mpi_inf_3dhp", tmp_path)
    if importlib.util.find_spec("h5py"):
        (tmp_path / "written").mkdir()
        train, test = licensed.write_mpi_inf_3dhp(tmp_path / "written")
        licensed.write_mpi_inf_3dhp_originals(tmp_path, train, test)
        assert len(load("mpi_inf_3dhp", tmp_path).test) == 6


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_there(name, tmp_path):
    """What is missing, where to get it and under which licence, and no error."""
    report = check(name, tmp_path)
    [problem] = report.problems
    assert "found none of them; docs/bring-your-data.md says how to get them" in problem
    assert set(report.files.values()) == {0}
    for part in (problem, PUBLISHED[name].where, PUBLISHED[name].licence):
        assert part in str(report)
    assert "no such folder" in check(name, tmp_path / "elsewhere").problems[0]


def test_damaged(root, tmp_path):
    (tmp_path / "data_3d_h36m.npz").write_bytes(b"PK\x03\x04")
    [problem] = check("human36m", tmp_path).problems
    assert "data_3d_h36m.npz: expected plain data" in problem


def test_other_names(tmp_path):
    with pytest.raises(DataError, match="expected one of human36m, humaneva, mpi_inf_3dhp, found 'synthetic'"):
        check("synthetic", tmp_path)


@pytest.mark.slow
def test_real_people_in_the_licensed_formats(open_root, tmp_path):
    """All three written from open recordings: what is read are people, whose limbs keep their lengths."""
    motion = licensed.open_motion(open_root)
    for name, write in (
        ("human36m", licensed.write_human36m),
        ("humaneva", licensed.write_humaneva),
        ("mpi_inf_3dhp", licensed.write_mpi_inf_3dhp),
    ):
        (tmp_path / name).mkdir()
        write(tmp_path / name, motion, frames=40)
        dataset = load(name, tmp_path)
        for clip in dataset.clips:
            for parent, child in dataset.skeleton.bones:
                if parent not in dataset.skeleton.left + dataset.skeleton.right:
                    continue
                bone = (clip.poses[:, child] - clip.poses[:, parent])[clip.valid]  # None keeps all
                lengths = np.linalg.norm(bone, axis=-1)
                assert np.ptp(lengths) < 0.01
                assert 0.13 < lengths.mean() < 0.6  # the shortest forearm is that of cmu_05
        assert all("frames" in problem for problem in check(name, tmp_path).problems)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("cdflib", "h5py"))), reason="cdflib and h5py are not both installed"
)
def test_originals_count_alike(root, tmp_path):
    train, test = licensed.write_mpi_inf_3dhp(tmp_path)
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    licensed.write_mpi_inf_3dhp_originals(tmp_path, train, test)
    assert check("mpi_inf_3dhp", tmp_path).table.equals(check("mpi_inf_3dhp", root).table)
    assert sum(map(len, load("mpi_inf_3dhp", tmp_path).train)) == 8 * 8 * (13 + 14)


def test_the_page_names_what_is_read():
    """docs/bring-your-data.md: every file, owner and count that the readers and `check` know."""
    page = (Path(__file__).parents[2] / "docs" / "bring-your-data.md").read_text(encoding="utf-8")
    for known in PUBLISHED.values():
        assert known.where.split(",")[0] in page
        for number in known.frames.values():
            assert f"{number:,}" in page or known.title == "MPI-INF-3DHP"
    for name in ("data_3d_h36m", "data_3d_humaneva15", "data_train_3dhp", "data_test_3dhp"):
        assert f"`{name}.npz`" in page
    assert "2,929" in page
