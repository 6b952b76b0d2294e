"""`View`: a page, in a notebook or as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import path as path_given
from ..arguments import refuse
from ..showing import visible
from ..storage import atomic_write
from .pages import in_notebook, page_of

ENDINGS = (".html", ".htm")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class View:
    """A page that shows what each word of an answer read of the picture; made by `nv.view`.

    In Jupyter, VS Code and Colab it shows itself.

    Attributes:
        payload: all that the page shows, as plain values; the numbers of a map are packed, see `viewing/packing.py`.
    """

    payload: Mapping[str, Any]

    def __repr__(self) -> str:
        answers = " | ".join(visible(column["answer"].replace("\n", " ")) for column in self.payload["columns"])
        names = ", ".join(self.payload["columns"][0]["quantities"])
        return f"View({answers!r}; {names} over {self.payload['tokens']:,} image tokens)"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return in_notebook(self.payload)

    def html(self) -> str:
        """The page: one HTML file that asks for nothing else, with all numbers in it."""
        return page_of(self.payload)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, which is there with all of its content or as it was before.

        Args:
            path: of the file, `view.html`.

        Returns:
            The path.

        Raises:
            SpecError: no path, the path of a folder, or another ending than `.html`.
        """
        file = path_given("path", path)
        if file.is_dir() or file.suffix.lower() not in ENDINGS:
            refuse("path", str(path), "path of an HTML file", 'view.save("view.html")')
        with atomic_write(file) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
        return file
