"""A run keeps its name when something is added, and gets another when anything changes that it computes with."""

import ast
import shutil
import time
from dataclasses import MISSING, fields, make_dataclass, replace

import pytest

from mixste.io.install import PACKAGE
from mixste.study import identity
from mixste.study import run as run_module
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import distinct
from mixste.train import AUTHORS, Recipe

BASE = Run(Data("synthetic"), 9, 600, 0, options={"dim": 8, "depth": 1, "heads": 2})
RUNS = {
    "mixste": BASE,
    "mpjpe": replace(BASE, recipe=replace(AUTHORS, loss=(("mpjpe", 1.0),))),
    "peer": replace(BASE, model="videopose3d", options=()),
    "later": replace(BASE, model="ktpformer"),
    "curve": replace(BASE, test_curve=True),
    "tuned": replace(BASE, seed=1, start=BASE),
    "reference": replace(BASE, model="constant_pose", frames=1, poses=0, options=()),
}
TRAINED = set(RUNS) - {"reference"}
MIXSTE = TRAINED - {"peer"}


def names(code: identity.Code) -> dict[str, str]:
    """Of these runs, and of their errors, by some source code."""
    for cache in (identity.fingerprint, run_module._id):
        cache.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_code", lambda: code)
        ids = {label: run.id for label, run in RUNS.items()}
        errors = {f"errors of {label}": run_module.code_of_errors(run) for label, run in RUNS.items()}
    for cache in (identity.fingerprint, run_module._id):
        cache.cache_clear()
    return ids | errors


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the package's sources, what it names runs, and what was read for that."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "mixste", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    code = identity.Code(folder)
    return folder / "mixste", names(code), code.modules


@pytest.fixture
def package(copied):
    """The copy, to be changed by a test."""
    root = copied[0]
    yield root
    for path in altered(root):
        original = PACKAGE / path.relative_to(root)
        shutil.copyfile(original, path) if original.exists() else path.unlink()


def altered(root) -> list:
    return [
        path
        for path in root.rglob("*.py")
        if not (original := PACKAGE / path.relative_to(root)).exists() or path.read_bytes() != original.read_bytes()
    ]


@pytest.fixture
def renamed(copied, package):
    """The labels of what has another name since the package was changed."""
    root, before, modules = copied

    def labels() -> set[str]:
        code = identity.Code(root.parent)
        parts = {path.relative_to(root.parent).with_suffix("").parts for path in altered(root)}
        again = {".".join(part).removesuffix(".__init__") for part in parts}  # the rest need not be read again
        code.modules = {name: module for name, module in modules.items() if module and name not in again}
        return {label for label, name in names(code).items() if name != before[label]}

    return labels


def add(path, text: str) -> None:
    path.write_text(path.read_text() + text)


def swap(path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} has no {old!r}"
    path.write_text(text.replace(old, new, 1))


def change(path, name: str) -> None:
    """Give a function, or the method "Class.method", one more statement; a constant another value."""
    lines, body = path.read_text().splitlines(keepends=True), ast.parse(path.read_text()).body
    for part in name.split("."):
        [node] = [one for one in body if part in {getattr(one, "name", None), *targets(one)}]
        body = getattr(node, "body", [])
    if body:
        lines.insert(body[-1].end_lineno, " " * body[-1].col_offset + "changed = 1\n")
    else:
        lines[node.lineno - 1 : node.end_lineno] = [f"{name} = 0.125\n"]
    path.write_text("".join(lines))


def targets(node) -> set[str]:
    return {target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)}


def test_a_copy_names_runs_alike(copied):
    assert names(identity.Code(PACKAGE.parent)) == copied[1]


LOSS = '''
@loss_term("brand_new")
def brand_new(pred, target):
    """A term that no run uses."""
    return (pred - target).abs().mean()
'''
NETWORK = """from mixste.network import Network


class BrandNew(Network):
    name = "brand_new"
"""


