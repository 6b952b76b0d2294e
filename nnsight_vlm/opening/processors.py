"""The processor of a checkpoint, also where torchvision is missing.

Processors of models that take videos ask for torchvision as soon as they are made, although pictures need Pillow only.
Without it such a processor is made of its parts: the tokenizer, the image processor on Pillow, and in place of the
video part one that refuses videos.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from transformers.utils import PushToHubMixin, is_torchvision_available

from ..errors import SpecError
from .files import PROCESSOR_FILES, Checkpoint, can_import

INSTALL = 'pip install "nnsight-vlm[hub]"'
"""What brings everything that the families in the table need to open."""
PACKAGES = {name: name for name in ("torchvision", "sentencepiece", "tiktoken", "num2words", "timm")}
PACKAGES |= {"protobuf": "google.protobuf"}
"""Packages that processors of some families ask for, and the modules that they bring."""


class OnPillow(NamedTuple):
    """A processor whose module imports a plain function from a module on torchvision.

    Attributes:
        module: where the processor's class is.
        twins: such modules, and those on Pillow that have the same function.
    """

    module: str
    twins: Mapping[str, str]


ON_PILLOW = {
    "PixtralProcessor": OnPillow(
        module="transformers.models.pixtral.processing_pixtral",
        twins={
            "transformers.models.pixtral.image_processing_pixtral": (
                "transformers.models.pixtral.image_processing_pil_pixtral"
            )
        },
    )
}
"""Processors that need torchvision for nothing that pictures need."""


class NoVideos(PushToHubMixin):  # type: ignore[misc]  # what transformers asks of the parts of a processor
    """Stands in for the video part of a processor where torchvision is missing."""

    model_input_names: tuple[str, ...] = ()
    _auto_class = None
    font = ""
    """The file of a font that ERNIE's processor saves beside its settings, where there is one."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    def __getattr__(self, name: str) -> Any:
        """A setting of the video part that is missing, which some processors ask it for (MiniCPM-V)."""
        if name == "settings" or name not in self.settings:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self.settings[name]

    def to_dict(self) -> dict[str, Any]:
        """The settings of the video part that is missing, so that a processor is saved whole."""
        return dict(self.settings)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise SpecError(f"videos need torchvision, which is not installed; {INSTALL}")


def processor_of(checkpoint: Checkpoint, config: Any) -> Any:
    """The processor of a checkpoint.

    Args:
        checkpoint: where its files are.
        config: the config of the model.

    Raises:
        SpecError: the checkpoint has no processor, or a package is missing that this one needs; names what to install.
    """
    from transformers import AutoProcessor

    try:
        if is_torchvision_available():
            return AutoProcessor.from_pretrained(checkpoint.name, **checkpoint.hub)
        kind = _class_of(checkpoint, config)
        if kind is None or not ("video_processor" in kind.get_attributes() or kind.__name__ in ON_PILLOW):
            return AutoProcessor.from_pretrained(checkpoint.name, **checkpoint.hub)
        return _from_parts(kind, checkpoint)
    except (ImportError, ValueError, OSError) as error:
        raise SpecError(_cannot_be_made(checkpoint, error)) from error


def with_settings(processor: Any, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Any:
    """The processor with other settings for pictures than the checkpoint's, such as `min_pixels`.

    Raises:
        SpecError: a setting that this version of transformers does not let a processor have.
    """
    if not settings:
        return processor
    kind = type(processor.image_processor)
    processor.image_processor = kind.from_pretrained(checkpoint.name, **checkpoint.hub, **settings)
    # what the processor itself says comes before its image processor: pan and scan of Gemma 3, tiles of InternVL
    own = getattr(processor, "images_kwargs", None)
    if own:
        processor.images_kwargs = {**own, **{name: value for name, value in settings.items() if name in own}}
    fixed = _fixed_settings(processor)
    lost = [name for name, value in settings.items() if fixed.get(name, value) != value]
    if lost:
        raise SpecError(
            f"the class {type(processor).__name__} has {lost[0]}={fixed[lost[0]]!r} whatever its settings say, in this "
            "version of transformers; install a later one, from 5.23 on"
        )
    return processor


def _fixed_settings(processor: Any) -> Mapping[str, Any]:
    """Settings of pictures that a processor's class puts before all others, as versions before 5.23 do."""
    module = sys.modules[type(processor).__module__]
    options = vars(module).get(f"{type(processor).__name__}Kwargs")
    return dict(getattr(options, "_defaults", {}).get("images_kwargs", {}))


def _class_of(checkpoint: Checkpoint, config: Any) -> Any:
    """The class of the processor, as the checkpoint says, else as transformers knows for the model; None for none."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name

    named = (checkpoint.read(file).get("processor_class") for file in PROCESSOR_FILES)
    name = next(filter(None, named), None)
    if name in ON_PILLOW:
        return _on_pillow(name)
    return processor_class_from_name(name) if name else PROCESSOR_MAPPING.get(type(config), None)


def _on_pillow(name: str) -> Any:
    """A class of `ON_PILLOW`; its module is imported while those on Pillow stand in for those on torchvision."""
    module, twins = ON_PILLOW[name]
    absent = [twin for twin in twins if twin not in sys.modules]
    sys.modules.update({twin: import_module(twins[twin]) for twin in absent})
    try:
        return getattr(import_module(module), name)
    finally:
        for twin in absent:
            del sys.modules[twin]


def _from_parts(kind: Any, checkpoint: Checkpoint) -> Any:
    """A processor whose video part refuses videos."""
    from transformers import AutoImageProcessor

    parts: list[Any] = []
    for name in kind.get_attributes():
        if name == "video_processor":
            parts.append(NoVideos(_video_settings(checkpoint)))
        elif "tokenizer" in name:
            parts.append(kind._load_tokenizer_from_pretrained(name, checkpoint.name, **checkpoint.hub))
        else:
            parts.append(AutoImageProcessor.from_pretrained(checkpoint.name, backend="pil", **checkpoint.hub))
    kept, _ = kind.get_processor_dict(checkpoint.name, **checkpoint.hub)
    processor = _without_videos(kind).from_args_and_dict(parts, kept)
    processor.__class__ = kind
    return processor


def _video_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The settings of the video part, which have a file of their own or stand among the processor's."""
    own = checkpoint.read("video_preprocessor_config.json")
    return own or checkpoint.read("processor_config.json").get("video_processor", {})


def _cannot_be_made(checkpoint: Checkpoint, error: Exception) -> str:
    """One sentence on why there is no processor, and what to install or write."""
    first = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    said = str(error).lower()
    missing = [package for package, module in PACKAGES.items() if package in said and not can_import(module)]
    if missing:
        return (
            f"the processor of {checkpoint.name!r} needs the package {missing[0]!r}, which is not installed; {INSTALL}"
        )
    if "backend tokenizer" in said:
        first = "it has no file of a tokenizer, such as tokenizer.json, tokenizer.model or vocab.json"
    return (
        f"the processor of {checkpoint.name!r} cannot be made: {first}. Give one, nv.load(..., processor=...), which "
        "transformers' AutoProcessor may load from the repository that the model was converted from"
    )


def _without_videos(kind: Any) -> Any:
    """A processor class that takes `NoVideos` for a video part."""

    class WithoutVideos(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if isinstance(argument, NoVideos) else super().check_argument_for_proper_class(name, argument)

    return WithoutVideos
