"""Plans and readouts run on a server that does not have this package, and give the same numbers there."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
import travel
from cloudpickle.cloudpickle import _PICKLE_BY_VALUE_MODULES
from float64 import LIMIT, float64
from nnsight import TransformersModel

import nnsight_vlm as nv

FILES = tuple(
    f"device/{name}.py"
    for name in (
        "positions",
        "kernels",
        "states",
        "gates",
        "attention_parts",
        "weights",
        "readouts",
        "contributions",
        "mixtures",
        "lenses",
        "towers",
        "lines",
        "tower_contributions",
        "runner",
        "gradients",
    )
)
"""The files whose source travels to a server."""
PACKAGE = Path(nv.__file__).parent


def tree_of(file):
    return ast.parse((PACKAGE / file).read_text())


def nodes(file, *kinds):
    return [node for node in ast.walk(tree_of(file)) if isinstance(node, kinds)]


@pytest.mark.parametrize("file", FILES)
def test_annotations_are_not_evaluated_in_files_that_travel(file):
    docstring, first = tree_of(file).body[:2]
    assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
    assert isinstance(first, ast.ImportFrom) and first.module == "__future__"
    assert [name.name for name in first.names] == ["annotations"]


@pytest.mark.parametrize("file", FILES)
def test_files_that_travel_contain_plain_functions_only(file):
    functions = nodes(file, ast.FunctionDef)
    assert functions and not any(function.decorator_list for function in functions)
    assert not nodes(file, ast.ClassDef, ast.Nonlocal, ast.Global, ast.AnnAssign, ast.AsyncFunctionDef)
    assert not [n for n in nodes(file, ast.Name) if n.id in ("super", "globals", "locals", "__file__")]
    inside = [node for function in functions for node in ast.walk(function) if node is not function]
    assert not [node for node in inside if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef))]


@pytest.mark.parametrize("file", FILES)
def test_files_that_travel_import_torch_and_names_of_nnsight_and_of_each_other(file):
    for node in nodes(file, ast.Import):
        assert [alias.name for alias in node.names] == ["torch"]
    modules = {Path(name).stem for name in FILES}
    for node in nodes(file, ast.ImportFrom):
        if node.level:
            assert node.level == 1 and node.module in modules, "import names: a module object is sent with all it holds"
        else:
            assert node.module.split(".")[0] in ("__future__", "nnsight")


def every_intervention(prompt, twin):
    return {
        "knockout": nv.Knockout("image", "query", layers=[1, 2]),
        "heads": nv.Knockout("image", "last", heads=[(0, 1), (3, 2)]),
        "allow": nv.Allow("image", "text", layers=nv.depth(0.25, 0.5)),
        "patch": nv.Patch("query", source=twin, layers=[0, 2]),
        "patch under": nv.Patch(
            "image", source=prompt, under=nv.Knockout("system", "image"), layers=1, site="attention"
        ),
        "tensor": nv.Patch("last", source=torch.ones(1, tiny.WIDTH), layers=2, site="mlp"),
        "zero": nv.Ablate("image", layers=1),
        "mean": nv.Ablate("query", how="mean", layers=2, site="attention"),
        "resample": nv.Ablate("query", how="resample", source=twin, layers=3),
        "parts": nv.Patch("image", source=twin, site="key", layers=[1, 2], heads=[(1, 0), (2, 1)])
        | nv.Ablate("image", how="mean", site="value", layers=2, heads=[0])
        | nv.Patch("query", source=twin, site="head", layers=1, heads=[1])
        | nv.Ablate("last", site="query", layers=2),
        "vectors": nv.Add("query", torch.ones(2, 1, tiny.WIDTH), layers=[1, 2], scale=0.5)
        | nv.Scale(["last", "generated"], 0.5, layers=1)
        | nv.Add("generated", torch.ones(tiny.WIDTH), layers=3, site="mlp"),
        "weights": nv.Knockout("image", ["last", "generated"], layers=1, how="zero")
        | nv.Limit("image", "query", top=3, layers=2, heads=[1]),
        "embedding": nv.Ablate("image", how="mean", site="embedding"),
        "features": nv.Patch("image", source=twin, site="features"),
        "generated": nv.Knockout("image", "generated") | nv.Ablate("generated", layers=1, site="mlp"),
        "everything": nv.Knockout("image", "text", layers=1)
        | nv.Patch("image", source=twin, site="features")
        | nv.Ablate("last", layers=2),
        "tower": nv.Knockout("cls", "image", heads=[1], stage="vision")
        | nv.Knockout("image", "cls", how="zero", layers=0, stage="vision")
        | nv.Ablate("image", how="mean", site="value", layers=0, stage="vision")
        | nv.Scale("image", 0.5, site="head", layers=0, heads=[0], stage="vision")
        | nv.Add("cls", torch.ones(24), site="embedding", stage="vision")
        | nv.Patch("image", source=twin, site="mlp", layers=0, stage="vision"),
        "nothing": None,
    }


READS = [
    nv.Attention("query", "image", layers=[0, 2]),
    nv.Attention("last", "all", reduce="mass", heads=[1]),
    nv.Attention("last", "image", reduce="entropy", layers=0),
    nv.Attention("last", "image", reduce="top", top=3, layers=1),
    nv.Attention("query", "image", reduce="contribution", layers=[1, 2]),
    nv.Attention("query", "image", reduce="contribution", over="keys", heads=[1], layers=2),
    *(nv.Residual("image", site=site) for site in ("features", "embedding", "residual", "attention", "mlp")),
    *(nv.Residual("query", site=site, layers=[1, 2], heads=[0, 1]) for site in ("query", "key", "value", "head")),
    nv.Lens(["image", "last"], layers=[1, 3], top=3),
    nv.Lens("last", layers=2, tokens=[20, 21]),
    nv.Attention("cls", "image", reduce="top", top=3, stage="vision"),
    *(nv.Residual("image", site=site, stage="vision") for site in ("embedding", "residual", "key", "head")),
]


def requests_of_every_kind(model):
    """A `travel.CapturedRequest` for every way in which the package runs a model, by name."""
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    twin = nv.encode(model, "where is a blue circle ?", tiny.picture(1))
    cases, requests = every_intervention(prompt, twin), {}
    with pytest.MonkeyPatch.context() as patch:

        def record(name, call):
            backend = travel.CapturingBackend()
            patch.setattr(TransformersModel, "_remote_backend", lambda *_: backend)
            call()
            assert backend.requests
            requests.update({f"{name} {number}": request for number, request in enumerate(backend.requests)})

        for name, case in cases.items():
            record(
                f"run {name}",
                lambda case=case: nv.run(
                    model, prompt, case, reads=READS, positions="query", empty="ignore", remote="local"
                ),
            )
            record(
                f"generate {name}", lambda case=case: nv.generate(model, prompt, case, max_new_tokens=3, remote="local")
            )
        record("rows", lambda: nv.run(model, tiny.several(model), cases["knockout"], remote="local"))
        variants = [cases[name] for name in ("knockout", "patch", "mean")]
        for way in ("packed", "rows", "single"):
            record(
                f"sweep {way}",
                lambda way=way: nv.sweep(model, prompt, variants, answer=20, execution=way, remote="local"),
            )
        batch = [(prompt, cases["knockout"]), (twin, cases["generated"])]
        record("generations", lambda: list(nv.generations(model, batch, max_new_tokens=3, remote="local")))
        record("verify", lambda: nv.verify(model, prompt, cases["everything"], remote="local"))
        record("attribute", lambda: nv.attribute(model, twin, prompt, answer=20, steps=2, remote="local"))
        for at in ("features", "pixels"):
            record(f"saliency {at}", lambda at=at: nv.saliency(model, prompt, answer=20, at=at, remote="local"))
        for name, call in every_recipe(model).items():
            record(f"recipe {name}", call)
        record("install", lambda: traced_by_the_user(nv.install(model, prompt, cases["everything"]), prompt))
    return requests


def every_recipe(model):
    """A call of each recipe on two pictures, with everything remote."""
    prompts = [nv.encode(model, "describe the image .", tiny.picture(number)) for number in range(2)]
    answers = [int(nv.run(model, prompt).logits.argmax()) for prompt in prompts]
    pair = (*prompts, answers[0], answers[1] if answers[1] != answers[0] else (answers[0] + 1) % 60)
    words = [nv.recipes.content_words(nv.generate(model, prompt, max_new_tokens=6).text) for prompt in prompts]
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[:8, :8] = True
    truths = [[nv.recipes.Thing(name=named[0], mask=mask)] for named in words]
    quick = {"remote": "local", "work": nv.recipes.Work(progress=False)}
    short = {**quick, "max_new_tokens": 6}
    about = [truth[0].name for truth in truths]
    return {
        "ablation": lambda: nv.recipes.ablation(model, prompts, truths=truths, asked=about, answers=answers, **quick),
        "ablation of descriptions": lambda: nv.recipes.ablation(
            model, prompts, truths=truths, form="generative", tokens="object", how="zero", **short
        ),
        "heads": lambda: nv.recipes.heads(
            model, prompts, truths=truths, asked=about, answers=answers, top=2, draws=1, **quick
        ),
        "compressed_context": lambda: nv.recipes.compressed_context(
            model, prompts, answers=answers, request=None, keep=[0, 10, 100], **quick
        ),
        "image_lens": lambda: nv.recipes.image_lens(
            model, prompts, truths=truths, answers=answers, bank=["a dog"], layers=[0, 2], **quick
        ),
        "knockout_windows": lambda: nv.recipes.knockout_windows(model, prompts, windows=2, **short),
        "knockout_windows of answers": lambda: nv.recipes.knockout_windows(model, prompts, answers=answers, **quick),
        "attention_share": lambda: nv.recipes.attention_share(model, prompts, **short),
        "query_patching": lambda: nv.recipes.query_patching(model, [pair], layers=[0, 2], **quick),
        "attribution_map": lambda: nv.recipes.attribution_map(model, [pair], layers=[0, 2], exact=2, **quick),
        "patching_map": lambda: nv.recipes.patching_map(model, [pair], layers=[0, 2], **quick),
        "pair_routes": lambda: nv.recipes.pair_routes(model, [pair], cuts=[0, 2], **quick),
        "causal_trace": lambda: nv.recipes.causal_trace(
            model, prompts, answers=answers, corrupt="noise", layers=[0, 2], **quick
        ),
        "patch_grounding": lambda: nv.recipes.patch_grounding(model, prompts, truths=truths, **short),
        "prompt_ablation": lambda: nv.recipes.prompt_ablation(model, prompts, **short),
        "information_flow": lambda: nv.recipes.information_flow(model, prompts, answers=answers, windows=2, **quick),
        "patch_knockout of several": lambda: nv.recipes.patch_knockout(model, prompts, answers=answers, **quick),
        "patch_knockout": lambda: nv.recipes.patch_knockout(model, prompts[0], answer=answers[0], remote="local"),
    }


def traced_by_the_user(edited, prompt):
    with torch.no_grad(), edited.trace(**prompt.inputs, remote=True):
        state = edited.model.language_model.layers[3].output.save()
        logits = edited.output.logits.save()
    assert state.shape[-1] == tiny.WIDTH and logits.dim() == 3


class Journey(NamedTuple):
    """A request, what it saved in this process, and what it saved in the other one (or its traceback there)."""

    payload: bytes
    saved_here: dict[str, Any]
    saved_there: dict[str, Any] | str


@pytest.fixture(scope="module")
def journeys(folder):
    """Every request's journey, by attention and name; all run in float64, and in one other process."""
    with float64():
        requests = {
            (attention, name): request
            for attention in ("sdpa", "eager")
            for name, request in requests_of_every_kind(tiny.load(attention, dtype=torch.float64)).items()
        }
    payloads = {key: request.payload for key, request in requests.items()}
    naming_the_package = {("sdpa", "import"): b"cnnsight_vlm.lowering.plan\nPlan\n."}
    elsewhere = travel.serve_elsewhere(folder, payloads | naming_the_package)
    assert "No module named 'nnsight_vlm'" in elsewhere.pop(("sdpa", "import"))
    return {key: Journey(*request, elsewhere[key]) for key, request in requests.items()}


