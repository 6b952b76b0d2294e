"""The few lines that carry a plan out inside nnsight. They travel; all thinking was done at home.

A *step* is ``(layer, path, place, act, writes, form)``, sorted in the order in which the model
reaches it. A *stage* is ``(entry, length, causal, asks)``: one transformer inside the model. Of the
decoder, `entry` is the path of the module that is handed its sequence and cache; a stage that runs once
a prompt has none, and its sequence has ``length`` positions. ``causal`` says whether its queries see no
later key; ``cache_layer`` are ``(layer, layer that the cache is asked about)``. Steps that run once a prompt
and steps that run once a decoded token live in two workers: a worker parked on the vision tower would
drop the decoder's steps after the first token.

A *request* is ``(task, inputs, rest)``: one of the tasks below, the keyword arguments of the model, and what else
the task is given. Here a task is called as it is; a server is sent many requests and calls `carry_out`. What a
task takes from an earlier one (the states that a patch writes) lies in a *box*, a list that the earlier one fills.

This file travels to NDIF by source: see `kernels`.
"""

from __future__ import annotations

import torch
from nnsight import save
from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.intervention.iterator import Iterations

from .kernels import crossing, reaches, sequence, widened, windows


def carry_out(model, mark, requests, pools):
    """What each request gives, in order, and the mark that tells whose answer this is.

    Inputs come as `wire.parcels` has packed them: ``(pool, rows)`` where they are rows of a pool.
    """
    return [mark, [task(model, unpacked(inputs, pools), *rest) for task, inputs, rest in requests]]


def unpacked(inputs, pools):
    """Keyword arguments of the model, of which each row of a tensor was sent once."""
    return {name: pools[value[0]][value[1]] if isinstance(value, tuple) else value for name, value in inputs.items()}


def forward(model, inputs, edits, stages, reads, boxes):
    """One forward: what each read gives, see `collect`; what has a box goes there, and None comes back."""
    edited = installed(model, edits)
    with torch.no_grad(), edited.trace(**inputs):
        found = save(collect(edited, stages, reads))
    for number, box in boxes:
        box.append(found[number][0])
        found[number] = None
    return found


def decode(model, inputs, edits, options, width):
    """The tokens that one cached generation adds to a prompt of so many, ``[row, token]``."""
    edited, options = generating(model, edits, options)
    with torch.no_grad(), edited.generate(**inputs, **options) as tracer:
        sequences = save(tracer.result.cpu())
    return sequences[:, width:]


def decode_logits(model, inputs, edits, options, width):
    """The same with the logits that each was chosen from, ``[row, token, word]``."""
    edited, options = generating(model, edits, options)
    with torch.no_grad(), edited.generate(**inputs, **options) as tracer:
        found = save([tracer.result.sequences.cpu(), widened(torch.stack(tracer.result.logits, dim=1)).cpu()])
    return [found[0][:, width:], found[1]]


def generating(model, edits, options):
    """A copy of the model for generation under edits, and its options.

    In a sandbox that would lose the cache every token runs the whole sequence: the same tokens, without a cache.
    """
    again = bool(edits[1]) and loses_cache(model, edits[1][1])
    return installed(model, edits, again), {**options, "use_cache": False} if again else options


def loses_cache(model, steps):
    """Whether an attention that is cut would be handed a copy of its cache, and fill that.

    An NDIF server runs requests that it does not trust in a process without the model's weights. What code there looks
    at crosses between processes and back, copied, and the cache is among what an attention is given.
    """
    cuts = any(step[5] is not None for step in steps)
    return cuts and all(weight.device.type == "meta" for weight in model._module.parameters())


