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

import nnsight as _nnsight

from . import frames, recipes, remote, shapes
from .encoding import encode, stack
from .engine import Generation, Run, generate, generations, install, run
from .errors import InterventionError, RemoteError, SpecError
from .families import FAMILIES, Family
from .grids import Grid
from .interventions import Ablate, Allow, Intervention, Knockout, Patch
from .layers import depth, window
from .models import load
from .prefixes import forget
from .prompts import Prompt
from .reads import Attention, Residual
from .sweep import sweep
from .verify import Proof, verify

_nnsight.register("nnsight_vlm")  # code travels to NDIF by source: the server has no copy of it

__all__ = [
    "FAMILIES",
    "Ablate",
    "Allow",
    "Attention",
    "Family",
    "Generation",
    "Grid",
    "Intervention",
    "InterventionError",
    "Knockout",
    "Patch",
    "Prompt",
    "Proof",
    "RemoteError",
    "Residual",
    "Run",
    "SpecError",
    "depth",
    "encode",
    "forget",
    "frames",
    "generate",
    "generations",
    "install",
    "load",
    "recipes",
    "remote",
    "run",
    "shapes",
    "stack",
    "sweep",
    "verify",
    "window",
]
