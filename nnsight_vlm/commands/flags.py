"""Options of the command line, made of a recipe's arguments: their types, texts and what their docstring says."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import SpecError
from ..lowering.layers import Window
from ..report.arguments import parse_layers, split_names
from ..studies.registry import Recipe
from ..studies.words import vocabulary

ELSEWHERE = (
    *("model", "prompts", "prompt", "pairs", "items", "columns", "only_correct", "seed", "cluster", "per_image"),
    *("remote", "blocking", "path", "work", "memory", "truths"),
)
"""Arguments that the command line fills from the table of items, or has options for that all recipes share."""
OF_ITEMS = ("answer",)
"""Arguments that the items may have, so that they need not be typed."""
OF_FUNCTIONS = ("transcripts",)
"""Arguments that go with one that no text stands for, a function of the user's, and so have no option either."""
NUMBER = re.compile(r"-?[0-9]{1,18}")
DECIMAL = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
OF_COMMAS = "Separated by commas"
OF_LAYERS = "Such as 4, 1,2,5, 3:7 (layers 3 to 6), 0.25:0.75 (of the depth), attention or all"
HERE = {
    ("answers", bool): "Whether the answers of the items are scored; without this option, where there are any.",
    ("objects", str): "Names that count as objects; without this option, what the recipe's page says.",
}
"""What options say, by name and kind, whose arguments are something else in Python."""
NEEDED = {"sender": "image"}
"""What stands in examples for arguments without a default."""
LISTS = (abc.Sequence, abc.Iterable, list, tuple)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """An argument as an option of the command line.

    Attributes:
        name: of the argument.
        kind: the type that the command line reads: bool, int, float or str.
        parse: from a text to the argument's value; None where the type says all.
        required: whether the recipe has no default.
        help: one line.
    """

    name: str
    kind: type
    parse: Callable[[str], Any] | None = None
    required: bool = False
    help: str = ""

    @property
    def option(self) -> str:
        """How it is written: `--max-new-tokens`."""
        return f"--{self.name.replace('_', '-')}"

    def value(self, given: Any) -> Any:
        """The argument's value, from what the command line read.

        Raises:
            SpecError: a text that is no such value.
        """
        return given if self.parse is None or given is None else self.parse(given)


def flags_of(recipe: Recipe) -> tuple[list[Flag], list[str]]:
    """The options of a recipe, and the names of arguments that have no spelling on a command line."""
    function = inspect.unwrap(recipe.function)
    hints, said = typing.get_type_hints(function), argument_texts(function.__doc__ or "")
    flags, unspelled = list[Flag](), list[str]()
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ELSEWHERE:
            continue
        found = None if name in OF_FUNCTIONS else reader_of(name, hints.get(name, Any))
        if found is None:
            unspelled.append(name)
            continue
        kind, parse, form = found
        if name == "answers" and kind is not bool:  # never beside items, which a command line always has
            continue
        text = HERE.get((name, kind)) or first_sentence(said.get(name, ""))
        required = parameter.default is parameter.empty and name not in OF_ITEMS
        default = "" if parameter.default in (None, parameter.empty, "") else f" Default: {_shown(parameter.default)}"
        help_text = f"{text}{f' {form}.' if form else ''}{default}"
        flags.append(Flag(name=name, kind=kind, parse=parse, required=required, help=help_text.strip()))
    return flags, unspelled


Reader = tuple[type, Callable[[str], Any] | None, str]
"""The type that the command line reads, how its text is read, and how that is written."""


def reader_of(name: str, hint: Any) -> Reader | None:
    """How an argument is read from a command line; None where it cannot be written there."""
    parts, option = _members(hint), f"--{name.replace('_', '-')}"
    origins = {get_origin(part) for part in parts}
    members = {member for part in parts for member in _listed_members(part)}
    is_list, has_word = any(map(_is_word, members)), any(map(_is_word, parts))
    named = "Names and what they stand for, name=words, separated by commas"
    choices = ", ".join(_choices(parts | members))
    several = f"Some of {choices}, separated by commas" if choices else OF_COMMAS

    def names(text: str) -> tuple[str, ...]:
        return split_names(text, option)

    readers: list[tuple[bool, Reader]] = [  # the first that fits
        (bool in parts, (bool, None, "")),
        (Window in parts, (str, parse_layers, OF_LAYERS)),
        (parts == {int}, (int, None, "")),
        (bool(parts) and parts <= {int, float}, (float, None, "")),
        (abc.Mapping in origins, (str, lambda text: pairs_in(text, option), named)),
        (abc.Callable in origins and name == "objects", (str, lambda text: vocabulary(names(text)), OF_COMMAS)),
        (members == {int} and int in parts, (str, lambda text: one_or_all(numbers_in(text, option)), OF_COMMAS)),
        (members == {int}, (str, lambda text: numbers_in(text, option), OF_COMMAS)),
        (members == {float}, (str, lambda text: one_or_all(decimals_in(text, option)), OF_COMMAS)),
        (is_list and has_word, (str, lambda text: one_or_all(names(text)), several)),
        (is_list, (str, names, several)),
        (has_word, (str, None, f"One of {choices}" if choices else "")),
    ]
    return next((reader for fits, reader in readers if fits), None)


