"""The identity of a run: settings that differ from their first default, and the code that its training executes.

Code counts by definition, not by file. From what a training calls (`train`, its network, its loss terms) the syntax
trees are followed to every function, class and constant that they refer to within this package, or, for a network or a
loss of your own, within the folder of its module. Of a class, those members count whose names occur in the code that
was reached, and those that Python, PyTorch or a base class from elsewhere calls by itself. Where an import points to
counts, and so do the statements that a module or its package executes. Comments, docstrings, formatting, annotations
and the text of messages do not count. So a run keeps its name when a loss, a metric, a network or a setting is added,
and gets another when anything changes that it computes with.

Registries (`losses.LOSSES`, `network.NETWORKS`) are filled where their members are defined, and refer to none of them.
"""

import ast
import contextlib
import copy
import functools
import hashlib
import importlib.util
import symtable
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch

from mixste.io.install import PACKAGE

# Not followed, though trainings refer to them.
LEFT_OUT = {
    # It computes the same as `model` up to rounding, as tests check; another GPU or version of PyTorch changes rounding
    # too. So a faster kernel does not make runs that took GPU days obsolete.
    "mixste.accel",
    # It reads and writes files, which does not change results; tests check that files are read back unchanged.
    "mixste.io",
    # The values of the layout that a run uses are part of its data.
    "mixste.skeleton.SKELETONS",
    # So are the clips of a source; the code of the synthetic source is hashed separately.
    "mixste.data.SOURCES",
}
# The values of their fields count, see `settings`, and the methods that a training calls.
SETTINGS = {"mixste.study.run.Run", "mixste.study.run.Data", "mixste.train.Recipe"}
# Their arguments are messages. For a progress bar, all arguments but the iterable.
MESSAGES = {"print", "warn", "set_postfix", "set_postfix_str", "set_description", "set_description_str"}
BARS = {"tqdm", "trange"}

# The default of each setting when it was introduced. A setting with this value is not part of a run's id, so that a new
# setting renames no run. Entries are never changed, so that a new default renames the runs that use it.
FIRST_DEFAULTS = {
    "Data": {
        "keypoints": "gt",
        "rig": None,
        "skeleton": None,
        "subjects": (),
        "actions": (),
        "split": "published",
        "test_cameras": 0,
        "train_frames": 0,
        "stride": 1,
    },
    "Run": {"model": "mixste", "options": (), "start": None, "test_curve": False},
    "Recipe": {
        "loss": (("wmpjpe", 1.0), ("tc", 0.5), ("mpjve", 2.0)),
        "squared": False,
        "weights": "authors",
        "scaled_gradient": True,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "learning_rate": 4e-5,
        "schedule": "epochs",
        "batch_frames": 1024,
        "dropout": 0.0,
        "drop_path": 0.1,
        "attention_scale": "head",
        "embedding_norm": False,
        "interval": None,
        "mirror": True,
        "random_starts": False,
        "by_subject": False,
        "body_shapes": False,
        "measured_bodies": False,
        "new_cameras": False,
    },
}


def settings(value) -> object:
    """A dataclass as a dict of the fields that are not at their first default; any other value as it is."""
    if not is_dataclass(value):
        return value
    first = FIRST_DEFAULTS.get(type(value).__name__, {})
    values = {field.name: (getattr(value, field.name), first.get(field.name, field.default)) for field in fields(value)}
    return {name: settings(one) for name, (one, default) in values.items() if is_dataclass(one) or one != default}


@functools.cache
def fingerprint(*entries: str) -> str:
    """Hash of the code that these definitions go through, see `Code`: each "module:name" or "module:Class.method".

    The same on every version of Python, so that a run made on one machine is found on another. Raises ValueError for a
    definition that is not there.
    """
    return _code().fingerprint(*entries)


@functools.cache
def _code() -> "Code":
    return Code(PACKAGE.parent)


