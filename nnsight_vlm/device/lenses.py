"""What words a hidden state stands for: states through the model's own final norm and head, reduced where it runs.

The modules are called, never read: where weights are of another process (an NDIF server's sandbox), a call is carried
out there. Logits of few states exist at once, see ``at_once`` in `word_rows`.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch

from .positions import index
from .readouts import precise
from .states import to_batch_layout

PARTS = 8  # in how many parts a block's logits become probabilities, which are a second copy of them
WORDS_PER_CHUNK = 64  # of how many words `greatest` first looks at the greatest only


def word_rows(value, requests, window, *modules):
    """Words ``[position, word, 3]``: token, rank and log-probability; one tensor for each request.

    ``value`` is what a layer returns, and ``modules`` are what turns its states into logits, the head last. A request
    is ``(row, positions, (top, tokens), at_once, settings)``: the ``top`` most probable words of each state, or, where
    ``top`` is 0, these tokens. ``at_once`` is how many states' logits exist at a time; for ``settings`` see
    `logits_of`.
    """
    offset, queries, *_ = window
    hidden = to_batch_layout(value[0] if isinstance(value, tuple) else value, queries)
    length, device = hidden.shape[1], hidden.device
    chosen = [hidden[row, index(positions, offset, length, device)] for row, positions, *_ in requests]
    _, _, asked, at_once, settings = requests[0]
    words = []
    for block in torch.cat(chosen).split(at_once):
        logits = logits_of(block[None], settings, modules)[0]
        words.extend(words_of(some, asked).cpu() for some in logits.split(max(1, at_once // PARTS)))
    return list(torch.cat(words).split([len(some) for some in chosen]))


def logits_of(states, settings, modules):
    """The logits ``[1, position, word]`` of states, as the model computes those of its last layer.

    ``settings`` are ``(merged, by_root, divisor, cap, unsaid)``: how many of the modules, the first, turn parallel
    streams into one; whether states are divided by the root of their width; what logits are divided by; the number
    ``c`` where they become ``c * tanh(logits / c)``, or 0; and words that are never said.
    """
    merged, by_root, divisor, cap, unsaid = settings
    *through, head = modules
    states = one_stream(states, through[:merged]) if merged else states
    for module in through[merged:]:
        states = module(states)
    logits = head(states * states.shape[-1] ** -0.5 if by_root else states)
    logits = logits if divisor == 1 else logits / divisor
    logits = cap * torch.tanh(logits / cap) if cap else logits
    if unsaid:
        logits[..., list(unsaid)] = torch.finfo(logits.dtype).min
    return logits


def one_stream(states, projections):
    """Parallel streams, side by side, as one: the mean of the first and of projections of the others, of its size."""
    first, *others = states.unflatten(-1, (len(projections) + 1, -1)).unbind(-2)
    size = torch.mean(first**2, dim=-1, keepdim=True) ** 0.5
    streams = [first]
    for projection, stream in zip(projections, others, strict=True):
        projected = projection(stream)
        own = torch.sqrt(torch.mean(projected**2, dim=-1, keepdim=True).clamp(min=1e-5))
        streams.append(projected * size / own)
    return torch.stack(streams).mean(0)


def words_of(logits, asked):
    """``[position, word, 3]`` of logits ``[position, word]``; all nan where a logit is not a number or +inf.

    Ties count as better, as in `readouts.answer_scores`.
    """
    top, tokens = asked
    scores = precise(logits)
    if top:
        _, places = greatest(scores, top)
        ranks = torch.arange(top, device=scores.device).expand_as(places)
    else:
        places = torch.tensor(tokens, device=scores.device).expand(len(scores), -1)
        picked = scores.gather(1, places)
        ranks = torch.stack([(scores > picked[:, [number]]).sum(1) for number in range(len(tokens))], dim=1)
    logprob = scores.log_softmax(1).gather(1, places)
    words = torch.stack([places.to(logprob), ranks.to(logprob), logprob], dim=-1)
    return words.masked_fill(logprob.isnan()[..., None], float("nan"))


def greatest(scores, top):
    """The ``top`` greatest of each row and their places, as ``scores.topk(top)``.

    They lie in those ``top`` chunks of words whose greatest are greatest; to look there only takes a fraction of the
    time that `topk` takes of all words, which would be much beside a small model's head.
    """
    chunks = scores.shape[1] // WORDS_PER_CHUNK
    if chunks <= top:
        return scores.topk(top)
    whole = chunks * WORDS_PER_CHUNK
    cut = scores[:, :whole].unflatten(1, (chunks, WORDS_PER_CHUNK))
    chosen = cut.amax(-1).topk(top).indices
    words = torch.arange(WORDS_PER_CHUNK, device=scores.device)
    places = (chosen[..., None] * WORDS_PER_CHUNK + words).flatten(1)
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    places = torch.cat([places, rest], dim=1)
    picked, order = scores.gather(1, places).topk(top)
    return picked, places.gather(1, order)
