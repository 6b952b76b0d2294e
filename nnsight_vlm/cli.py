"""The command line: `nnsight-vlm report`, `ground`, `knockout`, `families` and `draft`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from .errors import InterventionError, RemoteError, SpecError
from .report.study import QUERY, known_model, open_picture

app = typer.Typer(
    name="nnsight-vlm",
    help="See how vision-language models turn an image into words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(width=None)

Model = Annotated[str, typer.Option(help="The model: shapes, shapes-gist, a name on the hub, or a local folder.")]
Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture file.", show_default=False)]
Question = Annotated[
    str, typer.Argument(metavar="QUESTION", help="What the model is asked about the picture.", show_default=False)
]
Depths = Annotated[
    str,
    typer.Option(
        help="The layers: attention (all that have it), all, a number, a window such as 3-6, or fractions of the depth "
        "such as 0.25:0.75."
    ),
]


@contextmanager
def plain_errors() -> Iterator[None]:
    """An error of ours is one line and exit code 2; a mistake in the package keeps its traceback."""
    try:
        yield
    except (SpecError, InterventionError, RemoteError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def report(
    model: Model = "shapes",
    images: Annotated[
        Path | None, typer.Option(help="A folder of pictures; without it, synthetic scenes are drawn.")
    ] = None,
    query: Annotated[str, typer.Option(help="What the model is asked about every picture.")] = QUERY,
    out: Annotated[Path, typer.Option(help="The folder to write; an unfinished report there is finished.")] = Path(
        "nnsight-vlm-report"
    ),
    scenes: Annotated[int, typer.Option(help="How many synthetic scenes are drawn.")] = 24,
    seed: Annotated[int, typer.Option(help="The seed of the scenes and of the random controls.")] = 0,
    objects: Annotated[
        str, typer.Option(help="Names that count as objects, separated by commas; for your own pictures.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(help="The greatest length of a description, in tokens.")] = 32,
    rows: Annotated[
        int, typer.Option(help="How many descriptions are generated in one batch; fewer need less memory.")
    ] = 64,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Throw away what an earlier report left in the folder.")
    ] = False,
    chunk: Annotated[
        int, typer.Option(help="How many pictures are measured together; on a server, how many are in one job.")
    ] = 4,
    remote: Annotated[
        bool, typer.Option("--remote", help="Run the model on NDIF, or the server that nnsight is set to.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Run the model on the server at this address, such as http://127.0.0.1:8001.")
    ] = None,
) -> None:
    """Measure the three claims of "What's in the Image?" on a model, and write tables and figures."""
    with plain_errors():
        from .report import write_report

        done = write_report(
            out,
            model=model,
            images=None if images is None else str(images),
            query=query,
            scenes=scenes,
            seed=seed,
            objects=[name for name in objects.split(",") if name.strip()],
            max_new_tokens=max_new_tokens,
            rows=rows,
            fresh=fresh,
            chunk=chunk,
            remote=host or remote,
        )
    console.print(claims_table(done.claims))
    console.print(f"Written to {done.folder}: report.md, frames, figures.", highlight=False, soft_wrap=True)


def claims_table(claims: pd.DataFrame) -> Table:
    """The claims as the terminal shows them; controls are dim."""
    from .report.summary import claim_lines

    table = Table(title="What's in the image? (arXiv 2411.17491)", title_justify="left")
    for name in ("claim", "", "measured [95 % interval]", "criterion", "verdict"):
        table.add_column(name, no_wrap=name in ("claim", "criterion"))
    for label, statement, value, criterion, verdict, control in claim_lines(claims):
        table.add_row(label, statement, value, criterion, verdict, style="dim" if control else "", end_section=control)
    return table


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
    max_new_tokens: Annotated[int, typer.Option(help="The greatest length of the answer, in tokens.")] = 64,
) -> None:
    """Answer a question and show which patches each object word of the answer looked at."""
    with plain_errors():
        from .report.single import ground_one

        wanted = tuple(word.strip() for word in words.split(",") if word.strip())
        picture = ready(image, question, model, out)
        answer, table = ground_one(
            model,
            picture,
            question,
            out,
            words=wanted,
            layers=None if layers is None else parse_layers(layers),
            limit=max_new_tokens,
        )
    console.print(f"answer: {answer}", highlight=False, soft_wrap=True)
    console.print(as_table(table))
    console.print(f"Written to {out}.", highlight=False, soft_wrap=True)


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
    max_new_tokens: Annotated[int, typer.Option(help="The greatest length of the answers, in tokens.")] = 64,
) -> None:
    """Cut a route of attention for one question, and show what becomes of the answer."""
    with plain_errors():
        from .report.single import knockout_one

        picture = ready(image, question, model, out)
        texts, table = knockout_one(
            model,
            picture,
            question,
            out,
            source=source,
            target=target,
            layers=parse_layers(layers),
            answer=answer,
            limit=max_new_tokens,
        )
    for name, text in texts.items():
        console.print(f"{name}: {text}", highlight=False, soft_wrap=True)
    console.print(as_table(table))
    console.print(f"Written to {out}.", highlight=False, soft_wrap=True)


@app.command()
def families(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it as docs/families.md has it.")] = False,
) -> None:
    """List the families of models that have a row, and what works in each."""
    from .families import FAMILIES
    from .families.support import markdown as spelled
    from .families.support import support

    if markdown:
        typer.echo(spelled(FAMILIES.values()))
        return
    table, notes = support(FAMILIES.values())
    console.print(as_table(table))
    for number, note in enumerate(notes, 1):
        console.print(f"[{number}] {note}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def draft(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name on the hub, or a local folder.", show_default=False)
    ],
) -> None:
    """Print a row to try for a family that has none; only the config is read."""
    from transformers import AutoConfig

    from .families.drafting import draft as drafted
    from .families.drafting import source

    with plain_errors():
        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise SpecError(f"no model {model!r} that transformers knows: {str(error).splitlines()[0]}") from error
        typer.echo(source(drafted(config)))


def ready(image: Path, question: str, model: str, out: Path) -> Any:
    """The picture, when everything that can be wrong before a model is loaded is right.

    Raises:
        SpecError: no picture, an empty question, no such model, a file that cannot be written.
    """
    from .report.folder import check_writable

    picture = open_picture(image)
    if not question.strip():
        raise SpecError('the question is empty; write for example "what color is the ring?"')
    known_model(model)
    if out.suffix.lower() != ".png" or out.is_dir():
        raise SpecError(f"--out {str(out)!r} is no PNG file; write for example --out overlay.png")
    check_writable(out.parent)
    return picture


def parse_layers(text: str) -> Any:
    """Layers as the command line spells them: `attention`, `all`, `4`, `3-6`, `0.25:0.75`.

    Raises:
        SpecError: none of these.
    """
    from .lowering.layers import depth, window

    try:
        if text in ("attention", "all"):
            return text
        if ":" in text:
            start, stop = text.split(":")
            return depth(float(start), float(stop))
        first, _, last = text.partition("-")
        return window(int(first), int(last or first) + 1)
    except SpecError:
        raise
    except ValueError as error:
        raise SpecError(
            f"no layers {text!r}; write attention, all, a number, a window such as 3-6, or fractions of the depth "
            "such as 0.25:0.75"
        ) from error


def as_table(frame: pd.DataFrame) -> Table:
    """A frame as the terminal shows it."""
    table = Table()
    for name in frame.columns:
        table.add_column(str(name), justify="right" if pd.api.types.is_numeric_dtype(frame[name]) else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def main() -> None:
    """Entry point of `nnsight-vlm` and `python -m nnsight_vlm`."""
    app()
