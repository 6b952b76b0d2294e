"""Importing the package, and asking the command line for help, load nothing heavy; told by modules, not by clocks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"PIL", "greenlet", "httpx", "matplotlib", "nnsight", "numpy", "pandas", "pyarrow", "scipy", "torch"}
HEAVY |= {"transformers"}
ASKED = {"help": ["--help"], "report": ["report", "--help"], "run": ["run", "--help"], "version": ["--version"]}
LIGHT = """
import contextlib, io, json, sys

def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules})

import nnsight_vlm
found = {"package": [0, "", loaded()]}
from nnsight_vlm.cli import app
for name, arguments in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            app(arguments)
        except SystemExit as ended:
            found[name] = [ended.code, printed.getvalue(), loaded()]
print(json.dumps(found))
"""
PUBLIC = """
import json, sys
import torch, transformers, nnsight
three = set(sys.modules)
import nnsight_vlm as nv
[getattr(nv, name) for name in nv.__all__ if name not in ("plots", "report")]
print(json.dumps(sorted(set(sys.modules) - three)))
"""


def told(code, *arguments):
    """What a fresh Python prints as JSON."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def light():
    """Of the import of the package, and then of each command: its exit code, its words and all that is loaded then."""
    return told(LIGHT, json.dumps(ASKED))


def test_the_package_itself_loads_nothing_heavy(light):
    _, _, imported = light["package"]
    assert "nnsight_vlm" in imported and not HEAVY & set(imported)


@pytest.mark.parametrize("name", ASKED)
def test_the_command_line_explains_itself_without_heavy_imports(name, light):
    code, printed, imported = light[name]
    assert code == 0 and printed.strip() and "typer" in imported
    assert not HEAVY & set(imported)


def test_everything_public_loads_little_beside_torch_transformers_and_nnsight():
    """Beside the rooms that draw: no image processors or models of transformers, and no plots."""
    more = told(PUBLIC)
    assert "nnsight_vlm.execution.forward" in more
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
