"""The tools that the study is written with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that the study is written with.

    Attributes:
        title: its name in the tables.
        page: the page that shows its program.
        packages: whose versions are told beside torch and transformers.
        pins: what its environment holds; without any it is the one that runs this script.
        opens: what of the model it opens, as the table says it.
    """

    title: str
    page: str
    packages: tuple[str, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    opens: str = "the model"


TOOLS = {
    "ours": Tool(title="nnsight_vlm", page="README.md", packages=("nnsight",)),
    "nnsight": Tool(title="nnsight", page="nnsight.md", packages=("nnsight",)),
    "hooks": Tool(title="PyTorch hooks", page="hooks.md"),
    "transformerlens": Tool(
        title="TransformerLens",
        page="transformerlens.md",
        packages=("transformer-lens",),
        pins={"transformer-lens": "4.3.0"},
    ),
    "nnterp": Tool(
        title="nnterp",
        page="nnterp.md",
        packages=("nnterp", "nnsight"),
        pins={"nnterp": "1.3.0", "nnsight": "0.7.0"},  # with nnsight 0.8 it cannot be imported
    ),
    "pyvene": Tool(
        title="pyvene",
        page="pyvene.md",
        packages=("pyvene",),
        pins={"pyvene": "0.1.8"},
        opens="the model, but not its pictures",
    ),
}
