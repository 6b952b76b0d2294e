"""The pages of docs/coming-from: the programs and tables in them, as the files of this folder have them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beside.tools import TOOLS
from page_tables import markdown

HERE = Path(__file__).parent
BASELINE = HERE.parent / "benchmarks" / "baseline.json"
PAGES = HERE.parent.parent / "docs" / "coming-from"


def program_text(name: str) -> str:
    """A program as its page shows it: without its docstring, and without what runs it."""
    source = (HERE / f"study_{name}.py").read_text()
    lines = source.splitlines(keepends=True)
    docstring, *_, last = ast.parse(source).body
    return "".join(lines[docstring.end_lineno : last.lineno - 1]).strip() + "\n"


def code_lines(text: str) -> int:
    """How many lines of a program are code: no blank lines, comments and docstrings."""
    tree = ast.parse(text)
    told = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, node.end_lineno + 1)
    }
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in told]
    return sum(bool(line) and not line.startswith("#") for line in lines)


HEADER = ("tool", "versions", "opens", "numbers", "lines", "forwards' worth of time", "seconds", "same numbers")


def row(name: str, measured: Mapping[str, Any]) -> tuple[str, ...]:
    """The line of a tool in the tables."""
    tool, found = TOOLS[name], measured["tools"][name]
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items() if package != "torch")
    title = f"[{tool.title}]({tool.page})" if tool.page != "README.md" else tool.title
    if "error" in found:
        return title, versions, "", "", str(found["lines"]), "", "", found["error"]
    forwards, total = found["forwards"], len(measured["exact"])
    return (
        title,
        versions,
        tool.opens,
        f"{found['conditions']} of {total}",
        str(found["lines"]),
        f"{forwards['median']:.1f} [{forwards['least']:.1f}..{forwards['most']:.1f}]",
        f"{found['seconds']['median']:.2f}",
        f"{'yes' if found['agrees'] else 'NO'}, {found['difference']:.0e}",
    )


def table(names: list[str], measured: Mapping[str, Any]) -> str:
    """The table of some tools, in Markdown."""
    return markdown(HEADER, [row(name, measured) for name in names])


def page_text(path: Path, measured: Mapping[str, Any]) -> str:
    """A page with its tables and programs as they are now."""
    text = path.read_text()
    every = list(TOOLS) if path.name == "README.md" else ["ours", *(n for n in TOOLS if TOOLS[n].page == path.name)]
    text = TABLE.sub(lambda found: f"{found[1]}\n{table(every, measured)}\n", text)
    text = FORWARDS.sub(lambda found: f"{found[1]}\n{larger_model()}\n", text)
    return PROGRAM.sub(lambda found: f"{found[1]}{program_text(found[2])}{found[3]}", text)


def larger_model() -> str:
    """The table of what a knockout sweep costs on the model of docs/speed.md, from the baseline of the benchmarks."""
    found = json.loads(BASELINE.read_text())["forwards"]["windows-576"]
    titles = {"ours": "nnsight_vlm", **{name: TOOLS[name].title for name in ("nnsight", "hooks")}}
    titles |= {"transformer_lens": TOOLS["transformerlens"].title}
    return markdown([*titles.values()], [[f"{found[name]:.1f}" for name in titles]])


TABLE = re.compile(r"(<!-- measured -->\n)\n*(?:\|.*\n)*\n*")
FORWARDS = re.compile(r"(<!-- baseline -->\n)\n*(?:\|.*\n)*\n*")
PROGRAM = re.compile(r"(<!-- program: (\w+) -->\n(?:<!--.*?-->\n)?```python\n).*?(^```$)", re.DOTALL | re.MULTILINE)
