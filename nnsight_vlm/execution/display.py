"""Answers in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence

from ..notebook import Html, element, panel
from ..prompts.display import ROWS, counted, prompt_html, shortened
from ..prompts.prompt import Prompt


def generation_line(text: str, tokens: Sequence[int]) -> str:
    """What `repr` gives of one answer."""
    return f"Generation({shortened(text, 200)!r}, {counted(len(tokens), 'token')})"


def batch_lines(name: str, lines: Sequence[str]) -> str:
    """What `repr` gives of the answers of a batch: a line for each."""
    shown = [f"  {number}: {line}" for number, line in enumerate(lines[:ROWS])]
    more = [f"  … and {counted(len(lines) - ROWS, 'more row')}"] if len(lines) > ROWS else []
    return "\n".join([f"{name}({counted(len(lines), 'row')}:", *shown, *more]) + ")"


def generations_html(name: str, texts: Sequence[str], prompts: Sequence[Prompt]) -> Html:
    """What a notebook shows of answers: the text of each, and the prompt that it makes."""
    shown = [
        element("div", element("div", text, style="font-size:15px;margin:4px 0"), prompt_html(prompt))
        for text, prompt in list(zip(texts, prompts, strict=True))[:ROWS]
    ]
    if len(texts) > ROWS:
        shown.append(element("div", f"… and {counted(len(texts) - ROWS, 'more row')}"))
    return panel(name, counted(sum(len(prompt["generated"]) for prompt in prompts), "token"), *shown)
