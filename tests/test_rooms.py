"""Wings know only of the wings before them, and no module bears the name of a public function."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import nnsight_vlm as nv

PACKAGE = Path(nv.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
WINGS = {
    "showing": "text of others, as exactly its characters",
    "errors": "what is raised",
    "arguments": "what a user hands over, checked where it comes in",
    "storage": "files that are there as a whole or not at all",
    "statistics": "means over images, their intervals, verdicts",
    "notebook": "how values look in a notebook",
    "device": "the code that travels to the model by source",
    "versions": "which versions of other packages are known, and what is called otherwise in some",
    "shapes": "the trained models inside the package, and their world",
    "families": "one row a family: where each part lives; the one view of a model",
    "identity": "what makes models, prompts and settings the same",
    "opening": "what lies in a folder or on the hub, and the processor made of it",
    "loading": "`load`",
    "grids": "which image token saw which pixels",
    "prompts": "which token is what",
    "lowering": "from names to places: what an intervention means in one model, at one placement",
    "specs": "what a user can ask for, as frozen values",
    "remote": "what is asked of a model, here and on a server",
    "execution": "check, capture, run, generate, install, prove",
    "sweeping": "many variants of one prompt in few forwards",
    "gradients": "what a small change would do: estimates of patches, saliency",
    "questions": "questions about pictures, from a table",
    "studies": "what all recipes share: items in, controls, journals, frames out",
    "recipes": "analyses of published papers, one a file",
    "citing": "a recipe's frame as a paragraph of a methods section",
    "plots": "figures of their frames",
    "viewing": "the page on which words and patches point at each other",
    "report": "the paper's claims, measured and written down",
    "serving": "a server for a live page: one token, one model, answers told word by word",
    "commands": "any recipe from the command line, into a folder",
    "cli": "the command line",
}
"""The wings in the order in which they may know of each other; docs/design.md shows this list."""
ORDER = list(WINGS)
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def wing_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def dotted(path):
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


ALL_DOTTED = {dotted(path) for path in MODULES}


def typing_only(tree):
    """Imports under `if TYPE_CHECKING:`."""
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    ]
    return {id(inner) for node in guarded for part in node.body for inner in ast.walk(part)}


@functools.cache
def imports(path):
    """`(level, module, names)` of every import in a file."""
    return tuple(_imports(path))


def _imports(path):
    tree = ast.parse(path.read_text())
    skipped = typing_only(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in skipped:
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            yield node.level, node.module or "", [alias.name for alias in node.names]


def modules_known(path):
    """The modules of this package that a file imports, by their dotted names inside the package."""
    here = list(path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for level, module, names in imports(path):
        if level:
            base = [*here[: len(here) - level + 1], *([module] if module else [])]
        elif module.split(".")[0] == "nnsight_vlm":
            base = module.split(".")[1:]
        else:
            continue
        target = ".".join(base)
        inside = {f"{target}.{name}".lstrip(".") for name in names} & ALL_DOTTED
        found |= inside or {target}
    return found - {""}


@pytest.mark.parametrize("path", [path for path in MODULES if not path.stem.startswith("__") or path.parent != PACKAGE])
def test_a_file_knows_only_of_wings_before_its_own(path):
    wing = wing_of(path)
    assert wing in WINGS, f"{wing} has no place in the order of the wings"
    known = {module.split(".")[0] for module in modules_known(path)} - {wing}
    assert known <= set(ORDER[: ORDER.index(wing)])


def test_there_are_no_circles_inside_a_wing():
    known = {dotted(path): modules_known(path) - {dotted(path)} for path in MODULES if path.parent != PACKAGE}
    done, inside = set(), []

    def visit(module):
        assert module not in inside, " -> ".join([*inside[inside.index(module) :], module])
        if module in done or module not in known:
            return
        inside.append(module)
        for other in sorted(known[module]):
            if other.split(".")[0] == module.split(".")[0]:
                visit(other)
        done.add(inside.pop())

    for module in sorted(known):
        visit(module)


def test_the_order_of_the_wings_is_the_one_in_the_design():
    lines = [f"{number}. `{wing}`: {what}" for number, (wing, what) in enumerate(WINGS.items(), 1)]
    assert "\n".join(lines) in DESIGN.read_text(), "docs/design.md must show:\n" + "\n".join(lines)


def test_only_wings_that_trace_load_or_send_know_nnsight():
    """Beside the name of an error that they raise."""
    using = {
        wing_of(path)
        for path in MODULES
        for _, module, names in imports(path)
        if module.split(".")[0] == "nnsight" and not all(name.endswith("Error") for name in names or [""])
    }
    assert using <= {"device", "execution", "families", "loading", "remote"}


def test_the_code_that_travels_needs_torch_and_nnsight_only():
    for path in (PACKAGE / "device").glob("*.py"):
        outside = {module.split(".")[0] for level, module, _ in imports(path) if level == 0}
        assert outside <= {"__future__", "torch", "nnsight"}


def test_only_the_view_of_a_model_touches_what_nnsight_keeps_to_itself():
    private = {"_module", "_edits", "_remoteable_get_env", "_remote_backend"}
    for path in set(MODULES) - {PACKAGE / "families" / "model_view.py"} - set((PACKAGE / "device").glob("*.py")):
        tree = ast.parse(path.read_text())
        touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not touched & private, path
        nnsights = [names for level, module, names in imports(path) if not level and module.startswith("nnsight.")]
        assert not [name for names in nnsights for name in names if name.startswith("_")], path


def test_no_module_bears_the_name_of_a_public_function():
    packages = [nv.recipes, nv.plots, nv.remote, nv.shapes, nv.report]
    modules = {path.stem for path in MODULES}
    for space in (nv, nv.recipes):
        functions = {name for name in space.__all__ if getattr(space, name) not in packages and not name[0].isupper()}
        assert not functions & modules - {"statistics"}  # a wing
    for space in packages:
        assert not {path.stem for path in MODULES if wing_of(path) == space.__name__.split(".")[-1]} & set(
            space.__all__
        )


def test_every_public_name_is_there_and_every_file_says_what_it_is():
    assert len(nv.__all__) == len(set(nv.__all__)) > 20
    assert all(hasattr(nv, name) for name in nv.__all__)
    assert all(ast.get_docstring(ast.parse(path.read_text())) for path in MODULES)


def test_files_are_rooms_and_not_halls():
    assert not [path for path in MODULES if len(path.read_text().splitlines()) > 300 and path.name != "table.py"]


def test_no_wing_asks_what_kind_of_model_it_has():
    for path in set(MODULES) - {PACKAGE / "families" / "lookup.py"}:  # which finds a model's row
        compared = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare)]
        assert not [
            ast.unparse(node)
            for node in compared
            if "model_type" in ast.unparse(node.left) and isinstance(node.ops[0], ast.Eq)
        ]
