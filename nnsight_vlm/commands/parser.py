"""The command line of one recipe: the options that every recipe has, and those of its own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..errors import SpecError
from ..report.arguments import check_host
from ..showing import visible
from ..studies.registry import Recipe
from .flags import NEEDED, Flag, flags_of, pairs_in
from .listing import recipe_named
from .options import MODELS, Debug, Json, Quiet, examples
from .output import print_json, print_line, print_table
from .runs import Done, Request, carry_out, needs_pairs
from .working import working

if TYPE_CHECKING:
    import pandas as pd

ON_OUTPUT = Path("-")
"""Stands for standard output, in place of a folder."""
OWN = "Options of this recipe"
"""Stands above them in the help."""
MOST_LEFT_OUT = 20
"""Most items that are named as left out."""
NUMBERS = ("measure", "mean", "low", "high")
"""Columns that are printed of every frame."""
MOST_ROWS = 3
"""Most rows of a frame that are printed; its file has all."""


def run_recipe(arguments: Sequence[str]) -> None:
    """Run the recipe that a command line names, `["knockout_windows", "--model", "shapes", ...]`.

    Args:
        arguments: what stands behind `nnsight-vlm run`.
    """
    with working(debug="--debug" in arguments):
        recipe = recipe_named(arguments[0])
        app = recipe_app(recipe)
    app(args=list(arguments[1:]), prog_name=f"nnsight-vlm run {recipe.name}")


def recipe_app(recipe: Recipe) -> typer.Typer:
    """The command line of one recipe."""
    flags, unspelled = flags_of(recipe)

    def run(**given: Any) -> None:
        with working(debug=given["debug"], quiet=given["quiet"]):
            request = request_of(recipe, flags, given)
            if given["out"] == ON_OUTPUT:
                done, table = printed(request, as_json=given["as_json"])
            else:
                done, table = carry_out(request), None
        if table is not None:
            typer.echo(table, nl=False)
            for name, why in () if given["quiet"] else done.left_out:
                typer.echo(visible(f"Left out: {name} ({why})"), err=True)
        elif given["as_json"]:
            print_json(facts_of(request, done))
        elif not given["quiet"]:
            tell(done)

    options = [*shared_options(recipe), *map(own_option, flags)]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    not_here = f" Python only: {', '.join(unspelled)}." if unspelled else ""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    settings = {"help_option_names": ["--help", "-h"]}
    about = f"{recipe.asks} ({recipe.papers[0].cited}). {recipe.caveat}".rstrip() + not_here
    about = "\n\n".join([about, *table_of(recipe)])
    app.command(name=recipe.name, help=about, epilog=examples_of(recipe, flags), context_settings=settings)(run)
    return app


def examples_of(recipe: Recipe, flags: Sequence[Flag]) -> str:
    """The end of a recipe's help."""
    needed = "".join(f" {flag.option} {NEEDED[flag.name]}" for flag in flags if flag.required)
    begin = f"nnsight-vlm run {recipe.name} --items questions.csv{needed}"
    return examples(
        f"{begin} --out runs/{recipe.name}",
        f"{begin} --out runs/{recipe.name} --model llava-hf/llava-1.5-7b-hf --columns question=q,image=file",
        f"{begin} --out - > frame.csv",
    )


def table_of(recipe: Recipe) -> list[str]:
    """A table of questions for a recipe, a line each; paths of pictures begin in the table's folder."""
    row, columns, example = "", "", ""
    if needs_pairs(recipe):
        row, columns, example = ", each row with two pictures", ",other_image,other_answer", ",photos/other.png,red"
    return [
        f"The table questions.csv may begin so{row}; paths of pictures begin in its folder:",
        f"image,question,answer{columns}",
        f"photos/ring.png,what color is the ring?,purple{example}",
    ]


def printed(request: Request, *, as_json: bool) -> tuple[Done, str]:
    """Run a recipe without keeping its folder; its table as csv.

    Raises:
        SpecError: options that go with a folder.
    """
    beside = (("--json", as_json), ("--fresh", request.fresh), ("--per-image", bool(request.usual.get("per_image"))))
    for option, given in beside:
        if given:
            raise SpecError(
                f"--out - prints the frame as csv, and nothing is kept; leave out {option}, or name a folder"
            )
    with TemporaryDirectory() as folder:
        try:
            done = carry_out(replace(request, out=Path(folder)))
        except KeyboardInterrupt:  # whatever was finished is gone with the folder
            raise KeyboardInterrupt from None
        return done, (Path(folder) / "frame.csv").read_text(encoding="utf-8")


def tell(done: Done) -> None:
    """Print what was measured and written: the first numbers, while the paragraph for a paper is in its file."""
    from ..report.terminal import as_table

    print_table(as_table(first_rows(done.frame)))
    more = len(done.frame) - MOST_ROWS
    if more > 0:
        print_line(f"{more} more row{'s' * (more != 1)} in frame.csv.")
    for name, why in done.left_out[:MOST_LEFT_OUT]:
        print_line(f"Left out: {name} ({why})")
    if unnamed := done.left_out[MOST_LEFT_OUT:]:
        print_line(f"Left out: {len(unnamed)} more, see cite.txt")
    if done.no_figure:
        print_line(f"No figure: {done.no_figure}")
    print_line("cite.txt describes the method, as a paragraph for a paper.")
    print_line(f"Written to {done.folder}: {', '.join(done.files)}.")


