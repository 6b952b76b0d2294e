"""`nnsight-vlm ground` and `nnsight-vlm knockout`: one picture and one question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import LAYERS, Debug, Json, Model, Picture, Question, Quiet, examples, written_file
from .output import print_json, print_line, print_table
from .working import working

GROUND = examples(
    'nnsight-vlm ground photo.png "Describe the image."',
    'nnsight-vlm ground photo.png "Describe the image." --words dog,ball --out dog.png',
    'nnsight-vlm ground photo.png "Describe the image." --layers 8:16',
)
KNOCKOUT = examples(
    'nnsight-vlm knockout photo.png "What color is the ring?"',
    'nnsight-vlm knockout photo.png "What color is the ring?" --source query --layers 0.25:0.75',
    'nnsight-vlm knockout photo.png "What color is the ring?" --answer red --json',
)
GROUND_FILE, KNOCKOUT_FILE = "ground.png", "knockout.png"
Length = Annotated[int, typer.Option(min=1, help="The greatest length of an answer, in tokens.")]


def ground(
    image: Picture,
    question: Question,
    model: Model = "shapes",
    words: Annotated[
        str, typer.Option(help="Words of the answer to show, separated by commas; by default its objects.")
    ] = "",
    layers: Annotated[
        str | None, typer.Option(help=f"The layers to average; by default the middle half. Otherwise {LAYERS}.")
    ] = None,
    out: Annotated[Path | None, written_file("PNG", GROUND_FILE)] = None,
    max_new_tokens: Length = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Answer a question and show which patches each object word of the answer attended to."""
    with working(debug=debug, quiet=quiet):
        from ..report.arguments import check_request, parse_layers, split_names
        from ..report.single import ground_one
        from ..report.single_files import file_to_write
        from ..report.terminal import as_table

        picture, out = check_request(image, question, model), file_to_write(out, GROUND_FILE)
        chosen, named = None if layers is None else parse_layers(layers), split_names(words, "--words")
        grounded = ground_one(model, picture, question, out, words=named, layers=chosen, limit=max_new_tokens)
    if as_json:
        print_json({"answer": grounded.answer, "peaks": grounded.peaks, "files": [out]})
    elif not quiet:
        print_line(f"answer: {grounded.answer}")
        print_table(as_table(grounded.peaks))
        print_line(f"Written to {out}.")


def knockout(
    image: Picture,
    question: Question,
    source: Annotated[str, typer.Option(help="The token group that is hidden: image, query, system, ...")] = "image",
    target: Annotated[
        str, typer.Option(help="The token group that it is hidden from: last, query, generated, text, ...")
    ] = "last",
    layers: Annotated[str, typer.Option(help=f"The layers in which it is hidden: {LAYERS}.")] = "attention",
    model: Model = "shapes",
    answer: Annotated[
        str | None, typer.Option(help="The answer to score, one token; by default the model's own first one.")
    ] = None,
    out: Annotated[Path | None, written_file("PNG", KNOCKOUT_FILE)] = None,
    max_new_tokens: Length = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Cut a route of attention for one question, and show how the answer changes."""
    with working(debug=debug, quiet=quiet):
        from ..report.arguments import check_request, parse_layers
        from ..report.single import knockout_one
        from ..report.single_files import file_to_write
        from ..report.terminal import as_table

        picture, out = check_request(image, question, model), file_to_write(out, KNOCKOUT_FILE)
        chosen = parse_layers(layers)
        answers = knockout_one(
            model,
            picture,
            question,
            out,
            source=source,
            target=target,
            layers=chosen,
            answer=answer,
            limit=max_new_tokens,
        )
    if as_json:
        print_json({"texts": answers.texts, "scores": answers.scores, "files": [out]})
    elif not quiet:
        for name, text in answers.texts.items():
            print_line(f"{name}: {text}")
        print_table(as_table(answers.scores))
        print_line(f"Written to {out}.")
