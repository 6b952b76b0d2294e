"""`nnsight-vlm view`: the page of one picture and one question."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import LAYERS, Debug, Json, Model, Picture, Question, Quiet, examples, written_file
from .output import print_json, print_line
from .working import working

if TYPE_CHECKING:
    from ..specs.knockouts import Knockout

VIEW = examples(
    'nnsight-vlm view photo.png "Describe the image."',
    'nnsight-vlm view photo.png "What color is the ring?" --quantities weight,causal',
    'nnsight-vlm view photo.png "What color is the ring?" --source image --target last --out cut.html',
)
VIEW_FILE = "view.html"


def view(
    image: Picture,
    question: Question,
    model: Model = "shapes",
    quantities: Annotated[
        str, typer.Option(help="What is painted, separated by commas: weight, contribution, gradient, causal.")
    ] = "weight",
    source: Annotated[
        str | None, typer.Option(help="For a second column: the token group that is hidden: image, query, ...")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The token group that it is hidden from: last, query, generated, text, ...")
    ] = None,
    layers: Annotated[str, typer.Option(help=f"The layers in which it is hidden: {LAYERS}.")] = "attention",
    out: Annotated[Path | None, written_file("HTML", VIEW_FILE)] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The greatest length of an answer, in tokens.")] = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Answer a question, and write a page that shows which patches each word read."""
    with working(debug=debug, quiet=quiet):
        from ..prompts.encoding import encode
        from ..report.arguments import check_request, split_names
        from ..report.config import load_by_name
        from ..report.single_files import file_to_write
        from ..viewing.asking import quantities_given
        from ..viewing.making import view as made

        picture, out = check_request(image, question, model), file_to_write(out, VIEW_FILE)
        cut = cut_given(source, target, layers)
        shown = quantities_given(split_names(quantities, "--quantities"))
        loaded = load_by_name(model)
        prompt = encode(loaded, question, picture)
        page = made(loaded, prompt, cut, quantities=shown, max_new_tokens=max_new_tokens)
        page.save(out)
    answers = {column["key"]: column["answer"] for column in page.payload["columns"]}
    if as_json:
        print_json({"answers": answers, "files": [out]})
    elif not quiet:
        for key, answer in answers.items():
            print_line(f"{'answer' if len(answers) == 1 else key}: {answer}")
        print_line(f"Written to {out}.")


def cut_given(source: str | None, target: str | None, layers: str) -> Knockout | None:
    """The cut of the second column; None where there is none.

    Raises:
        SpecError: a source without a target, or the other way round; no layers.
    """
    from ..errors import SpecError
    from ..report.arguments import parse_layers
    from ..specs.knockouts import Knockout

    chosen = parse_layers(layers)
    if source is None and target is None:
        return None
    if source is None or target is None:
        raise SpecError("--source and --target go together: what is hidden, and from what")
    return Knockout(source, target, layers=chosen)
