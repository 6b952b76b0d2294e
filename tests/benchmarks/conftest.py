"""Benchmarks are not part of the test suite: pytest must not import anything here, also not for doctests."""

collect_ignore_glob = ["*.py", "peers/*"]
