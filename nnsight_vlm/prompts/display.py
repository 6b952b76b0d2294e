"""A prompt in a terminal and in a notebook: what it consists of, its text coloured by group, and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SpecError
from ..families import Model, view_of
from ..notebook import Html, chip, element, joined, legend, panel, shown_picture
from .token_map import PARTS, TokenMap
from .token_text import known_tokenizer
from .visuals import IMAGE, VIDEO

if TYPE_CHECKING:
    from .prompt import Prompt

ROWS = 8
"""How many rows of a batch are shown."""
PICTURES = 6
"""How many pictures of a row are shown."""
LETTERS = 60
"""How many letters of a text a line shows."""
FIRST, LAST = 120, 40
"""How many tokens of a long stretch of text are shown at its beginning and at its end."""


class Stretch(NamedTuple):
    """Neighbouring tokens of one group, or all tokens between the first and the last of a picture or a video.

    Attributes:
        group: the group; of a picture or a video the name of its own group, `image.0`.
        positions: where they are.
        markup: how many of them are markup inside it.
    """

    group: str
    positions: tuple[int, ...]
    markup: int = 0


# what a row consists of -----------------------------------------------------------------------------


def stretches(tokens: TokenMap) -> Iterator[Stretch]:
    """A row in its own order, what lies outside the sequence first, padding left out."""
    parts = {place: part for part in PARTS for place in tokens.group(part).positions(tokens.stop)}
    ends = {visual.positions[0]: (visual.name, visual.positions[-1]) for visual in tokens.visuals}
    places = sorted(parts)
    at = 0
    while at < len(places):
        first = places[at]
        name, last = ends.get(first, (parts[first], None))
        stop = at + 1
        while stop < len(places) and (
            places[stop] <= last if last is not None else _continues(places, parts, ends, stop)
        ):
            stop += 1
        run = tuple(places[at:stop])
        yield Stretch(name, run, sum(parts[place] == "markup" for place in run) if last is not None else 0)
        at = stop


def _continues(places: Sequence[int], parts: dict[int, str], ends: dict[int, Any], at: int) -> bool:
    """Whether a position goes on with the stretch of text before it."""
    before, here = places[at - 1], places[at]
    return here == before + 1 and here not in ends and parts[here] == parts[before]


def _places(positions: Sequence[int]) -> str:
    """`14..113`; `among 14..113` where others lie between them."""
    first, last = positions[0], positions[-1]
    between = "" if last - first == len(positions) - 1 else "among "
    return str(first) if first == last else f"{between}{first}..{last}"


def counted(number: int, thing: str) -> str:
    """`1 token`, `2,880 tokens`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


# tokens as text -------------------------------------------------------------------------------------


def _model_here(prompt: Prompt) -> Model | None:
    """The prompt's model; None for a prompt that was unpickled where its model is not loaded."""
    try:
        return prompt.model
    except SpecError:
        return None


def _reader(prompt: Prompt) -> Callable[[Sequence[int]], str]:
    """From token ids to their text; to the ids themselves where no tokenizer reads them."""
    model = _model_here(prompt)
    tokenizer: Any = None if model is None else known_tokenizer(model)

    def read(ids: Sequence[int]) -> str:
        try:
            return str(tokenizer.decode(list(ids)))
        except Exception:  # a tokenizer is anybody's code, and looking at a value may not fail
            return " ".join(map(str, ids))

    return read


def _ids(tokens: TokenMap, positions: Sequence[int]) -> list[int]:
    """The token ids at some positions, outside the sequence too; a key that is no token has none."""
    known = {-tokens.outside + number: token for number, token in enumerate(tokens.outside_tokens)}
    every = [known.get(place) if place < 0 else tokens.tokens[place] for place in positions]
    return [token for token in every if token is not None]


