"""What the options of generation may be, by name: transformers looks at some values late and at others never.

Each is given to transformers as a plain value, so that a number of numpy or a tensor means the same here, in `generate`
and on a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig, SynthIDTextWatermarkingConfig, WatermarkingConfig

from ..arguments import flag, instance, listed, number, refuse, spelled, whole_number
from ..errors import SpecError
from ..prompts.where import as_tuples

Check = Callable[[str, Any, int], Any]
"""The plain value of an option, from its name, what was given, and how many tokens the model knows."""


def _id(name: str, given: Any, words: int) -> int:
    return whole_number(name, given, least=0, most=words - 1, kind="token id")


def _ids(name: str, given: Any, words: int) -> list[int]:
    return [_id(name, token, words) for token in listed(name, as_tuples(given), f"{name}=[5, 7]")]


def _any_id(name: str, given: Any, _: int) -> int:
    """A token id, perhaps of no token: one that ends no answer."""
    return whole_number(name, given, least=0, kind="token id")


def _ends(name: str, given: Any, words: int) -> int | list[int]:
    """A token id or several, perhaps of no token."""
    ids = as_tuples(given)
    if ids == ():
        refuse(name, given, "token id", f"{name}=None where there is none")
    return [_any_id(name, token, words) for token in ids] if isinstance(ids, tuple) else _any_id(name, ids, words)


def _words(name: str, given: Any, words: int) -> list[list[int]]:
    """Several words, each as its token ids."""
    spelled_out = [_ids(name, word, words) for word in listed(name, given, f"{name}=[[5, 7], [9]]")]
    if not all(spelled_out):
        refuse(name, given, "list of words", f"{name}=[[5, 7], [9]], the token ids of each word")
    return spelled_out


def _bias(name: str, given: Any, words: int) -> list[Any]:
    """What is added to the logits of words: a mapping from their token ids, or a list of pairs."""
    pairs = list(given.items()) if isinstance(given, Mapping) else listed(name, given, f"{name}={{(5, 7): -2.0}}")
    found = [
        [_ids(name, pair[0], words), number(name, pair[1])]
        for pair in pairs
        if isinstance(pair, (list, tuple)) and len(pair) == 2
    ]
    if len(found) < len(pairs) or not all(word for word, _ in found):
        refuse(name, given, "bias", f"{name}={{(5, 7): -2.0}}, token ids and what is added to their logits")
    return found


def _decay(name: str, given: Any, _: int) -> tuple[int, float]:
    """From which token on the end becomes likelier, and by which factor."""
    pair = listed(name, given, f"{name}=(16, 1.05)")
    if len(pair) != 2:
        refuse(name, given, "pair", f"{name}=(16, 1.05)")
    return whole_number(name, pair[0], least=0), number(name, pair[1], above=0)


def _known_to_transformers(name: str, given: Any, _: int) -> Any:
    """A value that transformers' own config takes."""
    try:
        GenerationConfig(**{name: given})
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"{name}={spelled(given)}: {str(error).strip().splitlines()[0]}") from None
    return given


def _number(**limits: float) -> Check:
    return lambda name, given, _: number(name, given, **limits)  # type: ignore[arg-type]


def _count(name: str, given: Any, _: int) -> int:
    return whole_number(name, given, least=0)


def _flag(name: str, given: Any, _: int) -> bool:
    return flag(name, given)


def _watermark(name: str, given: Any, _: int) -> Any:
    kinds = (WatermarkingConfig, SynthIDTextWatermarkingConfig, dict)
    return instance(name, given, kinds, f"{name}=WatermarkingConfig(...)")


VALUES: Mapping[str, Check] = {
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id"), _ends),
    **dict.fromkeys(("pad_token_id", "bos_token_id"), _any_id),
    "forced_bos_token_id": _id,
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _ids),
    "bad_words_ids": _words,
    "sequence_bias": _bias,
    "exponential_decay_length_penalty": _decay,
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "temperature"), _number(above=0)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_new_tokens", "min_length"), _count),
    **dict.fromkeys(("renormalize_logits", "remove_invalid_values", "do_sample", "use_cache"), _flag),
    **dict.fromkeys(("top_p", "min_p"), _number(least=0, most=1)),
    **dict.fromkeys(("typical_p", "top_h"), _number(above=0, most=1)),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), _number(least=0, below=1)),
    "top_k": _count,
    "watermarking_config": _watermark,
    "cache_implementation": _known_to_transformers,
}
"""What each option must be; None is always left as it is, and says nothing."""


def plain_options(said: Mapping[str, Any], words: int) -> dict[str, Any]:
    """Options with plain values.

    Args:
        said: what was given.
        words: how many tokens the model knows.

    Raises:
        SpecError: naming the option, and what to write.
    """
    return {
        name: value if value is None or name not in VALUES else VALUES[name](name, value, words)
        for name, value in said.items()
    }
