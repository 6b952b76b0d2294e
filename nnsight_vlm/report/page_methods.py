"""How a report was made: the command, the model and its versions, the methods and their papers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NamedTuple

from ..citing.paragraph import cite
from ..citing.record import record_of
from ..citing.references import bibtex, reference
from ..families import Model, view_of
from ..studies.papers import KADURI, NNSIGHT
from ..studies.provenance import model_facts, safe_place, without_secrets
from .config import QUERY, ReportConfig
from .results import Results

IN_PYTHON = ("items", "annotations", "columns")
"""Arguments that may be values of Python, which no command line can be given."""
FOUND = ("names", "left_out")
"""Fields of the settings that were found and not given."""


class Methods(NamedTuple):
    """How a report was made.

    Attributes:
        command: the line that makes it again.
        facts: pairs of a label and a text.
        paragraphs: for each part its name, and its paragraph of a methods section.
        references: the papers, one a line.
        bibtex: the same as BibTeX entries.
    """

    command: str
    facts: tuple[tuple[str, str], ...]
    paragraphs: tuple[tuple[str, str], ...]
    references: tuple[str, ...]
    bibtex: str


def methods_of(results: Results, model: Model) -> Methods:
    """How a report was made."""
    frames = results.frames
    papers = [paper for frame in frames.values() for paper in record_of(frame).recipe.papers]
    papers = list(dict.fromkeys([KADURI, NNSIGHT, *papers]))
    return Methods(
        command=command_of(results.config),
        facts=tuple(facts_of(results, model).items()),
        paragraphs=tuple((name, cite(frame).partition("\n\nReferences:")[0]) for name, frame in frames.items()),
        references=tuple(map(reference, papers)),
        bibtex=bibtex(papers),
    )


def facts_of(results: Results, model: Model) -> dict[str, str]:
    """The model, where it ran and with which versions; the seeds."""
    config = results.config
    known = model_facts(view_of(model), config.remote)
    facts = {
        **{label: known[label] for label in ("model", "architecture", "revision", "weights", "adapter")},
        "precision": known["dtype"],
        "attention": ", ".join(f"{part} {how}" for part, how in known["attention"].items()),
        "runs on": known["device"],
        "versions": ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version),
        "seed of random controls": config.seed,
        "pictures": _pictures(config),
        "decoding": f"greedy, {config.max_new_tokens} tokens at most, {config.rows} descriptions in one batch",
    }
    return {label: str(text) for label, text in facts.items() if text not in ("", None)}


def _pictures(config: ReportConfig) -> str:
    if config.images is None and config.items is None:
        last = config.first_scene + config.scenes - 1
        return f"synthetic scenes with the seeds {config.first_scene} to {last}: nv.shapes.scene(seed)"
    return ""


def command_of(config: ReportConfig) -> str:
    """The command that makes a report with these settings; where values of Python were given, the call.

    >>> command_of(ReportConfig(scenes=8, query="describe the image."))
    'nnsight-vlm report --scenes 8'
    """
    given = {
        each.name: getattr(config, each.name)
        for each in fields(ReportConfig)
        if each.name not in FOUND and not _is_usual(config, each)
    }
    if all(_is_typed(name, given[name]) for name in IN_PYTHON if name in given):
        return without_secrets(" ".join(["nnsight-vlm report", *(_option(*each) for each in given.items())]))
    written = ", ".join(f"{name}={_in_python(name, value)}" for name, value in given.items())
    return without_secrets(f"nv.report.write_report(folder, {written})")


def _is_usual(config: ReportConfig, setting: Field[Any]) -> bool:
    """Whether a setting is what it is where nothing is given."""
    value = getattr(config, setting.name)
    if setting.name == "query" and value == QUERY:
        return config.items is None
    return value is setting.default or (isinstance(value, (str, int, tuple)) and value == setting.default)


def _is_typed(name: str, value: Any) -> bool:
    """Whether a value can be typed on the command line."""
    if name == "columns":
        return isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values())
    return isinstance(value, (str, Path))


def _in_python(name: str, value: Any) -> str:
    plain = isinstance(value, (str, int, tuple, dict, Path))
    return repr(str(value) if isinstance(value, Path) else value) if plain else name


def _option(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    if name == "remote":
        return "--remote" if value is True else f"--host {safe_place(value)}"
    if value is True:
        return flag
    if isinstance(value, Mapping):
        value = ",".join(f"{key}={each}" for key, each in value.items())
    elif isinstance(value, tuple):
        value = ",".join(value)
    return f"{flag} {shlex.quote(str(value))}"
