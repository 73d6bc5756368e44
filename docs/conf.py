"""Settings of the site, which `python docs/build.py` makes: MyST-NB shows the notebooks, autodoc the package.

Sphinx, because it checks every reference between guides, notebooks and the API, and works without a network. MkDocs
with Material is quicker to set up, but its end of life is announced, and its notebooks load scripts from a CDN.
"""

import inspect
import operator
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

sys.path.insert(0, str(Path(__file__).parent))
import api

import mixste

project, release, author = "mixste", mixste.__version__, "the authors of mixste"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # notebooks are shown as they were executed
nb_merge_streams = True
html_theme = "furo"
html_title = "mixste"
html_static_path = ["static"]
html_extra_path = [str(Path(__file__).parents[1] / ".cache" / "site-extra")]  # viewers, as they are
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_math_renderer = "mathml"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
    "ignore-module-all": True,
}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True


def _docstring(app, what, name, thing, options, lines):
    """Docstrings are in Markdown, autodoc expects reStructuredText."""
    lines[:] = api.restructured("\n".join(lines), api.module_of(name)).split("\n")


def _formula(display: bool):
    """Formulas as MathML, which browsers show without a script."""

    def visit(writer, node):
        formula = tex2mathml(node.astext(), as_block=display)
        writer.body.append(f"<div>{formula}</div>" if display else formula)
        raise nodes.SkipNode

    return visit, None


def _source_of(app, module: str, name: str) -> str | None:
    """The module with the source of a member. A value, as the default of `Run.recipe`, is not where its class is."""
    try:
        member = operator.attrgetter(name)(sys.modules[module])
    except AttributeError:  # a field without a default
        return None
    return None if inspect.isclass(member) or inspect.isroutine(member) or isinstance(member, property) else module


def setup(app):
    app.connect("viewcode-follow-imported", _source_of)
    app.connect("autodoc-process-docstring", _docstring)
    app.add_html_math_renderer("mathml", _formula(False), _formula(True))
