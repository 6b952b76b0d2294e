"""The API reference: a page lists names in a block ```` ```{public} ````, and gets their docstrings in its place.

    ```{public} recipes
    heads
    Pair
    ```

Names in code marks are links to the reference: `nv.heads` on every page, and in docstrings the bare name too.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from .public_names import LIST, PACKAGE, Public, public_names

SPOKEN = re.compile(r"(?:nv|nnsight_vlm)\.(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?P<call>\(.*\))?", re.DOTALL)
BARE = re.compile(r"[A-Za-z_]\w*")
FOLDER = "reference/"
"""The pages whose text is docstrings."""


def write_out(app: Sphinx, docname: str, text: list[str]) -> None:
    """Put a table of the names that a page lists, and all that is said about each, in the place of the list."""
    text[0] = LIST.sub(lambda found: _reference(found["names"].split(), found["space"]), text[0])


def _reference(names: list[str], space: str) -> str:
    listed = [public_names()[f"{space}.{name}" if space else name] for name in names]
    lines = ["```{eval-rst}", *_table(listed), ""]
    for public in listed:
        lines += [*_entry(public), ""]
    return "\n".join([*lines, "```"])


def _table(listed: list[Public]) -> Iterator[str]:
    """Each name with its first sentence."""
    yield from (".. list-table::", "   :widths: auto", "   :class: names", "")
    for public in listed:
        yield f"   * - :py:obj:`{public.name.rpartition('.')[2]} <{public.name}>`"
        yield f"     - {public.summary}"


def _entry(public: Public) -> Iterator[str]:
    """All that is said about a name; a second name of a thing leads to the first."""
    first = next(each for each in public_names().values() if each.value is public.value and each.kind == public.kind)
    if public.kind in ("function", "class") and first is public:
        yield f".. auto{public.kind}:: {public.name}"
        yield from ["   :members:"] * (public.kind == "class")
        return
    if public.kind == "module":
        yield f".. py:module:: {public.name}"
    else:
        space, _, name = public.name.rpartition(".")
        yield from (f".. py:data:: {name}", f"   :module: {space}")
        yield from [f"   :value: {public.value!r}"] * (len(repr(public.value)) < 60)
    said = public.said if first is public or public.kind == "data" else f"The same as :py:obj:`{first.name}`."
    yield from ("", *(f"   {line}" for line in said.splitlines()))


def one_signature(app: Sphinx) -> None:
    """Show the one signature that a function has when it runs, not those that are there for type checkers."""
    for public in public_names().values():
        if public.kind in ("function", "class"):
            analyzer = ModuleAnalyzer.for_module(public.home)
            analyzer.analyze()
            analyzer.overloads.clear()


# links ----------------------------------------------------------------------------------------------------


def link_names(app: Sphinx, document: nodes.document) -> None:
    """Let code that is a public name lead to the reference.

    Raises:
        Warning of the build: `nv.something` that does not exist.
    """
    is_reference = app.env.docname.startswith(FOLDER)
    for literal in list(document.findall(nodes.literal)):
        if isinstance(literal.parent, (nodes.reference, addnodes.pending_xref, addnodes.download_reference)):
            continue
        public = _public_of(literal.astext(), is_reference)
        if public is not None:
            link = addnodes.pending_xref(
                "", literal.deepcopy(), refdomain="py", reftype="obj", reftarget=public.name, refexplicit=True
            )
            literal.replace_self(link)


def _public_of(code: str, is_reference: bool) -> Public | None:
    """The public name that a piece of code is, or calls."""
    if (spoken := SPOKEN.fullmatch(code.strip())) is not None:
        parts = spoken["name"].split(".")
        return next((found for n in (2, 1) if (found := public_names().get(".".join(parts[:n])))), None)
    return _bare().get(code) if is_reference and BARE.fullmatch(code) else None


@cache
def _bare() -> dict[str, Public]:
    """Public names that are no argument's too, by what they are called in their own module."""
    everything = public_names().values()
    arguments = {name for each in everything if each.kind == "function" for name in _arguments(each.value)}
    named = {each.name.rpartition(".")[2]: each for each in reversed(list(everything))}
    return {name: each for name, each in named.items() if name not in arguments}


def _arguments(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def by_its_bare_name(
    app: Sphinx, env: Any, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Let a type in a signature lead to its public name, wherever it is defined and however it is imported."""
    target = node.get("reftarget", "")
    public = _types().get(target.rpartition(".")[2])
    if (
        node.get("refdomain") != "py"
        or public is None
        or target.partition(".")[0] not in (PACKAGE, public.name.rpartition(".")[2])
    ):
        return None
    domain, docname = env.get_domain("py"), node.get("refdoc", "")
    return domain.resolve_xref(env, docname, app.builder, "obj", public.name, node, content)


@cache
def _types() -> dict[str, Public]:
    """Public classes by their bare names, as annotations that are not imported call them."""
    classes = [each for each in public_names().values() if each.kind == "class"]
    return {each.name.rpartition(".")[2]: each for each in reversed(classes)}


def prose_without_types(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep a sentence with a colon from being read as "type: what it is" of what is returned."""
    for number, line in enumerate(lines):
        if number and lines[number - 1].strip() in ("Returns:", "Yields:"):
            indent = len(line) - len(line.lstrip())
            lines[number] = f"{line[:indent]}: {line.lstrip()}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.connect("builder-inited", one_signature)
    app.connect("source-read", write_out, priority=500)
    app.connect("doctree-read", link_names)
    app.connect("autodoc-process-docstring", prose_without_types, priority=100)  # before napoleon
    app.connect("missing-reference", by_its_bare_name)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