@pytest.mark.parametrize(
    "harmless",
    [
        pytest.param(lambda root: add(root / "losses.py", LOSS), id="a loss"),
        pytest.param(
            lambda root: add(root / "metrics.py", "\ndef brand_new(pred, target):\n    return 0\n"), id="a metric"
        ),
        pytest.param(lambda root: add(root / "train.py", "\ndef unused():\n    return train\n"), id="a function"),
        pytest.param(lambda root: add(root / "train.py", "\nUNUSED = 1\n"), id="a constant"),
        pytest.param(
            lambda root: swap(
                root / "data/clips.py", "    def check(", "    def unused(self):\n        pass\n\n    def check("
            ),
            id="a method",
        ),
        pytest.param(lambda root: add(root / "skeleton.py", '\nSKELETONS["new"] = human36m\n'), id="a layout"),
        pytest.param(
            lambda root: swap(
                root / "train.py", "    new_cameras: bool = False", "    new_cameras: bool = False\n    new: int = 1"
            ),
            id="a setting",
        ),
        pytest.param(
            lambda root: swap(root / "train.py", '("adamw", "adam", ', '("adamw", "adam", "brand_new", '),
            id="a value of one",
        ),
        pytest.param(lambda root: swap(root / "train.py", "the loss is {", "the loss became {"), id="a message"),
        pytest.param(lambda root: swap(root / "train.py", 'unit="step"', 'unit="steps"'), id="a progress bar"),
        pytest.param(lambda root: swap(root / "train.py", '"""Train in place', '"""Trains in place'), id="a docstring"),
        pytest.param(
            lambda root: swap(root / "losses.py", '"""Training losses', '"""Losses'), id="a module's docstring"
        ),
        pytest.param(lambda root: add(root / "train.py", "# a comment\n"), id="a comment"),
        pytest.param(
            lambda root: swap(root / "train.py", "    poses: int,\n", "    poses: float,\n"), id="an annotation"
        ),
        pytest.param(lambda root: swap(root / "train.py", "def train(\n    model", "def train(model"), id="formatting"),
        pytest.param(
            lambda root: swap(root / "io/files.py", "def replacing(", "def replacing(unused=1, *"), id="files"
        ),
    ],
)
def test_what_renames_no_run(package, renamed, harmless):
    harmless(package)
    for path in package.rglob("*.py"):
        ast.parse(path.read_text())
    assert not renamed()


def test_a_new_network_renames_no_run(package, renamed):
    (package / "networks" / "brand_new.py").write_text(NETWORK)
    add(package / "networks" / "__init__.py", "from mixste.networks.brand_new import BrandNew\n")
    assert not renamed()


@pytest.mark.parametrize(
    ("where", "what", "expected"),
    [
        ("train.py", "Step.one_piece", TRAINED),
        ("train.py", "Step.__call__", TRAINED),
        ("train.py", "seed_of", set(RUNS)),
        ("train.py", "learning_rate", TRAINED),
        ("train.py", "optimizer_of", TRAINED),
        ("train.py", "Batches.order", TRAINED),
        ("data/augment.py", "turn_cameras", TRAINED),
        ("data/windows.py", "training_starts", TRAINED),
        ("data/windows.py", "ClipFrames.of", set(RUNS)),
        ("camera.py", "normalize_screen", set(RUNS)),
        ("camera.py", "project", set(RUNS)),
        ("data/sources/synthetic.py", "smooth", set(RUNS)),
        ("data/splits.py", "validating", set(RUNS)),
        ("skeleton.py", "Skeleton.weights", TRAINED),
        ("losses.py", "total_loss", TRAINED),
        ("losses.py", "weighted_mpjpe", TRAINED - {"mpjpe"}),
        ("losses.py", "mpjpe_loss", {"mpjpe"}),
        ("losses.py", "motion_loss", set()),
        ("model.py", "Block.forward", MIXSTE),
        ("model.py", "BLOCK_EPS", MIXSTE),
        ("network.py", "Network.training_starts", TRAINED),
        ("networks/videopose3d.py", "VideoPose3D.forward", {"peer"}),
        ("networks/ktpformer.py", "GraphStep.forward", {"later"}),
        ("networks/dstformer.py", "over_joints", {"later"}),
        ("networks/motionagformer.py", "similarity_graph", set()),
        ("networks/references.py", "ConstantPose.solve", {"reference"}),
        ("networks/references.py", "Reference.fit", {"reference"}),
        ("checkpoints.py", "transfer", {"tuned"}),
        ("metrics.py", "mpjpe", {"curve"}),
        ("metrics.py", "p_mpjpe", set()),
        ("study/run.py", "Run.build", set(RUNS)),
        ("study/trainer.py", "run_device", set(RUNS)),
    ],
)
def test_what_renames_the_runs_that_compute_with_it(package, renamed, where, what, expected):
    change(package / where, what)
    assert {label for label in renamed() if label in RUNS} == expected


