"""The command line: `nnsight-vlm recipes`, `run`, `report`, `ground`, `knockout`, `families` and `draft`.

`--help` and `--version` must answer at once, so this file imports nothing heavy when it is loaded: each command imports
what it needs (torch, transformers, nnsight, pandas and the wings that use them).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .showing import for_terminal, visible

QUERY = "describe the image."
"""What the model is asked about every picture; `report.config.QUERY`, which is too heavy to import for `--help`."""

app = typer.Typer(name="nnsight-vlm", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(width=None)

Model = Annotated[
    str, typer.Option(help="The model: shapes, shapes-gist, shapes-smol, a name on the hub, or a local folder.")
]
Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture file.", show_default=False)]
Question = Annotated[
    str, typer.Argument(metavar="QUESTION", help="What the model is asked about the picture.", show_default=False)
]
Depths = Annotated[
    str,
    typer.Option(
        help="The layers: attention (all that have it), all, a number (-1 is the last), a window such as 3-6 or 3:7, "
        "or fractions of the depth such as 0.25:0.75."
    ),
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show errors in words and end: with exit code 2 those of this package, with 1 those of files, folders and memory.

    Any other error is a bug and keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        from .errors import InterventionError, RemoteError, SpecError, reason_of

        if isinstance(error, (SpecError, InterventionError, RemoteError)):
            words, code = str(error), 2
        elif isinstance(error, (OSError, MemoryError)):
            words, code = reason_of(error), 1
        else:
            raise
        typer.echo(f"error: {visible(words, keep_lines=True)}", err=True)
        raise typer.Exit(code) from None


def show_version(wanted: bool) -> None:
    """Print the installed version and stop."""
    if wanted:
        typer.echo(installed_version("nnsight-vlm"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """See how vision-language models turn an image into words."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters that the terminal's encoding has not got become escapes
        sys.stdout.reconfigure(errors="backslashreplace")


@app.command()
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
    only: Annotated[str, typer.Option(help="The parts to measure, separated by commas; by default all.")] = "",
    without: Annotated[str, typer.Option(help="In its place, the parts not to measure.")] = "",
    section_images: Annotated[int, typer.Option(min=1, help="How many pictures each further analysis takes.")] = 8,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what an earlier report left in the folder.")] = False,
    chunk: Annotated[
        int, typer.Option(min=1, help="How many pictures are measured together; on a server, how many are in one job.")
    ] = 4,
    remote: Annotated[
        bool, typer.Option("--remote", help="Run on NDIF, or the server that nnsight is set to.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Run on the server there, such as http://127.0.0.1:8001.")] = None,
) -> None:
    """Measure the three claims of "What's in the Image?" on a model and further analyses; write tables and figures."""
    with plain_errors():
        from .commands.flags import pairs_in
        from .report import write_report
        from .report.arguments import check_host, split_names
        from .report.terminal import claims_table

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
            chunk=chunk,
            remote=check_host(host) or remote,
        )
    console.print(claims_table(done.claims))
    for name, why in done.left_out[:20]:
        print_line(f"Left out: {name} ({why})")
    print_line(f"Written to {done.folder}: report.md, left-out.csv, frames, figures.")


