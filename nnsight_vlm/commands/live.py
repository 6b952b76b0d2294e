"""`nnsight-vlm serve`: the page of a picture and a question, live."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import closing, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .options import Debug, Json, Model, Quiet, examples
from .output import print_json, print_line
from .working import working

if TYPE_CHECKING:
    from PIL import Image

    from ..serving.running import Listening

SERVE = examples(
    "nnsight-vlm serve",
    'nnsight-vlm serve photo.png "What color is the ring?"',
    "nnsight-vlm serve --model llava-hf/llava-1.5-7b-hf --port 8765 --no-open",
)
NEEDED = ("starlette", "uvicorn")
INSTALL = 'pip install "nnsight-vlm[serve]"'
SCENE = 3
"""The scene of the synthetic world that pages of an embedded model begin with; the other has one color changed."""
FIRST_QUESTION = "what color is the square?"
WARNING = (
    "warning: other machines can reach this page, at a name or address of this one. Whoever has the token can use "
    "the page and the model, and nothing that is sent is encrypted."
)


class First(NamedTuple):
    """What every new page begins with.

    Attributes:
        pictures: by role.
        question: None for none.
        examples: questions that the model knows.
    """

    pictures: dict[str, Image.Image]
    question: str | None
    examples: tuple[str, ...]


def serve(
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="A picture file to begin with.", show_default=False)
    ] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="A question to begin with.", show_default=False)
    ] = None,
    model: Model = "shapes",
    host: Annotated[
        str, typer.Option(help="The address to listen on; the usual one is this machine's own, which no other reaches.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 0,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser of this machine, if it has a screen.")
    ] = True,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The greatest length of an answer, in tokens.")] = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Ask a model in the browser: hide from it or swap what it sees, and watch its answer change.

    The page is for one person. Its address holds a token, and what it was shown is forgotten once it is closed.
    Ctrl-C stops the server.
    """
    out = sys.stdout
    with working(debug=debug, quiet=quiet):
        check_installed()
        check_seen(is_told=as_json or not quiet, is_opened=open_page)
        from ..report.config import load_by_name
        from ..serving.running import listen, serve_until_stopped

        first = first_given(image, question, model)
        listening = listen(host, port)
        with closing(listening.bound):
            loaded = load_by_name(model)

            def started() -> None:
                with redirect_stdout(out):
                    tell(listening, model, as_json=as_json, quiet=quiet)
                if open_page and has_screen():
                    Thread(target=webbrowser.open, args=[listening.address], daemon=True).start()  # it may last

            serve_until_stopped(
                loaded,
                listening,
                pictures=first.pictures,
                question=first.question,
                examples=first.examples,
                longest=max_new_tokens,
                started=started,
            )
    if not as_json and not quiet:
        print_line("Stopped.")


def check_installed() -> None:
    """Refuse to begin without what the server is made of.

    Raises:
        SpecError: with what to install.
    """
    from ..errors import SpecError

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SpecError(f"the live page needs {' and '.join(missing)}, not installed here; write {INSTALL}")


def check_seen(*, is_told: bool, is_opened: bool) -> None:
    """Refuse a server whose address nobody would learn.

    Raises:
        SpecError: with what to leave out.
    """
    from ..errors import SpecError

    if not is_told and not is_opened:
        raise SpecError("--quiet prints no address and --no-open opens no page; leave one of them out, or write --json")


def first_given(image: Path | None, question: str | None, model: str) -> First:
    """What pages begin with, checked before a model is loaded; for an embedded model two scenes of its own world.

    Raises:
        SpecError: not a picture, an empty question, no such model.
    """
    from ..prompts.pictures import open_picture
    from ..report.config import check_model_name, check_text
    from ..shapes.embedded import EMBEDDED

    if question is not None:
        check_text("question", question, f'"{FIRST_QUESTION}"')
    check_model_name(model)
    own = {} if image is None else {"picture": open_picture(image)}
    if model not in EMBEDDED:
        return First(own, question, ())
    from ..shapes.language import questions
    from ..shapes.world import pair

    scenes = pair(SCENE)
    examples = tuple(each.text for each in questions(scenes[0]))
    if image is not None:
        return First(own, question, examples)
    return First({"picture": scenes[0].image, "other": scenes[1].image}, FIRST_QUESTION, examples)


def tell(listening: Listening, model: str, *, as_json: bool, quiet: bool) -> None:
    """Say where the page is."""
    if not listening.is_private:
        typer.echo(WARNING, err=True)
    if as_json:
        print_json({"address": listening.address, "host": listening.host, "port": listening.port, "model": model})
    elif not quiet:
        print_line(f"Open {listening.address}")
        print_line("Who has this address can use the page. Ctrl-C stops the server.")


def has_screen() -> bool:
    """Whether a browser that is opened here is seen by somebody; elsewhere it might be one that fills the terminal."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
