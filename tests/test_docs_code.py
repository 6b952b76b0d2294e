"""What the build of the site does with a page's code: what it runs, puts behind it, and refuses."""

from __future__ import annotations

import pandas as pd
import pytest
from extensions import page_code, recipe_frames
from extensions.fences import blocks, outside

import nnsight_vlm as nv
from nnsight_vlm.studies import provenance

PAGE = """# A page

```python
number = 2
print("first", number)
```

```python
>>> 1 + 1
2
```

<!-- not run: needs a server -->
```python
call()
```

Text between.

```python
import matplotlib.pyplot as plt

figure, axis = plt.subplots()  # a line
axis.plot([number, 3])
axis.set_title("A [title]")
```

```bash
echo
```
"""


def run(page: str, folder):
    """What the blocks of a page give."""
    space = {}
    with page_code.surroundings():
        shown = [block for block in blocks(page) if block.is_run]
        return [page_code.run_block(each, space, "page.md", folder / f"p-{n}") for n, each in enumerate(shown)]


def test_blocks_that_are_run_are_python_without_prompts_and_without_a_reason():
    every = list(blocks(PAGE))
    assert [block.is_run for block in every] == [True, False, False, True, False]
    assert every[1].is_doctest and every[2].why_not == "needs a server" and every[3].why_not is None
    assert [PAGE.splitlines()[block.line - 1] for block in every] == [block.code.splitlines()[0] for block in every]
    assert "".join(piece for _, piece in outside(PAGE)) == PAGE
    assert not any("```" in piece for is_text, piece in outside(PAGE) if is_text)


def test_what_a_block_prints_and_draws_stands_behind_it(tmp_path):
    first, drawn = run(PAGE, tmp_path)
    assert first.printed == "first 2\n" and first.figures == ()
    [figure] = drawn.figures
    assert figure.alt == "A (title)" and (tmp_path / figure.file).read_text().count("<svg") == 1
    assert "first 2" in first.markdown() and f"![A (title)](/_made/{figure.file})" in drawn.markdown()


def test_figures_of_the_package_are_found_although_they_are_not_pyplots(tmp_path):
    page = (
        "```python\nimport pandas as pd\nimport nnsight_vlm as nv\n"
        "frame = pd.DataFrame({'layers': [0, 1], 'logprob': [0.1, 0.3], 'clean_logprob': [0.0, 0.0]})\n"
        "nv.plots.layer_lines(frame)\n```\n"
    )
    [output] = run(page, tmp_path)
    assert len(output.figures) == 1 and "layer" in output.figures[0].alt


def test_an_error_names_the_line_of_the_page(tmp_path):
    with pytest.raises(ZeroDivisionError) as error:
        run("# A page\n\n```python\nnumber = 1\nnumber / 0\n```\n", tmp_path)
    assert error.traceback[-1].lineno + 1 == 5
    with pytest.raises(UserWarning, match="warnings are errors"):
        run("```python\nimport warnings\nwarnings.warn('warnings are errors')\n```\n", tmp_path)


def test_blocks_may_hold_traces(tmp_path):
    page = (
        "# A page\n\n```python\nimport torch\nfrom nnsight import NNsight\n\n"
        "model = NNsight(torch.nn.Sequential(torch.nn.ReLU()))\n"
        "with model.trace(torch.tensor([-1.0, 2.0])):\n    kept = model[0].output.save()\nprint(kept.tolist())\n```\n"
    )
    again = page.replace("[-1.0, 2.0]", "[-1.0, 3.0]").replace("# A page\n", "# A page\n\n")
    assert [run(text, tmp_path)[0].printed for text in (page, again)] == ["[0.0, 2.0]\n", "[0.0, 3.0]\n"]


def test_a_model_is_opened_once_and_load_is_what_it_was_afterwards(tmp_path):
    before = nv.load
    page = "```python\nimport nnsight_vlm as nv\nprint(nv.load('shapes') is nv.load('shapes'))\n```\n"
    assert run(page, tmp_path)[0].printed == "True\n" and nv.load is before


def test_the_page_of_a_recipe_must_leave_a_frame_that_says_where_it_comes_from():
    frame = pd.DataFrame({"value": [1.0]})
    for space in ({}, {"frame": frame}, {"frame": 3}):
        with pytest.raises(ValueError, match="frame"):
            recipe_frames.check(None, "recipes/heads", space)
    frame.attrs = dict.fromkeys(provenance.KEYS, "x")
    with pytest.raises(ValueError, match="of heads"):
        recipe_frames.check(None, "recipes/heads", {"frame": frame})
    frame.attrs["recipe"] = "heads"
    recipe_frames.check(None, "recipes/heads", {"frame": frame})
    recipe_frames.check(None, "guide", {})
