"""What every peer's program does alike: load the saved model, take orders line by line, answer in JSON.

An order is `{"folder": ..., "case": ...}`; the answer `{"seconds": ..., "values": [...]}`, or `{"error": ...}`.
Loading is never timed. Only torch and transformers are needed here: the programs run in the peers' own environments.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file


@dataclass(frozen=True, eq=False)
class Case:
    """A saved model, its encoding and the facts about it."""

    module: Any
    inputs: dict[str, torch.Tensor]
    layers: int
    answer: int
    image: range
    text: range


def load(folder: str, attention: str) -> Case:
    """The very weights and inputs that our side runs; `attention` is transformers' `attn_implementation`."""
    where = Path(folder)
    facts = json.loads((where / "facts.json").read_text())
    owner = getattr(transformers, facts["class"])
    module = owner._from_config(owner.config_class.from_pretrained(folder), attn_implementation=attention)
    module.load_state_dict(_renamed(load_file(where / "weights.safetensors"), set(module.state_dict())))
    module.eval().requires_grad_(False)
    module.generation_config.eos_token_id = None
    start, stop = facts["image"]
    inputs = torch.load(where / "inputs.pt")
    return Case(module, inputs, facts["layers"], facts["answer"], range(start, stop), range(stop, facts["length"]))


def _renamed(weights: dict[str, torch.Tensor], known: set[str]) -> dict[str, torch.Tensor]:
    """Weights under the names of this environment's transformers: 5.3 has one more module around a CLIP tower."""
    older = {name: name.replace("vision_tower.", "vision_tower.vision_model.") for name in weights}
    return {name if name in known else older[name]: weight for name, weight in weights.items()}


def serve(cases: Mapping[str, Callable[[Any], Any]], opened: Callable[[str, str], Any]) -> None:
    """Answer orders until the line is closed; `opened(folder, case)` loads, once, what a case works on."""
    opened, out = functools.cache(opened), sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_answer(cases, opened, order)), file=out, flush=True)


def _answer(cases: Mapping[str, Callable[[Any], Any]], opened: Callable[[str, str], Any], order: Any) -> Any:
    try:
        given = opened(order["folder"], order["case"])
        start = time.perf_counter()
        with torch.no_grad():
            values = cases[order["case"]](given)
        taken = time.perf_counter() - start
    except Exception as problem:
        return {"error": f"{type(problem).__name__}: {problem}"}
    return {"seconds": taken, "values": torch.as_tensor(values).flatten().tolist()}
