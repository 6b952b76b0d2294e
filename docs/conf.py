"""How the site is built: `sphinx-build -W --keep-going -n docs build/site`, with the extra `docs`.

Pages are plain Markdown that reads well in the repository too. `extensions/` adds to them what only a build can know:
what their code prints and draws, the API reference, and pages for files that lie outside this folder.
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "nnsight_vlm"
author = "The nnsight_vlm authors"
project_copyright = author
release = version_of("nnsight-vlm")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "extensions.outer_files",
    "extensions.page_code",
    "extensions.reference",
    "extensions.recipe_frames",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
exclude_patterns = ["extensions", "_made"]

# files outside of this folder that are pages of the site; their page here is a stub that the file takes the place of
outer_pages = {
    "readme": "README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "shapes": "nnsight_vlm/shapes/README.md",
    "shapes-smol": "nnsight_vlm/shapes/smol/README.md",
}
outer_links = {"examples": "gallery/index.rst"}

# Markdown
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a page may begin a part with a third heading

# docstrings
default_role = "literal"
autodoc_inherit_docstrings = False  # an override without words of its own is part of how the package works inside
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_custom_sections = [("Attributes", "params_style")]

# examples, which run here
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "subsection_order": [f"../examples/{name}" for name in ("whats_in_the_image", "other_papers", "your_own")],
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "image_scrapers": ("extensions.gallery.drawn",),
    "reset_modules": ("extensions.gallery.begin",),
    "capture_repr": ("_repr_html_",),
    "nested_sections": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 10**6,
    "write_computation_times": False,
}

# the page
html_theme = "furo"
html_title = "nnsight_vlm"
html_static_path = ["_static", *map(str, Path(__file__).parent.glob("pictures/*.png"))]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# names in signatures that no page of this site explains: the build asks no network for other projects' pages
nitpick_ignore_regex = [
    ("py:.*", r"(torch|PIL|np|numpy|pd|pandas|matplotlib|nnsight|transformers|pathlib|collections|typing|random)\..*"),
    # kinds of arguments that docstrings tell in words, and are no names of the package
    ("py:class", r"(Where|Layers|Heads|Cutting|StateSite|Model|Attribute|TrainingFamily)"),
    # what values are made of inside, with which the package works and a user does not
    ("py:class", r"nnsight_vlm\.(families|grids|lowering|plots|prompts|questions|remote|report|specs|studies)\..*"),
]