@pytest.mark.parametrize(
    ("where", "old", "new", "expected"),
    [
        pytest.param("study/trainer.py", "run.seed, folder", "run.seed + 1, folder", TRAINED, id="arguments of train"),
        pytest.param("study/run.py", "5 if self.test_curve else 20", "5", TRAINED, id="points of the curve"),
        pytest.param("study/run.py", "    options = {", "    options = {'rig': 1} or {", set(RUNS), id="loading"),
        pytest.param("data/__init__.py", "keypoints=keypoints, **", "keypoints='gt', **", set(RUNS), id="data.load"),
        pytest.param("train.py", "import math\n", "import cmath as math\n", TRAINED, id="an import"),
        pytest.param(
            "train.py", "resize_bodies, turn", "resize_bodies as turn_cameras, turn", TRAINED, id="an import's name"
        ),
        pytest.param(
            "model.py",
            "BLOCK_EPS",
            "def configure():\n    global BLOCK_EPS\n    BLOCK_EPS = 1\n\n\nconfigure()\nBLOCK_EPS",
            MIXSTE,
            id="a call by the module",
        ),
        pytest.param(
            "train.py",
            "AUTHORS = ",
            "if MOST_FRAMES:\n    torch.set_flush_denormal(True)\nAUTHORS = ",
            set(RUNS),
            id="a condition in the module",
        ),
        pytest.param("__init__.py", "__all__", "torch.set_flush_denormal(True)\n__all__", set(RUNS), id="the package"),
    ],
)
def test_what_reaches_a_training_from_around_it(package, renamed, where, old, new, expected):
    swap(package / where, old, new)
    assert {label for label in renamed() if label in RUNS} == expected


def test_a_method_that_a_library_calls(tmp_path, monkeypatch):
    """Such as one of PyTorch's optimizers: no code of ours names its `_init_group`."""
    monkeypatch.syspath_prepend(tmp_path)
    text = "import torch\n\n\nclass Mine(torch.optim.AdamW):\n    def _init_group(self, *args):\n        return {}\n"

    def named(size: int) -> str:
        (tmp_path / "my_optimizer.py").write_text(text.format(size))
        return identity.Code(PACKAGE.parent).fingerprint("my_optimizer:Mine")

    assert named(1) != named(2)


def test_where_a_progress_bar_begins_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def named(call: str) -> str:
        (tmp_path / "my_loop.py").write_text(f"from tqdm import tqdm, trange\n\n\ndef f(a, b):\n    return {call}\n")
        return identity.Code(PACKAGE.parent).fingerprint("my_loop:f")

    assert named("trange(a, b)") != named("trange(a, a)")
    assert named("trange(a, desc='x')") == named("trange(a)")
    assert named("tqdm(a, 'x')") == named("tqdm(a)")


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("metrics.py", "p_mpjpe"),
        ("metrics.py", "_procrustes"),
        ("evaluate.py", "errors_of"),
        ("study/trainer.py", "errors_of"),
        ("study/trainer.py", "_lift"),
        ("predict.py", "predict_clips"),
        ("networks/references.py", "at_constant_level"),
        ("network.py", "Network.windows"),
        ("data/windows.py", "evaluation_windows"),
    ],
)
def test_errors_have_an_identity_of_their_own(package, renamed, where, what):
    change(package / where, what)
    assert {f"errors of {label}" for label in RUNS} <= renamed()


def test_what_is_only_trained_with_is_not_part_of_the_errors(package, renamed):
    change(package / "losses.py", "total_loss")
    change(package / "train.py", "Step.one_piece")
    assert renamed() == TRAINED


