"""Random runs, proofs and generations of one prompt, in every family, against the reference."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import zoo

from fuzz.paths import MEMBERS
from fuzz.suite import asked, parameters


@pytest.mark.float64
@pytest.mark.parametrize("name, mode, seed", parameters("run", "verify", "generate"))
def test_a_prompt_alone_is_answered_as_the_reference_answers(name, mode, seed):
    asked(name, mode, seed)


@pytest.mark.parametrize("name", ["reference", "paths", "places"])
def test_the_reference_shares_no_code_with_the_package(name):
    tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [module for module in imported if module.partition(".")[0] in ("nnsight", "nnsight_vlm", "zoo")]


def test_every_member_of_the_zoo_is_asked():
    assert set(MEMBERS) == set(zoo.ZOO)
