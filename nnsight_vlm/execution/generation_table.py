"""What may be asked of transformers' `generate`, and what a checkpoint may say: one table of all of its options.

An option can be said in four places: the call, a `generation_config=` object in the call, the checkpoint's
generation_config.json, and fields of the model's config, which older checkpoints used. A plan names rows and positions,
so it follows one sequence a row, one new token a forward. Hence four kinds of options:

- *obeyed* wherever they are said: what ends an answer, and what plain greedy search does to logits before it takes the
  greatest (a checkpoint's repetition penalty is part of what its greedy search is);
- *sampling*: obeyed with `do_sample=True`, which only the call can say;
- *other ways* of generating, of keeping keys, and of returning what was found: refused in the call; where a checkpoint
  says so, plain greedy search runs all the same, so these are sent explicitly, to a server too;
- *refused* wherever they are said: they change a greedy answer, and a plan could not follow.

A field that a later transformers adds is of the third kind until it has a row here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..device.positions import CACHE_NAMES

OBEYED = (
    "min_new_tokens", "min_length", "eos_token_id", "pad_token_id", "bos_token_id",
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "renormalize_logits", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "sequence_bias",
    "watermarking_config",
)  # fmt: skip
"""Options that end an answer or change logits, one sequence a row."""

LOOKING_BACK: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
"""Those of them that look at all tokens of a row, and the values that say nothing."""

SAMPLING: dict[str, Any] = {
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": None, "top_h": None, "typical_p": 1.0,
    "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
}  # fmt: skip
"""Options that matter only where tokens are drawn, and the values that say nothing."""


class OtherWay(NamedTuple):
    """An option that greedy search of one sequence a row does without.

    Attributes:
        plain: its value in plain greedy search.
        why: what it would do.
    """

    plain: Any
    why: str


SEVERAL_ROWS = "makes several rows of one, and an intervention names rows"
SEVERAL_TOKENS = (
    "runs several candidate tokens in one forward, which may be taken back, and an intervention names tokens"
)
ONLY_ASSISTED = "says how candidate tokens are proposed, and none are here"
CONTRASTS = "chooses tokens by other forwards than the one that is changed"
ONLY_BEAMS = "matters only to beams, and there are none here"
RETURNED = "changes what transformers returns; nv.generate returns text, tokens and a grown prompt, nv.run the rest"
COMPILED = "compiles the forward, and a compiled forward passes by what is changed"
CHUNKED = "runs the prompt in pieces, and an intervention acts on the prompt as a whole"
OTHER_CACHE = "says how keys are kept"
SAID_HERE = "is said by max_new_tokens here, which leaves the prompt out"

WITHOUT_EFFECT = (ONLY_ASSISTED, ONLY_BEAMS)
"""Why options need not be set to their plain values."""
HEEDED_AGAIN = (SEVERAL_ROWS, SEVERAL_TOKENS, CONTRASTS, CHUNKED)
"""Why a checkpoint may not say what None cannot unsay, where a model's own `generate` asks the checkpoint twice."""

