"""Settings of the documentation: python -m sphinx -W -b html docs docs/_build/html.

Notebooks run in the build, which keeps their outputs in docs/_build/.jupyter_cache; JSPARSE_QUICK=1
makes them short.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import jsparse  # noqa: E402

_project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
project, author, release = _project["name"], "The jsparse authors", jsparse.__version__
copyright = author
repository = _project.get("urls", {}).get("Repository", "")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "sphinx_copybutton",
    "mathml",
    "public",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "**/jupyter_execute"]
default_role = "py:obj"
pygments_style = "default"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
html_math_renderer = "mathml"
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures stay short; arguments are described in words
autodoc_class_signature = "mixed"
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 72
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # they name private files; attributes are described in words

html_theme = "sphinx_book_theme"
html_title = "jsparse"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 1,
}
if repository:
    html_theme_options |= {
        "repository_url": repository,
        "path_to_docs": "docs",
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
