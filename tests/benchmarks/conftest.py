"""Benchmarks are never part of the test suite: pytest is to import nothing here, doctests neither."""

collect_ignore_glob = ["*.py", "peers/*"]