class Code:
    """The source of the package in `folder`, and of the modules that users bring: read once, and never imported."""

    def __init__(self, folder: Path):
        self.modules: dict[str, _Module | None] = {}
        self.folders = {"mixste": folder}  # of the package and of users' modules, by the first part of their names

    def fingerprint(self, *entries: str) -> str:
        return hashlib.sha256(repr(self.reached(*entries)).encode()).hexdigest()[:16]

    def reached(self, *entries: str) -> dict[str, list[str]]:
        """Every definition that the entries refer to, directly or through others: its name, and hashes of its parts."""
        closure = _Closure(self)
        for entry in entries:
            module, _, name = entry.partition(":")
            name, _, member = name.partition(".")
            self._enter(module)
            targets = set(self.resolve(module, (name,)))
            if not targets:
                raise ValueError(f"{entry}: expected {name} in module {module}, found none")
            for target in targets:
                closure.reach(*target)
            closure.mentioned |= {member} - {""}
        closure.complete()
        return closure.hashes()

    def module(self, name: str) -> "_Module | None":
        """A module of the package or of a user; None for any other, and for one that is left out."""
        if name not in self.modules:
            path = None if _left_out(name) else self._path(name)
            self.modules[name] = path and _Module(name, path)
        return self.modules[name]

    def targets(self, module: str, part: "_Part") -> set[tuple[str, str]]:
        """What the names in a part of a module stand for; of annotations, the classes."""
        if part.targets is None:
            meanings = {chain: sorted(self.resolve(module, chain, part.imports)) for chain in part.chains}
            imports = self.module(module).imports
            part.imported = [
                (chain, meanings[chain] or imports[chain[0]])
                for chain in sorted(part.chains)
                if chain[0] in imports and chain[0] not in part.imports and not _all_left_out(imports[chain[0]])
            ]
            called = set().union(*meanings.values())
            annotated = {target for chain in part.annotated for target in self.resolve(module, chain)}
            part.targets = called | {(other, name) for other, name in annotated if self.module(other).members(name)}
        return part.targets

    def resolve(self, module: str, chain: tuple[str, ...], local: dict = {}) -> Iterator[tuple[str, str]]:  # noqa: B006
        """(module, name) of what a dotted name stands for in a module; of all in it, for the module itself.

        Nothing where that lies outside the package and a user's folder. local: imports of the function it occurs in.
        """
        source = self.module(module)
        if source is None:
            return
        if not chain:
            yield from ((module, name) for name in source.definitions)
            return
        name, rest = chain[0], chain[1:]
        imports = local.get(name) or source.imports.get(name, [])
        if name in source.definitions and name not in local:
            yield module, name
        elif not imports:
            yield from self.resolve(f"{module}.{name}", rest)
            imports = [(star, name) for star, _ in source.imports.get("*", [])]
        for other, attribute in imports:
            yield from self.resolve(other, (attribute, *rest) if attribute else rest)

    def has_library_base(self, module: str, name: str) -> bool:
        """Whether a class extends one from outside, which may call any method of it; nn.Module's are known."""
        classes = (one for one in self.module(module).definitions[name] if isinstance(one, ast.ClassDef))
        bases = [chain for one in classes for base in one.bases for chain in _chains(base)]
        return any(chain[-1] != "Module" and not any(self.resolve(module, chain)) for chain in bases)

    def _enter(self, module: str) -> None:
        """Follow a user's module, and its neighbours, from now on."""
        first = module.split(".")[0]
        if first not in self.folders:
            if first == "__main__":
                raise ValueError("expected a network or loss in a file of its own, found one of a notebook or script")
            folder = _folder(first)
            if folder is None:
                raise ValueError(f"{module}: expected {first}.py on Python's import path, found no such file")
            self.folders[first] = folder
            self.modules = {name: module for name, module in self.modules.items() if module}

    def _path(self, name: str) -> Path | None:
        first, *_ = parts = name.split(".")
        folder = self.folders.get(first)
        if folder is None and len(self.folders) > 1:  # a neighbour of a user's module, or installed like any package
            folder = _folder(first)
            beside = {one for module, one in self.folders.items() if module != "mixste"}
            if folder not in beside or folder.name in ("site-packages", "dist-packages"):
                return None
        if folder is None:
            return None
        paths = (folder.joinpath(*parts[:-1], parts[-1] + end) for end in (".py", "/__init__.py"))
        return next((path for path in paths if path.is_file()), None)


