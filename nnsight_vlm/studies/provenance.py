"""What a recipe's frame says of where it comes from: the call, the model, the versions, what was counted.

It lies in `frame.attrs` as plain values, which pandas writes into Parquet files and copies with the frame. It says
nothing of the time, of folders of the work or of chunks, so that a resumed run gives the frame of an uninterrupted one.
"""

from __future__ import annotations

import json
import platform
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from ..arguments import PLAIN, as_index
from ..families import ModelView, view_of
from ..identity.weights import weights_sample
from ..lowering.layers import Depth, Window
from ..remote.client import place_of
from ..remote.model_call import Remote
from ..versions import installed
from .methods import Method, facts_of, names_in, plain_facts, told

KEYS = (
    *("recipe", "call", "method", "settings", "shows", "prompts", "images", "left_out", "seed"),
    *("model", "architecture", "revision", "weights", "adapter", "edits", "dtype", "attention", "device", "remote"),
    "versions",
)
"""The keys of every recipe's `frame.attrs`."""
FACTS = "facts"
"""The key under which a frame carries what decides which sentences of its method are true, until it is finished."""
PACKAGES = ("nnsight_vlm", "nnsight", "torch", "transformers")
HOW_NOT_WHAT = ("work", "memory", "blocking", "path")
"""Arguments on which no number depends; the call is written without them."""
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^\s/'\"@]*@)?([^\s'\"?#]*)(?:[?#][^\s'\"]*)?")
"""An address, of which scheme, host and path are kept: the rest may hold a password or a token."""
KEY = re.compile(r"\b(hf_|sk-|ghp_)[A-Za-z0-9_-]{16,}")
"""Access tokens of services that are told by how they begin."""
SPELLED = "nnsight_vlm.specs."
"""Where the values are from that users write by hand, such as `nv.Knockout("image", "last")`."""
LONGEST_LIST = 8
"""Most members of a list in a sentence."""

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 4
_SHORT.maxstring = _SHORT.maxother = 60


def counted(
    frame: pd.DataFrame, clusters: Sequence[int], settings: Mapping[str, Any], known: Mapping[str, bool]
) -> pd.DataFrame:
    """A frame that says of how many prompts and images it is, and with which settings.

    Args:
        frame: what a recipe gives.
        clusters: the cluster of each prompt.
        settings: what the recipe measured with, defaults filled in; for its sentences in a methods section.
        known: whether there are answers and truths, given or of the items.
    """
    words = {name: in_words(value) for name, value in settings.items()}
    facts = {"settings": plain_facts(settings), "known": dict(known)}
    about = {"prompts": len(clusters), "images": len(set(clusters)), "settings": words, FACTS: facts}
    frame.attrs = {**frame.attrs, **about}
    return frame


