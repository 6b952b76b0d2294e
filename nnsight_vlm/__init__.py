"""See and change how vision-language models turn an image into words."""

from __future__ import annotations

import nnsight as _nnsight

from . import shapes
from .engine import Generation, Run, generate, install, run
from .errors import InterventionError, SpecError
from .families import FAMILIES, Family
from .grids import Grid
from .interventions import Ablate, Allow, Intervention, Knockout, Patch
from .models import load
from .plan import depth, window
from .prompts import Prompt, encode
from .reads import Attention, Residual
from .sweep import generations, sweep
from .verify import Proof, verify

_nnsight.register("nnsight_vlm")  # code travels to NDIF by source: the server has no copy of it