def flat(value):
    """The tensors in nested lists and dictionaries, in a fixed order."""
    if isinstance(value, torch.Tensor):
        return [value]
    value = [value[name] for name in sorted(value)] if isinstance(value, dict) else value
    parts = value if isinstance(value, (list, tuple)) else ()
    return [leaf for part in parts for leaf in flat(part)]


def close(one, two):
    """Whether two tensors are equal up to rounding on their own scale, with NaN in the same places."""
    if one.dtype != two.dtype or not one.is_floating_point():
        return torch.equal(one, two)
    scale = float(one.nan_to_num(posinf=0, neginf=0).abs().max()) if one.numel() else 0.0
    return torch.allclose(one, two, rtol=0, atol=LIMIT * max(1.0, scale), equal_nan=True)


def test_a_process_without_the_package_gets_the_same_numbers(journeys):
    assert len(journeys) > 80
    failed = {key: journey.saved_there for key, journey in journeys.items() if isinstance(journey.saved_there, str)}
    assert not failed, "\n".join(f"{key}: {text}" for key, text in list(failed.items())[:2])
    for key, (_, here, there) in journeys.items():
        assert here and here.keys() == there.keys(), key
        assert flat(here), key
        for one, two in zip(flat(here), flat(there), strict=True):
            assert close(one, two), key


def test_requests_import_only_what_a_server_has(journeys):
    names, modules = set(), set()
    for journey in journeys.values():
        imported = travel.names_in(journey.payload, tiny.load())
        names, modules = names | imported.names, modules | imported.modules
    assert modules <= {"torch"}
    assert {module.split(".")[0] for module, _ in names} <= {
        "nnsight",
        "torch",
        "builtins",
        "cloudpickle",
        "collections",
        "_operator",
        "types",
        "ast",
    }
    sends_bytecode = {"_make_skeleton_class", "_class_setstate", "CodeType", "_make_function", "dynamic_subimport"}
    assert not {name for _, name in names} & sends_bytecode  # which only opens under the same Python version


def test_requests_are_small(journeys):
    knockouts = [journey for (_, name), journey in journeys.items() if name.startswith("run knockout")]
    assert max(len(journey.payload) for journey in knockouts) < 150_000


def test_the_package_registers_itself_to_travel_by_source():
    assert "nnsight_vlm" in _PICKLE_BY_VALUE_MODULES
