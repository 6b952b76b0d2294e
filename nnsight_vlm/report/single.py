"""One picture and one question: what `nnsight-vlm ground` and `nnsight-vlm knockout` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ..errors import SpecError
from ..execution.decoding import generate
from ..execution.forward import run
from ..lowering.layers import Layers
from ..plots import Overlay, answer_map, draw_overlays
from ..prompts.encoding import encode
from ..prompts.token_text import spell
from ..recipes.controls import equal_windows, has_sight, layers_of, patch_source, spell_layers
from ..recipes.object_patches import patch_knockout
from ..recipes.words import default_objects
from ..specs.interventions import CLEAN
from ..specs.knockouts import Allow, Knockout
from ..sweeping.table import answer_token, sweep
from .figures import word_maps
from .folder import write_figure
from .study import load

MOST_WORDS = 6


def ground_one(
    name: str,
    picture: Image.Image,
    question: str,
    out: Path,
    *,
    words: tuple[str, ...],
    layers: Layers | None,
    limit: int,
) -> tuple[str, pd.DataFrame]:
    """Answer a question and draw where each object word of the answer looked.

    Returns the answer and a table `word, peak x, peak y` (pixels).

    Raises:
        SpecError: a word that the answer does not hold, or an answer without object words.
    """
    model = load(name)
    prompt = encode(model, question, picture)
    answer = generate(model, prompt, max_new_tokens=limit)
    for word in words:
        answer.prompt.find(word, within="generated")
    objects = (lambda _: words) if words else default_objects(model)
    maps = word_maps(model, prompt, answer, objects, layers=layers, limit=MOST_WORDS)
    if not maps:
        raise SpecError(f"the answer {answer.text!r} names no object; choose words of it with --words")
    write_figure(draw_overlays([maps]), out)
    rows = [{"word": one.title, "peak x": round(one.peak[0], 1), "peak y": round(one.peak[1], 1)} for one in maps]
    return answer.text, pd.DataFrame(rows)


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
) -> tuple[dict[str, str], pd.DataFrame]:
    """Cut a route for one question; draw the answer's score by window, and by patch for image tokens.

    The map by patch is of `target` and `layers` where these read the patches, and of all that read them where
    a Q-Former does; there is none where image tokens have no patches.

    Returns the texts with and without the cut, and a table `layers, form, logprob_change, top_token`.

    Raises:
        SpecError: unknown groups or layers, an answer that is not one token.
    """
    model = load(name)
    prompt = encode(model, question, picture)
    for group in (source, target):
        _ = group == "generated" or prompt[group]
    cut = Knockout(source, target, layers=layers)
    texts = {
        title: generate(model, prompt, case, max_new_tokens=limit).text
        for title, case in (("un-cut", CLEAN), ("cut", cut))
    }
    token = int(run(model, prompt).logits.argmax()) if answer is None else answer_token(model, answer)
    spelled = spell(model, token)
    if target == "generated":
        table = pd.DataFrame(
            [
                {
                    "layers": str(layers),
                    "form": "block",
                    "note": "the first token of an answer never depends on generated",
                }
            ]
        )
        write_figure(answer_map(picture, None, None, title=f"{source} → {target}"), out)
        return texts, table
    table = _windows(model, prompt, source, target, layers, token)
    overlay = None
    if source.startswith("image") and has_sight(prompt):
        stage, grid = patch_source(prompt)
        chosen: dict[str, Any] = {"target": target, "layers": layers} if stage == "decoder" else {}
        patches = patch_knockout(model, prompt, answer=token, **chosen)
        lost = -patches["logprob_change"].to_numpy()
        overlay = Overlay.of(picture, grid, lost, title=f'what 3 x 3 patches are worth to "{spelled}"')
    write_figure(answer_map(picture, overlay, table, title=f'"{spelled}": {source} → {target}'), out)
    return texts, table


def _windows(model: Any, prompt: Any, source: str, target: str, layers: Layers, token: int) -> pd.DataFrame:
    """The answer's score under the cut that was asked for, and in every quarter of the layers that have it."""
    wanted = {("asked for", "block"): Knockout(source, target, layers=layers)}
    for window in equal_windows(layers_of(model, prompt, source), 4):
        wanted[spell_layers(window), "block"] = Knockout(source, target, layers=window)
        wanted[spell_layers(window), "allow"] = Allow(source, target, layers=window)
    found = sweep(model, prompt, list(wanted.values()), answer=token)
    frame = pd.DataFrame(list(wanted), columns=["layers", "form"])
    return frame.assign(logprob_change=found["logprob"] - found["clean_logprob"], top_token=found["top_token"])