def test_an_own_module_counts_with_what_it_imports_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_parts").mkdir()
    files = {
        "my_network.py": "from mixste.network import Network\nimport my_helper\n\n\nclass Mine(Network):\n"
        "    name = 'mine'\n    def forward(self, keypoints):\n        return my_helper.twice(keypoints)\n",
        "my_helper.py": "from my_parts.deep import SCALE\n\n\ndef twice(x):\n    return SCALE * x\n\n\n"
        "def unused():\n    pass\n",
        "my_parts/__init__.py": "",
        "my_parts/deep.py": "SCALE = 2\nOTHER = 3\n",
        "my_loss.py": "def mine(pred, target):\n    from my_helper import twice\n"
        "    return twice(pred - target).mean()\n",
    }

    def named(**changed):
        for name, text in (files | changed).items():
            (tmp_path / name).write_text(text)
        code = identity.Code(PACKAGE.parent)
        return code.fingerprint("my_network:Mine", "mixste.train:train"), code.fingerprint("my_loss:mine")

    network, loss = named()
    assert named(**{"my_parts/deep.py": "SCALE = 2\nOTHER = 4\n"}) == (network, loss)
    assert named(**{"my_helper.py": files["my_helper.py"].replace("pass", "return 1")}) == (network, loss)
    for change_of in (
        {"my_parts/deep.py": "SCALE = 3\nOTHER = 3\n"},
        {"my_helper.py": files["my_helper.py"].replace("SCALE * x", "SCALE * x + 1")},
    ):
        other_network, other_loss = named(**change_of)
        assert other_network != network
        assert other_loss != loss
    other_network, other_loss = named(**{"my_network.py": files["my_network.py"].replace("twice(k", "twice(-k")})
    assert (other_network != network, other_loss == loss) == (True, True)


@pytest.mark.parametrize("entry", ["no_such_module:f", "__main__:f", "mixste.train:no_such_function", "sys:exit"])
def test_code_that_is_not_there_is_said(entry):
    with pytest.raises(ValueError, match=r"expected .+, found (no|one of a notebook)"):
        identity.Code(PACKAGE.parent).fingerprint(entry)


def test_every_setting_is_listed_with_its_first_default():
    """A field with another default than its first belongs in `changed`: that it differs is then on purpose."""
    changed = set()
    for cls in (Data, Run, Recipe):
        listed = identity.FIRST_DEFAULTS[cls.__name__]
        defaults = {one.name: one.default for one in fields(cls) if one.default is not MISSING}
        assert listed.keys() == defaults.keys() - {"recipe"}, "Recipe's own fields count"
        assert {f"{cls.__name__}.{name}" for name in listed if listed[name] != defaults[name]} == changed


def test_a_new_setting_counts_when_it_is_used():
    wider = make_dataclass("Recipe", [("brand_new", float, 0.0)], bases=(Recipe,), frozen=True)
    assert identity.settings(replace(BASE, recipe=wider())) == identity.settings(BASE)
    assert identity.settings(wider(brand_new=1.0)) == {"brand_new": 1.0}


def test_a_changed_default_renames_the_runs_that_use_it():
    other = make_dataclass("Recipe", [("mirror", bool, False)], bases=(Recipe,), frozen=True)
    assert identity.settings(other()) == {"mirror": False}
    assert identity.settings(other(mirror=True)) == identity.settings(Recipe())


def test_every_setting_counts():
    others = [
        replace(BASE, seed=1),
        replace(BASE, poses=601),
        replace(BASE, recipe=replace(AUTHORS, weights="paper")),
        replace(BASE, data=replace(BASE.data, keypoints="cpn")),
        replace(BASE, data=replace(BASE.data, actions=("Walking",))),
        replace(BASE, start=BASE),
        replace(BASE, start=replace(BASE, seed=3)),
        replace(BASE, test_curve=True),
        replace(BASE, options={"dim": 16}),
    ]
    assert len({run.id for run in [BASE, *others]}) == len(others) + 1


def test_the_values_of_the_layout_count(monkeypatch):
    """W of the loss, for one, which no data and no code hold."""
    before = BASE.id
    run_module._id.cache_clear()
    other = replace(run_module.human36m, authors_weights=(2.0,) * 17)
    monkeypatch.setattr(run_module, "human36m", other)
    assert BASE.id != before
    run_module._id.cache_clear()


def test_the_runs_of_a_profile_are_named_in_a_moment_and_without_their_data(monkeypatch):
    monkeypatch.setattr(run_module, "_load", None)  # a loading would fail
    runs = distinct(PROFILES["smoke"])
    assert {run.data.source for run in runs} == {"synthetic"}
    run_module._id.cache_clear()
    identity.fingerprint.cache_clear()
    began = time.process_time()
    assert len({run.id for run in runs}) == len(runs)
    assert time.process_time() - began < 5


def test_the_outline_is_the_same_on_every_python():
    """Later versions give nodes more fields, empty where the code does not use them."""
    tree = ast.parse("class A:\n    def f(self):\n        return [*x, 1]\n")
    later = ast.parse(ast.unparse(tree))
    for node in ast.walk(later):
        node._fields = (*node._fields, "type_params", "new")
        node.type_params, node.new = [], None
    assert identity.outline(later) == identity.outline(tree)
