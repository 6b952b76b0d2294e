"""Importing the package, and asking the command line for help, load nothing heavy; told by modules, not by clocks."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"PIL", "greenlet", "httpx", "matplotlib", "nnsight", "numpy", "pandas", "pyarrow", "scipy", "torch"}
HEAVY |= {"transformers"}


def modules_after(code):
    """The modules that a fresh Python has loaded when it has run some code."""
    end = "\nimport sys; print('\\n'.join(sorted(sys.modules)), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, check=True)
    return set(run.stderr.split("\n"))


def test_the_package_itself_loads_nothing_heavy():
    assert not modules_after("import nnsight_vlm") & set(HEAVY)


def test_everything_public_loads_little_beside_torch_transformers_and_nnsight():
    """Beside the rooms that draw: no image processors or models of transformers, and no plots."""
    three = modules_after("import torch, transformers, nnsight")
    names = "[getattr(nv, name) for name in nv.__all__ if name not in ('plots', 'report')]"
    more = modules_after(f"import torch, transformers, nnsight, nnsight_vlm as nv\n{names}") - three
    families = {name for name in more if name.startswith("transformers.models.")} - {"transformers.models.auto"}
    heavy = {name for name in more if name.startswith(("transformers.image_", "matplotlib"))}
    assert not heavy | {name for name in families if not name.startswith("transformers.models.auto.")}


def test_the_list_for_type_checkers_is_the_list_that_is_fetched():
    import ast
    import inspect

    import nnsight_vlm as nv

    tree = ast.parse(inspect.getsource(nv))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported = {(node.module, alias.name) for node in guarded.body for alias in node.names}
    fetched = {(module, name) for module, names in nv._NAMES_OF.items() for name in names}
    modules = {(None, name) for name in nv.__all__ if name not in nv._MODULE_OF}
    assert imported == fetched | modules
    assert {name for _, name in imported} == set(nv.__all__)


COMMAND_LINE = """
import sys
from nnsight_vlm.cli import app
try:
    app(sys.argv[1:])
finally:
    print("imported:", *sorted({module.partition(".")[0] for module in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["run", "--help"], ["--version"]])
def test_the_command_line_explains_itself_without_heavy_imports(arguments):
    done = subprocess.run([sys.executable, "-c", COMMAND_LINE, *arguments], capture_output=True, text=True, check=True)
    imported = done.stderr.rpartition("imported:")[2].split()
    assert done.stdout.strip() and "nnsight_vlm" in imported
    assert not set(HEAVY) & set(imported)
