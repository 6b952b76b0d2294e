"""What an intervention does to states that a layer multiplies by a gate before it adds them.

A layer computes ``residual + gate * (rows * output)`` and the states to write are the whole second term, which no
module returns. Three steps of one layer make it: the factors of the rows are taken out of what the layer is handed,
the module's output is taken and replaced by ones, and the gate becomes the term itself, written.

Kernels as in `kernels`, and like it this file travels to a server by source.
"""

from __future__ import annotations

import torch

from .states import write_rows


def take_row_factors(inputs, writes, window, mask_spec, memo):
    """Take the factors ``[row, token, 1]`` out of what a layer is handed; ``mask_spec`` names their keyword."""
    args, kwargs = inputs
    keyword, _, _ = mask_spec
    factors = kwargs.get(keyword)
    memo["rows"] = None if factors is None else factors[:, 0]
    return args, {**kwargs, keyword: None}


def take_output(output, writes, window, mask_spec, memo):
    """Take what a module returns, and leave ones in its place; with a ``mask_spec``, times the factors of the rows."""
    hidden = output[0] if isinstance(output, tuple) else output
    factors = None if mask_spec is None else memo.pop("rows")
    memo["term"] = hidden if factors is None else factors * hidden
    ones = torch.ones_like(hidden)
    return (ones, *output[1:]) if isinstance(output, tuple) else ones


def write_gated(call, writes, window, mask_spec, memo):
    """`write_rows` on the gated term; ``call`` is ``((args, kwargs), gate)``."""
    _, gate = call
    return write_rows(gate * memo.pop("term"), writes, window)


# reading ------------------------------------------------------------------------------------------


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
