"""`nnsight-vlm serve`: a page that asks the model, cuts its routes and shows the answer while it is written."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Json, Model, Quiet, examples
from .output import print_json, print_line
from .working import working

SERVE = examples(
    "nnsight-vlm serve",
    'nnsight-vlm serve photo.png "What color is the ring?"',
    "nnsight-vlm serve --model llava-hf/llava-1.5-7b-hf --port 8080 --no-open",
)
MISSING = 'the live page needs starlette and uvicorn; write pip install "nnsight-vlm[serve]"'
REACHED = "Other machines can reach this page: whoever knows its address, token included, can use the model."


def serve(
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="A picture to begin with.", show_default=False)
    ] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="A question to begin with.", show_default=False)
    ] = None,
    model: Model = "shapes",
    host: Annotated[
        str, typer.Option(help="The address to listen on; no other machine reaches the usual one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 0,
    opens: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Open a page on which you ask the model about a picture, cut routes, and see the answer being written.

    The page is served on this machine, under an address that holds a token. Ctrl-C stops it.
    """
    with working(debug=debug, quiet=quiet):
        try:
            from ..serving.running import listen, serve_until_stopped
        except ImportError as error:
            raise ImportError(MISSING) from error
        from ..prompts.pictures import open_picture
        from ..report.config import check_model_name, check_text, load_by_name
        from ..shapes import scene

        if question is not None:
            check_text("question", question, '"What color is the ring?"')
        check_model_name(model)
        picture = scene(0).image if image is None else open_picture(image)
        listening = listen(host, port)
        served = load_by_name(model, False)

        def started() -> None:
            if as_json:
                print_json({"address": listening.address, "model": model})
            elif not quiet:
                print_line(listening.address)
            if opens:
                webbrowser.open(listening.address)

        if not listening.is_private:
            typer.echo(REACHED, err=True)
        serve_until_stopped(served, listening, pictures={"picture": picture}, question=question, started=started)
