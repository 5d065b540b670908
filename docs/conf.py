"""How the pages are built: `sphinx-build -W -n --keep-going -b html docs build/site`."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
sys.path.insert(0, str(HERE.parent))

project = "smoothjax"
author = "The smoothjax developers"
copyright = "The smoothjax developers"
release = re.search(
    r'^__version__ = "(.*)"', (HERE.parent / "smoothjax" / "_version.py").read_text(), re.M
)[1]
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
    "sphinx_design",
    # Of docs/_extensions.
    "mathml",
    "public_names",
    "tests_of_formulas",
]
exclude_patterns = ["_extensions", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"smoothjax {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#005a8e"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#7cc4ee"},
}

# Pages are Markdown, `$` is mathematics in them. Notebooks show what is committed: nothing is run.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True

bibtex_bibfiles = ["../smoothjax/references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

# Prompts and outputs of examples are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autoclass_content = "both"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
maximum_signature_line_length = 88
# A page of all sources is megabytes: that of the library's own is enough.
viewcode_line_numbers = False

# Names that are no targets of this site, and why. References that pages write begin with `smoothjax.` and are all checked.
nitpick_ignore_regex = [
    # Parts of annotations: shapes of jaxtyping, and types of others, whose documentation is on other sites, which a build
    # without a network does not ask.
    (r"py:(class|obj)", r"(?!smoothjax\.).*"),
    # Bases and types that are not offered, and so have no entry.
    (r"py:(class|obj)", r"smoothjax\.(.*\.)?_.*"),
]


def _demoted(app, docname, source):
    """The page of measurements has a title for each machine: one level down, so that it is one page in the contents."""
    if docname == "performance":
        title, rest = source[0].split("\n", 1)
        source[0] = f"{title}\n{re.sub(r'^#', '##', rest, flags=re.M)}"


def setup(app):
    app.connect("source-read", _demoted)