def _members(hint: Any) -> set[Any]:
    """The types of a union, without None."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    nested = {member for part in parts for member in (_members(part) if part is not hint else {part})}
    return nested - {type(None)}


def _listed_members(part: Any) -> set[Any]:
    """What the members of a list are; nothing where a type is no list."""
    if get_origin(part) not in LISTS:
        return set()
    members = {member for each in get_args(part) if each is not Ellipsis for member in _members(each)}
    return {inner for member in members for inner in (_listed_members(member) or {member})}


def _is_word(part: Any) -> bool:
    """Whether a type is a text, one of some words, or a number that may stand for one."""
    return part in (str, int) or (get_origin(part) is Literal and all(isinstance(word, str) for word in get_args(part)))


def _choices(parts: set[Any]) -> list[str]:
    """The words that an argument takes; none where it takes any text."""
    if str in parts:
        return []
    listed = sorted((part for part in parts if get_origin(part) is Literal), key=repr)
    return [word for part in listed for word in get_args(part) if isinstance(word, str)]


def one_or_all(values: tuple[Any, ...]) -> Any:
    """A single value by itself, several as they are."""
    return values[0] if len(values) == 1 else values


def numbers_in(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers that are separated by commas.

    Raises:
        SpecError: something else.

    >>> numbers_in("1, 2", "--heads")
    (1, 2)
    """
    return tuple(map(int, _listed_as(text, option, NUMBER, "whole numbers", "1,2,5")))


def decimals_in(text: str, option: str) -> tuple[float, ...]:
    """Numbers that are separated by commas.

    Raises:
        SpecError: something else.

    >>> decimals_in("0, 2.5", "--keep")
    (0.0, 2.5)
    """
    return tuple(map(float, _listed_as(text, option, DECIMAL, "numbers", "0,2.5,10")))


def _listed_as(text: str, option: str, form: re.Pattern[str], kind: str, example: str) -> tuple[str, ...]:
    """What is separated by commas, each of one form; or a SpecError that says how to write it."""
    names = split_names(text, option)
    if not names or not all(form.fullmatch(name) for name in names):
        raise SpecError(f"{option} {text!r} is no list of {kind}; write for example {option} {example}")
    return names


def pairs_in(text: str, option: str) -> dict[str, Any]:
    """Names and what they stand for; a name that comes twice stands for both.

    Raises:
        SpecError: something else.

    >>> pairs_in("question=q, image=left, image=right", "--columns")
    {'question': 'q', 'image': ['left', 'right']}
    """
    found: dict[str, Any] = {}
    for part in split_names(text, option):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not (name and equals and value):
            raise SpecError(
                f"{option} {text!r} has {part!r}, which is no name=value; write {option} name=value,other=value"
            )
        before = found.get(name, [])
        found[name] = value if name not in found else [*(before if isinstance(before, list) else [before]), value]
    return found


TABLE_OPTIONS = {"columns": "--columns", "question": "--question", "folder": "--pictures", "objects": "--annotations"}
"""The options that stand for arguments of `nv.items`."""


def in_options(message: str) -> str:
    r"""What `nv.items` says of a table, with what to write on the command line in place of what to write in Python.

    >>> in_options("Say which it is, columns={'question': \"...\"}, or question=\"...\" for one about all")
    'Say which it is, --columns question=..., or --question "..." for one about all'
    """

    def typed(found: re.Match[str]) -> str:
        if found["name"]:
            return f"{TABLE_OPTIONS[found['name']]} "
        return "--columns " + re.sub(r"[\"'\s\[\]]", "", found["columns"].replace(":", "="))

    message = message.replace('nv.items(..., unusable="leave out")', "--leave-out")
    names = "|".join(TABLE_OPTIONS)
    return re.sub(rf"\bcolumns=\{{(?P<columns>[^{{}}]*)\}}|(?<![\w-])(?P<name>{names})= ?", typed, message)


def argument_texts(docstring: str) -> dict[str, str]:
    """What a docstring's `Args:` says of each argument; arguments that share a text each have it."""
    section = re.search(r"^    Args:\n(.*?)(?=^    \S|\Z)", docstring, re.MULTILINE | re.DOTALL)
    found = {}
    for entry in re.split(r"\n(?= {8}\S)", section[1] if section else ""):
        names, _, text = entry.strip().partition(": ")
        for name in names.split(","):
            found[name.strip()] = " ".join(text.split())
    return found


def first_sentence(text: str) -> str:
    """The first sentence of a text, which begins with a capital and ends in a point.

    >>> first_sentence("side of the square; odd. More of it.")
    'Side of the square; odd.'
    """
    sentence = re.split(r"(?<=[.;]) (?=[A-Z])|(?<=[.]) (?=`)", text.strip())[0].replace("`", "")
    return f"{sentence[:1].upper()}{sentence[1:].rstrip('.;')}." if sentence else ""


def _shown(default: Any) -> str:
    """A default, as one writes it on the command line."""
    if isinstance(default, (list, tuple)):
        return ",".join(map(str, default))
    return {True: "yes", False: "no"}.get(default, str(default)) if isinstance(default, bool) else str(default)
