"""What cannot be opened, in words, before weights are read or downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..arguments import meant
from ..errors import SpecError
from ..shapes.embedded import EMBEDDED
from .files import PROCESSOR_FILES, WEIGHTS, Checkpoint, can_import, local_path
from .originals import refusal

QUANTISED_WITH: dict[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("gptqmodel",),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "hqq": ("hqq",),
    "quanto": ("optimum.quanto",),
    "torchao": ("torchao",),
    "aqlm": ("aqlm",),
    "vptq": ("vptq",),
    "eetq": ("eetq",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "spqr": ("spqr_quant",),
    "higgs": ("flute",),
    "quark": ("quark",),
    "auto-round": ("auto_round",),
    "sinq": ("sinq",),
    "fp_quant": ("fp_quant",),
}
"""The packages that transformers needs for each way to quantise, by `quant_method`."""
INSTALLED_AS = {"quark": "amd-quark", "flute": "flute-kernel", "optimum.quanto": "optimum-quanto"}
"""What such a package is called where it is installed from, if not as it is imported."""
POINTER = b"version https://git-lfs"
"""How a file begins that git put in the place of a large one."""


def refuse_name(name: str) -> None:
    """Refuse what is no folder and no name on the hub, without asking the hub.

    Raises:
        SpecError: saying what it is instead, or which folder is meant.
    """
    path = local_path(name)
    is_folder = path is not None and path.is_dir()
    if path is not None and path.is_file():
        raise SpecError(
            f"{name!r} is a file; give the folder that save_pretrained wrote, with config.json, the weights and the "
            "processor's files"
        )
    parts = name.split("/")
    as_path = name.startswith((".", "/", "~")) or "\\" in name or len(parts) > 2 or not all(parts)
    if not name or (not is_folder and (as_path or len(parts) == 1)):
        inside = "" if as_path else f"; the models inside this package are {', '.join(EMBEDDED)}"
        close = ("" if as_path else meant(name, EMBEDDED)) or _meant(path)
        raise SpecError(f"there is no folder {name!r}, and names on the hub are written 'owner/name'{inside}{close}")
    said = refusal(name, {})
    if said and not is_folder:
        raise SpecError(said)


def _meant(path: Path | None) -> str:
    """A folder beside it with a similar name, for the message."""
    if path is None:
        return ""
    parent = path.parent
    beside = [each.name for each in parent.iterdir() if each.is_dir()] if parent.is_dir() else []
    return meant(path.name, beside, lambda name: repr(str(parent / name)))


def config_of(checkpoint: Checkpoint) -> Any:
    """The config of a checkpoint, as transformers reads it.

    Raises:
        SpecError: there is none, or it says that transformers cannot open the checkpoint here.
    """
    from transformers import AutoConfig

    refuse_config(checkpoint, checkpoint.read("config.json"))
    try:
        return AutoConfig.from_pretrained(checkpoint.name, **checkpoint.hub)
    except (OSError, ValueError) as error:
        meant = "" if checkpoint.folder else _meant(Path(checkpoint.name))
        raise SpecError(f"{checkpoint.name!r} cannot be opened: {cause(error)}{meant}") from error


def cause(error: Exception) -> str:
    """What an error says in its first line; of one that holds the text of others, what the last of these says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inner = [line.partition(": ")[2] for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return (inner[-1] if inner else lines[0] if lines else type(error).__name__).rstrip(".")


def refuse_config(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose config says that transformers cannot open it here.

    Raises:
        SpecError: an original layout, code of its own, or weights for which a package is missing.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    said = refusal(checkpoint.name, config)
    if said:
        raise SpecError(said)
    known = config.get("model_type") in CONFIG_MAPPING_NAMES
    if config.get("auto_map") and not known:
        raise SpecError(
            f"{checkpoint.name!r} is a model of type {config.get('model_type')!r}, which transformers has no class "
            "for: it needs code of its own repository, which this package does not run; load a model that transformers "
            "has a class for"
        )
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    missing = [package for package in QUANTISED_WITH.get(method, ()) if not can_import(package)]
    if missing:
        installed_as = INSTALLED_AS.get(missing[0], missing[0].replace("_", "-"))
        raise SpecError(
            f"the weights of {checkpoint.name!r} are quantised with {method!r}, which needs the package "
            f"{missing[0]!r}; pip install {installed_as}, or load a version with weights in float16 or bfloat16"
        )


def refuse_folder(checkpoint: Checkpoint, *, weights: bool, processor: bool) -> None:
    """Refuse a local folder in which something is missing.

    Args:
        checkpoint: the folder.
        weights: whether weights are read from it.
        processor: whether a processor is.

    Raises:
        SpecError: naming what is missing, and what to write.
    """
    folder = checkpoint.folder
    if folder is None:
        return
    checks: tuple[tuple[bool, Callable[[], bool], str], ...] = (
        (True, lambda: checkpoint.has("config.json"), "no config.json; give the folder that save_pretrained wrote"),
        (
            weights,
            lambda: checkpoint.has(*WEIGHTS),
            f"no weights ({', '.join(WEIGHTS[::2])}); download them, or write dispatch=False for a model without "
            "weights, which runs on a server",
        ),
        (
            processor,
            lambda: checkpoint.has(*PROCESSOR_FILES),
            f"none of {', '.join(PROCESSOR_FILES)}; save the processor there too, "
            "AutoProcessor.from_pretrained(...).save_pretrained(folder), or give one, nv.load(folder, processor=...)",
        ),
    )
    for wanted, is_there, missing in checks:
        if wanted and not is_there():
            raise SpecError(f"the folder {str(folder)!r} has {missing}")
    if weights:
        _refuse_weights(checkpoint, folder)


def _refuse_weights(checkpoint: Checkpoint, folder: Path) -> None:
    """Refuse files of weights that are not whole: stand-ins that git left, and parts that an index names."""
    for path in sorted({path for pattern in WEIGHTS for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise SpecError(
                    f"{path.name} in {str(folder)!r} is a pointer of Git LFS and not the file itself; write "
                    "git lfs pull there, or download it again"
                )
    for index in sorted(path.name for path in folder.glob("*.index.json")):
        named = dict.fromkeys((checkpoint.read(index).get("weight_map") or {}).values())
        absent = [name for name in named if not (folder / str(name)).is_file()]
        if absent:
            raise SpecError(
                f"the folder {str(folder)!r} has {len(named) - len(absent)} of the {len(named)} files with weights "
                f"that {index} names; download {absent[0]!r} and what else is missing"
            )
