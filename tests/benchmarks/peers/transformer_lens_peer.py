"""transformer-lens 4.3: its bridge around the loaded model, hooks on `hook_attn_scores`, one forward a condition.

The bridge makes attention eager (its hooks need the scores), so its clean forward is an eager one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from common import Case, load, serve
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import source
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, eq=False)
class Bridged:
    """A saved case inside a bridge."""

    case: Case
    bridge: Any


def opened(folder: str, _: str) -> Bridged:
    case = load(folder, "eager")
    case.module.config.architectures = [type(case.module).__name__]  # it chooses its adapter by this
    save_tokenizer(folder)
    source.load_modality_processor = lambda *_: None  # it would pip install torchvision, and with it another torch
    return Bridged(case, TransformerBridge.boot_transformers(folder, hf_model=case.module))


def save_tokenizer(folder: str) -> None:
    """A bridge wants to load a tokenizer, and then is handed token ids."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    marks = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **marks).save_pretrained(folder)


def answer(given: Bridged, hooks: Any) -> torch.Tensor:
    inputs = dict(given.case.inputs)
    logits = given.bridge.run_with_hooks(inputs.pop("input_ids"), fwd_hooks=hooks, return_type="logits", **inputs)
    return logits[0, -1, given.case.answer]


def closing(case: Case) -> Any:
    rows, columns = torch.tensor(list(case.text))[:, None], torch.tensor(list(case.image))[None, :]

    def close(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        scores[:, :, rows, columns] = float("-inf")
        return scores

    return close


def cut(given: Bridged, layers: Any) -> torch.Tensor:
    return answer(given, [(f"blocks.{layer}.attn.hook_attn_scores", closing(given.case)) for layer in layers])


def share(given: Bridged) -> torch.Tensor:
    case, found = given.case, []

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        found.append(pattern[0][:, list(case.text)][..., list(case.image)].sum(-1))

    answer(given, [(f"blocks.{layer}.attn.hook_pattern", keep) for layer in range(case.layers)])
    return torch.stack(found)


CASES = {
    "clean": lambda given: answer(given, []),
    "sweep": lambda given: torch.stack([cut(given, [layer]) for layer in range(given.case.layers)]),
    "all layers": lambda given: cut(given, range(given.case.layers)),
    "share": share,
}

if __name__ == "__main__":
    serve(CASES, opened)
