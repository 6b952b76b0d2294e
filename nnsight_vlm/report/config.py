"""What a user asks of a report, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import SpecError, reason_of
from ..families import Model
from ..loading import load
from ..prompts.pictures import open_picture
from ..remote.model_call import Remote
from ..shapes.embedded import EMBEDDED, checkpoint

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Files of a folder that are taken for pictures."""
QUERY = "describe the image."
"""What the model is asked about every picture unless the user says otherwise."""
SCENES = 24
"""How many synthetic scenes are drawn unless the user says otherwise."""
SECTION_IMAGES = 8
"""How many pictures each further analysis takes unless the user says otherwise."""
SCENES_PER_SEED = 100_000
"""Seeds of a report's scenes begin at this multiple of the report's seed, so that reports share no scene."""


class LeftOut(NamedTuple):
    """A file of the pictures' folder that is no picture, and why."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The settings of a report; see `write_report`.

    Attributes:
        only, without: names of the parts that are measured, or are not; see `chosen.NAMES`.
        section_images: how many pictures each further analysis takes.
        query: what is asked about every picture; None where the rows of a table have their own questions.
        names: of the files in `images` that are pictures, known once the settings are `checked`.
        left_out: those that cannot be opened.
    """

    model: str = "shapes"
    images: str | None = None
    items: Any = None
    columns: Mapping[str, Any] | None = None
    annotations: Any = None
    pictures: str | Path | None = None
    leave_out: bool = False
    query: str | None = None
    scenes: int = SCENES
    seed: int = 0
    objects: tuple[str, ...] = ()
    max_new_tokens: int = 32
    rows: int = 64
    chunk: int = 4
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    section_images: int = SECTION_IMAGES
    remote: Remote = False
    names: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def first_scene(self) -> int:
        """The seed of the first synthetic scene; the others follow it."""
        return self.seed * SCENES_PER_SEED

    def checked(self) -> ReportConfig:
        """The same settings with the full path of the pictures' folder, and which of its files are pictures.

        Raises:
            SpecError: a number out of range, an empty query, no folder, a folder without a picture that can be opened.
        """
        if min(self.scenes, self.max_new_tokens, self.rows, self.chunk) < 1 or self.seed < 0:
            raise SpecError("--scenes, --max-new-tokens, --rows and --chunk must be 1 or more, and --seed 0 or more")
        self._check_goes_together()
        query = QUERY if self.query is None and self.items is None else self.query
        if query is not None:
            check_text("query", query, '--query "describe the image."')
        if self.images is None:
            return replace(self, query=query)
        folder, names, left_out = Path(self.images), list[str](), list[LeftOut]()
        for path in find_pictures(folder):
            try:
                open_picture(path)
                names.append(path.name)
            except SpecError as error:
                left_out.append(LeftOut(path.name, str(error)))
        if not names:
            raise SpecError(f"no picture of the folder {self.images!r} can be opened: {left_out[0].why}")
        images = str(folder.resolve())
        return replace(self, query=query, images=images, names=tuple(names), left_out=tuple(left_out))

    def _check_goes_together(self) -> None:
        """Refuse what says something of a table or of a folder of pictures, where there is none.

        Raises:
            SpecError: see above.
        """
        if self.items is not None and self.images is not None:
            raise SpecError(
                "--images (images=) is a folder of pictures, and --items (items=) a table; give one of them, and with "
                "a table --pictures (pictures=) for the folder in which its paths begin"
            )
        for option, given, needs_table in (
            ("--columns (columns=)", self.columns, True),
            ("--pictures (pictures=)", self.pictures, True),
            ("--annotations (annotations=)", self.annotations, False),
            ("--leave-out (leave_out=)", self.leave_out or None, False),
        ):
            if given is None or self.items is not None or (self.images is not None and not needs_table):
                continue
            instead = "--items (items=)" if needs_table else "--items (items=) or --images (images=)"
            raise SpecError(f"{option} says how your own pictures are read; write it with {instead}, or leave it out")


def check_text(name: str, text: str, example: str) -> None:
    """Refuse what a model cannot be asked: nothing, or bytes of a command line that are no letters.

    Args:
        name: what the text is.
        text: as it was given.
        example: what to write.

    Raises:
        SpecError: saying which of them.
    """
    if not text.strip():
        raise SpecError(f"the {name} is empty; write for example {example}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SpecError(f"the {name} {text!r} holds bytes that are no letters in UTF-8; write {example}") from None


def find_pictures(folder: Path) -> tuple[Path, ...]:
    """The files of a folder whose names end as those of pictures do, sorted by name.

    Raises:
        SpecError: no such folder, one that cannot be read, or no such file in it.
    """
    try:
        if not folder.is_dir():
            raise SpecError(f"no folder {str(folder)!r}; --images takes a folder of pictures")
        pictures = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS))
    except OSError as error:
        raise SpecError(f"cannot read the folder {str(folder)!r} ({error.strerror}) of --images") from error
    if not pictures:
        raise SpecError(f"the folder {str(folder)!r} holds no pictures ({', '.join(ENDINGS)})")
    return pictures


def picture_names(config: ReportConfig) -> Sequence[str]:
    """What each image number of the frames stands for: a file name, or a scene's seed; rows of tables have ids."""
    if config.images is not None:
        return config.names
    if config.items is not None:
        return ()
    return [f"scene {config.first_scene + number}" for number in range(config.scenes)]


def check_model_name(name: str) -> None:
    """Refuse a model that is certainly not there, without asking the network.

    Raises:
        SpecError: an embedded model that this installation lacks, or a path without a model.
    """
    if name in EMBEDDED:
        if not (checkpoint(name) / "config.json").is_file():
            raise SpecError(f"this installation has no model {name!r}; choose one by its name on the hub")
        return
    if not name.strip():
        raise SpecError("the model's name is empty; give shapes, a name on the hub, or a local folder")
    try:
        is_path = name.startswith((".", "/", "~")) or Path(name).exists()
        is_missing = is_path and not (Path(name).expanduser() / "config.json").is_file()
    except (OSError, RuntimeError):  # a name too long for a file, or the home of somebody unknown
        is_missing = True
    if is_missing:
        raise SpecError(
            f"{name!r} is not a folder with a model (it has no config.json); give such a folder or a name on the hub"
        )


def load_by_name(name: str, remote: Remote = False) -> Model:
    """A model by name; without its weights where it runs on a server.

    Raises:
        SpecError: it cannot be loaded, from this machine or from the hub.
    """
    path = str(Path(name).expanduser()) if name.startswith("~") else name
    try:
        return load(path, dispatch=remote is False)
    except (SpecError, MemoryError):
        raise
    except Exception as error:  # whatever files of others make transformers raise
        raise SpecError(f"cannot load the model {name!r}: {reason_of(error)}") from error
