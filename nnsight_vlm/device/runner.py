"""Runs a plan inside nnsight. This file is sent to the server; every decision was made before, on the client.

What arrives here are plain tuples, made by `lowering.plan` and unpacked at the top of each function:

- a *step* is ``(layer, path, place, kernel, writes, mask_spec)``; steps are sorted in the order in which the model
  reaches them;
- an *extent* is ``(entry, length, causal, cache_layers)``: where the queries and keys of one stage lie. Of the decoder,
  ``entry`` is the path of the module that is handed its sequence and cache; a stage that runs once a prompt has none,
  and its sequence has ``length`` positions. ``causal`` says whether its queries see no later key, or, of a line (see
  `lines`), where its pieces end: ``(layers, stops)`` for layers with the same; ``cache_layers`` are ``(layer, layer
  whose cache gives its offset)``;
- *edits* are ``(once, every_token)``: steps that run once a prompt and steps that run once a decoded token. They live
  in two nnsight workers: one worker, parked on the vision tower, would drop the decoder's steps after the first token.

A *call* is ``(task, inputs, rest)``: one of the tasks `forward`, `decode` and `decode_logits`, the keyword arguments of
the model, and what else the task is given. On this machine a task is called as it is; a server is sent many calls and
runs `carry_out`. What a task takes from an earlier one (the states that a patch writes) lies in a *slot*, a list that
the earlier task fills.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch
from nnsight import save
from nnsight.intervention.interleaver import OutOfOrderError
from nnsight.intervention.iterator import Iterations

from .attention_parts import arguments_inside, is_part, touches
from .gates import write_gated
from .lines import parts_of, stops_of
from .positions import cache_of, crossing, sequence, windows
from .readouts import precise

# tasks --------------------------------------------------------------------------------------------


def carry_out(model, digest, calls, pools):
    """What each call gives, in order, behind the digest that says whose answer this is."""
    return [digest, [task(model, unpacked(inputs, pools), *rest) for task, inputs, rest in calls]]


def unpacked(inputs, pools):
    """Keyword arguments of the model; a tensor that was packed arrives as ``(number of its pool, rows of it)``."""
    return {name: from_pool(pools, *value) if isinstance(value, tuple) else value for name, value in inputs.items()}


def from_pool(pools, number, rows):
    """A tensor from rows of a pool."""
    return pools[number][rows]


def forward(model, inputs, edits, extents, reads, slots):
    """One forward: what each read gives, see `collect`; an answer that has a slot goes there, and None comes back."""
    edited = installed(model, edits)
    with torch.no_grad(), edited.trace(**inputs):
        answers = save(collect(edited, extents, reads))
    for number, slot in slots:
        slot.append(answers[number][0])
        answers[number] = None
    return answers


def decode(model, inputs, edits, options, width):
    """The tokens that one cached generation adds to a prompt of so many, ``[row, token]``."""
    edited, options = generating(model, edits, options)
    with torch.no_grad(), edited.generate(**inputs, **options) as tracer:
        sequences = save(tracer.result.cpu())
    return sequences[:, width:]


def decode_logits(model, inputs, edits, options, width):
    """The same with the logits that each token was chosen from, ``[row, token, vocab]``."""
    edited, options = generating(model, edits, options)
    with torch.no_grad(), edited.generate(**inputs, **options) as tracer:
        tokens, logits = tracer.result.sequences.cpu(), torch.stack(tracer.result.logits, dim=1)
        answers = save([tokens, precise(logits).cpu()])
    sequences, logits = answers
    return [sequences[:, width:], logits]


def generating(model, edits, options):
    """A copy of the model for generation under edits, and the options of its generation.

    Where an attention would lose its cache (see `loses_cache`), every token runs the whole sequence: the same tokens,
    without a cache. An option that is None says what is so in a transformers that does not have it.
    """
    _, every_token = edits
    without_cache = options.get("use_cache") is False
    if every_token is not None:
        _, steps, *_ = every_token
        without_cache = without_cache or loses_cache(model, steps)
    fields = getattr(model._module, "generation_config", None)
    known = {name: value for name, value in options.items() if value is not None or hasattr(fields, name)}
    return installed(model, edits, again=without_cache), {**known, "use_cache": not without_cache}


def loses_cache(model, steps):
    """Whether an attention that is cut would be handed a copy of its cache, and fill that.

    An NDIF server runs requests that it does not trust in a process without the model's weights. What code there looks
    at crosses between processes and back, copied, and the cache is among what an attention is given.
    """
    cuts = any(mask_spec is not None and not is_part(mask_spec) for *_, mask_spec in steps)
    return cuts and is_sandboxed(model)


def is_sandboxed(model):
    """Whether this code runs in a process without the weights, to which what it looks at is copied, and back."""
    return all(weight.device.type == "meta" for weight in model._module.parameters())


# installing a plan --------------------------------------------------------------------------------


def installed(model, edits, again=False):
    """A copy of the model with one nnsight edit for what runs once a prompt, and one for what runs on every token.

    With ``again``, what usually runs once a prompt runs for every token.
    """
    stages, every_token = edits
    edited = model._shallow_copy()  # as `model.edit()` makes it, and also where there is nothing to edit
    if stages:
        with edited.edit(inplace=True):
            once(edited, stages, again)
    if every_token is not None:
        extent, steps, rows, skipped = every_token
        with edited.edit(inplace=True):
            on_every_token(edited, extent, steps, rows, skipped)
    return edited


def once(model, stages, again):
    """Carry out the steps that the model passes once a prompt: Q-Formers, image features, encoders.

    ``stages`` are ``(extent, steps)`` in the order in which they run. With ``again`` the model passes them for every
    token that it decodes.
    """
    for token in Iterations()[0:] if again else (0,):
        for extent, steps in stages:
            try:
                perform(model, steps, full_windows(extent))
            except OutOfOrderError:
                if token == 0:
                    raise
                return  # the model has stopped: there is no such token


def on_every_token(model, extent, steps, rows, skipped):
    """Carry out the decoder's steps in the prompt's forward and in each decoded token's.

    Steps name rows of the batch, so the model must run as many as the plan was made for: beams would go uncut.
    ``skipped`` is ``(paths of layers that do not run, what the last of them is said to give)``.
    """
    entry, _, causal, cache_layers = extent
    skipped_paths, skipped_output = skipped
    open_source(model, [path for _, path, _, kernel, _, _ in steps if kernel is write_gated])
    means = {}  # those that are taken in the prompt's forward and written for every token
    for token in Iterations()[0:]:
        try:
            inputs = model.get(entry).inputs
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
        if token == 1 and cache_of(inputs) is not None and loses_cache(model, steps):
            raise ValueError(
                "in the sandbox of this server an attention that is cut loses its cache; generate with nv.generate, "
                "which does without, or write use_cache=False"
            )
        for path in skipped_paths:
            model.get(path).skip(skipped_output)
        perform(model, steps, windows(inputs, cache_layers, causal), means)


def full_windows(extent):
    """The windows of a stage that runs once a prompt: in every layer all of its sequence."""
    _, length, causal, cache_layers = extent
    return {layer: (0, length, 0, length, stops_of(causal, layer)) for layer, _ in cache_layers}


def perform(model, steps, window_of, means=None):
    """One forward's steps; sites whose positions this forward does not hold are left alone.

    ``means`` outlive the forward, see `attention_parts.with_means`.
    """
    memo = {"means": {} if means is None else means}
    for layer, path, place, kernel, writes, mask_spec in steps:
        window = window_of[layer]
        _, _, packing = mask_spec or (None, None, None)
        if packing is None and not touches(writes, window, mask_spec):
            continue
        site = model.get(path)
        if place == "inputs":
            site.inputs = kernel(site.inputs, writes, window, mask_spec, memo)
        elif place == "output":
            site.output = kernel(site.output, writes, window, mask_spec, memo)
        elif place.endswith(".inputs"):
            operation = getattr(site.source, place.partition(".")[0])
            operation.inputs = kernel(operation.inputs, writes, window, mask_spec, memo)
        elif place.endswith(".output"):
            operation = getattr(site.source, place.partition(".")[0])
            operation.output = kernel(operation.output, writes, window, mask_spec, memo)
        else:
            operation = getattr(site.source, place)
            given = operation.inputs
            operation.output = kernel((given, operation.output), writes, window, mask_spec, memo)


# reading ------------------------------------------------------------------------------------------


def collect(model, extents, reads):
    """What each read gives, in order: ``(stage, layer, path, place, readout, requests, outside, gate)``.

    Stages are numbers of ``extents``. ``outside`` is given for reads of attention to keys outside the sequence, see
    `kernels.crossing`; ``gate`` for states that a layer multiplies before it adds them, see `gated`.
    """
    answers = []
    window_of, line_of = {}, {}  # by stage; by path of an attention
    factors_of = row_factors(reads)
    open_source(model, [gate[0] for *_, gate in reads if gate is not None and gate[0]])
    for stage, layer, path, place, readout, requests, outside, gate in reads:
        if place == "logits":
            answers.append(readout(model.output.logits, requests, None))
            continue
        entry, _, causal, cache_layers = extents[stage]
        if stage not in window_of:
            inputs = model.get(entry).inputs if entry else None
            window_of[stage] = windows(inputs, cache_layers, causal) if entry else full_windows(extents[stage])
        take_factors(model, factors_of, stage, layer)
        _, queries, *_ = window_of[stage][layer]
        if " " in place:
            value = parts_of(model.get(path), place, window_of[stage][layer], line_of.setdefault(path, []))
        else:
            value = inputs if path == entry and place == "inputs" else fetch(model, path, place, queries)
        value = value if gate is None else gated(model, value, gate, factors_of.get((stage, layer)))
        answers.append(readout(value, requests, crossing(window_of[stage][layer], outside)))
    return answers


def fetch(model, path, place, queries):
    """What a site holds: what a module takes or returns, or what a call inside it takes or returns.

    An attention function is also handed its module. Where that would cross between processes with its weights, what
    the function hands on to torch is taken instead, see `attention_parts.arguments_inside`.
    """
    module = model.get(path)
    if place == "inputs":
        return module.inputs
    if place == "output":
        return module.output
    call, _, end = place.partition(".")
    operation = getattr(module.source, call)
    if end == "output":
        return operation.output
    if queries > 1 and is_sandboxed(model) and model._module.config.get_text_config()._attn_implementation == "sdpa":
        return arguments_inside(operation)
    return operation.inputs


def open_source(model, paths):
    """Let nnsight list the calls inside modules before the model enters them; afterwards it is too late."""
    for path in paths:
        _ = model.get(path).source


def row_factors(reads):
    """For each ``(stage, layer)`` with states behind factors of rows: where they are, ``(layer's path, keyword)``."""
    behind = [(stage, layer, gate) for stage, layer, *_, gate in reads if gate is not None and gate[1]]
    return {(stage, layer): gate[:2] for stage, layer, gate in behind}


def take_factors(model, factors_of, stage, layer):
    """Put the factors ``[row, token, 1]`` of a layer in place of where they are, when the reads enter that layer."""
    where = factors_of.get((stage, layer))
    if isinstance(where, tuple):
        path, keyword = where
        _, kwargs = model.get(path).inputs
        factors = kwargs.get(keyword)
        factors_of[(stage, layer)] = 1 if factors is None else factors[:, 0]


def gated(model, value, gate, factors):
    """What a layer adds to the residual stream of what a module returned: that times the factors of rows and gate.

    A gate without a path is a number.
    """
    path, keyword, call = gate
    hidden = value[0] if isinstance(value, tuple) else value
    if not path:
        return call * hidden
    return getattr(model.get(path).source, call).output * (factors * hidden if keyword else hidden)