def shortened(text: str, letters: int = LETTERS) -> str:
    """A text on one line, cut in the middle where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= letters else f"{line[: letters * 2 // 3]} … {line[-letters // 3 :]}"


# in a terminal --------------------------------------------------------------------------------------


def prompt_line(prompt: Prompt) -> str:
    """What `repr` gives: a line, and one more for each row of a batch."""
    rows = [_row_line(prompt, number) for number in range(min(len(prompt), ROWS))]
    if len(prompt) == 1:
        return f"{type(prompt).__name__}({_family(prompt)}: {rows[0]})"
    more = [f"  … and {counted(len(prompt) - ROWS, 'more row')}"] if len(prompt) > ROWS else []
    head = f"{type(prompt).__name__}({_family(prompt)}, {counted(len(prompt), 'row')} of {prompt.width:,} tokens:"
    return "\n".join([head, *(f"  {number}: {row}" for number, row in enumerate(rows)), *more]) + ")"


def _row_line(prompt: Prompt, number: int) -> str:
    tokens, read = prompt.rows[number], _reader(prompt)
    asked = shortened(read(_ids(tokens, tokens.group("query").positions(tokens.stop))))
    said = shortened(read(_ids(tokens, tokens.group("generated").positions(tokens.stop))))
    sizes = [f"{picture.width} x {picture.height}" for picture in _pictures(prompt, number)[:PICTURES]]
    consists = ", ".join(f"{part} {size:,}" for part, size in tokens.part_sizes.items())
    shown = [
        f"{len(frames)} of {frames[0].width} x {frames[0].height}" for frames in _videos(prompt, number)[:PICTURES]
    ]
    sees = any(part.visuals for part in (tokens, *dict(tokens.stages).values()))
    pictures = [f"picture {', '.join(sizes)}"] if sizes else [] if sees else ["no picture"]
    parts = [consists, *pictures, *([f"frames {', '.join(shown)}"] if shown else []), repr(asked)]
    return "; ".join(parts) + (f" -> {said!r}" if said else "")


def _pictures(prompt: Prompt, number: int) -> Sequence[Any]:
    return prompt.images[number] if prompt.images else ()


def _videos(prompt: Prompt, number: int) -> Sequence[Any]:
    return prompt.videos[number] if prompt.videos else ()


def _family(prompt: Prompt) -> str:
    model = _model_here(prompt)
    return view_of(model).family.name if model is not None else f"{vars(prompt)['reference'].family}, not loaded here"


# in a notebook --------------------------------------------------------------------------------------


def prompt_html(prompt: Prompt) -> Html:
    """What a notebook shows: each row's pictures and tokens, and what the colours mean."""
    shown = [row_html(prompt, number) for number in range(min(len(prompt), ROWS))]
    if len(prompt) == 1:
        tokens = prompt.rows[0]
        keys = f", {counted(tokens.outside, 'key')} outside the sequence" if tokens.outside else ""
        said = f"{_family(prompt)} · {counted(tokens.stop - tokens.start, 'token')}{keys}"
    else:
        said = f"{_family(prompt)} · {counted(len(prompt), 'row')} of {prompt.width:,} tokens"
        shown = [
            element("div", element("b", f"row {number}"), row, style="margin-top:8px")
            for number, row in enumerate(shown)
        ]
    if len(prompt) > ROWS:
        shown.append(element("div", f"… and {counted(len(prompt) - ROWS, 'more row')}"))
    return panel(type(prompt).__name__, said, *shown)


def row_html(prompt: Prompt, number: int) -> Html:
    """One row: its pictures, its tokens by group, and a legend."""
    tokens, pictures, read = prompt.rows[number], _pictures(prompt, number), _reader(prompt)
    drawn = [
        shown_picture(picture, f"image.{at}, {picture.width} x {picture.height} pixels")
        for at, picture in enumerate(pictures[:PICTURES])
    ]
    drawn += [
        shown_picture(frame, f"video.{at}, frame {place} of {len(frames)}, {frame.width} x {frame.height} pixels")
        for at, frames in enumerate(_videos(prompt, number)[:PICTURES])
        for place, frame in ((0, frames[0]), *([(len(frames) - 1, frames[-1])] if len(frames) > 1 else []))
    ]
    if len(pictures) > PICTURES:
        drawn.append(element("span", f"… and {counted(len(pictures) - PICTURES, 'more picture')}"))
    shown = element("div", *(_stretch_html(tokens, stretch, read) for stretch in stretches(tokens)))
    meanings = {
        part: f"{counted(size, 'token')}, {_places(tokens.group(part).positions(tokens.stop))}"
        for part, size in tokens.part_sizes.items()
    }
    note = "outlined: the prompt's last token, which predicts the answer"
    return element("div", element("div", *drawn), shown, legend(meanings, note))


def _stretch_html(tokens: TokenMap, stretch: Stretch, read: Callable[[Sequence[int]], str]) -> Html:
    group, positions = stretch.group, stretch.positions
    kind = group.partition(".")[0]
    if kind in (IMAGE, VIDEO):
        size, where = f"{group} x {len(positions) - stretch.markup:,}", _places(positions)
        chips = [chip(kind, size, f"{group}: positions {where}")]
        if stretch.markup:
            chips.append(chip("markup", f"markup x {stretch.markup:,}", f"between the tokens of {group}"))
        return joined(chips)
    skipped = len(positions) - FIRST - LAST if len(positions) > FIRST + LAST else 0
    shown = (*positions[:FIRST], *positions[-LAST:]) if skipped else positions
    chips = [_token_html(tokens, group, place, read) for place in shown]
    if skipped:
        chips.insert(FIRST, chip(group, f"… {counted(skipped, 'token')} …", f"positions {_places(positions)}"))
    name = element("span", group, style="font-size:10px;opacity:.75;margin:0 2px 0 6px")
    return joined([name, *chips])


def _token_html(tokens: TokenMap, group: str, place: int, read: Callable[[Sequence[int]], str]) -> Html:
    ids, is_last = _ids(tokens, [place]), place == tokens.answer - 1
    said = f"position {place}, {group}, token id {ids[0] if ids else 'none'}"
    return chip(group, read(ids), said + (", the prompt's last token" if is_last else ""), marked=is_last)
