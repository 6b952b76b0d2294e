"""What `help`, `inspect.signature` and type checkers can see of the public functions."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

import pytest
import tiny

import nnsight_vlm as nv

SPACES = (nv, nv.recipes)
FUNCTIONS = {
    f"{space.__name__}.{name}": getattr(space, name)
    for space in SPACES
    for name in space.__all__
    if inspect.isfunction(getattr(space, name))
}
REMOTE = {name: function for name, function in FUNCTIONS.items() if "remote" in inspect.signature(function).parameters}
AT_ONCE = {"nnsight_vlm.install"}
"""Functions whose result is no number: they cannot be waited for elsewhere."""

SIGNATURES_ONLY = """
[mypy]
strict = true
python_version = 3.11
[mypy-nnsight_vlm.*]
ignore_errors = true
[mypy-torch.*,transformers.*,nnsight.*,numpy.*,pandas.*,PIL.*,scipy.*,matplotlib.*,typer.*,rich.*]
follow_imports = skip
ignore_missing_imports = true
"""
"""Settings of mypy under which a user's file is checked, and of this package only what it declares.

What is inside its functions, and in other packages, is looked at by the `mypy` of CONTRIBUTING.md, which takes longer.
"""


def test_everything_that_runs_on_a_server_is_here():
    assert {"nnsight_vlm.run", "nnsight_vlm.sweep", "nnsight_vlm.recipes.knockout_windows"} <= set(REMOTE)
    assert len(REMOTE) >= 12


@pytest.mark.parametrize("name", sorted(set(REMOTE) - AT_ONCE))
def test_running_in_the_background_is_declared_and_documented(name):
    parameters = inspect.signature(REMOTE[name]).parameters
    assert parameters["blocking"].default is True and parameters["path"].default is None
    assert "blocking" in (REMOTE[name].__doc__ or "")


def test_a_prompt_of_several_rows_gives_results_of_several_rows():
    model = tiny.load("sdpa")
    one = nv.encode(model, "what is red ?", tiny.picture(0))
    two = nv.encode(model, ["what is red ?", "where is the red square ?"], [tiny.picture(0), tiny.picture(1)])
    assert type(one) is nv.Prompt and type(two) is nv.PromptBatch and type(two.row(1)) is nv.Prompt
    assert type(nv.stack([one, two.row(1)])) is nv.PromptBatch and type(nv.stack([one])) is nv.Prompt
    alone, both = (nv.run(model, prompt, reads=[nv.Attention("last", "image")]) for prompt in (one, two))
    assert type(alone) is nv.Run and type(both) is nv.BatchRun
    assert alone.logits.shape == both.logits[0].shape and len(both.reads[0]) == 2
    single, batch = (nv.generate(model, prompt, max_new_tokens=2) for prompt in (one, two))
    assert type(single) is nv.Generation and type(batch) is nv.BatchGeneration
    assert isinstance(single.text, str) and len(batch.text) == len(batch.tokens) == len(batch.prompt) == 2


def test_a_type_checker_knows_what_comes_back(tmp_path):
    file = tmp_path / "user.py"
    file.write_text(
        textwrap.dedent(
            """
            import nnsight_vlm as nv

            def use(model: object, prompt: nv.Prompt, batch: nv.PromptBatch) -> None:
                reveal_type(nv.run(model, prompt))
                reveal_type(nv.run(model, batch))
                reveal_type(nv.generate(model, prompt).text)
                reveal_type(nv.generate(model, batch).text)
                reveal_type(nv.encode(model, "a", None))
                reveal_type(nv.encode(model, ["a", "b"], None))
                reveal_type(nv.verify(model, prompt, None, remote=True, blocking=False, path="job"))
                nv.sweep(model, prompt, [], answer=1, execution="all at once")
            """
        )
    )
    settings = tmp_path / "mypy.ini"
    settings.write_text(SIGNATURES_ONLY)
    command = [sys.executable, "-m", "mypy", str(file), "--no-error-summary", "--config-file", str(settings)]
    command += ["--cache-dir", str(tmp_path)]
    checked = subprocess.run(
        command, capture_output=True, text=True, check=False
    )  # a process of its own: it is compiled code
    assert not checked.stderr
    told = checked.stdout
    revealed = [line.split('"')[1] for line in told.splitlines() if "Revealed type" in line]
    assert [kind.removeprefix("nnsight_vlm.") for kind in revealed] == [
        "execution.forward.Run",
        "execution.forward.BatchRun",
        "str",
        "tuple[str, ...]",
        "prompts.prompt.Prompt",
        "prompts.prompt.PromptBatch",
        "remote.background.Job[nnsight_vlm.execution.proof.Proof]",
    ]
    wrong = [line for line in told.splitlines() if "error:" in line]
    assert len(wrong) == 1 and 'No overload variant of "sweep"' in wrong[0]
