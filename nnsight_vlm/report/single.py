"""One picture and one question: what `nnsight-vlm ground` and `nnsight-vlm knockout` do."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import SpecError
from ..execution.decoding import generate
from ..execution.forward import run
from ..families import Model
from ..lowering.layers import Layers, label, window
from ..plots import Overlay, answer_map, draw_overlays
from ..plots.answers import ASKED_FOR
from ..plots.quantities import NATS, UNITS
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell
from ..recipes.object_patches import patch_knockout
from ..specs.interventions import CLEAN, Intervention
from ..specs.knockouts import Allow, Knockout
from ..studies.image_patches import has_patches, patch_source
from ..studies.labels import Form
from ..studies.layer_sets import layers_reading
from ..studies.object_words import first_mention
from ..studies.token_sets import require
from ..studies.windows import USUAL, Windows
from ..studies.words import default_objects
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token
from .config import check_text, load_by_name
from .figures import figure_of, word_maps
from .folder import write_figure

MOST_WORDS = 6
"""Most words of an answer that are shown."""


class GroundedAnswer(NamedTuple):
    """An answer, and where its object words looked: a table `word, peak x, peak y` in pixels of the picture."""

    answer: str
    peaks: pd.DataFrame


class CutAnswers(NamedTuple):
    """An answer with and without a cut.

    Attributes:
        texts: the generated texts, `un-cut` and `cut`.
        scores: the first token's score by window of layers, `layers, form, logprob_change, top_token`.
    """

    texts: dict[str, str]
    scores: pd.DataFrame


def ground_one(
    name: str,
    picture: Image.Image,
    question: str,
    out: Path,
    *,
    words: tuple[str, ...],
    layers: Layers | None,
    limit: int,
) -> GroundedAnswer:
    """Answer a question and draw which patches each object word of the answer attended to.

    Args:
        name: the model's name.
        picture: what the question is about.
        question: its text.
        out: the PNG file to write.
        words: words of the answer to show; empty for its objects.
        layers: the layers to average; None for the middle half.
        limit: most tokens of the answer.

    Raises:
        SpecError: a word that is not in the answer, or an answer without object words.
    """
    model = load_by_name(name)
    prompt = encode(model, question, picture)
    answer = generate(model, prompt, max_new_tokens=limit)
    for word in words:
        if first_mention(answer.prompt, word) is None:
            answer.prompt.find(word, within="generated")  # says what the answer reads
    objects = (lambda _: words) if words else default_objects(model)
    maps = word_maps(model, prompt, answer, objects, layers=layers, limit=MOST_WORDS)
    if not maps:
        raise SpecError(f"the answer {answer.text!r} names no object; choose words of it with --words")
    write_figure(figure_of(draw_overlays([maps])), out)
    peaks = [(overlay.title, *(round(pixel, 1) for pixel in overlay.peak)) for overlay in maps]
    return GroundedAnswer(answer.text, pd.DataFrame(peaks, columns=["word", "peak x", "peak y"]))


def knockout_one(
    name: str,
    picture: Image.Image,
    question: str,
    out: Path,
    *,
    source: str,
    target: str,
    layers: Layers,
    answer: str | None,
    limit: int,
) -> CutAnswers:
    """Cut a route for one question; draw the answer's score by window of layers, and by patch for image tokens.

    The map by patch hides 3 x 3 patches from `target` in `layers` where image tokens stand for patches. Where a
    Q-Former reads the patches, it hides them from all of its queries in all of its layers. There is no map where
    nothing tells which patch an image token stands for.

    Args:
        name: the model's name.
        picture, question, out: see `ground_one`.
        source, target, layers: the route that is cut, see `nv.Knockout`.
        answer: the one-token answer to score; None for the model's own first token.
        limit: most tokens of the generated answers.

    Raises:
        SpecError: unknown groups or layers, an answer that is not one token, or an answer to score under a cut that
            cannot reach its first token.
    """
    if target == "generated" and answer is not None:
        raise SpecError(
            f"--answer {answer!r} is scored as the first token, which never depends on generated; leave it out, or cut "
            "another --target"
        )
    if answer is not None:
        check_text("answer", answer, "--answer red")
    model = load_by_name(name)
    prompt = encode(model, question, picture)
    for group in (source, target):
        require(prompt, group)
    cut = Knockout(source, target, layers=layers)
    interventions = {"un-cut": CLEAN, "cut": cut}
    texts = {
        title: generate(model, prompt, intervention, max_new_tokens=limit).text
        for title, intervention in interventions.items()
    }
    token = int(run(model, prompt).logits.argmax()) if answer is None else answer_token(model, answer)
    route, spelled = f"{source} → {target}", spell(model, token)
    if target == "generated":
        note = "the first token of an answer never depends on generated"
        write_figure(figure_of(answer_map(picture, None, None, title=route)), out)
        return CutAnswers(texts, pd.DataFrame([{"layers": label(layers), "form": "block", "note": note}]))
    scores, overlay = _scores_by_window(model, prompt, cut, token), None
    if source.startswith("image") and has_patches(prompt):
        overlay = _worth_of_patches(model, prompt, cut, token, title="3 x 3 patches hidden")
    write_figure(figure_of(answer_map(picture, overlay, scores, title=f'"{spelled}": {route}')), out)
    return CutAnswers(texts, scores)


def _worth_of_patches(model: Model, prompt: Prompt, cut: Knockout, token: int, *, title: str) -> Overlay:
    """A map of the change of a token's log-probability when a patch and its neighbours are hidden."""
    stage, grid = patch_source(prompt)
    if stage == "decoder":
        patches = patch_knockout(model, prompt, answer=token, target=cut.target, layers=cut.layers)
    else:
        patches = patch_knockout(model, prompt, answer=token)
    changes = patches["logprob_change"].to_numpy()
    note = f"peak: patch with the largest change, {changes[np.nanargmax(np.abs(changes))]:+.3g} nats"
    unit = UNITS["logprob_change"].label
    return Overlay.of(prompt.image(), grid, changes, title=title, label=unit, note=note, signed=True, least=NATS)


class _Window(NamedTuple):
    """What the table says of one cut: its layers, and whether they are closed or the only open ones."""

    layers: str
    form: Form


def _scores_by_window(model: Model, prompt: Prompt, cut: Knockout, token: int) -> pd.DataFrame:
    """A token's score under the cut that was asked for, and in every quarter of the layers that have the route.

    In some of these windows the route may be closed already.
    """
    source, target = cut.source, cut.target
    cuts: dict[_Window, Intervention] = {_Window(ASKED_FOR, "block"): cut}
    for _, _, layers in Windows(count=USUAL, at_most=True).of(layers_reading(model, prompt, source)):
        cuts[_Window(_as_typed(layers), "block")] = Knockout(source, target, layers=layers)
        cuts[_Window(_as_typed(layers), "allow")] = Allow(source, target, layers=layers)
    scores = sweep(model, prompt, list(cuts.values()), answer=token, empty="ignore")
    frame = pd.DataFrame(list(cuts), columns=list(_Window._fields))
    return frame.assign(logprob_change=scores["logprob"] - scores["clean_logprob"], top_token=scores["top_token"])


def _as_typed(layers: tuple[int, ...]) -> str:
    """Layers as `--layers` takes them: neighbours as `2:5`, others one by one."""
    first, last = layers[0], layers[-1]
    is_run = first < last and layers == tuple(range(first, last + 1))
    return str(label(window(first, last + 1) if is_run else layers))
