"""Options and arguments that several commands have, each with one text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

LAYERS = (
    "a number (-1 is the last), numbers such as 1,2,5, a window such as 3:7 (layers 3 to 6, as nv.window(3, 7) in "
    "Python), fractions of the depth such as 0.25:0.75, attention (all that have it) or all"
)
"""How layers are written on the command line; `report.arguments.parse_layers` reads it."""

MODELS = (
    "shapes (a small model of pictures with coloured shapes, which lies in this package: nothing to download), its "
    "relatives shapes-gist and shapes-smol, a name on the Hugging Face hub, or a local folder"
)
"""What `--model` takes."""
PARTS = (
    *("knockout_windows", "patch_grounding", "attention_share", "prompt_ablation", "knockout_answers"),
    *("query_patching", "object_score", "image_lens", "information_flow", "joint_routes", "patching_map"),
    *("attribution_map", "patch_knockout", "ablation", "heads", "compressed_context"),
)
"""The parts of a report: `report.chosen.NAMES`, which is too heavy to import for `--help`."""
Model = Annotated[str, typer.Option(help=f"The model: {MODELS}.")]
Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture file.", show_default=False)]
Question = Annotated[
    str, typer.Argument(metavar="QUESTION", help="What the model is asked about the picture.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and print nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from (the traceback).")]


def written_file(kind: str, usual: str) -> Any:
    """The option that names the one file that a command writes, see `report.single_files`.

    Args:
        kind: of file.
        usual: its name where none is given.
    """
    stem, _, ending = usual.rpartition(".")
    text = (
        f"The {kind} file to write; by default {usual}, or where that is there {stem}-2.{ending} and so on. A file "
        "that no nnsight-vlm command wrote is not replaced."
    )
    return typer.Option(help=text, show_default=False)


def examples(*lines: str) -> str:
    """Command lines as the end of a help text, one a line; texts in brackets would be taken for markup."""
    return "\n\n".join(["Examples:", *lines])
