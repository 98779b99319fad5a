"""What Sphinx needs to know; the sources beside it are put there by `make site`. Nothing is fetched from elsewhere."""

import re

project = "Value FULCRA, reproduced"
html_title = project
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["extra"]
html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"
html_context = {"default_mode": "auto"}
html_extra_path = ["extra"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"use_download_button": False, "use_fullscreen_button": False, "show_navbar_depth": 1,
                      "navbar_persistent": [],
                      "show_toc_level": 2}
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js = {}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
toc_object_entries = False
pygments_style = "a11y-high-contrast-light"
suppress_warnings = ["myst.header"]   # a cell of a notebook may begin with a heading of the second level


def setup(app):
    """Keep the bars of |v - t| in docstrings from being read as substitutions."""
    app.connect("autodoc-process-docstring", lambda *given: given[-1].__setitem__(
        slice(None), [re.sub(r"(?<!\|)\|([^|]+)\|", r"\\|\1\\|", line) for line in given[-1]]))
