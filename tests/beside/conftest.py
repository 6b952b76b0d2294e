"""Programs of other tools, which pytest must not import, also not for doctests."""

collect_ignore_glob = ["*.py"]
