"""The documentation site: `make docs` builds it from the pages of the repository, without a network.

The source folder is the root of the repository, so a link works here as it does in a view of the files.
"""

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "toylab"
copyright = "the toylab authors"
root_doc = "README"
include_patterns = ["README.md", "C*.md", "docs/**.md", "notebooks/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "runs"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]

# Pages: headings have the anchors of a repository's view; `$` delimits formulas in the lessons.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # the stored outputs are shown
nb_merge_streams = True

# Reference: docstrings are in the style of Google, with the single backticks of Markdown.
default_role = "code"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # of `nn.Module`, a note on `forward`
autosummary_generate = False
napoleon_custom_sections = [("Attributes", "params_style")]  # the fields of a dataclass are its parameters
napoleon_use_rtype = False
add_module_names = False  # it is in the heading
maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "toylab"
html_math_renderer = "mathml"
html_copy_source = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]

COLUMNS = re.compile(r" *\S+ {2,}\S")


def append_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """The README is the first page; what the site lists beside it would be noise in the repository."""
    if page == root_doc:
        source[0] += (Path(__file__).parent / "contents.txt").read_text(encoding="utf-8")


def keep_links(app: Sphinx, path: Path, page: str, source: list[str]) -> None:
    """Links of an included part start at the page that it is from: `/` is the root of the repository."""
    source[0] = re.sub(r"\]\((?=[\w./-]+\.(?:md|ipynb))", f"](/{path.parent}/", source[0])


def as_restructured(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are Markdown: indented paragraphs, and rows with aligned columns, are literal blocks."""
    paragraphs = re.split(r"\n{2,}", "\n".join(lines))
    for i, paragraph in enumerate(paragraphs):
        rows = paragraph.splitlines()
        if all(row.startswith("    ") for row in rows) or (len(rows) > 1 and all(COLUMNS.match(row) for row in rows)):
            paragraphs[i] = "::\n\n" + "\n".join(f"    {row}" for row in rows)
        else:
            paragraphs[i] = re.sub(r"`[^`]+`", r"\g<0>\\ ", paragraph.replace("|", r"\|"))
    lines[:] = "\n\n".join(paragraphs).splitlines()


def rejoin(app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Napoleon takes the words before the colon in the docstring of an attribute for its type."""
    while lines and not lines[-1]:
        lines.pop()
    if lines and lines[-1].startswith(":type: "):
        lines[0] = f"{lines.pop().removeprefix(':type: ')}: {lines[0]}"


def show_factories(app: Sphinx, kind: str, name: str, thing: object, options: object, arguments: str, returns: str):
    """A default that a function makes prevents the signature from being read."""
    return (arguments.replace("<factory>", "..."), returns) if arguments else None


def mathml(block: bool):
    """Formulas as MathML, which browsers draw without a script."""

    def visit(writer, node: nodes.Element) -> None:
        writer.body.append(tex2mathml(node.astext().replace(r"\dots", r"\ldots"), as_block=block))
        raise nodes.SkipNode

    return visit


def copy_first_page(app: Sphinx, error: Exception | None) -> None:
    """Browsers open index.html."""
    if not error and app.builder.format == "html":
        (app.outdir / "index.html").write_bytes((app.outdir / f"{root_doc}.html").read_bytes())


def setup(app: Sphinx) -> None:
    """Connect the hooks."""
    app.connect("source-read", append_contents)
    app.connect("include-read", keep_links)
    app.connect("autodoc-process-docstring", as_restructured, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", rejoin, priority=600)
    app.connect("autodoc-process-signature", show_factories)
    app.connect("build-finished", copy_first_page)
    app.add_html_math_renderer("mathml", (mathml(False), None), (mathml(True), None))
