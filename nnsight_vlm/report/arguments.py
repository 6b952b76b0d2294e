"""What the command line was given, checked before a model is loaded: pictures, questions, layers, names, addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import SpecError
from ..lowering.layers import Layers, depth, window
from ..prompts.pictures import open_picture
from .config import check_model_name, check_text

if TYPE_CHECKING:
    from PIL import Image

NUMBER = re.compile(r"-?[0-9]{1,9}")
DASHED = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


def check_request(image: Path, question: str, model: str) -> Image.Image:
    """Check all that is asked, before a model is loaded, and open the picture.

    Raises:
        SpecError: not a picture, an empty question, no such model.
    """
    picture = open_picture(image)
    check_text("question", question, '"what color is the ring?"')
    check_model_name(model)
    return picture


def parse_layers(text: str) -> Layers:
    """Layers as the command line spells them, and as the tables of sweeps show them.

    Whole numbers are layers: `4`, `-1` for the last, `1,2,5`, `3:7` without its end, as in `nv.window(3, 7)` and all of
    Python. Numbers with a point are fractions of the depth: `0.25:0.75`. Otherwise `attention` or `all`.

    Raises:
        SpecError: none of these; `0:1`, which may mean the first layer as well as all of them; `3-6`, which some read
            with its end and some without.

    >>> parse_layers("3:7") == window(3, 7), parse_layers("0.0:1.0") == depth(0, 1), parse_layers("1,2,-1")
    (True, True, (1, 2, -1))
    """
    if text in ("attention", "all"):
        return text
    numbers = [part.strip() for part in text.split(",")]
    if all(NUMBER.fullmatch(number) for number in numbers):
        return tuple(map(int, numbers)) if len(numbers) > 1 else int(text)
    dashed = DASHED.fullmatch(text)
    first, last = (int(dashed[1]), int(dashed[2])) if dashed else (1, 0)
    if first <= last:
        raise SpecError(
            f"no layers {text!r}, which may be read with layer {last} or without; write {first}:{last + 1} for layers "
            f"{first} to {last}, as nv.window({first}, {last + 1})"
        )
    start, colon, stop = text.partition(":")
    if text == "0:1":
        raise SpecError("--layers 0:1 may mean the first layer or the whole depth; write 0 or all")
    if NUMBER.fullmatch(start) and NUMBER.fullmatch(stop):
        return window(int(start), int(stop))
    try:
        if colon:
            return depth(float(start), float(stop))
    except SpecError as error:
        raise SpecError(f"no layers {text!r}: {error}") from None
    except ValueError:
        pass
    raise SpecError(
        f"no layers {text!r}; write attention, all, a number, numbers such as 1,2,5, a window such as 3:7, or "
        "fractions of the depth such as 0.25:0.75"
    )


def split_names(text: str, option: str) -> tuple[str, ...]:
    """Names that are separated by commas; none where nothing was given.

    Args:
        text: as it was given.
        option: how messages call it.

    Raises:
        SpecError: commas or spaces and no name.

    >>> split_names("red circle, ring", "--words")
    ('red circle', 'ring')
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if text and not names:
        raise SpecError(f'{option} {text!r} holds no name; write for example {option} "dog, red ball", or leave it out')
    return names


def check_host(host: str | None) -> str | None:
    """The address of a server, or None where none was given.

    Raises:
        SpecError: it is no address.
    """
    try:
        parts = None if host is None else urlsplit(host)
        is_address = parts is None or (parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0)
    except ValueError:  # no number as port, half a pair of brackets
        is_address = False
    if not is_address:
        raise SpecError(f"--host {host!r} is no address of a server; write for example --host http://127.0.0.1:8001")
    return host
