"""What all peer programs share: loading the saved model, reading orders line by line, answering in JSON.

An order is `{"folder": ..., "case": ...}`; its answer is `{"seconds": ..., "values": [...]}` or `{"error": ...}`.
Loading is not timed. This needs only torch and transformers, because it runs in the peers' own environments.
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
    """A saved model and encoding.

    Attributes:
        module: the transformers model.
        inputs: the encoding.
        layers: how many layers the decoder has.
        answer: the token whose logit is compared.
        image, text: the positions of the image and of the text after it.
    """

    module: Any
    inputs: dict[str, torch.Tensor]
    layers: int
    answer: int
    image: range
    text: range


def load(folder: str, attention: str) -> Case:
    """The saved weights and inputs, which are the ones that this package runs.

    Args:
        folder: where `models.save` wrote them.
        attention: transformers' `attn_implementation`.
    """
    path = Path(folder)
    facts = json.loads((path / "facts.json").read_text())
    model_class = getattr(transformers, facts["class"])
    config = model_class.config_class.from_pretrained(folder)
    module = model_class._from_config(config, attn_implementation=attention)
    module.load_state_dict(_renamed(load_file(path / "weights.safetensors"), set(module.state_dict())))
    module.eval().requires_grad_(False)
    module.generation_config.eos_token_id = None
    start, stop = facts["image"]
    inputs = torch.load(path / "inputs.pt")
    return Case(module, inputs, facts["layers"], facts["answer"], range(start, stop), range(stop, facts["length"]))


def _renamed(weights: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """Weights under the names of this environment's transformers: 5.3 wraps a CLIP tower in one more module."""
    older = {name: name.replace("vision_tower.", "vision_tower.vision_model.") for name in weights}
    return {name if name in names else older[name]: weight for name, weight in weights.items()}


def serve(cases: Mapping[str, Callable[[Any], Any]], prepare: Callable[[str, str], Any]) -> None:
    """Answer orders until standard input is closed.

    Args:
        cases: the function of each case; its argument is what `prepare` returned.
        prepare: loads what a case runs on, from the folder and the name of the case; called once for each pair.
    """
    prepare, answers = functools.cache(prepare), sys.stdout
    sys.stdout = sys.stderr  # so that what libraries print is not taken for an answer
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_answer(cases, prepare, order)), file=answers, flush=True)


def _answer(cases: Mapping[str, Callable[[Any], Any]], prepare: Callable[[str, str], Any], order: Any) -> Any:
    try:
        prepared = prepare(order["folder"], order["case"])
        start = time.perf_counter()
        with torch.no_grad():
            values = cases[order["case"]](prepared)
        seconds = time.perf_counter() - start
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"seconds": seconds, "values": torch.as_tensor(values).flatten().tolist()}
