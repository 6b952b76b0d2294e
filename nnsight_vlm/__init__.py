"""See and change how vision-language models turn an image into words.

Name *what to change* as a value, run it, and get a tidy table back:

>>> import nnsight_vlm as nv
>>> model = nv.load("shapes")
>>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
>>> cut = nv.Knockout("image", "last", layers=nv.depth(0.25, 0.5))
>>> nv.run(model, prompt, cut).logits.shape == nv.run(model, prompt).logits.shape
True

Importing this package costs next to nothing: every name is fetched from its module when it is first used. It raises
ImportError beside versions of transformers, torch, nnsight, pandas or numpy that it was not tested with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .versions import complaint, is_command_line

if (wrong := complaint()) and not is_command_line():
    raise ImportError(wrong)

if TYPE_CHECKING:
    from . import plots, recipes, remote, report, shapes, statistics
    from .citing.paragraph import cite
    from .errors import (
        InterventionError,
        NonFiniteWarning,
        PassesDifferWarning,
        RemoteError,
        SpecError,
        UnknownWordsWarning,
    )
    from .execution.decoding import BatchGeneration, Generation, generate
    from .execution.editing import install
    from .execution.forward import BatchRun, Run, run
    from .execution.mean_states import direction, mean_state
    from .execution.proof import Proof, verify
    from .families import FAMILIES, Family
    from .gradients.estimates import attribute
    from .gradients.saliency_maps import Saliency, saliency
    from .grids import Grid, VideoGrid
    from .loading import load
    from .lowering.describing import describe
    from .lowering.layers import depth, window
    from .prompts.encoding import encode
    from .prompts.prompt import Prompt, PromptBatch
    from .prompts.prompt_text import Word
    from .prompts.stacking import stack
    from .questions.item_lists import Item, Items
    from .questions.making import items
    from .specs.interventions import Intervention
    from .specs.knockouts import Allow, Knockout, Limit
    from .specs.lenses import Lens
    from .specs.measurements import Attention, Residual
    from .specs.states import Ablate, Patch
    from .specs.vectors import Add, Scale
    from .sweeping.answers import generations
    from .sweeping.kept_runs import forget, reuse
    from .sweeping.layer_words import lens
    from .sweeping.table import sweep
    from .viewing.making import view
    from .viewing.values import View

__all__ = [
    "FAMILIES",
    "Ablate",
    "Add",
    "Allow",
    "Attention",
    "BatchGeneration",
    "BatchRun",
    "Family",
    "Generation",
    "Grid",
    "Intervention",
    "InterventionError",
    "Item",
    "Items",
    "Knockout",
    "Lens",
    "Limit",
    "NonFiniteWarning",
    "PassesDifferWarning",
    "Patch",
    "Prompt",
    "PromptBatch",
    "Proof",
    "RemoteError",
    "Residual",
    "Run",
    "Saliency",
    "Scale",
    "SpecError",
    "UnknownWordsWarning",
    "VideoGrid",
    "View",
    "Word",
    "attribute",
    "cite",
    "depth",
    "describe",
    "direction",
    "encode",
    "forget",
    "generate",
    "generations",
    "install",
    "items",
    "lens",
    "load",
    "mean_state",
    "plots",
    "recipes",
    "remote",
    "report",
    "reuse",
    "run",
    "saliency",
    "shapes",
    "stack",
    "statistics",
    "sweep",
    "verify",
    "view",
    "window",
]

_NAMES_OF = {
    "citing.paragraph": ("cite",),
    "errors": (
        "InterventionError",
        "NonFiniteWarning",
        "PassesDifferWarning",
        "RemoteError",
        "SpecError",
        "UnknownWordsWarning",
    ),
    "execution.decoding": ("BatchGeneration", "Generation", "generate"),
    "execution.editing": ("install",),
    "execution.forward": ("BatchRun", "Run", "run"),
    "execution.mean_states": ("direction", "mean_state"),
    "execution.proof": ("Proof", "verify"),
    "families": ("FAMILIES", "Family"),
    "gradients.estimates": ("attribute",),
    "gradients.saliency_maps": ("Saliency", "saliency"),
    "grids": ("Grid", "VideoGrid"),
    "loading": ("load",),
    "lowering.describing": ("describe",),
    "lowering.layers": ("depth", "window"),
    "prompts.encoding": ("encode",),
    "prompts.prompt": ("Prompt", "PromptBatch"),
    "prompts.prompt_text": ("Word",),
    "prompts.stacking": ("stack",),
    "questions.item_lists": ("Item", "Items"),
    "questions.making": ("items",),
    "specs.interventions": ("Intervention",),
    "specs.knockouts": ("Allow", "Knockout", "Limit"),
    "specs.lenses": ("Lens",),
    "specs.states": ("Ablate", "Patch"),
    "specs.measurements": ("Attention", "Residual"),
    "specs.vectors": ("Add", "Scale"),
    "sweeping.answers": ("generations",),
    "sweeping.kept_runs": ("forget", "reuse"),
    "sweeping.layer_words": ("lens",),
    "sweeping.table": ("sweep",),
    "viewing.making": ("view",),
    "viewing.values": ("View",),
}
"""The module of every public name that is no module itself. Type checkers read the imports above instead."""
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _MODULE_OF:
        return import_module(f"{__name__}.{name}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
