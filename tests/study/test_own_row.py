"""A row of one's own beside a table's: measured, named, and kept apart from the study's."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from mixste import losses
from mixste.skeleton import human36m, mpi_inf_3dhp
from mixste.study import identity, report, store, tidy, trainer
from mixste.study import run as run_module
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import TABLES, Row, distinct
from mixste.train import AUTHORS, loss_of

DATA = Data("synthetic", "gt", subjects=("S1", "S9"), actions=("Walking", "Waiting"), test_cameras=1)
RUN = Run(DATA, 9, 200, 0, options=(("depth", 1), ("dim", 8), ("heads", 2)), recipe=replace(AUTHORS, batch_frames=90))
SMOKE = PROFILES["smoke"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to import from, and an empty store; what was read of a module of this name is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    forget()
    yield tmp_path
    forget()


def forget():
    """As another process would begin."""
    losses._own_code.cache_clear()
    losses.own_term.cache_clear()
    run_module._id.cache_clear()
    identity.fingerprint.cache_clear()
    identity._code.cache_clear()


def with_loss(*terms):
    return replace(RUN, recipe=replace(RUN.recipe, loss=terms))


def test_a_row_of_ones_own_has_value_interval_and_difference(here, capsys):
    base = Row("base", (RUN,), against="a row that is not measured")
    wider = base.variant("wider", options={"dim": 16})
    for run in (*base.runs, *wider.runs):  # in this process, which saves the start of others
        trainer.make(run)
    report.ready([base, wider], SMOKE)
    table = report.measure(replace(TABLES["table5"], metrics=("MPJPE",)), SMOKE, [base, wider])
    value, other, difference = table.itertuples()
    assert [(line.row, line.against) for line in table.itertuples()] == [("base", ""), ("wider", ""), ("wider", "base")]
    assert difference.value == pytest.approx(other.value - value.value, abs=1e-6)
    assert difference.low < difference.value < difference.high
    assert store.Finished(store.store() / wider.runs[0].id).model().embed.out_features == 16

    tidy.save(table, "wider")
    assert tidy.read("smoke", "wider", store.output())["row"].tolist() == ["base", "wider", "wider"]
    with pytest.raises(ValueError, match="a table of the study, without base, wider: save yours by another name"):
        tidy.save(table, "06_table5_components")
    assert not list(store.output().rglob("06_*"))


def test_the_studys_own_rows_keep_their_name(here, capsys):
    values = [
        {"row": row.label, "column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 1.0, "runs": "a"}
        for row in TABLES["table5"].rows(SMOKE)
    ]
    values.append(values[0] | {"row": "counted, not trained", "runs": ""})
    tidy.save(tidy.table(values, SMOKE, "5"), "06_table5_components")


def test_the_published_runs_are_those_of_the_plan():
    """If not: the code that names a run has changed. `make freeze` trains them again."""
    published = set(pd.read_csv(store.ROOT / "results" / "smoke" / "runs.csv")["run"])
    assert published <= {run.id for run in distinct(SMOKE)}


def test_rows_have_keys_and_labels_of_their_own():
    other = (replace(RUN, seed=1),)
    with pytest.raises(ValueError, match="a key of its own, found several with base"):
        report.measure(TABLES["table5"], SMOKE, [Row("base", (RUN,)), Row("base", other, "another")])
    with pytest.raises(ValueError, match="a label of its own, found several with base"):
        report.measure(TABLES["table5"], SMOKE, [Row("base", (RUN,)), Row("another", other, "base")])


def test_a_row_is_compared_by_key():
    base, mine = Row("base", (RUN,), "My base"), Row("mine", (replace(RUN, seed=1),), against="My base")
    with pytest.raises(ValueError, match="against must be the key of a row, 'base', found its label 'My base' in row"):
        report.measure(TABLES["table5"], SMOKE, [base, mine])


def test_a_variant_has_other_settings_and_is_compared_with_its_row():
    base = Row("base", (RUN, replace(RUN, seed=1)), note="small")
    mine = base.variant("mine", recipe={"optimizer": "adam"}, options={"dim": 16}, poses=400)
    assert (mine.key, mine.label, mine.against, mine.note) == ("mine", "mine", "base", "small")
    for run, other in zip(base.runs, mine.runs, strict=True):
        recipe = replace(run.recipe, optimizer="adam")
        assert other == replace(run, recipe=recipe, options=dict(run.options) | {"dim": 16}, poses=400)
    with pytest.raises(TypeError, match="length"):
        base.variant("longer", length=2)


def test_options_are_the_same_in_any_order():
    shuffled = replace(RUN, options={"heads": 2, "dim": 8, "depth": 1})
    assert shuffled == RUN
    assert shuffled.id == RUN.id


def test_a_term_of_ones_own_is_trained_with(here):
    """Three times the distance as a term is the paper's MPJPE with the coefficient 3."""
    (here / "my_terms.py").write_text("def thrice(pred, target):\n    return 3 * (pred - target).norm(dim=-1).mean()\n")
    own, same = (trainer.make(with_loss(*terms)) for terms in ([("my_terms:thrice", 1.0)], [("mpjpe", 3.0)]))
    assert own.id != same.id
    torch.testing.assert_close(own.model().state_dict(), same.model().state_dict(), rtol=0, atol=1e-4)
    assert own.history["loss"].to_numpy() == pytest.approx(same.history["loss"].to_numpy(), rel=1e-4)