class _Module:
    """What a module's statements bind: definitions, by name, and imports.

    Statements that bind nothing are the definition "": it counts with any other of the module.
    """

    def __init__(self, name: str, path: Path):
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, list[tuple[str, str | None]]] = {}  # name -> (module, name in it or None)
        self._parts: dict[tuple[str, str | None], _Part] = {}
        self._members: dict[str, dict[str, list[ast.stmt]]] = {}
        for statement in _Strip().visit(ast.parse(path.read_text(encoding="utf-8"))).body:
            self._add(statement)

    def _add(self, statement: ast.stmt) -> None:
        imports = [] if _is_scope(statement) else _imports(statement, self.package)  # also those under a condition
        for name, target in imports:
            self.imports.setdefault(name, []).append(target)
        names = _bound(statement)
        if not names and not isinstance(statement, ast.Import | ast.ImportFrom):
            first = _extended(statement)  # TABLE["a"] = 1 and TABLE.update(...) go on with a definition
            names = {first if first in self.definitions else ""}
        elif names and not _is_scope(statement) and hasattr(statement, "body"):  # a loop, whatever it changes
            names.add("")
        for name in names:
            self.definitions.setdefault(name, []).append(statement)

    def part(self, name: str, member: str | None = None) -> "_Part":
        """A definition (of a class all but its members), or a member of a class."""
        if (name, member) not in self._parts:
            if member is None:
                statements = [_without_members(statement) for statement in self.definitions[name]]
            else:
                statements = self.members(name)[member]
            self._parts[name, member] = _Part(statements, self.package)
        return self._parts[name, member]

    def members(self, name: str) -> dict[str, list[ast.stmt]]:
        """Of a class, in order; empty for what is no class."""
        if name not in self._members:
            members = self._members[name] = {}
            for one in self.definitions[name]:
                for inner in one.body if isinstance(one, ast.ClassDef) else ():
                    for member in sorted(_bound(inner)):
                        members.setdefault(member, []).append(inner)
        return self._members[name]


class _Part:
    """Some statements: the hash of their outline, and the names that they refer to."""

    def __init__(self, statements: list[ast.stmt], package: str):
        tree = ast.Module(statements, [])
        self.hash = hashlib.sha256(repr(outline(statements)).encode()).hexdigest()[:16]
        self.imports: dict[str, list] = {}  # those within functions
        for name, target in _imports(tree, package):
            self.imports.setdefault(name, []).append(target)
        free = _free(symtable.symtable(ast.unparse(tree), "code", "exec")) | self.imports.keys()
        self.chains = {chain for chain in _chains(tree) if chain[0] in free}
        self.annotated = {chain for node in ast.walk(tree) for chain in getattr(node, "annotated", ())}
        self.targets: set[tuple[str, str]] | None = None  # see `Code.targets`
        self.imported: list = []  # what its names that were imported stand for: another import is other code
        # Attributes, and strings, by which attributes may be asked for; in the body of a class also plain names.
        names = (getattr(node, "attr", None) or getattr(node, "value", None) for node in ast.walk(tree))
        self.mentioned = {name for name in names if isinstance(name, str) and name.isidentifier()}
        if not any(map(_is_scope, statements)):
            self.mentioned |= {chain[0] for chain in self.chains}


class _Closure:
    """The parts of all modules that some entries refer to."""

    def __init__(self, code: Code):
        self.code = code
        self.members: dict[tuple[str, str], set[str]] = {}  # of every definition that was reached, those that count
        self.waiting: set[tuple[str, str, str]] = set()  # members whose names have not been mentioned
        self.mentioned: set[str] = set()

    def complete(self) -> None:
        """Count the members that are mentioned, which may mention others."""
        while ready := {one for one in self.waiting if one[2] in self.mentioned}:
            self.waiting -= ready
            for one in ready:
                self.count(*one)

    def hashes(self) -> dict[str, list[str]]:
        hashes = {}
        for (module, name), members in sorted(self.members.items()):
            source = self.code.module(module)
            parts = {"": source.part(name)} | {
                one: source.part(name, one) for one in source.members(name) if one in members
            }
            hashes[f"{module}.{name}"] = [f"{one} {part.hash} {part.imported}" for one, part in parts.items()]
        return hashes

    def reach(self, module: str, name: str) -> None:
        qualified = f"{module}.{name}"
        if (module, name) in self.members or _left_out(qualified):
            return
        self.members[module, name] = set()
        source = self.code.module(module)
        self.follow(module, source.part(name))
        parents = module.split(".")
        for package in (".".join(parents[:length]) for length in range(1, len(parents) + 1)):  # imported before it
            if (above := self.code.module(package)) and "" in above.definitions:
                self.reach(package, "")
        library = self.code.has_library_base(module, name)
        for member, statements in source.members(name).items():
            if qualified not in SETTINGS and (library or _is_implicit(member)):
                self.count(module, name, member)
            elif qualified not in SETTINGS or (_is_scope(statements[0]) and not _is_implicit(member)):
                self.waiting.add((module, name, member))

    def count(self, module: str, name: str, member: str) -> None:
        self.members[module, name].add(member)
        self.follow(module, self.code.module(module).part(name, member))

    def follow(self, module: str, part: _Part) -> None:
        self.mentioned |= part.mentioned
        for target in self.code.targets(module, part):
            self.reach(*target)