OTHER_WAYS: dict[str, OtherWay] = {
    "num_beams": OtherWay(1, SEVERAL_ROWS),
    "num_beam_groups": OtherWay(1, SEVERAL_ROWS),
    "num_return_sequences": OtherWay(1, SEVERAL_ROWS),
    "constraints": OtherWay(None, SEVERAL_ROWS),
    "force_words_ids": OtherWay(None, SEVERAL_ROWS),
    "early_stopping": OtherWay(False, ONLY_BEAMS),
    "length_penalty": OtherWay(1.0, ONLY_BEAMS),
    "diversity_penalty": OtherWay(0.0, ONLY_BEAMS),
    "low_memory": OtherWay(None, ONLY_BEAMS),
    "penalty_alpha": OtherWay(0.0, CONTRASTS),
    "dola_layers": OtherWay(None, CONTRASTS),
    "use_mtp": OtherWay(False, SEVERAL_TOKENS),
    "prompt_lookup_num_tokens": OtherWay(None, SEVERAL_TOKENS),
    "assistant_early_exit": OtherWay(None, SEVERAL_TOKENS),
    "speculation_type": OtherWay(None, SEVERAL_TOKENS),
    "is_assistant": OtherWay(None, "makes the model one that proposes tokens to another"),
    "num_assistant_tokens": OtherWay(20, ONLY_ASSISTED),
    "num_assistant_tokens_schedule": OtherWay("constant", ONLY_ASSISTED),
    "assistant_confidence_threshold": OtherWay(0.4, ONLY_ASSISTED),
    "max_matching_ngram_size": OtherWay(None, ONLY_ASSISTED),
    "assistant_lookbehind": OtherWay(10, ONLY_ASSISTED),
    "target_lookbehind": OtherWay(10, ONLY_ASSISTED),
    "assistant_ensemble_weight": OtherWay(None, ONLY_ASSISTED),
    "output_attentions": OtherWay(False, RETURNED),
    "output_hidden_states": OtherWay(False, RETURNED),
    "output_scores": OtherWay(False, RETURNED),
    "output_logits": OtherWay(False, RETURNED),
    "return_dict_in_generate": OtherWay(False, RETURNED),
    "max_length": OtherWay(None, SAID_HERE),
    "max_time": OtherWay(None, "ends answers by the clock, so that they depend on the machine"),
    "prefill_chunk_size": OtherWay(None, CHUNKED),
    "compile_config": OtherWay(None, COMPILED),
    "disable_compile": OtherWay(True, COMPILED),
    "continuous_batching_config": OtherWay(None, "is for a server that answers many requests at a time"),
    "cache_config": OtherWay(None, OTHER_CACHE),
    "max_cache_len": OtherWay(None, OTHER_CACHE),
}
"""Options that are refused in the call, and set to their plain value where a checkpoint says otherwise."""

OBEYED_IN_THE_CALL: dict[str, Any] = {"do_sample": False, "use_cache": True, "cache_implementation": None}
"""Options that the call may say and a checkpoint may not, and their plain values."""

REFUSED: dict[str, OtherWay] = {
    "guidance_scale": OtherWay(
        1.0, "runs the model on a second prompt, whose rows and positions an intervention would change unasked"
    ),
    "token_healing": OtherWay(False, "rewrites the end of the prompt, in which an intervention names positions"),
    "stop_strings": OtherWay(None, "ends an answer within a token; cut the text yourself, or say eos_token_id"),
}
"""Options that change greedy answers and are refused also where a checkpoint says so."""

OTHER_CODE = (
    "is code that runs between tokens, which cannot be followed or sent to a server; nv.install gives a model under "
    "the intervention whose own generate takes it"
)
SECOND_PROMPT = REFUSED["guidance_scale"].why
ARGUMENTS: dict[str, str] = {
    "decoder_start_token_id": "begins the decoder's text, and the prompt is encoded with its beginning",
    "logits_processor": OTHER_CODE,
    "stopping_criteria": OTHER_CODE,
    "prefix_allowed_tokens_fn": OTHER_CODE,
    "streamer": OTHER_CODE,
    "custom_generate": OTHER_CODE,
    "trust_remote_code": OTHER_CODE,
    "assistant_model": SEVERAL_TOKENS,
    "assistant_tokenizer": SEVERAL_TOKENS,
    "tokenizer": "is needed only for options that are refused here",
    "negative_prompt_ids": SECOND_PROMPT,
    "negative_prompt_attention_mask": SECOND_PROMPT,
    "generation_mode": "chooses between writing words and drawing a picture (Janus), and an intervention follows words",
    "synced_gpus": "goes on with rows that have ended",
    **dict.fromkeys(CACHE_NAMES, "holds what another run left, in which nothing was changed"),
    "inputs": "is the prompt itself",
}
"""What `generate` takes that is no field of a generation config, and why it is refused."""

PRIVATE = {"max_new_tokens", "transformers_version"}
"""Fields of a generation config that are no choice between ways: one is a keyword of ours, one a note."""