def first_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The first rows of a frame, without columns that say the same of all rows; the numbers always stand there."""
    told = [name for name in frame if name in NUMBERS or frame[name].astype(str).nunique() > 1]
    return frame[told].head(MOST_ROWS)


def facts_of(request: Request, done: Done) -> dict[str, Any]:
    """What was measured and written, as data."""
    attrs = done.frame.attrs
    return {
        "recipe": request.recipe.name,
        "model": request.model,
        "folder": done.folder,
        "files": [done.folder / name for name in done.files],
        "rows": len(done.frame),
        "columns": list(done.frame.columns),
        "prompts": attrs.get("prompts"),
        "images": attrs.get("images"),
        "left_out": [{"item": name, "why": why} for name, why in done.left_out],
        "no_figure": done.no_figure or None,
        "citation": done.citation,
    }


def own_option(flag: Flag) -> inspect.Parameter:
    """An argument of the recipe as an option; what is not given has the recipe's default."""
    spelled = [f"{flag.option}/--no-{flag.option[2:]}"] if flag.kind is bool else [flag.option]
    # an option without a default is one that must be given
    default = inspect.Parameter.empty if flag.required else None
    kind = flag.kind if flag.required else Optional[flag.kind]  # noqa: UP045 - a union of a type that is known later
    return _parameter(
        f"own_{flag.name}", Annotated[kind, typer.Option(*spelled, help=flag.help, rich_help_panel=OWN)], default
    )


def shared_options(recipe: Recipe) -> list[inspect.Parameter]:
    """The options that all recipes have, and of those that few lack what this one takes."""
    taken = inspect.signature(recipe.function).parameters
    every = [
        _option("model", str, f"The model: {MODELS}.", "shapes"),
        _option("items", str, "The table of questions: .csv, .tsv, .json, .jsonl or .parquet.", needed=True),
        _option(
            "out",
            Path,
            "The folder to write; an unfinished run there is finished. - prints the frame as csv.",
            needed=True,
        ),
        _option("columns", str, "What the table's columns are: question=q,image=file.", ""),
        _option("question", str | None, "One question for all rows, in place of a column.", None),
        _option(
            "pictures", Path | None, "Where relative paths of pictures begin: by default the table's folder.", None
        ),
        _option("annotations", Path | None, "Objects beside the table: a COCO file, or a table of boxes.", None),
        _option("leave_out", bool, "Go on without rows that cannot be used.", False),
        _option("only_correct", bool, "Keep the items that the model answers right.", False),
        _option("cluster", str, "The column that is equal where rows are about one picture.", ""),
        _option("seed", int, "Of the random controls.", 0),
        _option("per_image", bool, "Also write the rows of every image.", False),
        _option("chunk", int, "How many items are measured, and kept, together.", 4),
        _option("memory", int | None, "Bytes that a sweep may take beside the weights.", None),
        _option("remote", bool, "Run on NDIF, or the server that nnsight is set to.", False),
        _option("host", str | None, "Run on the server at this address.", None),
        _option("fresh", bool, "Delete what an earlier run left in the folder.", False),
        *(_parameter(name, kind, False) for name, kind in (("as_json", Json), ("quiet", Quiet), ("debug", Debug))),
    ]
    return [
        option for option in every if option.name not in ("only_correct", "per_image", "seed") or option.name in taken
    ]


def _option(name: str, kind: Any, text: str, default: Any = None, *, needed: bool = False) -> inspect.Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", help=text)
    return _parameter(name, Annotated[kind, option], inspect.Parameter.empty if needed else default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def request_of(recipe: Recipe, flags: Sequence[Flag], given: dict[str, Any]) -> Request:
    """What a command line asks for.

    Raises:
        SpecError: a text that cannot be read as the value of its option.
    """
    typed = {flag.option: given[f"own_{flag.name}"] for flag in flags}
    options = {flag.name: flag.value(given[f"own_{flag.name}"]) for flag in flags}
    columns = pairs_in(given["columns"], "--columns") if given["columns"] else {}
    if given["cluster"]:
        if "cluster" in columns:
            raise SpecError("--cluster and --columns both name the column of clusters; leave one of them out")
        columns["cluster"] = given["cluster"]
    return Request(
        recipe=recipe,
        model=given["model"],
        items=given["items"],
        out=given["out"],
        columns=columns,
        question=given["question"],
        pictures=given["pictures"],
        annotations=given["annotations"],
        leave_out=given["leave_out"],
        options={name: value for name, value in options.items() if value is not None},
        typed={name: value for name, value in typed.items() if value is not None},
        usual={name: given[name] for name in ("only_correct", "per_image", "seed") if name in given},
        chunk=given["chunk"],
        memory=given["memory"],
        remote=check_host(given["host"]) or given["remote"],
        fresh=given["fresh"],
        progress=not given["quiet"],
    )