class _Strip(ast.NodeTransformer):
    """Leaves of a syntax tree what is computed: no docstring, no annotation, no message.

    The dotted names in an annotation stay beside the tree, in the node's `annotated`.
    """

    def _body(self, node):
        node.body = node.body[bool(node.body) and _is_text(node.body[0]) :] or [ast.Pass()]
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = _body

    def visit_FunctionDef(self, node):
        node.annotated = _annotated(node.returns)
        node.returns = None
        return self._body(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node):
        node.annotated = _annotated(node.annotation)
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        plain = ast.Assign([node.target], node.value or ast.Constant(...), lineno=node.lineno)
        plain.annotated = _annotated(node.annotation)
        return self.generic_visit(plain)

    def visit_Raise(self, node):
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Assert(self, node):
        node.msg = None
        return self.generic_visit(node)

    def visit_Call(self, node):
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        if name in MESSAGES:
            node.args, node.keywords = [], []
        elif name in BARS:
            node.args, node.keywords = node.args[: 1 if name == "tqdm" else None], []
        return self.generic_visit(node)


def outline(node):
    """A syntax tree as plain values, without the empty fields that versions of Python add."""
    if isinstance(node, list):
        return [outline(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    filled = ((name, outline(value)) for name, value in ast.iter_fields(node) if value not in (None, []))
    return [type(node).__name__, *filled]


def _folder(module: str) -> Path | None:
    """The folder on Python's import path in which a module lies, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.has_location:
        return None
    path = Path(spec.origin)
    return path.parent.parent if path.name == "__init__.py" else path.parent


def _left_out(name: str) -> bool:
    return any(name == left or name.startswith(f"{left}.") for left in LEFT_OUT)


def _all_left_out(imports: list[tuple[str, str | None]]) -> bool:
    return all(_left_out(f"{module}.{name}") for module, name in imports)


def _extended(statement: ast.stmt) -> str:
    """The name of what a statement changes by a subscript, an attribute or a method; empty for any other."""
    changed = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        changed = [statement.value.func]
    if len(changed) > 1 or not isinstance(changed[0], ast.Subscript | ast.Attribute):
        return ""
    return next(_chains(changed[0]), ("",))[0]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _without_members(statement: ast.stmt) -> ast.stmt:
    if not isinstance(statement, ast.ClassDef):
        return statement
    header = copy.copy(statement)
    header.body = [inner for inner in statement.body if not _bound(inner)] or [ast.Pass()]
    return header


def _is_scope(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _is_implicit(member: str) -> bool:
    """Whether a member of a class is called without being named: by Python, or by PyTorch."""
    dunder = member.startswith("__") and member.endswith("__")
    return dunder or member in ("backward", "setup_context") or hasattr(torch.nn.Module, member)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement defines; imports apart."""
    if _is_scope(statement):
        return {statement.name}
    if isinstance(statement, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.Lambda):
        return set()
    names = {statement.id} if isinstance(statement, ast.Name) and isinstance(statement.ctx, ast.Store) else set()
    return names.union(*map(_bound, ast.iter_child_nodes(statement)))


def _imports(tree: ast.AST, package: str) -> list[tuple[str, tuple[str, str | None]]]:
    """(name, (module, name in it)) of all import statements; of `import a.b` and `import a as b`, (name, (a, None))."""
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name if alias.asname else alias.name.split(".")[0]
                imports.append((alias.asname or first, (first, None)))
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                imports.append((alias.asname or alias.name, (module, alias.name)))
    return imports


def _chains(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """Every dotted name in a syntax tree: ("np", "linalg", "norm")."""
    attributes, inner = [], node
    while isinstance(inner, ast.Attribute):
        attributes.append(inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield (inner.id, *reversed(attributes))
    else:
        for child in ast.iter_child_nodes(node):
            yield from _chains(child)


def _annotated(annotation: ast.AST | None) -> set[tuple[str, ...]]:
    """The dotted names in an annotation, also in one that is in quotes."""
    names = set(_chains(annotation)) if annotation else set()
    for node in ast.walk(annotation) if annotation else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError):  # shapes are in quotes too
                names |= set(_chains(ast.parse(node.value, mode="eval")))
    return names


def _free(table: symtable.SymbolTable) -> set[str]:
    """The names that a piece of code takes from its module."""
    outermost = table.get_type() == "module"
    names = {symbol.get_name() for symbol in table.get_symbols() if outermost or symbol.is_global()}
    return names.union(*map(_free, table.get_children()))