def provenance(
    recipe: str,
    shows: str,
    method: Method,
    arguments: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    said: Mapping[str, Any],
) -> dict[str, Any]:
    """The `attrs` of a recipe's frame: plain values, equal to what a Parquet file gives back.

    Args:
        recipe: its name.
        shows: what kind of statement it makes.
        method: its sentences for a methods section.
        arguments: the call's, defaults included.
        parameters: of the recipe.
        said: what the recipe itself wrote into `frame.attrs`.
    """
    said = dict(said)
    settings, facts = dict(said.get("settings", {})), said.pop(FACTS, {"settings": {}, "known": {}})
    words = {name: in_words(value) for name, value in arguments.items() if name in names_in(method)}
    remote = arguments.get("remote", False)
    attrs = {
        "recipe": recipe,
        "call": call_of(recipe, arguments, parameters),
        "method": without_secrets(told(method, facts_of(arguments, **facts), {**words, **settings})),
        "shows": shows,
        "prompts": 1,
        "images": 1,
        "left_out": [],
        "seed": as_index(arguments.get("seed")),
        **model_facts(view_of(arguments["model"]), remote),
        **said,
        "settings": settings,
    }
    plain: dict[str, Any] = json.loads(json.dumps(attrs, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    """A number of another library as Python's, anything else as a text."""
    number = as_index(value)
    return str(value) if number is None else number


# the model and where it runs --------------------------------------------------------------------------


def model_facts(view: ModelView, remote: Remote) -> dict[str, Any]:
    """What is known of a model: all of one that runs here, and of one on a server what this machine decides.

    `weights` is a digest of a sample of each weight: it tells two trainings apart, but not every edit of a weight.
    """
    adapter = getattr(view.model, "peft", None)
    facts: dict[str, Any] = {
        "model": model_name(view),
        "architecture": type(view.module).__name__,
        "revision": getattr(view.config, "_commit_hash", None),
        "weights": None,
        "adapter": None if adapter is None else PurePath(str(adapter)).name,
        "edits": len(view.edits),
        "attention": attention_of(view),
        "remote": safe_place(remote),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
    }
    if remote is False or remote == "local":
        devices = sorted({str(weight.device) for weight in view.module.parameters()})
        facts["weights"] = weights_sample(view.module)[:16] or None
        return facts | {"dtype": str(view.dtype).removeprefix("torch."), "device": ", ".join(devices)}
    unknown = f"unknown: runs on {facts['remote']}"
    facts["attention"] = {name: how if name == "text" else unknown for name, how in facts["attention"].items()}
    facts["versions"]["server"] = unknown
    return facts | {"dtype": unknown, "device": unknown, "weights": unknown}


def model_name(view: ModelView) -> str:
    """A model's name on the hub, the last part of its folder, or its class."""
    name = getattr(view.model, "repo_id", None) or getattr(view.config, "_name_or_path", None) or ""
    path = PurePath(str(name))
    is_folder = path.is_absolute() or len(path.parts) > 2 or path.parts[:1] in ((".",), ("..",), ("~",))
    return (path.name if is_folder else str(name)) or type(view.module).__name__


def attention_of(view: ModelView) -> dict[str, str]:
    """How each part of a model computes attention: `text`, and `vision` or whatever its config calls other parts."""
    parts = {"text": view.attention_implementation}
    for name in getattr(view.config, "sub_configs", {}):
        how = getattr(getattr(view.config, name, None), "_attn_implementation", None)
        if name != "text_config" and how is not None:
            parts[name.removesuffix("_config")] = str(how)
    return parts


def safe_place(remote: Remote) -> str:
    """Where a call runs: `here`, `simulated here`, or a server's host and port, without what else an address holds."""
    place = place_of(remote)
    parts = urlsplit(place)
    if not parts.hostname:
        return place
    return f"{parts.scheme}://{parts.hostname}{'' if parts.port is None else f':{parts.port}'}"


# the call ---------------------------------------------------------------------------------------------


def call_of(recipe: str, arguments: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> str:
    """A call as one could type it: arguments that differ from their defaults, without those that change no number.

    Values that have no short spelling stand under the name of their argument, as a variable would.
    """
    written = []
    for name, value in arguments.items():
        parameter = parameters[name]
        if name in HOW_NOT_WHAT or _is_default(value, parameter.default):
            continue
        is_address = name == "remote" and isinstance(value, str) and value != "local"
        spelling = spelled_or(name, safe_place(value) if is_address else value)
        positional = parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
        written.append(spelling if positional else f"{name}={spelling}")
    return without_secrets(f"{recipe}({', '.join(written)})")


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (_is_plain(value) and _is_plain(default) and bool(value == default))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_is_plain(part) for part in value)
    if isinstance(value, dict):
        return all(_is_plain(part) for part in (*value, *value.values()))
    return isinstance(value, PLAIN)


def spelled_or(name: str, value: Any) -> str:
    """How a value is typed, shortened; its argument's name where it is not typed in one line."""
    if isinstance(value, Callable) and getattr(value, "__name__", "").isidentifier():  # type: ignore[arg-type]
        return str(value.__name__)
    if isinstance(value, PurePath):
        return repr(str(value))
    if _is_plain(value):
        return _SHORT.repr(value)
    number = as_index(value)
    if number is not None:
        return str(number)
    if isinstance(value, (Window, Depth)):
        return f"nv.{type(value).__name__.lower()}({value.start}, {value.stop})"
    shown = repr(value) if type(value).__module__.startswith(SPELLED) else ""
    return shown if 0 < len(shown) <= _SHORT.maxother and "\n" not in shown and "<" not in shown else name


def in_words(value: Any) -> str:
    """A value in a sentence: a list with its members, a function by its name.

    >>> in_words(["image->last", "query->last"]), in_words(None), in_words((0.0, 2.5))
    ('image->last and query->last', 'the default', '0 and 2.5')
    """
    if value is None:
        return "the default"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and _is_plain(value) and value:
        members = [in_words(member) for member in value[:LONGEST_LIST]]
        if len(value) > LONGEST_LIST:
            return f"{', '.join(members)}, ... ({len(value)} in all)"
        return " and ".join([*([", ".join(members[:-1])] if members[1:] else []), members[-1]])
    if isinstance(value, Mapping) and value:
        return in_words(list(map(str, value)))
    return value if isinstance(value, str) else spelled_or("given", value)


def without_secrets(text: str) -> str:
    """A text without passwords, queries and access tokens in its addresses.

    >>> without_secrets("read('https://me:secret@host/a.csv?token=1')")
    "read('https://host/a.csv')"
    """
    return KEY.sub(r"\1...", ADDRESS.sub(r"\1\2", text))
