"""What a job on disk can hold, by name: the only classes and functions that are ever made from a job's files.

A name in a file is looked up in these tables and never imported, so a file cannot name anything else. The tables hold
everything that this package's functions with `blocking=` take as arguments; plain data, tensors, arrays and pictures
are written by `value_writer` and read by `value_reader`.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

import numpy as np
import torch

from ..errors import SpecError

VALUES = {
    **dict.fromkeys(("Ablate", "Add", "Allow", "Attention", "Knockout", "Patch", "Prompt", "PromptBatch"), ""),
    **dict.fromkeys(("Lens", "Limit", "Residual", "Scale"), ""),
    "Cells": "grids",
    "Composed": "specs.interventions",
    "Conversation": "prompts.conversation",
    "DataSetCells": "questions.tables",
    "Depth": "lowering.layers",
    "DictCells": "questions.tables",
    "FrameCells": "questions.tables",
    "Generation": "",
    "GridShape": "grids",
    "Items": "questions.item_lists",
    "LaterCut": "studies.kept_tokens",
    "LeftOut": "questions.item_lists",
    "Line": "questions.item_lists",
    "Lookup": "questions.annotations",
    "MaskedPositions": "prompts.where",
    "Object": "shapes",
    "ObjectNames": "studies.named_objects",
    "Outline": "questions.object_cells",
    "Pair": "recipes",
    "ParquetRows": "questions.parquet_rows",
    "Place": "recipes",
    "Ranges": "prompts.ranges",
    "Size": "questions.masks",
    "Source": "questions.item_lists",
    "Table": "questions.tables",
    "Thing": "recipes",
    "TokenMap": "prompts.token_map",
    "Turn": "prompts.conversation",
    "Vocabulary": "studies.words",
    "Window": "lowering.layers",
    "Work": "recipes",
}
"""Classes of values, and the module of this package where each is found; none stands for the package itself.

They are looked up when they are needed, because some are of wings that import this one.
"""
FUNCTIONS = {
    **dict.fromkeys(("attribute", "direction", "generate", "generations", "lens", "mean_state"), ""),
    **dict.fromkeys(("run", "saliency", "sweep", "verify", "view"), ""),
    **dict.fromkeys(
        (
            "ablation",
            "attention_share",
            "attribution_map",
            "joint_routes",
            "causal_trace",
            "compressed_context",
            "heads",
            "image_lens",
            "information_flow",
            "knockout_windows",
            "object_score",
            "pair_routes",
            "patch_grounding",
            "patch_knockout",
            "path_patching",
            "patching_map",
            "prompt_ablation",
            "query_patching",
        ),
        "recipes",
    ),
}
"""Functions that can run as a job, and the module where each is found."""
ARGUMENT_FUNCTIONS = {"coco_objects": "recipes", "content_words": "recipes", "shape_objects": "recipes"}
"""Functions that can be arguments (`objects=`), and the module where each is found."""

SEQUENCES: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "frozenset": frozenset,
    "Size": torch.Size,
    "range": lambda bounds: range(*bounds),
    "slice": lambda bounds: slice(*bounds),
    "complex": lambda parts: complex(*parts),
}
"""Values that are made from a list of their parts, and cannot be changed afterwards."""
CONTAINERS: dict[str, Callable[[], Any]] = {"list": list, "set": set, "dict": dict, "OrderedDict": OrderedDict}
"""Containers that can be changed, and so can hold themselves."""
PATHS = {"Path": Path, "PurePosixPath": PurePosixPath, "PureWindowsPath": PureWindowsPath}
PATH_NAMES = {PosixPath: "Path", WindowsPath: "Path", **{kind: name for name, kind in PATHS.items() if name != "Path"}}
TORCH_DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)
}
ARRAY_KINDS = "biufcSUmM"
"""Kinds of numpy dtypes that are plain numbers, times or characters; others hold Python objects or records."""

RUNS_CODE = ("trust_remote_code", "custom_generate")
"""Options with which transformers runs code of a model's repository; no name in a job's files may be one of these."""
TRACE_OPTIONS = ("remote", "backend", "blocking", "job_id")
"""Options of nnsight's own, which a prompt's inputs would hand to it beside the model's."""


def value_class(name: str) -> type:
    """The class of this package that a job's file calls so.

    Raises:
        KeyError: there is none.
    """
    kind: type = _attribute(VALUES[name], name)
    return kind


def argument_function(name: str) -> Callable[..., Any]:
    """The function for use as an argument that a job's file calls so.

    Raises:
        KeyError: there is none.
    """
    function: Callable[..., Any] = _attribute(ARGUMENT_FUNCTIONS[name], name)
    return function


def job_function(name: str) -> Callable[..., Any]:
    """The function that a job runs.

    Raises:
        KeyError: no function of this name can run as a job.
    """
    function: Callable[..., Any] = _attribute(FUNCTIONS[name], name)
    return function


def _attribute(module: str, name: str) -> Any:
    """A name of one of this package's modules; both come from the tables above."""
    return getattr(importlib.import_module(f"nnsight_vlm.{module}".rstrip(".")), name)


def is_value(value: Any) -> bool:
    """Whether a value is an instance of one of the classes, not of a subclass that somebody else wrote."""
    name = type(value).__name__
    return name in VALUES and type(value) is value_class(name)


def fields_of(value: Any) -> dict[str, Any]:
    """The arguments from which a value of this package is made again."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    named: dict[str, Any] = value._asdict()
    return named


def refuse_code(names: Any) -> None:
    """Refuse an option with which transformers would run code of a model's repository.

    Raises:
        SpecError: naming it.
    """
    forbidden = [name for name in names if isinstance(name, str) and name in RUNS_CODE]
    if forbidden:
        raise SpecError(
            f"a job on disk cannot hold {forbidden[0]}=: with it, whoever writes the file could run code on the "
            "computer that resumes the job. Leave it out, or wait for the result (blocking=True)"
        )


def check_inputs(prompt: Any) -> None:
    """Refuse inputs of a prompt that are more than numbers, because nnsight would read some texts as its own options.

    `remote="http://..."` among them would fetch a pickle from that address.

    Raises:
        SpecError: naming the input.
    """
    for name, value in prompt.inputs.items():
        if name in TRACE_OPTIONS or not _is_numeric(value):
            raise SpecError(
                f"a job on disk cannot hold a prompt with the input {name!r} of type {type(value).__name__}; inputs "
                "are tensors and numbers"
            )


def _is_numeric(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_numeric, value))
    numeric = isinstance(value, (bool, int, float, np.generic, np.ndarray, torch.Tensor))
    return value is None or (numeric and not isinstance(value, (str, bytes)))  # as numpy's texts are
