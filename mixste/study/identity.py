"""The fingerprints of code by which runs are named."""

import ast
import functools
import hashlib

from mixste.io.install import PACKAGE

# Code that a run's outcome depends on, besides what made its data, which has a fingerprint of its own. Not `accel`: it
# computes what `model` does up to rounding, which tests hold it to, and which another GPU or another PyTorch changes
# too; a faster kernel leaves GPU days of runs what they are.
CODE = (
    *("model", "networks/videopose3d", "networks/poseformer", "losses", "metrics", "train", "predict", "evaluate"),
    *("skeleton", "camera", "data/windows", "data/augment"),
)

SYNTHETIC_CODE = ("skeleton", "camera", "data/cameras", "data/virtual", "data/sources/synthetic", "data/splits")


@functools.cache
def code_fingerprint(modules: tuple[str, ...]) -> str:
    """Hash of what the code of some modules does: comments, docstrings and formatting do not count.

    The same on every version of Python, so that a run made on one machine is found on another.
    """
    digest = hashlib.sha256()
    for name in modules:
        digest.update(_code((PACKAGE / f"{name}.py").read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def _code(text: str) -> str:
    return repr(_outline(ast.parse(text)))


def _outline(node):
    """A syntax tree as plain values, without docstrings, and without the empty fields that versions of Python add."""
    if isinstance(node, list):
        return [_outline(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        fields["body"] = body[1:]
    return [
        type(node).__name__,
        *((name, _outline(value)) for name, value in fields.items() if value not in (None, [])),
    ]