def test_a_term_of_ones_own_may_take_the_joint_layout(here):
    """One joint is 2 m away from all others: in one layout the root, of three bones; in the other the head top."""
    (here / "my_terms.py").write_text(
        "def bones(pred, target, skeleton):\n"
        "    parents, children = map(list, zip(*skeleton.bones))\n"
        "    lengths = [(poses[..., children, :] - poses[..., parents, :]).norm(dim=-1) for poses in (pred, target)]\n"
        "    return (lengths[0] - lengths[1]).abs().sum()\n"
    )
    target = torch.zeros(1, 1, 17, 3)
    pred = target.clone()
    pred[..., 0, 0] = 2.0
    recipe = with_loss(("my_terms:bones", 5.0)).recipe
    assert loss_of(recipe, human36m)(pred, target).item() == 5 * 2 * 3
    assert loss_of(recipe, mpi_inf_3dhp)(pred, target).item() == 5 * 2


def test_the_code_of_a_term_is_part_of_the_name_of_its_runs_alone(here):
    ids = []
    for text in (
        "def f(p, t):\n    return p.sum()\n",
        "# why\ndef f(p, t): return p.sum()\n",
        "def f(p, t): return t.sum()\n",
    ):
        (here / "my_terms.py").write_text(text)
        forget()
        ids.append((RUN.id, with_loss(("mpjpe", 1.0), ("my_terms:f", 1.0)).id))
    assert ids[0] == ids[1]
    assert ids[1][0] == ids[2][0]
    assert ids[1][1] != ids[2][1]
    (here / "my_terms.py").write_text("changed while a process runs")
    assert with_loss(("my_terms:f", 1.0)).id
    assert losses.own_term("my_terms:f")(*torch.ones(2, 1, 3, 17, 3), None, False) == 3 * 17 * 3


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("my_terms:missing", "expected a function of this name in .*my_terms.py, found none"),
        ("my_terms:each", r"expected a tensor of one number, found \(1, 3, 17\)"),
        ("my_terms:number", "expected a tensor of one number, found 1.0"),
        ("no_such_terms:f", "expected no_such_terms.py on Python's import path, found no such module"),
        ("../my_terms:f", "found no such module"),
        ("sys:exit", "found no such module"),
        ("thrice", "must be some of mpjpe, wmpjpe, .*, or module:function, found thrice"),
    ],
)
def test_what_is_wrong_with_a_term_is_said(here, term, message):
    (here / "my_terms.py").write_text(
        "def each(pred, target):\n    return (pred - target).norm(dim=-1)\ndef number(pred, target):\n    return 1.0\n"
    )
    pred = torch.zeros(1, 3, 17, 3)
    with pytest.raises(ValueError, match=message):
        losses.total_loss(pred, pred + 1, {term: 1.0}, human36m.weights("authors"))
