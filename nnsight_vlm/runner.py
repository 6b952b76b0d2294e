"""The few lines that carry a plan out inside nnsight. They travel; all thinking was done at home.

A *step* is ``(layer, path, place, act, writes, packing)``, sorted in the order in which the model
reaches it. Steps that run once a prompt and steps that run once a decoded token live in two
workers: a worker parked on the vision tower would drop the decoder's steps after the first token.

This file travels to NDIF by source: see `kernels`.
"""

from __future__ import annotations

from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.intervention.iterator import Iterations

from .kernels import batch_size, reaches, windows


def once(model, steps, features):
    """Carry out the steps of the image side, which the model passes once a prompt.

    ``features`` is how many image tokens the steps were made for.
    """
    for _, path, _, act, writes, packing in steps:
        site = model.get(path)
        value = site.output
        if value.reshape(-1, value.shape[-1]).shape[0] != features:
            raise ValueError(f"the intervention was made for {features} image tokens and the model was given others")
        site.output = act(value, writes, (0, 0), packing, {})


def on_every_token(model, decoder, steps, rows):
    """Carry out the decoder's steps in the prompt's forward and in each decoded token's.

    Steps name rows, so the model must run as many as the plan was made for: beams would go uncut.
    """
    layers = sorted({step[0] for step in steps})
    for token in Iterations()[0:]:
        try:
            inputs = model.get(decoder).inputs
        except OutOfOrderError:
            if token == 0:
                raise
            return  # the model has stopped: there is no such token
        if batch_size(inputs) != rows:
            raise ValueError(
                f"the intervention was made for {rows} row(s) and the model runs {batch_size(inputs)}; "
                "make it for a prompt of that many rows, and without beams or several sequences an answer"
            )
        perform(model, steps, windows(inputs, layers))


def perform(model, steps, held):
    """One forward's steps; sites whose positions it does not hold are left alone."""
    memo = {}
    for layer, path, place, act, writes, packing in steps:
        window = held[layer]
        if packing is None and not reaches(writes, window):
            continue
        site = model.get(path)
        if place == "inputs":
            site.inputs = act(site.inputs, writes, window, packing, memo)
        else:
            site.output = act(site.output, writes, window, packing, memo)


def collect(model, decoder, reads):
    """One list a read, in the order of the reads: ``(layer, path, place, read, requests)``."""
    found = []
    held = {}
    for layer, path, place, read, requests in reads:
        if place == "features":
            value = model.get(path).output
        else:
            if not held:
                inputs = model.get(decoder).inputs
                held = windows(inputs, {step[0] for step in reads})
            value = inputs if path == decoder else fetch(model, path, place)
        found.append(read(value, requests, held.get(layer)))
    return found


def fetch(model, path, place):
    """What a site holds: a module's output, the logits, or what a call inside it takes or returns."""
    if place == "logits":
        return model.output.logits
    if place == "output":
        return model.get(path).output
    call, _, end = place.partition(".")
    operation = getattr(model.get(path).source, call)
    return operation.output if end == "output" else operation.inputs
