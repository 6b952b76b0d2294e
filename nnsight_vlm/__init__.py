"""See and change how vision-language models turn an image into words.

Name *what to change* as a value, run it, and get a tidy table back:

>>> import nnsight_vlm as nv
>>> model = nv.load("shapes")
>>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
>>> cut = nv.Knockout("image", "last", layers=nv.depth(0.25, 0.5))
>>> nv.run(model, prompt, cut).logits.shape == nv.run(model, prompt).logits.shape
True

The rooms, in the order in which they may know of each other: `families` (where each model keeps
its parts), `grids` (which token saw which pixels), `kernels`, `readouts` and `runner` (the code
that travels to the model), `rows`, `roles`, `prompts` and `encoding` (which token is what),
`layouts` (where a variant sits), `sites` and `scope` (what names mean in a model), `plan`,
`interventions`, `reads`, `wire` (what goes to a server and back), `traces` (what is asked of a model), `starts` and
`prefixes` (what variants share), `remote` (jobs that nobody waits for), `engine`, `verify`, `passes`, `sweep`,
`recipes`, `report`.
"""

from __future__ import annotations

from . import plots, recipes, remote, report, shapes, statistics
from .errors import InterventionError, RemoteError, SpecError
from .execution.decoding import BatchGeneration, Generation, generate
from .execution.editing import install
from .execution.forward import BatchRun, Run, run
from .execution.proof import Proof, verify
from .families import FAMILIES, Family
from .grids import Grid
from .loading import load
from .lowering.layers import depth, window
from .prompts.encoding import encode, stack
from .prompts.prompt import Prompt, PromptBatch
from .specs.interventions import Ablate, Allow, Intervention, Knockout, Patch
from .specs.measurements import Attention, Residual
from .sweeping.answers import generations
from .sweeping.prefixes import forget
from .sweeping.table import sweep

__all__ = [
    "FAMILIES",
    "Ablate",
    "Allow",
    "Attention",
    "BatchGeneration",
    "BatchRun",
    "Family",
    "Generation",
    "Grid",
    "Intervention",
    "InterventionError",
    "Knockout",
    "Patch",
    "Prompt",
    "PromptBatch",
    "Proof",
    "RemoteError",
    "Residual",
    "Run",
    "SpecError",
    "depth",
    "encode",
    "forget",
    "generate",
    "generations",
    "install",
    "load",
    "plots",
    "recipes",
    "remote",
    "report",
    "run",
    "shapes",
    "stack",
    "statistics",
    "sweep",
    "verify",
    "window",
]
