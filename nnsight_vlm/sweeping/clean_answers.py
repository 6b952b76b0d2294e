"""What a prompt's clean run says of answers: their scores, and the states in which variants of late layers begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..device.readouts import hidden_rows
from ..execution.preparing import prepare
from ..execution.requests import run_forward
from ..families import view_of
from ..lowering.answer_trees import PROMPT
from ..lowering.layouts import Layout, after_prefix, packed
from ..lowering.plan import read_step
from ..lowering.read_requests import StateRequest
from ..lowering.steps import ReadStep
from ..prompts.ranges import Ranges
from ..specs.interventions import CLEAN
from .arrangement import SweepContext
from .divergence import unshared_divergence
from .prefixes import Prefix, cache_for, prefix_of
from .scores import CaseScore, predictors, rows_at, score_logits


def clean_answers(context: SweepContext, prefix: Prefix) -> tuple[Prefix, CaseScore]:
    """The scores of a clean run, and the prefix with what every layer gives of the answers' tokens.

    These run behind the whole prompt, whose run is the prefix's: it has logits.
    """
    logits = {PROMPT: torch.as_tensor(prefix.logits)}
    tree = context.branches.tree
    if tree.tokens:
        nodes = [node for node in predictors(context.wanted, context.branches) if node != PROMPT]
        layout = _behind_prompt(context)
        steps = _layer_steps(context, layout) if prefix.states is not None else []
        plan = prepare(context.model, layout, [CLEAN], {})
        result = run_forward(context.model, layout, plan, steps, rows_at(layout, nodes), context.remote)
        logits |= dict(zip(nodes, result.logits[0], strict=True))
        prefix = replace(prefix, answers=[states for [[states]] in result.readouts] or None)
    return prefix, score_logits(context.wanted, context.branches, logits)


def _behind_prompt(context: SweepContext) -> Layout:
    """The answers' tokens alone, behind the cache of the whole prompt."""
    stop, tree = context.prompt.rows[0].stop, context.branches.tree
    whole = prefix_of(context.runs, context.model, context.prompt, stop)
    case = unshared_divergence(context.model, context.prompt, CLEAN)
    cache = cache_for(context.runs, context.model, whole, [case], len(tree.tokens))
    return after_prefix(packed(context.prompt, 1, stop, tree), stop, cache)


def _layer_steps(context: SweepContext, layout: Layout) -> Sequence[Sequence[ReadStep]]:
    """Reads of what every layer gives of the answers' tokens."""
    stop, number = context.prompt.rows[0].stop, len(context.branches.tree.tokens)
    request = StateRequest(0, Ranges(((stop, stop + number),)))
    layers = range(view_of(context.model).stage().layer_count)
    return [
        [read_step(context.model, layout, "decoder", layer, "residual", hidden_rows, (request,))] for layer in layers
    ]
