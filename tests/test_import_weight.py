"""Help and version answer without the libraries that models need: what was imported is looked at, not a clock."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("PIL", "matplotlib", "nnsight", "numpy", "pandas", "torch", "transformers")

COMMAND_LINE = """
import sys
from nnsight_vlm.cli import app
try:
    app(sys.argv[1:])
finally:
    print("imported:", *sorted({module.partition(".")[0] for module in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["--version"]])
def test_the_command_line_explains_itself_without_heavy_imports(arguments):
    done = subprocess.run([sys.executable, "-c", COMMAND_LINE, *arguments], capture_output=True, text=True, check=True)
    imported = done.stderr.rpartition("imported:")[2].split()
    assert done.stdout.strip() and "nnsight_vlm" in imported
    assert not set(HEAVY) & set(imported)
