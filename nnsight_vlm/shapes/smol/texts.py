"""Text-only turns: the model keeps speaking as it did by predicting what the untouched language model predicts.

The texts are written by the untouched model itself, from the beginnings below; on them the trained model's
distribution of the next token is drawn to the untouched model's. Nobody else's text is needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from .language_model import END, START
from .packing import SYSTEMS, Writer

REQUESTS = (
    "Explain {topic} to a child.",
    "Write a short story about {topic}.",
    "What is interesting about {topic}?",
    "Give me three facts about {topic}.",
    "Write a poem about {topic}.",
    "What should I know before I learn about {topic}?",
    "Write a letter to a friend about {topic}.",
    "Summarize what is known about {topic}.",
    "What are common mistakes people make with {topic}?",
    "Why does {topic} matter?",
    "Write a dialogue between two people who disagree about {topic}.",
    "How would you teach a class about {topic}?",
    "Write a Python function that has to do with {topic}.",
    "Make a list of words that belong to {topic}.",
    "What is the history of {topic}?",
    "Compare {topic} with {other}.",
    "Which is harder to understand, {topic} or {other}? Give reasons.",
)
"""What a user asks in a conversation."""
BEGINNINGS = (
    "The history of {topic} begins",
    "In recent years, {topic} has",
    "Chapter 1. {Topic}\n\n",
    "It was late in the evening when she first heard about {topic}.",
    "There are two reasons why {topic}",
    "# {Topic}\n\n",
    "Anyone who works with {topic} knows that",
    '"I never cared for {topic}," he said,',
    "{Topic} and {other} have little in common,",
    "This article describes how {topic}",
    "def ",
    "The",
    "When",
    "A",
)
"""How a text without a conversation begins."""
TOPICS = (
    "the moon", "bread", "railways", "honey bees", "the alphabet", "volcanoes", "chess", "the violin", "rivers",
    "medicine", "the printing press", "clocks", "gardens", "whales", "mathematics", "bridges", "salt", "the theatre",
    "weather forecasts", "maps", "computers", "forests", "the sense of smell", "money", "sleep", "cities", "glass",
    "horses", "the sea", "friendship", "libraries", "electricity", "cooking", "mountains", "language", "paper", "dust",
    "elections", "photography", "the human heart", "islands", "numbers", "trade", "letters", "snow", "birds", "steel",
    "memory", "dreams", "the law", "wine", "wool", "stars", "fire", "painting", "running", "school", "machines", "rain",
    "patience",
)  # fmt: skip


def beginnings(count: int, rng: random.Random) -> list[str]:
    """Beginnings of conversations (two of three) and of other texts."""
    made = []
    for _ in range(count):
        topic, other = rng.sample(TOPICS, 2)
        fields = {"topic": topic, "other": other, "Topic": topic.capitalize()}
        if rng.random() < 1 / 3:
            made.append(rng.choice(BEGINNINGS).format(**fields))
            continue
        system = rng.choice((*SYSTEMS[:2], None, None))
        first = f"{START}system\n{system}{END}\n" if system else ""
        request = rng.choice(REQUESTS).format(**fields)
        made.append(f"{first}{START}user\n{request}{END}\n{START}assistant\n")
    return made


@torch.no_grad()
def write(model: LlavaForConditionalGeneration, begun: Sequence[str], writer: Writer, new: int) -> list[list[int]]:
    """Let the language model continue texts, drawing every token from its distribution; ids of each whole text."""
    device, end = model.device, model.config.eos_token_id
    rows = [writer.encode(text) for text in begun]
    longest = max(map(len, rows))
    ids = torch.tensor([[end] * (longest - len(row)) + row for row in rows], device=device)
    is_token = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    whole = model.generate(
        input_ids=ids,
        attention_mask=is_token,
        max_new_tokens=new,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=end,
    ).tolist()
    return [_ended(row[longest - len(start) :], len(start), end) for row, start in zip(whole, rows, strict=True)]


def _ended(ids: list[int], start: int, end: int) -> list[int]:
    """A text up to the first token that ends it, after its given start."""
    return ids[: ids.index(end, start) + 1] if end in ids[start:] else ids


def padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts as ids `[text, token]`, padded at the end, and which of them are tokens."""
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    is_token = torch.zeros(len(texts), longest, dtype=torch.bool)
    for number, text in enumerate(texts):
        ids[number, : len(text)] = torch.tensor(text)
        is_token[number, : len(text)] = True
    return ids, is_token


def divergence(logits: torch.Tensor, untouched: torch.Tensor) -> torch.Tensor:
    """The mean Kullback-Leibler divergence of predictions `[token, word]` from the untouched ones, in nats."""
    return F.kl_div(
        logits.float().log_softmax(-1), untouched.float().log_softmax(-1), log_target=True, reduction="batchmean"
    )
