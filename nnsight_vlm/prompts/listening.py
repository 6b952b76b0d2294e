"""What a processor does with a text: which text it hands to its tokenizer, and where in it each token lies.

A processor puts many tokens in the place of an image's or a video's placeholder, in a way of its own. It is asked
twice, with the text and with the text in which marks stand for the words; what it made of pictures and videos is kept
in between.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from PIL import Image

from .video_sources import Video


class Heard(NamedTuple):
    """What a tokenizer was handed, and made of it.

    Attributes:
        text: the text.
        ids: its tokens.
        spans: where in the text each token begins and ends; None for a tokenizer that does not tell.
    """

    text: str
    ids: list[int]
    spans: list[tuple[int, int]] | None


class ListeningProcessor:
    """A copy of a processor that remembers what it handed to its tokenizer, and what it made of pictures.

    Attributes:
        flat: whether it takes the pictures of a text as one list, not as a list for each text.
    """

    def __init__(self, processor: Any, *, flat: bool) -> None:
        self.flat = flat
        self._processor = copy.copy(processor)
        self._tokenizer = self._processor.tokenizer = _Tokenizer(processor.tokenizer)
        self._parts = {
            name: _PixelProcessor(part)
            for name in ("image_processor", "video_processor")
            if (part := getattr(processor, name, None)) is not None
        }
        for name, part in self._parts.items():
            setattr(self._processor, name, part)

    def __call__(self, text: str, pictures: Sequence[Image.Image], videos: Sequence[Video] = (), **options: Any) -> Any:
        """The encoding of a text, its pictures and its videos, which are the same in every call."""
        self._tokenizer.heard.clear()
        for part in self._parts.values():
            part.begin()
        shown: dict[str, Any] = {"images": list(pictures) if self.flat else [list(pictures)]} if pictures else {}
        if videos:  # frames are chosen already
            shown["videos"] = [video.array for video in videos]
            shown |= {"video_metadata": [dict(video.metadata) for video in videos], "do_sample_frames": False}
        return self._processor(text=[text], return_tensors="pt", **shown, **options)

    @property
    def heard(self) -> Heard | None:
        """What the tokenizer was handed in the last call; None where it was called other than once, with a text."""
        return self._tokenizer.heard[0] if len(self._tokenizer.heard) == 1 else None


class _Tokenizer:
    """A tokenizer that remembers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.heard: list[Heard | None] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        tells = bool(getattr(self._tokenizer, "is_fast", False)) and "return_offsets_mapping" not in options
        result = self._tokenizer(*args, **options, **({"return_offsets_mapping": True} if tells else {}))
        spans = result.pop("offset_mapping") if tells else None
        given = args[0] if args else options.get("text")
        if isinstance(given, (list, tuple)) and len(given) == 1 and isinstance(given[0], str):
            ids = [int(token) for token in result["input_ids"][0]]
            pairs = None if spans is None else [(int(start), int(stop)) for start, stop in spans[0]]
            self.heard.append(Heard(given[0], ids, pairs))
        else:
            self.heard.append(None)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)


class _PixelProcessor:
    """An image or video processor that makes pixels once, and hands out copies of them when it is asked again."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._made: list[Any] = []
        self._next: Iterator[Any] = iter(())

    def begin(self) -> None:
        """From here on the calls are those of another run."""
        self._next = iter(self._made)

    def __call__(self, *args: Any, **options: Any) -> Any:
        known = next(self._next, None)
        if known is None:
            known = self._processor(*args, **options)
            self._made.append(known)
            self._next = iter(())
        return copy.copy(known)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)
