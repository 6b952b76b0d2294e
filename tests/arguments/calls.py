"""What a line of the tables is, and the small world in which all of them are called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tiny
import torch

import nnsight_vlm as nv

from .values import DATASET, THING

QUESTION = "what is the red square ?"


class Entry(NamedTuple):
    """A public function or value, and what to call it with.

    Attributes:
        public: the function or class, whose signature says which arguments there are.
        call: carries it out; takes the same arguments by name.
        good: arguments with which it works, all that it needs.
        bad: for each argument the values that are refused; for `**options` dicts of some.
        among: names of arguments as messages may call them, beside their own.
        works: whether the good arguments can be tried here.
    """

    public: Callable[..., Any]
    call: Callable[..., Any]
    good: Mapping[str, Any]
    bad: Mapping[str, Sequence[Any]]
    among: Sequence[str] = ()
    works: bool = True


class World(NamedTuple):
    """A tiny model, and prompts of every kind."""

    model: Any
    prompt: nv.Prompt
    twin: nv.Prompt
    batch: nv.PromptBatch
    text: nv.Prompt
    grown: nv.Prompt
    foreign: nv.Prompt
    cut: nv.Knockout


@functools.cache
def world() -> World:
    """The one that all tables share; nobody may change it."""
    model, other = tiny.load("sdpa"), tiny.load("sdpa", "qwen2")
    prompt, twin = (nv.encode(model, QUESTION, tiny.picture(seed)) for seed in (0, 1))
    return World(
        model=model,
        prompt=prompt,
        twin=twin,
        batch=nv.stack([prompt, twin]),
        text=nv.encode(model, QUESTION),
        grown=prompt.grown([20, 21]),
        foreign=nv.encode(other, QUESTION, tiny.picture(0)),
        cut=nv.Knockout("image", "last", layers=1),
    )


def models() -> list[Any]:
    """What is no model, or none that is ready."""
    module = tiny.load("sdpa")._module
    return [None, "shapes", 5, True, THING, {}, module, type(module), torch.nn.Linear(2, 2), module.config, nv, DATASET]


def prompts() -> list[Any]:
    """What is no prompt of the model."""
    here = world()
    lists = [[here.prompt], (here.prompt,), [], {}, {"prompt": here.prompt}, DATASET]
    parts = [dict(here.prompt.inputs), here.prompt.inputs, here.prompt.rows[0], here.model, tiny.picture()]
    return [None, QUESTION, 5, True, THING, here.prompt.inputs["input_ids"], nv.Prompt, *lists, *parts, here.foreign]


def prompt_lists() -> list[Any]:
    """What is no list of prompts of one row of one model."""
    here = world()
    alone = [
        None,
        QUESTION,
        5,
        True,
        THING,
        {},
        {"a": here.prompt},
        here.prompt,
        here.batch,
        here.prompt.inputs,
        DATASET,
    ]
    inside = [
        [],
        [None],
        [QUESTION],
        [here.prompt, None],
        [[here.prompt]],
        [here.prompt.inputs],
        [here.batch],
        [DATASET],
    ]
    return [*alone, *inside, [here.prompt, here.foreign], here.prompt.inputs["input_ids"], [tiny.picture()]]


def interventions() -> list[Any]:
    """What is no intervention."""
    here = world()
    others = [nv.Attention("last", "image"), nv.Knockout, {"a": here.cut}, {}, [here.cut, here.cut, here.cut], []]
    return ["image", "", 5, True, 1.5, THING, lambda: here.cut, here.prompt, ["image"], [5], DATASET, *others]


def reads() -> list[Any]:
    """What are no reads."""
    here = world()
    return [None, "last", 5, True, 1.5, THING, {}, {"a": nv.Residual("last")}, ["last"], [None], [here.cut], here.cut,
            nv.Attention, [nv.Attention], DATASET, here.prompt]  # fmt: skip
