"""The committed measurements that pages show: `docs/measured/<page>.json` holds the rows of a page's tables.

A file also says which commands make its numbers, of which model and scenes, and where its rows are from: "the command",
which saved them (`--save` of some scripts), or "the page", from which they were copied when the files were introduced.

`python tests/measured.py` writes the rows of all files into their pages, as after a `--save`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from page_tables import Table, lines_of, tables

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "measured"


def files() -> dict[str, dict[str, Any]]:
    """What each file holds, by its name below the folder."""
    return {
        str(path.relative_to(FOLDER)): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(FOLDER.rglob("*.json"))
    }


def kept_tables(file: dict[str, Any]) -> list[Table]:
    """The tables of a file, in the order of its page."""
    return [Table(each["head"], each["rows"]) for each in file["tables"]]


def written(text: str, file: dict[str, Any]) -> str:
    """A page with the rows of a file: each table of the page that has a kept table's head, in order, gets its rows."""
    waiting = kept_tables(file)
    for lines in lines_of(text):
        (shown,) = tables(lines)
        if waiting and shown.head == waiting[0].head:
            rows = waiting.pop(0).rows
            if shown.rows != rows:
                head = "".join(lines.splitlines(keepends=True)[:2])
                text = text.replace(lines, head + "".join(f"| {' | '.join(row)} |\n" for row in rows), 1)
    if waiting:
        raise ValueError(f"{file['page']} has no table that begins with {waiting[0].head}, or not in this order")
    return text


def save(name: str, printed: str, numbers: list[str] | None = None) -> None:
    """Put what a script measured into its file, in place of what the same command made before.

    Args:
        name: of the file, without `.json`.
        printed: Markdown, with tables.
        numbers: those of the page's sentences, as they are written there.

    Raises:
        ValueError: the file has no table of this command with such a head, or no numbers of it.
    """
    path, command = FOLDER / f"{name}.json", command_given()
    file = json.loads(path.read_text(encoding="utf-8"))
    waiting = tables(printed)
    if numbers is not None:
        if command not in file.get("text", {}).get("made by", []):
            raise ValueError(f"{path} has no numbers of `{command}`")
        file["text"] |= {"rows from": "the command", "numbers": numbers}
    for kept in file["tables"]:
        if waiting and command in kept["made by"] and kept["head"] == waiting[0].head:
            kept["rows"], kept["rows from"] = waiting.pop(0).rows, "the command"
            kept["of"]["versions"] = {name: version(name) for name in ("torch", "transformers", "nnsight", "numpy")}
    if waiting:
        raise ValueError(f"{path} has no table of `{command}` that begins with {waiting[0].head}")
    path.write_text(spelled(file), encoding="utf-8")
    print(f"saved in {path}; python tests/measured.py writes it into {file['page']}", file=sys.stderr)


def parser(about: str | None, **counts: int) -> argparse.ArgumentParser:
    """What a script of tables reads from its command line: `--save`, which `tell` obeys, and how much it measures.

    Args:
        about: what the script is.
        counts: options that are numbers, with their defaults: `scenes=24` is `--scenes`.
    """
    made = argparse.ArgumentParser(description=about)
    for name, usual in counts.items():
        made.add_argument(f"--{name}", type=int, default=usual)
    made.add_argument("--save", action="store_true", help="keep it in docs/measured too")
    return made


def tell(name: str, printed: str, numbers: list[str] | None = None) -> None:
    """Print what a script measured; with `--save` on its command line, keep it too.

    The command line itself is asked: nnsight gives all objects a method `save`, and argparse takes it for the option.
    """
    print(printed, *(numbers or []), sep="\n")
    if "--save" in sys.argv:
        save(name, printed, numbers)


def command_given() -> str:
    """The command that runs now, as files name it."""
    script, *given = sys.argv
    parts = Path(script).absolute().parts
    place = "/".join(parts[parts.index("tests") :])
    return " ".join(["python", place, *(word for word in given if word != "--save")])


def spelled(file: dict[str, Any]) -> str:
    """A file as text, in which a list of texts, such as a row of a table, is one line."""
    lines: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            lines.append(json.dumps(value, ensure_ascii=False))
            return f"line {len(lines) - 1} of the file"
        if isinstance(value, list):
            return [marked(each) for each in value]
        return {key: marked(each) for key, each in value.items()} if isinstance(value, dict) else value

    text = json.dumps(marked(file), indent=1, ensure_ascii=False)
    return re.sub(r'"line (\d+) of the file"', lambda found: lines[int(found[1])], text) + "\n"


def main() -> None:
    for file in files().values():
        page = ROOT / file["page"]
        page.write_text(written(page.read_text(encoding="utf-8"), file), encoding="utf-8")


if __name__ == "__main__":
    main()
