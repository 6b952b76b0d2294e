"""transformer-lens 4.3: its bridge around the loaded model, hooks on `hook_attn_scores`, one forward per condition.

The bridge's hooks need attention scores, so its attention is eager, and so is its clean forward.
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
    """A saved case, and its model in a bridge."""

    case: Case
    bridge: Any


def bridged(folder: str, _: str) -> Bridged:
    case = load(folder, "eager")
    case.module.config.architectures = [type(case.module).__name__]  # the bridge chooses its adapter by this
    save_tokenizer(folder)
    source.load_modality_processor = lambda *_: None  # it would install torchvision by pip, and with it another torch
    return Bridged(case, TransformerBridge.boot_transformers(folder, hf_model=case.module))


def save_tokenizer(folder: str) -> None:
    """Save a tokenizer for the bridge to load; it is never used, because the inputs are token ids."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)


def answer_logit(on: Bridged, hooks: Any) -> torch.Tensor:
    inputs = dict(on.case.inputs)
    logits = on.bridge.run_with_hooks(inputs.pop("input_ids"), fwd_hooks=hooks, return_type="logits", **inputs)
    return logits[0, -1, on.case.answer]


def score_hook(case: Case) -> Any:
    queries, keys = torch.tensor(list(case.text))[:, None], torch.tensor(list(case.image))[None, :]

    def close_edges(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        scores[:, :, queries, keys] = float("-inf")
        return scores

    return close_edges


def cut(on: Bridged, layers: Any) -> torch.Tensor:
    return answer_logit(on, [(f"blocks.{layer}.attn.hook_attn_scores", score_hook(on.case)) for layer in layers])


def share(on: Bridged) -> torch.Tensor:
    case, shares = on.case, []

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        shares.append(pattern[0][:, list(case.text)][..., list(case.image)].sum(-1))

    answer_logit(on, [(f"blocks.{layer}.attn.hook_pattern", keep) for layer in range(case.layers)])
    return torch.stack(shares)


CASES = {
    "clean": lambda on: answer_logit(on, []),
    "sweep": lambda on: torch.stack([cut(on, [layer]) for layer in range(on.case.layers)]),
    "all layers": lambda on: cut(on, range(on.case.layers)),
    "share": share,
}

if __name__ == "__main__":
    serve(CASES, bridged)
