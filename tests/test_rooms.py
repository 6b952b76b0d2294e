"""Rooms know only of the rooms before them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nnsight_vlm as nv

PACKAGE = Path(nv.__file__).parent
ORDER = """
errors files families layers grids kernels readouts runner rows roles spelling prompts positions pictures encoding
layouts sites scope blind plan caches wire traces interventions reads starts prefixes memory shapes models remote engine
verify frames passes sweep recipes plots report cli __main__
"""
ORDERED = ORDER.split()
ROOMS = sorted(
    path.stem if path.suffix else path.name
    for path in PACKAGE.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
)


def files(room):
    return sorted((PACKAGE / room).rglob("*.py")) if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]


def typing_only(tree):
    """Imports under `if TYPE_CHECKING:`."""
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    ]
    return {id(inner) for node in guarded for inner in ast.walk(node)}


def imports(path):
    """`(level, module, names)` of every import in a file."""
    tree = ast.parse(path.read_text())
    skipped = typing_only(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in skipped:
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            yield node.level, node.module or "", [alias.name for alias in node.names]


def known_of(room):
    """The rooms of this package that a room imports."""
    found = set()
    for path in files(room):
        depth = len(path.relative_to(PACKAGE).parts)
        for level, module, names in imports(path):
            if level == depth:
                found |= {module.split(".")[0]} if module else set(names)
            elif level == 0 and module.split(".")[0] == "nnsight_vlm":
                found |= {module.split(".")[1]} if "." in module else set(names)
    return found - {room}


@pytest.mark.parametrize("room", [room for room in ROOMS if not room.startswith("__")])
def test_a_room_knows_only_of_rooms_before_it(room):
    assert room in ORDERED, f"{room} has no place in the order of the rooms"
    before = set(ORDERED[: ORDERED.index(room)])
    assert known_of(room) <= ({"errors"} if room == "shapes" else before)


def test_only_rooms_that_trace_load_or_send_know_nnsight():
    """Beside the name of an error that they raise."""
    using = {
        room
        for room in ROOMS
        for path in files(room)
        for _, module, names in imports(path)
        if module.split(".")[0] == "nnsight" and not all(name.endswith("Error") for name in names or [""])
    }
    assert using <= {"__init__", "traces", "runner", "models", "wire", "remote"}


def test_the_code_that_travels_needs_torch_and_nnsight_only():
    for room in ("kernels", "readouts", "runner"):
        outside = {module.split(".")[0] for level, module, _ in imports(PACKAGE / f"{room}.py") if level == 0}
        assert outside <= {"__future__", "torch", "nnsight"}


def test_every_public_name_is_there_and_every_file_says_what_it_is():
    assert len(nv.__all__) == len(set(nv.__all__)) > 20
    assert all(hasattr(nv, name) for name in nv.__all__)
    assert all(ast.get_docstring(ast.parse(path.read_text())) for room in ROOMS for path in files(room))


def test_no_room_asks_what_kind_of_model_it_has():
    for room in ROOMS:
        for path in set(files(room)) - {PACKAGE / "families" / "lookup.py"}:  # which finds a model's row
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare)]
            assert not [
                ast.unparse(node)
                for node in calls
                if "model_type" in ast.unparse(node.left) and isinstance(node.ops[0], ast.Eq)
            ]
