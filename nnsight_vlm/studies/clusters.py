"""Which prompts are about one image: numbers are certain over images, and not over questions.

Twelve pictures with two questions each are twelve draws from the world and not twenty-four: two answers about one
picture are right or wrong together. Such prompts are one *cluster*. A recipe averages within each cluster and counts
clusters in its column `images`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..prompts.prompt import Prompt
from .controls import picture_key
from .item_prompts import ItemPrompts
from .work import one_for_each


def picture_keys(prompts: Sequence[Prompt]) -> list[str]:
    """A key for each prompt, equal where the model is handed the same pixels; a prompt without pictures has its own."""
    if isinstance(prompts, ItemPrompts):
        return list(prompts.picture_keys)
    return [picture_key(prompt) or f"prompt {number}" for number, prompt in enumerate(prompts)]


def clusters_of(prompts: Sequence[Prompt], cluster: Sequence[Hashable] | None) -> list[int]:
    """The cluster of each prompt: the number of its first prompt.

    Args:
        prompts: of the recipe.
        cluster: a key for each prompt; None for the pictures, of which those of equal pixels are one.

    Raises:
        SpecError: see `checked_keys`.
    """
    keys = picture_keys(prompts) if cluster is None else checked_keys(prompts, cluster)
    return numbered(keys)


def clusters_of_pairs(
    prompts: Sequence[Prompt], others: Sequence[Prompt], cluster: Sequence[Hashable] | None
) -> list[int]:
    """The cluster of each pair of prompts: the number of its first pair.

    Args:
        prompts, others: of the pairs.
        cluster: a key for each pair; None for the pictures: pairs in which one picture is patched are one, and so are
            those of the same two pictures.

    Raises:
        SpecError: see `checked_keys`.
    """
    if cluster is not None:
        return numbered(checked_keys(prompts, cluster))
    patched, sources = picture_keys(prompts), picture_keys(others)
    return numbered(patched, [frozenset(pair) for pair in zip(patched, sources, strict=True)])


def checked_keys(prompts: Sequence[Any], cluster: Sequence[Hashable]) -> list[Hashable]:
    """The keys of `cluster=`, one for each prompt.

    Raises:
        SpecError: no sequence, another number of keys than prompts, a key that cannot be compared or is missing.
    """
    if isinstance(cluster, (str, bytes, Mapping, Set)) or not hasattr(cluster, "__len__"):
        raise SpecError(
            f"cluster={cluster!r} is no list of keys; give one for each prompt, equal where prompts are about one "
            'image, cluster=["a.png", "a.png", "b.png"]'
        )
    keys = list(cluster)
    one_for_each(prompts, **{"keys of cluster=": keys})
    for number, key in enumerate(keys):
        if not _tells_apart(key):
            raise SpecError(
                f"cluster[{number}] is {key!r}, which says of no two prompts that they are about one image; give a "
                "number or a text for each prompt"
            )
    return keys


def _tells_apart(key: Any) -> bool:
    """Whether a key can be compared and is not missing."""
    try:
        hash(key)
    except TypeError:
        return False
    return not (pd.api.types.is_scalar(key) and pd.isna(key))


def numbered(*keys: Sequence[Hashable]) -> list[int]:
    """Numbers that are equal where items agree in one of their keys, or are joined by items that do.

    Each item gets the number of the first of those that belong together.

    >>> numbered(["a", "b", "a"])
    [0, 1, 0]
    >>> numbered(["a", "b", "c"], ["ab", "ab", "c"])
    [0, 0, 2]
    """
    first = list(range(len(keys[0])))
    for of_kind in keys:
        seen = dict[Hashable, int]()
        for item, key in enumerate(of_kind):
            one, other = sorted((first[item], first[seen.setdefault(key, item)]))
            if one != other:
                first = [one if number == other else number for number in first]
    return first


def with_clusters(frame: pd.DataFrame, clusters: Sequence[int]) -> pd.DataFrame:
    """The rows of every image with the column `cluster` behind `image`."""
    if "image" not in frame:  # nothing was measured
        return frame
    given = frame["image"].map(dict(enumerate(clusters)))
    rest = [name for name in frame.columns if name != "image"]
    return frame.assign(cluster=given)[["image", "cluster", *rest]]
