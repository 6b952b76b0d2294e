"""The command line: `nnsight-vlm report`, `view`, `serve`, `ground`, `knockout`, `run`, `recipes` and others.

`--help` and `--version` must answer at once, so nothing that this file imports when it is loaded is heavy: each command
imports what it needs (torch, transformers, nnsight, pandas and the wings that use them). What commands do is in
`commands`, whose `working` says how they end.
"""

from __future__ import annotations

import io
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from .commands import doctor, lists, live, page, pictures
from .commands.options import PARTS, Debug, Json, Model, Quiet, examples
from .commands.output import print_json, print_line, print_table
from .commands.working import working

QUERY = "describe the image."
"""What the model is asked about every picture; `report.config.QUERY`, which is too heavy to import for `--help`."""
START = examples(
    "nnsight-vlm report",
    'nnsight-vlm view photo.png "Describe the image."',
    "nnsight-vlm serve",
    'nnsight-vlm knockout photo.png "What color is the ring?"',
    "nnsight-vlm run knockout_windows --items questions.csv --out runs/windows",
    "nnsight-vlm COMMAND --help",
)
REPORT = examples(
    "nnsight-vlm report",
    'nnsight-vlm report --model llava-hf/llava-1.5-7b-hf --images photos/ --query "Describe the image."',
    "nnsight-vlm report --items questions.csv --annotations boxes.csv --out my-report",
)
RUN = examples(
    "nnsight-vlm run knockout_windows --items questions.csv --out runs/windows",
    "nnsight-vlm run knockout_windows --items questions.csv --out - > frame.csv",
    "nnsight-vlm run knockout_windows --help",
)

app = typer.Typer(
    name="nnsight-vlm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def show_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        try:
            typer.echo(installed_version("nnsight-vlm"))
        except PackageNotFoundError:
            typer.echo("not installed (a checkout)")
        raise typer.Exit


@app.callback(epilog=START)
def options(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """See how vision-language models turn an image into words.

    Exit codes: 0, done; 1, a failure while working; 2, something was asked that cannot be done; 130, interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters that the terminal's encoding has not got become escapes
        sys.stdout.reconfigure(errors="backslashreplace")


@app.command(epilog=REPORT)
def report(
    model: Model = "shapes",
    images: Annotated[Path | None, typer.Option(help="A folder of pictures; default: synthetic scenes.")] = None,
    items: Annotated[
        str | None, typer.Option(help="In its place, a table of questions: .csv, .tsv, .json, .jsonl or .parquet.")
    ] = None,
    columns: Annotated[str, typer.Option(help="What the table's columns are: question=q,image=file.")] = "",
    annotations: Annotated[
        str | None, typer.Option(help="Objects of the pictures, for claims 3a, 3b: a COCO file, or a table of boxes.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Where paths in the table begin: by default its folder.")
    ] = None,
    leave_out: Annotated[bool, typer.Option("--leave-out", help="Go on without what cannot be used.")] = False,
    query: Annotated[
        str | None, typer.Option(help=f'Asked about every picture: "{QUERY}" where no table has questions.')
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write; an unfinished report there is finished.")] = Path(
        "nnsight-vlm-report"
    ),
    scenes: Annotated[int | None, typer.Option(min=1, help="How many synthetic scenes; default: 24.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the scenes and of the random controls.")] = 0,
    objects: Annotated[
        str, typer.Option(help="Names that count as objects, separated by commas; for your own pictures.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The greatest length of a description, in tokens.")] = 32,
    rows: Annotated[
        int, typer.Option(min=1, help="How many descriptions are generated in one batch; fewer need less memory.")
    ] = 64,
    only: Annotated[
        str, typer.Option(help=f"The parts to measure, separated by commas; by default all: {', '.join(PARTS)}.")
    ] = "",
    without: Annotated[str, typer.Option(help="In its place, those of the same parts not to measure.")] = "",
    section_images: Annotated[int, typer.Option(min=1, help="How many pictures each further analysis takes.")] = 8,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier report left in the folder.")] = False,
    chunk: Annotated[
        int, typer.Option(min=1, help="How many pictures are measured together; on a server, how many are in one job.")
    ] = 4,
    remote: Annotated[
        bool, typer.Option("--remote", help="Run on NDIF, or the server that nnsight is set to.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Run on the server there, such as http://127.0.0.1:8001.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure the three claims of "What's in the Image?" on a model and further analyses; write tables and figures."""
    with working(debug=debug, quiet=quiet):
        from .commands.flags import pairs_in
        from .errors import SpecError
        from .report import write_report
        from .report.arguments import check_host, split_names
        from .report.terminal import claims_table

        if out == Path("-"):
            raise SpecError("a report is a folder of tables and figures; name one, --out my-report")
        done = write_report(
            out,
            model=model,
            images=None if images is None else str(images),
            items=items,
            columns=pairs_in(columns, "--columns") if columns else None,
            annotations=annotations,
            pictures=pictures,
            leave_out=leave_out,
            query=query,
            scenes=scenes,
            seed=seed,
            objects=split_names(objects, "--objects"),
            max_new_tokens=max_new_tokens,
            rows=rows,
            only=split_names(only, "--only"),
            without=split_names(without, "--without"),
            section_images=section_images,
            fresh=fresh,
            progress=not quiet,
            chunk=chunk,
            remote=check_host(host) or remote,
        )
    if as_json:
        print_json({"folder": done.folder, "claims": done.claims, "left_out": dict(done.left_out)})
    elif not quiet:
        print_table(claims_table(done.claims))
        for name, why in done.left_out[:20]:
            print_line(f"Left out: {name} ({why})")
        print_line(f"Written to {done.folder}: index.html, report.md, left-out.csv, frames, figures.")


@app.command(
    epilog=RUN,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="RECIPE --items TABLE --out FOLDER [--model MODEL] [OPTIONS]",
)
def run(context: typer.Context) -> None:
    """Run a recipe on a table of questions, and write its frame, figure and citation.

    `nnsight-vlm recipes` lists the recipes; `nnsight-vlm run RECIPE --help` shows the options of one.

    For most of them the table, questions.csv, may be this; paths of pictures begin in its folder:

    image,question,answer

    photos/ring.png,what color is the ring?,purple

    photos/dog.png,what animal is this?,dog
    """
    if not context.args or context.args[0] in ("--help", "-h"):
        typer.echo(context.get_help())
        raise typer.Exit(0 if context.args else 2)
    with working(debug="--debug" in context.args):
        from .commands.parser import run_recipe
    run_recipe(context.args)


app.command(epilog=page.VIEW)(page.view)
app.command(epilog=live.SERVE)(live.serve)
app.command(epilog=pictures.GROUND)(pictures.ground)
app.command(epilog=pictures.KNOCKOUT)(pictures.knockout)
app.command(epilog=lists.RECIPES)(lists.recipes)
app.command(epilog=lists.FAMILIES)(lists.families)
app.command(epilog=lists.DRAFT)(lists.draft)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)


def main() -> None:
    """Entry point of `nnsight-vlm` and `python -m nnsight_vlm`."""
    app()
