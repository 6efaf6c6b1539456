"""Sphinx configuration."""

project = "tgibench"
author = "the tgibench authors"
copyright = "the tgibench authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
