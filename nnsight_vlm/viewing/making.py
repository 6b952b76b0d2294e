"""`nv.view`: the page that people open first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..errors import SpecError
from ..execution.decoding import Generation
from ..execution.emptiness import Empty
from ..execution.memory import check_memory
from ..families import Model
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote, check_remote
from ..specs.interventions import Intervention
from .asking import LIMIT, Asked, Quantity, asked_given
from .columns import Column, column_of
from .facts import facts_of
from .fitting import fitted
from .objects import Named
from .payload import Content
from .values import View


@can_run_in_background
def view(
    model: Model,
    prompt: Prompt | Generation,
    intervention: Intervention | None = None,
    *,
    quantities: Quantity | Sequence[Quantity] = ("weight",),
    layers: Layers = "all",
    heads: str | int | Sequence[int] = "mean",
    words: Sequence[str] | None = None,
    objects: Named | Sequence[Named | None] | None = None,
    sinks: bool | float = False,
    lens: bool | Layers = False,
    max_new_tokens: int | None = None,
    limit: int = LIMIT,
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> View:
    """A page that shows which patches of the picture each word read: in a notebook, or as one HTML file.

    Pointing at a word paints its patches, pointing at a patch marks the words that read it. A word of the answer is
    read where the model wrote it, at the position before each of its tokens, as `recipes.patch_grounding` does; a word
    of the prompt at its own tokens; both are the mean over the word's tokens. Words before the picture read none of it.

    Attention is not a cause. `quantities=["weight", "causal"]` puts beside it what each word loses without a patch.

    Args:
        model: an nnsight model from `load`.
        prompt: of one row, with at least one picture or video; the model writes its answer. Or an answer that is there:
            a generation, or the prompt that it has grown.
        intervention: gives a second column: the same prompt under this intervention, with the answer that the model
            then writes. Words that differ are marked.
        quantities: what is painted. `weight`, the attention to each patch; `contribution`, how long the vector is that
            a patch adds to the word's row (`nv.Attention(..., reduce="contribution")`); `gradient`, how fast the word's
            log-probability changes with the patch's features (`nv.saliency`), one backward a word, on this machine
            only; `causal`, the nats that the word loses when this one patch is hidden from the answer in all layers,
            one sweep over all patches.
        layers: for `weight` and `contribution`, which of the layers that read the picture.
        heads: `"mean"`; `"all"` for every head beside the mean, or their numbers.
        words: which words of the answer have a gradient and a causal map; default all.
        objects: outlines to draw on the first picture: boxes `(x0, y0, x1, y1)` or masks by name, a list of
            `nv.recipes.Thing`, or the `objects` of a scene; or a list with such an entry, or None, for each picture and
            frame.
        sinks: also mark image tokens that draw attention whatever the word, see `recipes.patch_grounding`.
        lens: also the words that the states of image tokens stand for (`nv.lens`), in all layers or in these.
        max_new_tokens: how long an answer may be; default 64.
        limit: how many bytes the page may have. Where all values are more, small ones are left out, then layers; the
            page says what.
        memory: see `nv.sweep` and `nv.saliency`.
        empty, remote, blocking, path: see `nv.run`.

    Returns:
        A `View`: it shows itself in a notebook, `view.save("view.html")` writes the file.

    Raises:
        SpecError: no picture, or image tokens that stand for no part of one; what this model cannot be asked; anything
            wrong with the intervention; all of that before the model runs. None of `words` is in an answer; a page that
            is larger than `limit` even with one layer.

    >>> import nnsight_vlm as nv
    >>> model, scene = nv.load("shapes"), nv.shapes.scene(3)
    >>> prompt = nv.encode(model, "what color is the ring ?", scene.image)
    >>> nv.view(model, prompt, nv.Knockout("image", "last"), objects=scene.objects)
    View('green | cyan'; weight over 100 image tokens)
    """
    check_remote(remote)
    memory = check_memory(memory)
    asked = asked_given(
        model,
        prompt,
        intervention,
        quantities=quantities,
        layers=layers,
        heads=heads,
        words=words,
        objects=objects,
        sinks=sinks,
        lens=lens,
        max_new_tokens=max_new_tokens,
        limit=limit,
        empty=empty,
        remote=remote,
    )
    columns = columns_of(model, asked, memory=memory, empty=empty, remote=remote)
    _refuse_absent(asked, columns)
    return View(payload=fitted(Content(asked, facts_of(model, asked, remote), columns, asked.prompt["question"])))


def columns_of(model: Model, asked: Asked, *, memory: int | None, empty: Empty, remote: Remote) -> list[Column]:
    """The clean column, and the one under the intervention where there is one; on a server they share their jobs."""
    interventions = [None] if asked.intervention is None else [None, asked.intervention]
    return together(
        [partial(column_of, model, asked, each, memory=memory, empty=empty, remote=remote) for each in interventions],
        remote,
    )


def _refuse_absent(asked: Asked, columns: Sequence[Column]) -> None:
    """Refuse words that no answer has.

    Raises:
        SpecError: with the answers.
    """
    if asked.words is None or any(maps.has for column in columns for maps in column.maps.values()):
        return
    answers = " and ".join(repr(column.answer) for column in columns)
    raise SpecError(f"words={list(asked.words)!r}: none of them is in the answer {answers}; write words that are")