def installed(model, edits, again=False):
    """A copy of the model with one edit for each clock that has steps; see `once`, and `on_every_token` if anything.

    With ``again``, what usually runs once a prompt runs for every token.
    """
    groups, tokens = edits
    edited = model._shallow_copy()  # as `model.edit()` makes it, and also where there is nothing to edit
    if groups:
        with edited.edit(inplace=True):
            once(edited, groups, again)
    if tokens:
        stage, steps, rows, skipped = tokens
        with edited.edit(inplace=True):
            on_every_token(edited, stage, steps, rows, skipped)
    return edited


def whole(stage):
    """The windows of a stage that runs once a prompt: all of its sequence."""
    return {layer: (0, stage[1], 0, stage[1], stage[2]) for layer, _ in stage[3]}


def once(model, groups, again):
    """Carry out the steps that the model passes once a prompt: Q-Formers, image features, encoders.

    ``groups`` are ``(stage, steps)`` in the order in which they run. With ``again`` the model passes them for every
    token that it decodes.
    """
    for token in Iterations()[0:] if again else (0,):
        for stage, steps in groups:
            try:
                perform(model, steps, whole(stage))
            except OutOfOrderError:
                if token == 0:
                    raise
                return  # the model has stopped: there is no such token


def on_every_token(model, stage, steps, rows, skipped):
    """Carry out the decoder's steps in the prompt's forward and in each decoded token's.

    Steps name rows, so the model must run as many as the plan was made for: beams would go uncut.
    ``skipped`` is ``(paths of layers that do not run, what the last of them is said to give)``. Where an attention
    would lose its cache there is no second token with one.
    """
    for token in Iterations()[0:]:
        try:
            inputs = model.get(stage[0]).inputs
        except OutOfOrderError:
            if token == 0:
                raise
            return  # the model has stopped: there is no such token
        batch = sequence(inputs).shape[0]
        if batch != rows:
            raise ValueError(
                f"the intervention was made for {rows} row(s) and the model runs {batch}; "
                "make it for a prompt of that many rows, and without beams or several sequences an answer"
            )
        if token == 1 and inputs[1].get("past_key_values") is not None and loses_cache(model, steps):
            raise ValueError(
                "in the sandbox of this server an attention that is cut loses its cache; generate with nv.generate, "
                "which does without, or write use_cache=False"
            )
        for path in skipped[0]:
            model.get(path).skip(skipped[1])
        perform(model, steps, windows(inputs, stage[3], stage[2]))


def perform(model, steps, held):
    """One forward's steps; sites whose positions it does not hold are left alone."""
    memo = {}
    for layer, path, place, act, writes, form in steps:
        window = held[layer]
        packed = form is not None and form[2] is not None
        if not packed and not reaches(writes, window):
            continue
        site = model.get(path)
        if place == "inputs":
            site.inputs = act(site.inputs, writes, window, form, memo)
        elif place == "output":
            site.output = act(site.output, writes, window, form, memo)
        else:
            operation = getattr(site.source, place)
            given = operation.inputs
            operation.output = act((given, operation.output), writes, window, form, memo)


def collect(model, stages, reads):
    """One list a read, in the order of the reads: ``(stage, layer, path, place, read, requests, outside)``.

    ``outside`` is how many keys lie outside the sequence, for reads of attention to them.
    """
    found = []
    held = {}
    for number, layer, path, place, read, requests, outside in reads:
        if place == "logits":
            found.append(read(model.output.logits, requests, None))
            continue
        stage = stages[number]
        if number not in held:
            inputs = model.get(stage[0]).inputs if stage[0] else None
            held[number] = windows(inputs, stage[3], stage[2]) if stage[0] else whole(stage)
        value = inputs if path == stage[0] and place == "inputs" else fetch(model, path, place)
        found.append(read(value, requests, crossing(held[number][layer], outside)))
    return found


def fetch(model, path, place):
    """What a site holds: what a module takes or returns, or what a call inside it does."""
    if place in ("inputs", "output"):
        return model.get(path).inputs if place == "inputs" else model.get(path).output
    call, _, end = place.partition(".")
    operation = getattr(model.get(path).source, call)
    return operation.output if end == "output" else operation.inputs
