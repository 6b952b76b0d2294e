"""Doctests of pages are collected here; what builds the site is not, because Sphinx may be missing."""

collect_ignore = ["conf.py", "extensions", "gallery", "_made"]
