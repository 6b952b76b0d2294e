"""The one view of a model: what the rest of the package needs to know about it, looked up once.

No other module of the package touches nnsight's private attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ReferenceType, WeakKeyDictionary, ref

import nnsight
import torch
from nnsight.modeling.huggingface import _ID_CACHE
from transformers import GenerationMixin

from ..arguments import refuse
from .columns import Family, Stage, config_value
from .lookup import ATTENTION_IMPLEMENTATIONS, check_attention, family_of
from .reach import Reach, reaches
from .stage_spec import StageSpec, stage_spec
from .unembedding import HeadCall, head_call

if TYPE_CHECKING:
    from nnsight import TransformersModel

    Model: TypeAlias = TransformersModel
    """A plain nnsight model, as `load` gives it."""
else:
    Model = Any

nnsight.register("nnsight_vlm")  # send this package's functions to NDIF as source: the server has no copy of it


PLACEHOLDER = re.compile(r"(image|video|visual|vision|audio)\w*_token_(id|ids|index)")
"""Fields of a config that name tokens in whose place other states than their own embedding can be put."""

_ATTENTION = "_attn_implementation_internal"
"""Where a config of transformers keeps how attention is computed."""


@dataclass(kw_only=True, eq=False)
class _Facts:
    """What follows from a module's config. It does not keep the module, so that the module can be freed.

    `settings` are those of `text_config`, as they are at any time: to ask a config of transformers takes ten times as
    long as to look there. `model` is an nnsight model around the module, where there is one still.
    """

    config: Any
    text_config: Any
    settings: Mapping[str, Any]
    family: Family
    stages: dict[str, StageSpec]
    heads: list[HeadCall]
    model: ReferenceType[Any]


_FACTS: WeakKeyDictionary[torch.nn.Module, _Facts] = WeakKeyDictionary()


class ModelView:
    """A model as this package sees it; made by `view_of`.

    Attributes:
        model: the nnsight model.
        module: the transformers module inside it.
        config: its config.
        text_config: the part of the config that describes the decoder.
        family: its entry in the family table.
    """

    __slots__ = ("_heads", "_stages", "config", "family", "model", "module", "text_config")

    def __init__(self, model: Model, module: torch.nn.Module, facts: _Facts) -> None:
        self.model, self.module = model, module
        self.config, self.text_config = facts.config, facts.text_config
        self.family: Family = facts.family
        self._stages, self._heads = facts.stages, facts.heads

    def stage(self, name: str = "decoder") -> StageSpec:
        """Layers, heads and widths of one stage."""
        stage = self.family.stages[name]
        known = self._stages.get(name)
        if known is None or known.stage is not stage:
            known = self._stages[name] = stage_spec(self.config, stage)
        return known

    def head_call(self) -> HeadCall:
        """How the decoder's states become logits.

        Raises:
            SpecError: the model has no head.
        """
        if not self._heads:
            streams = self.stage().streams
            self._heads.append(head_call(self.module, self.config, self.family, streams, self.vocab_size))
        return self._heads[0]

    def reach(self, stage: str, layer: int) -> Reach:
        """Which keys a query may see in one layer of a stage."""
        return self.reaches(stage, (layer,))[layer]

    def reaches(self, stage: str, layers: Iterable[int]) -> dict[int, Reach]:
        """The same of each of some layers."""
        return reaches(self.config, self.family, stage, layers)

    def config_of(self, stage: Stage) -> Any:
        """The part of the config that holds a stage's sizes."""
        return config_value(self.config, stage.config)

    @property
    def vocab_size(self) -> int:
        """How many logits the model gives per position."""
        return int(self.text_config.vocab_size)

    @property
    def embedded_words(self) -> int:
        """How many tokens the model has embeddings of; some have none of a logit's."""
        embedding: Any = self.module.get_input_embeddings()  # type: ignore[operator]
        return int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0])

    @property
    def placeholders(self) -> tuple[int, ...]:
        """The tokens that stand for pixels: in a forward that is given some, they are no words."""
        named = ((name, value) for name, value in vars(self.config).items() if PLACEHOLDER.fullmatch(name))
        listed = (number for _, value in named for number in (value if isinstance(value, (list, tuple)) else [value]))
        return tuple(sorted({n for n in listed if isinstance(n, int) and 0 <= n < self.vocab_size}))

    @property
    def pixel_tokens(self) -> tuple[int, ...]:
        """The tokens in whose place a forward that is given pixels puts other states, wherever they stand.

        There are none where another input says which tokens are an image's, or they are not in the decoder's sequence.
        """
        family = self.family
        if family.image_at != "decoder" or family.image_mask:
            return ()
        further = config_value(self.config, family.indicators) if family.indicators else ()
        video = () if self.video_token is None else (self.video_token,)
        return tuple(sorted({int(self.config.image_token_id), *video, *map(int, further)}))

    @property
    def video_token(self) -> int | None:
        """The token that stands for a part of a video; None where there is none but that of images."""
        video = self.family.video
        return int(getattr(self.config, video.token)) if video is not None and video.token else None

    @property
    def processor(self) -> Any | None:
        """The model's processor; None if it was loaded without one."""
        return self.model.processor

    @property
    def generation_config(self) -> Any:
        """The checkpoint's defaults for generation, as transformers' `GenerationConfig`."""
        return self.module.generation_config

    @generation_config.setter
    def generation_config(self, defaults: Any) -> None:
        self.module.generation_config = defaults

    @property
    def generating_config(self) -> Any:
        """The defaults that count: those of the module whose own `generate` runs, see `Family.generator`."""
        return self._generator.generation_config

    @property
    def legacy_generation_options(self) -> dict[str, Any]:
        """Options of generation that the model's config holds, as older checkpoints did."""
        listed = getattr(self._generator.config, "_get_generation_parameters", dict)
        return dict(listed())

    @property
    def has_own_generate(self) -> bool:
        """Whether it generates by code of its own rather than transformers' common one."""
        return type(self._generator).generate is not GenerationMixin.generate

    @property
    def _generator(self) -> Any:
        path = self.family.generator
        return self.module.get_submodule(path) if path else self.module

    def rope_index(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The position ids that a model with multimodal RoPE computes itself, `[3, row, token]`."""
        base_model: Any = self.module.model
        return torch.as_tensor(base_model.get_rope_index(**inputs)[0])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.module.dtype  # type: ignore[assignment]
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the first weight."""
        return next(self.module.parameters()).device

    @property
    def edits(self) -> tuple[Any, ...]:
        """Edits installed on the model (`nv.install`, `model.edit()`); they refer to rows and positions of a batch."""
        return tuple(self.model._edits)

    @property
    def hooks(self) -> tuple[Any, ...]:
        """The forward hooks of all modules, those that transformers itself registers among them."""
        return tuple(hooks_of(self.module.modules()))

    @property
    def remote_environment(self) -> dict[str, Any]:
        """What a server sets up before it runs a request of this model, such as its attention implementation."""
        return dict(self.model._remoteable_get_env())

    def remote_backend(self, remote: bool | str) -> Any:
        """Nnsight's backend for a blocking trace or session; `remote="local"` gives its simulation of a server."""
        return self.model._remote_backend(remote, True, None, False)

    @property
    def attention_implementation(self) -> str:
        """How the decoder computes attention: `"sdpa"` or `"eager"`."""
        return str(self.text_config._attn_implementation)


def hooks_of(modules: Iterable[torch.nn.Module]) -> Iterator[Any]:
    """The forward hooks of modules, without those of what lies inside them."""
    for part in modules:
        yield from part._forward_pre_hooks.values()
        yield from part._forward_hooks.values()


def name_local_folder(folder: str) -> None:
    """Let a server on this machine find a folder by its own name, without asking the hub for one."""
    _ID_CACHE[folder] = folder


def view_of(model: Model) -> ModelView:
    """The view of a model; what it holds is looked up once and kept until the module gets another config.

    Raises:
        SpecError: what was given is no nnsight model, the model has no family, its attention implementation does not
            take a mask, or its config has a value that the family was never tested with.
    """
    try:
        module = model._module
        config, facts = module.config, _FACTS.get(module)
    except (AttributeError, TypeError):
        refuse("model", model, "nnsight model", "model = nv.load(...) of a name, a folder or a transformers model")
    if facts is None or facts.config is not config:
        family, text_config = family_of(config, module), config.get_text_config()
        facts = _FACTS[module] = _Facts(
            config=config,
            text_config=text_config,
            settings=vars(text_config),
            family=family,
            stages={},
            heads=[],
            model=ref(model),
        )
    elif facts.model() is None:
        facts.model = ref(model)
    if facts.settings.get(_ATTENTION) not in ATTENTION_IMPLEMENTATIONS:
        check_attention(facts.text_config._attn_implementation)
    return ModelView(model, module, facts)


def models_here() -> Iterator[Model]:
    """A model around each module of this process that has been viewed and is still in use."""
    models = [facts.model() for facts in list(_FACTS.values())]
    yield from (model for model in models if model is not None)
