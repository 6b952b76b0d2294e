"""Prompts: an encoding, and which token is what.

A `Prompt` has one or several *rows* (the batch of one encoding). Groups of tokens are named as
people speak of them: `prompt["image"]`, `prompt["query"]`. Positions are absolute: they count
padding, so they index the tensors that the model sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from .errors import SpecError
from .families import family
from .grids import GRIDS, Box, Grid

Range = tuple[int, int | None]
Ranges = tuple[Range, ...]
Where = str | int | Sequence["str | int"]

GROUPS = ("image", "image.N", "system", "query", "text", "last", "first", "bos", "generated", "all")


def to_ranges(positions: Sequence[int]) -> Ranges:
    """Sorted positions as ranges: `(5, 6, 7, 9)` is `((5, 8), (9, 10))`."""
    ranges: list[Range] = []
    for position in sorted(set(positions)):
        if ranges and ranges[-1][1] == position:
            ranges[-1] = (ranges[-1][0], position + 1)
        else:
            ranges.append((position, position + 1))
    return tuple(ranges)


def to_positions(ranges: Ranges, stop: int) -> tuple[int, ...]:
    """Ranges as sorted positions, open ends cut at `stop`."""
    return tuple(sorted({p for a, b in ranges for p in range(a, stop if b is None else min(b, stop))}))


def merged(ranges: Sequence[Range]) -> Ranges:
    """Sorted ranges that do not overlap."""
    found: list[Range] = []
    for start, stop in sorted(ranges, key=lambda pair: pair[0]):
        last = found[-1][1] if found else -1
        if found and (last is None or start <= last):
            found[-1] = (found[-1][0], None if last is None or stop is None else max(last, stop))
        else:
            found.append((start, stop))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Which token of one row is what.

    Attributes:
        tokens: token ids, padding included.
        start: position of the first real token.
        stop: one past the last real token.
        answer: where the model's own words begin; equal to `stop` until the prompt has grown.
        images: positions of each image's tokens.
        bos: position of the token that opens the text, if there is one.
    """

    tokens: tuple[int, ...]
    start: int
    stop: int
    answer: int
    images: tuple[tuple[int, ...], ...]
    bos: int | None = None

    def ranges(self, where: Where) -> Ranges:
        """Positions of a group, a number, or several of them together, as ranges.

        Groups that can grow (`generated`, `text`, `all`) have an open end.

        Raises:
            SpecError: no such group, no image in the row, or a position outside the row.
        """
        if isinstance(where, str):
            return self._group(where)
        if isinstance(where, int):
            return self._checked(where)
        return merged([pair for part in where for pair in self.ranges(part)])

    def _checked(self, position: int) -> Ranges:
        if not self.start <= position < self.stop:
            raise SpecError(
                f"position {position} lies outside the prompt, whose tokens are {self.start}..{self.stop - 1}; "
                'positions are absolute, and the last one is called "last"'
            )
        return ((position, position + 1),)

    def _group(self, name: str) -> Ranges:
        grown: Ranges = ((self.answer, None),)
        if name == "generated":
            return grown
        if name == "all":
            return ((self.start, None),)
        if name in ("last", "first"):
            place = self.answer - 1 if name == "last" else self.start
            return ((place, place + 1),)
        if name == "bos":
            return self._bos()
        if name == "text":
            return merged([*self._text(self.start), *grown])
        return self._image_group(name)

    def _bos(self) -> Ranges:
        if self.bos is None:
            raise SpecError('the prompt has no "bos" token; its first token is the group "first"')
        return ((self.bos, self.bos + 1),)

    def _image_group(self, name: str) -> Ranges:
        head, _, number = name.partition(".")
        if head not in ("image", "system", "query") or (number and (head != "image" or not number.isdigit())):
            raise SpecError(f"no token group {name!r}; the groups are {', '.join(GROUPS)}, or give positions")
        if not self.images:
            raise SpecError(f'the prompt has no image, so it has no group {name!r}; "text" and "all" are there')
        if number and int(number) >= len(self.images):
            raise SpecError(f"no group {name!r}: the prompt has {len(self.images)} image(s), counted from image.0")
        if head == "image":
            chosen = [self.images[int(number)]] if number else self.images
            return to_ranges([position for image in chosen for position in image])
        first = self.images[0][0]
        return to_ranges(range(self.start, first)) if head == "system" else self._text(first)

    def _text(self, begin: int) -> Ranges:
        pixels = {position for image in self.images for position in image}
        return to_ranges([p for p in range(begin, self.answer) if p not in pixels])

    def shifted(self, by: int) -> Row:
        """The same row with `by` tokens of padding more on its left."""
        return replace(
            self,
            tokens=(0,) * by + self.tokens,
            start=self.start + by,
            stop=self.stop + by,
            answer=self.answer + by,
            images=tuple(tuple(p + by for p in image) for image in self.images),
            bos=None if self.bos is None else self.bos + by,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """An encoding of one or several rows, and which token is what.

    Attributes:
        inputs: keyword arguments for `model.trace(**prompt.inputs)` and `model.generate(...)`.
        rows: one `Row` per row of the encoding.
        images: the pictures of each row as the user gave them; empty for ready encodings.
        model: the nnsight model that the encoding was made for.
    """

    inputs: Mapping[str, Any]
    rows: tuple[Row, ...]
    images: tuple[tuple[Image.Image, ...], ...] = ()
    model: Any = field(repr=False)

    def __len__(self) -> int:
        """How many rows the encoding has."""
        return len(self.rows)

    def __getitem__(self, group: Where) -> tuple[int, ...]:
        """Absolute positions of a token group, sorted.

        Raises:
            SpecError: unknown group, or the rows differ (then ask `prompt.row(i)`).
        """
        found = {to_positions(row.ranges(group), row.stop) for row in self.rows}
        if len(found) > 1:
            raise SpecError(f"the {len(self)} rows have {group!r} in different places; write prompt.row(0)[{group!r}]")
        return found.pop()

    def row(self, number: int) -> Prompt:
        """One row of the encoding as a prompt of its own, its padding taken off.

        Raises:
            SpecError: there is no such row.
        """
        if not 0 <= number < len(self):
            raise SpecError(f"no row {number}: the prompt has {len(self)} row(s)")
        return self if len(self) == 1 else _only_row(self, number)

    @property
    def width(self) -> int:
        """Length of the sequence, padding included."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def text(self) -> str:
        """The prompt as the tokenizer spells it, image tokens left out (one row)."""
        return self._spelled()[0]

    def _single(self, what: str) -> Row:
        if len(self) > 1:
            raise SpecError(f"{what} asks about one row and the prompt has {len(self)}; write prompt.row(0).{what}")
        return self.rows[0]

    def _spelled(self) -> tuple[str, list[int]]:
        """The text, and for each of its characters the position of the token that brought it."""
        row = self._single("find(...)")
        pixels = {position for image in row.images for position in image}
        text, owners, pending = "", [], list[int]()
        for position in range(row.start, row.stop):
            if position in pixels:
                text, owners, pending = text + "\n", [*owners, position], []
                continue
            pending.append(row.tokens[position])
            piece = self._tokenizer().decode(pending, clean_up_tokenization_spaces=False)
            known = len(self._tokenizer().decode(pending[:-1], clean_up_tokenization_spaces=False)) if pending[:-1] else 0
            text, owners = text + piece[known:], owners + [position] * (len(piece) - known)
        return text, owners

    def _tokenizer(self) -> Any:
        tokenizer = getattr(self.model.processor, "tokenizer", None) or self.model.tokenizer
        if tokenizer is None:
            raise SpecError("reading words needs a tokenizer; write nv.load(model, processor=...)")
        return tokenizer

    def find(self, words: str, *, within: Where = "all", occurrence: int | None = None) -> tuple[int, ...]:
        """Positions of the tokens that spell `words`, every time they occur (or the n-th time only).

        Raises:
            SpecError: the words are not in the prompt, or not that often.
        """
        text, owners = self._spelled()
        allowed = set(to_positions(self._single("find(...)").ranges(within), self.width))
        places = [i for i in range(len(text)) if text.startswith(words, i) and _stands_alone(text, i, words)]
        hits = [sorted({owners[c] for c in range(i, i + len(words)) if text[c] != " "}) for i in places]
        hits = [hit for hit in hits if allowed.issuperset(hit)]
        if not words.strip() or not hits:
            raise SpecError(f"{words!r} is not in the prompt ({within!r}), which reads {text.strip()!r}")
        if occurrence is not None and not 0 <= occurrence < len(hits):
            raise SpecError(f"{words!r} occurs {len(hits)} time(s); occurrence={occurrence} counts from 0")
        chosen = hits if occurrence is None else [hits[occurrence]]
        return tuple(sorted({position for hit in chosen for position in hit}))

    def image(self, number: int = 0) -> Image.Image:
        """A picture as the user gave it.

        Raises:
            SpecError: there is no such picture, or the encoding came without pictures.
        """
        self._single("image(...)")
        pictures = self.images[0] if self.images else ()
        if not 0 <= number < len(pictures):
            raise SpecError(
                f"no picture {number}: the prompt holds {len(pictures)}; "
                "for a ready encoding write nv.encode(model, inputs=..., images=[...])"
            )
        return pictures[number]

    def grid(self, number: int = 0) -> Grid:
        """The image tokens of a picture and the pixels each of them saw.

        Raises:
            SpecError: there is no such picture.
        """
        picture = self.image(number)
        positions = self._single("grid(...)").images[number]
        place = GRIDS[family(self.model).grid]
        cells, boxes = place(self.model, self.model.processor, picture.size, len(positions))
        return Grid(positions=positions, cells=tuple(cells), boxes=boxes, size=picture.size)

    def region(self, box: Box, image: int = 0) -> tuple[int, ...]:
        """Image tokens whose patch touches the pixel box `(x0, y0, x1, y1)` of a picture."""
        return self.grid(image).tokens_in(box)

    def grown(self, tokens: Sequence[int]) -> Prompt:
        """The prompt with the model's answer behind it (one row): `["generated"]` finds it."""
        row = self._single("grown(...)")
        more = torch.tensor([list(tokens)], dtype=torch.long, device=self.inputs["input_ids"].device)
        inputs = dict(self.inputs)
        for name, value in inputs.items():
            if name == "input_ids":
                inputs[name] = torch.cat([value, more], dim=1)
            elif isinstance(value, torch.Tensor) and value.shape == self.inputs["input_ids"].shape:
                inputs[name] = torch.cat([value, torch.full_like(more, int(name == "attention_mask"))], dim=1)
        longer = replace(row, tokens=row.tokens + tuple(tokens), stop=row.stop + len(tokens))
        return replace(self, inputs=inputs, rows=(longer,))


def _stands_alone(text: str, start: int, words: str) -> bool:
    before, after = text[start - 1 : start], text[start + len(words) : start + len(words) + 1]
    return not (before.isalnum() and words[:1].isalnum()) and not (after.isalnum() and words[-1:].isalnum())


def encode(
    model: Any,
    text: str | None = None,
    image: Image.Image | Sequence[Image.Image] | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    images: Sequence[Image.Image] | None = None,
    chat: bool = True,
) -> Prompt:
    """Turn a question and its picture(s) into a `Prompt`.

    Args:
        model: an nnsight model from `load`.
        text: the question; with `chat=False` the raw text, image placeholders included.
        image: one picture or several, in the order in which the text speaks of them.
        inputs: an encoding that was built already, instead of `text` and `image`; several rows
            and padding are fine.
        images: the pictures behind `inputs` (one row), for `grid` and `region`.
        chat: apply the processor's chat template.

    Raises:
        SpecError: neither text nor inputs, no processor, no chat template, pictures that do not
            match the text's placeholders.

    >>> import nnsight_vlm as nv
    >>> scene = nv.shapes.scene(3)
    >>> prompt = nv.encode(nv.load("shapes"), "describe the image .", scene.image)
    >>> len(prompt["image"])
    100
    """
    family(model)
    if (inputs is None) == (text is None):
        raise SpecError('give either a text, nv.encode(model, "Describe the image.", image), or inputs={...}')
    if inputs is not None:
        return _from_inputs(model, inputs, tuple(images or ()))
    pictures = () if image is None else (image,) if isinstance(image, Image.Image) else tuple(image)
    processor = model.processor
    if processor is None:
        raise SpecError("encoding a text needs a processor; write nv.load(model, processor=...)")
    spelled = _templated(processor, str(text), len(pictures)) if chat else str(text)
    marker = getattr(processor, "image_token", None)
    if marker is not None and spelled.count(marker) != len(pictures):
        raise SpecError(f"the text has {spelled.count(marker)} image placeholder(s) {marker!r} and {len(pictures)} picture(s) were given")
    encoding = processor(text=[spelled], images=list(pictures) or None, return_tensors="pt")
    return _from_inputs(model, dict(encoding), pictures)


def _templated(processor: Any, text: str, pictures: int) -> str:
    if not getattr(processor, "chat_template", None):
        raise SpecError(
            "the processor has no chat template; write the whole text yourself, image placeholder "
            f"{getattr(processor, 'image_token', '<image>')!r} included, with nv.encode(..., chat=False)"
        )
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def _from_inputs(model: Any, inputs: Mapping[str, Any], pictures: tuple[Image.Image, ...]) -> Prompt:
    tensors = {name: value for name, value in inputs.items() if value is not None and name != "labels"}
    if not isinstance(tensors.get("input_ids"), torch.Tensor) or tensors["input_ids"].dim() != 2:
        raise SpecError("inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'")
    ids = tensors["input_ids"]
    mask = tensors.setdefault("attention_mask", torch.ones_like(ids))
    if mask.shape != ids.shape:
        raise SpecError(f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}; they must agree")
    rows = tuple(_row(model, line, real, len(ids), tensors) for line, real in zip(ids, mask, strict=True))
    if pictures and (len(rows) > 1 or len(rows[0].images) != len(pictures)):
        raise SpecError(f"{len(pictures)} picture(s) for {len(rows)} row(s) with {[len(r.images) for r in rows]} image(s) in the tokens")
    return Prompt(inputs=tensors, rows=rows, images=(pictures,) if pictures else (), model=model)


def _row(model: Any, line: torch.Tensor, real: torch.Tensor, rows: int, inputs: Mapping[str, Any]) -> Row:
    config = model._module.config
    there = real.nonzero().flatten().tolist()
    if not there or there != list(range(there[0], there[-1] + 1)):
        raise SpecError("a row of attention_mask must be ones in one piece, with padding on its left or right")
    pixels = (line == config.image_token_id).nonzero().flatten().tolist()
    bos = config.get_text_config().bos_token_id
    opens = bos is not None and int(line[there[0]]) == bos
    return Row(
        tokens=tuple(line.tolist()),
        start=there[0],
        stop=there[-1] + 1,
        answer=there[-1] + 1,
        images=_split_images(pixels, config, inputs),
        bos=there[0] if opens else None,
    )


def _split_images(pixels: Sequence[int], config: Any, inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Positions of each image: every image of this family has as many tokens as its patches."""
    if not pixels:
        return ()
    if "pixel_values" not in inputs:
        raise SpecError("the tokens speak of an image and the inputs bring no pixel_values")
    vision = config.vision_config
    each = (vision.image_size // vision.patch_size) ** 2 + int(config.vision_feature_select_strategy == "full")
    if len(pixels) % each:
        raise SpecError(f"{len(pixels)} image tokens are no multiple of the {each} that one image has")
    return tuple(tuple(pixels[at : at + each]) for at in range(0, len(pixels), each))


def stack(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one row each as the rows of one encoding, padded on the left.

    Inputs that do not count tokens (pixels) are laid end to end, as processors do.
    """
    width = max(prompt.width for prompt in prompts)
    inputs = {name: torch.cat([_padded(prompt, name, width) for prompt in prompts]) for name in prompts[0].inputs}
    rows = tuple(prompt.rows[0].shifted(width - prompt.width) for prompt in prompts)
    return Prompt(inputs=inputs, rows=rows, model=prompts[0].model)


def _padded(prompt: Prompt, name: str, width: int) -> torch.Tensor:
    value: torch.Tensor = prompt.inputs[name]
    ids = prompt.inputs["input_ids"]
    if value.shape != ids.shape:
        return value
    filler = ids[:, -1:] if name == "input_ids" else torch.zeros_like(value[:, :1])  # any token but an image's
    return torch.cat([filler.expand(-1, width - prompt.width), value], dim=1)


def _only_row(prompt: Prompt, number: int) -> Prompt:
    row = prompt.rows[number]
    shape = prompt.inputs["input_ids"].shape
    before = sum(len(r.images) for r in prompt.rows[:number])
    inputs: dict[str, Any] = {}
    for name, value in prompt.inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == shape:
            inputs[name] = value[number : number + 1, row.start : row.stop]
        else:
            inputs[name] = value[before : before + len(row.images)]
    if not row.images:
        inputs.pop("pixel_values", None)
    moved = replace(row.shifted(0), tokens=row.tokens[row.start : row.stop])
    back = -row.start
    moved = replace(
        moved,
        start=0,
        stop=row.stop + back,
        answer=row.answer + back,
        images=tuple(tuple(p + back for p in image) for image in row.images),
        bos=None if row.bos is None else row.bos + back,
    )
    return Prompt(inputs=inputs, rows=(moved,), images=prompt.images[number : number + 1], model=prompt.model)
