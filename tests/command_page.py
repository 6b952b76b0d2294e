"""The tables of docs/command-line.md, made of the commands themselves: `python tests/command_page.py` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from nnsight_vlm.cli import app
from nnsight_vlm.commands.listing import recipe_named
from nnsight_vlm.commands.parser import recipe_app

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
BEGIN, END = "<!-- written by tests/command_page.py -->\n", "<!-- end -->\n"
EXAMPLE = "knockout_windows"
"""The recipe whose options stand for those that recipes have in common."""


def commands() -> dict[str, Any]:
    """Every command by its name."""
    return dict(typer.main.get_command(app).commands)


def recipe_command(name: str = EXAMPLE) -> Any:
    """`nnsight-vlm run` of one recipe."""
    return typer.main.get_command(recipe_app(recipe_named(name)))


def options_of(command: Any) -> dict[str, Any]:
    """The options of a command by each of their spellings."""
    return {spelled: option for option in command.params for spelled in (*option.opts, *option.secondary_opts)}


def written() -> str:
    """What stands between the marks of the page."""
    parts = []
    for name, command in commands().items():
        shown = recipe_command() if name == "run" else command
        own = [each for each in shown.params if not (name == "run" and each.name.startswith("own_"))]
        words = " ".join(line.strip() for line in (command.help or "").split("\n\n")[0].splitlines())
        arguments = "".join(
            f" {each.metavar}" if each.required else f" [{each.metavar}]"
            for each in own
            if each.param_type_name == "argument"
        )
        heading = " RECIPE" if name == "run" else arguments
        parts += [f"### `nnsight-vlm {name}{heading}`\n", f"{words}\n", "\n".join(_rows(own)), ""]
        parts += ["```bash", *(command.epilog or "").split("\n\n")[1:], "```\n"]
    return "\n".join(parts)


def _rows(parameters: list[Any]) -> Iterator[str]:
    """The lines of a table of options."""
    yield "| | what it says | default |"
    yield "| --- | --- | --- |"
    for each in parameters:
        names = [each.metavar] if each.param_type_name == "argument" else [*each.opts, *each.secondary_opts]
        spelled = ", ".join(f"`{name}`" for name in names)
        is_said = each.default is not None and each.default is not False and each.default != ""
        default = f"`{each.default}`" if is_said else ""
        needed = "**needed**" if each.required else default
        yield f"| {spelled} | {(each.help or '').replace('|', chr(92) + '|')} | {needed} |"


def main() -> None:
    """Write the page anew."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{written()}\n{END}{after}")


if __name__ == "__main__":
    main()
