"""How Sphinx builds the documentation site: `sphinx-build -W -b html docs build/site` (docs/README.md)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from llmsched import __version__ as release

project = "llmsched"
author = "the llmsched developers"
project_copyright = author
version = release.partition("+")[0]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings in the style of NumPy
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "public_api",  # ours: docs/_ext
    "links_out",
]
exclude_patterns = ["README.md", "_build"]  # the list of pages for who reads in the repository; index.md includes it
source_suffix = {".md": "markdown"}
root_doc = "index"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "py:obj"  # `Result.work` in a docstring: a link if there is such an entry, else code
add_module_names = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("npt.ArrayLike", "FloatArray", "IntArray", "BoolArray")}
autodoc_inherit_docstrings = False
napoleon_use_ivar = True  # attributes as a list, not as entries of their own
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "llmsched"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/logo.svg"
html_context = {"default_mode": "auto"}  # light or dark as the system is
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "llmsched", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"changelog": [], "gallery": []}
copybutton_exclude = ".linenos, .gp, .go"
