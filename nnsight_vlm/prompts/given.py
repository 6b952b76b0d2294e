"""Prompts as a user hands them over: one, one of a single row, or a list of such."""

from __future__ import annotations

from typing import Any

from ..arguments import listed, refuse
from ..errors import SpecError
from .prompt import Prompt

ONE = "prompt = nv.encode(model, text, image)"
SEVERAL = "a list of prompts, [nv.encode(model, text, image), ...]"


def prompt_given(given: Any, name: str = "prompt") -> Prompt:
    """A prompt of any number of rows.

    Raises:
        SpecError: something else was given.
    """
    if not isinstance(given, Prompt):
        refuse(name, given, "prompt", ONE)
    return given


def single_prompt(given: Any, name: str = "prompt") -> Prompt:
    """A prompt of one row.

    Raises:
        SpecError: something else was given.
    """
    prompt = prompt_given(given, name)
    if len(prompt) > 1:
        raise SpecError(f"{name} has {len(prompt)} rows, and a prompt of one row was expected; write prompt.row(0)")
    return prompt


def prompts_given(given: Any, name: str = "prompts", to: str = "measure") -> tuple[Prompt, ...]:
    """A list of prompts of one row each, at least one.

    Args:
        given: what the user gave.
        name: of the argument.
        to: what is done with them, for the message.

    Raises:
        SpecError: something else was given; a prompt or a text alone, a mapping, rows of a data set.
    """
    if isinstance(given, Prompt):
        rows = "[prompt]" if len(given) == 1 else "[prompt.row(number) for number in range(len(prompt))]"
        raise SpecError(f"{name}= is one prompt of {len(given)} row(s), and a list was expected; write {name}={rows}")
    prompts = listed(name, given, SEVERAL)
    if not prompts:
        raise SpecError(f"no prompts to {to}; write {name}= {SEVERAL}, one an image")
    return tuple(single_prompt(prompt, f"{name}[{number}]") for number, prompt in enumerate(prompts))
