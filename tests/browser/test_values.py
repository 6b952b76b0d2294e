"""The numbers that a page paints are the model's: the whole way, from the model to the canvas, against plain reads."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import nnsight_vlm as nv

CUT = nv.Knockout("image", ["last", "generated"], layers=nv.window(3, 6))
LAYERS, STEPS = [3, 7], 5


@functools.cache
def made():
    model, scene = nv.load("shapes"), nv.shapes.scene(3)
    prompt = nv.encode(model, "describe the image .", scene.image)
    view = nv.view(model, prompt, CUT, layers=LAYERS, heads=[1], objects=scene.objects, max_new_tokens=STEPS)
    return model, prompt, view


def read_again(column: int) -> tuple[list[str], np.ndarray]:
    """The answer's tokens, and what each read where it was written, `[layer, mean or head, token, image token]`."""
    model, prompt, _ = made()
    intervention = CUT if column else None
    answer = nv.generate(model, prompt, intervention, max_new_tokens=STEPS)
    grown = answer.prompt
    start = grown.rows[0].answer
    places = list(range(start - 1, grown.rows[0].stop - 1))
    read = nv.Attention(places, "image", layers=LAYERS, reduce="rows")
    values = nv.run(model, grown, intervention, reads=read).reads[0].double().numpy()
    texts = [model.tokenizer.decode(token).strip() for token in grown.rows[0].tokens[start:]]
    return texts, np.stack([values.mean(1), values[:, 1]], axis=1)


@pytest.mark.parametrize("column", [0, 1])
def test_a_page_paints_what_the_model_read(show, column):
    texts, expected = read_again(column)
    words = [word for word in made()[2].payload["columns"][column]["words"] if word["part"] == "generated"]
    assert [word["text"] for word in words] == texts, "one token a word"
    reader = show(made()[2].html())
    for layer, head in np.ndindex(2, 2):
        reader.page.evaluate(f"() => void window.nnsightVlmView.open('#l={LAYERS[layer]}&h={['mean', '1'][head]}')")
        for number, word in enumerate(words):
            values = expected[layer, head, number]
            assert np.abs(reader.painted(word["row"], column) - values).max() <= 0.51 * values.max() / 255 + 1e-7
    if column:
        assert (expected[0] == 0).all() and (expected[1] > 0).any(), "layer 3 is cut"
