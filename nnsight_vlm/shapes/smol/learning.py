"""What is trained, and on which loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaModel, LlavaForConditionalGeneration

from .language_model import IMAGE_ID
from .packing import Batch
from .texts import divergence, padded
from .updates import RANK, Matrices, Updates, cast, put


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """A `Batch` on the device that trains; pixels as the processor prepares them, and the places with a target."""

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    branch_numbers: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def on_device(batch: Batch, device: torch.device, rows: slice = slice(None)) -> Tensors:
    """Some rows of a batch as tensors."""
    weights, targets = batch.weights[rows].ravel(), batch.targets[rows].ravel()
    places = np.flatnonzero(weights)

    def sent(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return Tensors(
        pixels=sent(batch.pixels[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1,
        ids=sent(batch.ids[rows]).long(),
        positions=sent(batch.positions[rows]).long(),
        branch_numbers=sent(batch.branch_numbers[rows]),
        places=sent(places),
        targets=sent(targets[places]).long(),
        weights=sent(weights[places]),
    )


def mask_between(branch_numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores of keys: nothing where a query sees the key, else minus infinity.

    It sees earlier keys of the prefix and of its own branch; `[row, 1, query, key]`.
    """
    queries, keys = branch_numbers[:, :, None], branch_numbers[:, None, :]
    tokens = branch_numbers.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=branch_numbers.device).tril()
    is_seen = ((queries == keys) | (keys == 0)) & causal
    return torch.zeros(is_seen.shape, dtype=dtype, device=causal.device).masked_fill_(~is_seen, -torch.inf)[:, None]


class Learner(nn.Module):
    """The trained parts of a model: its vision tower, its projector, and the updates of its language model.

    Attributes:
        original: the matrices of the untouched language model in float32.
        dtype: in which the language model computes.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        original: Matrices,
        dtype: torch.dtype,
        rank: int = RANK,
        seed: int = 0,
    ) -> None:
        super().__init__()
        llava = model.model
        cast(llava.language_model.requires_grad_(False), llava.language_model, dtype)
        self.tower, self.projector = llava.vision_tower.float(), llava.multi_modal_projector.float()
        self.updates = Updates({part: stacked.shape for part, stacked in original.items()}, rank, seed)
        self._whole = [model]  # in a list, so that it is no part of what is trained and saved
        self.original = original
        self.dtype = dtype
        self.untouched = {part: stacked.to(dtype) for part, stacked in original.items()}

    @property
    def model(self) -> LlavaForConditionalGeneration:
        """The whole model; its language model computes with the matrices that were put there last."""
        return self._whole[0]

    @property
    def decoder(self) -> LlamaModel:
        """The language model."""
        return self.model.model.language_model

    def use_untouched(self) -> None:
        """Let the language model compute as it was."""
        put(self.decoder, self.untouched)

    def use_updated(self) -> None:
        """Let it compute with the updates, without gradients."""
        with torch.no_grad():
            put(self.decoder, self.updates.updated(self.original, self.dtype))

    def image_states(self, pixels: torch.Tensor) -> torch.Tensor:
        """What stands for an image in the language model, `[image, token, channel]`."""
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.device.type == "cuda"):
            features = self.tower(pixels).last_hidden_state[:, 1:]
            states: torch.Tensor = self.projector(features)
        return states.to(self.dtype)

    def hidden(self, batch: Tensors) -> torch.Tensor:
        """The last hidden states of packed rows, before the norm, `[row, token, channel]`."""
        decoder = self.decoder
        is_image = (batch.ids == IMAGE_ID)[..., None]
        words = decoder.embed_tokens(batch.ids)
        states = words.masked_scatter(is_image, self.image_states(batch.pixels))
        return self._through(states, batch.positions, mask_between(batch.branch_numbers, self.dtype))

    def _through(self, states: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        decoder = self.decoder
        rotations = decoder.rotary_emb(states, positions)
        for layer in decoder.layers:
            states = layer(states, attention_mask=mask, position_embeddings=rotations)
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Predictions from last hidden states `[place, channel]`."""
        decoder = self.decoder
        return F.linear(decoder.norm(states), decoder.embed_tokens.weight)

    def answer_losses(self, batch: Tensors) -> torch.Tensor:
        """The cross-entropy at every place with a target."""
        states = self.hidden(batch).flatten(0, 1)[batch.places]
        return F.cross_entropy(self.logits(states).float(), batch.targets, reduction="none")

    def text_logits(self, ids: torch.Tensor, is_token: torch.Tensor) -> torch.Tensor:
        """Predictions at the tokens of texts `[text, token]`, `[place, word]`."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
        # padding stands at the end, where no token looks
        states = self._through(self.decoder.embed_tokens(ids), positions, None)
        return self.logits(states[is_token])

    def backward(
        self, batch: Batch, device: torch.device, chunks: int, texts: Sequence[list[int]], weight: float
    ) -> Losses:
        """Gradients of the weighted mean of the answers' losses, and of the texts' divergence.

        Args:
            batch: what is learnt.
            device: where.
            chunks: in how many parts the batch is computed.
            texts: token ids of texts; none in most steps.
            weight: of their divergence.
        """
        updated = self.updates.updated(self.original, self.dtype)
        leaves = {part: stacked.detach().requires_grad_() for part, stacked in updated.items()}
        put(self.decoder, leaves)
        total, rows = float(batch.weights.sum()), len(batch.ids)
        bounds = [rows * number // chunks for number in range(chunks + 1)]
        answers = torch.zeros((), device=device)
        for start, stop in pairwise(bounds):
            tensors = on_device(batch, device, slice(start, stop))
            loss = (self.answer_losses(tensors) * tensors.weights).sum() / total
            torch.autograd.backward(loss)
            answers += loss.detach()
        diverged = None
        if texts:
            ids, is_token = (tensor.to(device) for tensor in padded(texts))
            self.use_untouched()
            with torch.no_grad():
                untouched = self.text_logits(ids, is_token)
            put(self.decoder, leaves)
            diverged = divergence(self.text_logits(ids, is_token), untouched)
            torch.autograd.backward(weight * diverged)
            diverged = diverged.detach()
        torch.autograd.backward(list(updated.values()), [leaf.grad for leaf in leaves.values()])
        return Losses(answers, diverged)

    @torch.no_grad()
    def right(self, batch: Batch, device: torch.device) -> np.ndarray:
        """Of every place of a batch, whether the likeliest token is the target; bool `[row, token]`."""
        tensors = on_device(batch, device)
        states = self.hidden(tensors).flatten(0, 1)[tensors.places]
        hits = (self.logits(states).argmax(-1) == tensors.targets).cpu().numpy()
        right = np.zeros(batch.ids.size, bool)
        right[np.flatnonzero(batch.weights.ravel())] = hits
        return right.reshape(batch.ids.shape)


@dataclass(frozen=True)
class Losses:
    """Of one step: the weighted cross-entropy of answers, and the divergence on texts where there were any."""

    answers: torch.Tensor
    texts: torch.Tensor | None