@app.command()
def ground(
    image: Picture,
    question: Question,
    model: Model = "shapes",
    words: Annotated[
        str, typer.Option(help="Words of the answer to show, separated by commas; by default its objects.")
    ] = "",
    layers: Annotated[str | None, typer.Option(help="The layers to average; by default the middle half.")] = None,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("ground.png"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The greatest length of the answer, in tokens.")] = 64,
) -> None:
    """Answer a question and show which patches each object word of the answer attended to."""
    with plain_errors():
        from .report.arguments import check_request, parse_layers, split_names
        from .report.single import ground_one
        from .report.terminal import as_table

        picture = check_request(image, question, model, out)
        chosen, named = None if layers is None else parse_layers(layers), split_names(words, "--words")
        grounded = ground_one(model, picture, question, out, words=named, layers=chosen, limit=max_new_tokens)
    print_line(f"answer: {grounded.answer}")
    console.print(as_table(grounded.peaks))
    print_line(f"Written to {out}.")


@app.command()
def knockout(
    image: Picture,
    question: Question,
    source: Annotated[str, typer.Option(help="The token group that is hidden: image, query, system, ...")] = "image",
    target: Annotated[
        str, typer.Option(help="The token group that it is hidden from: last, query, generated, text, ...")
    ] = "last",
    layers: Depths = "attention",
    model: Model = "shapes",
    answer: Annotated[
        str | None, typer.Option(help="The answer to score, one token; by default the model's own first one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("knockout.png"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The greatest length of the answers, in tokens.")] = 64,
) -> None:
    """Cut a route of attention for one question, and show how the answer changes."""
    with plain_errors():
        from .report.arguments import check_request, parse_layers
        from .report.single import knockout_one
        from .report.terminal import as_table

        picture, chosen = check_request(image, question, model, out), parse_layers(layers)
        asked: Any = {"source": source, "target": target, "layers": chosen, "answer": answer, "limit": max_new_tokens}
        answers = knockout_one(model, picture, question, out, **asked)
    for name, text in answers.texts.items():
        print_line(f"{name}: {text}")
    console.print(as_table(answers.scores))
    print_line(f"Written to {out}.")


@app.command()
def recipes(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as docs/recipes/README.md has it.")] = False,
) -> None:
    """List the recipes: what each asks, and the paper that it follows."""
    from .commands import listing

    if markdown:
        typer.echo(listing.recipes_markdown())
    else:
        console.print(listing.recipes_table())


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="RECIPE --model MODEL --items TABLE --out FOLDER [OPTIONS]",
)
def run(context: typer.Context) -> None:
    """Run a recipe on a table of questions, and write its frame, figure and citation.

    `nnsight-vlm recipes` lists the recipes; `nnsight-vlm run RECIPE --help` shows the options of one.
    """
    if not context.args or context.args[0] == "--help":
        typer.echo(context.get_help())
        raise typer.Exit(0 if context.args else 2)
    with plain_errors():
        from .commands.parser import run_recipe
    run_recipe(context.args, plain_errors, console)


@app.command()
def families(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as docs/families.md has it.")] = False,
    towers: Annotated[bool, typer.Option("--towers", help="Print vision towers as docs/vision.md has them.")] = False,
) -> None:
    """List the families of models that have a row, and what works in each."""
    from .families import FAMILIES, support
    from .families.tower_support import towers_markdown
    from .report.terminal import as_table

    if towers:
        typer.echo(towers_markdown(FAMILIES.values()))
        return
    if markdown:
        typer.echo(support.markdown(FAMILIES.values()))
        return
    table, notes = support.support(FAMILIES.values())
    console.print(as_table(table))
    for number, note in enumerate(notes, 1):
        print_line(f"[{number}] {note}")


@app.command()
def draft(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name on the hub, or a local folder.", show_default=False)
    ],
) -> None:
    """Print a row to try for a family that has none; only the model's config is read."""
    with plain_errors():
        from transformers import AutoConfig

        from .errors import SpecError, reason_of
        from .families import drafting

        try:
            config = AutoConfig.from_pretrained(model)
        except Exception as error:  # whatever a folder of others makes transformers raise
            raise SpecError(f"no model {model!r} that transformers knows: {reason_of(error)}") from error
        typer.echo(drafting.source(drafting.draft(config)))


def print_line(text: str) -> None:
    """Print text as exactly its characters: no colours, no breaking of lines, no meaning of brackets."""
    console.print(for_terminal(text), soft_wrap=True)


def main() -> None:
    """Entry point of `nnsight-vlm` and `python -m nnsight_vlm`."""
    app()
