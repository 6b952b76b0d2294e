"""Folders as they are published: tiny models of the zoo, with the files and class names of checkpoints on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import zoo

from nnsight_vlm.families import view_of

PARTS = ("image_processor", "video_processor", "tokenizer", "feature_extractor")


def write(name: str, folder: Path) -> Any:
    """Save a member of the zoo as a checkpoint; gives the member.

    The files name processors on torchvision, as published ones do, and not those on Pillow that the zoo is made of.
    """
    model = zoo.load(name, zoo.ZOO[name].implementations[0])
    processor = model.processor
    view_of(model).module.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    if getattr(processor, "chat_template", None):
        (folder / "chat_template.jinja").write_text(processor.chat_template)
    pictures = json.loads(processor.image_processor.to_json_string())
    pictures["image_processor_type"] = _published(processor.image_processor).removesuffix("Pil")
    pictures["processor_class"] = _published(processor)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    if isinstance(videos := getattr(processor, "video_processor", None), SimpleNamespace):
        (folder / "video_preprocessor_config.json").write_text(json.dumps(vars(videos)))
    (folder / "processor_config.json").write_text(json.dumps(_settings(processor)))
    return model


def _published(part: Any) -> str:
    """The name of transformers' own class of a processor or a part of it."""
    return next(kind.__name__ for kind in type(part).__mro__ if kind.__module__.startswith("transformers.models."))


def _settings(processor: Any) -> dict[str, Any]:
    """The settings of a processor, without those of its parts."""
    videos = processor.__dict__.pop("video_processor", None)
    try:
        kept = processor.to_dict()
    finally:
        if "video_processor" in processor.get_attributes():
            processor.video_processor = videos
    own = {name: value for name, value in kept.items() if name not in PARTS}
    return {**own, "processor_class": _published(processor)}
