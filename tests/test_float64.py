"""Models that tests of both precisions share are the same whichever test builds them."""

from __future__ import annotations

import pytest
import torch
import zoo
from float64 import computing_in

from nnsight_vlm.families import view_of


def tensors(name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights and tables of a member that is built now, by name."""
    module = view_of(zoo._load.__wrapped__(name, zoo.ZOO[name].implementations[0], dtype)).module
    return dict((*module.named_parameters(), *module.named_buffers()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["kosmos-2", "llava", "gemma3"])
def test_a_model_is_the_same_whichever_test_builds_it(name, dtype):
    with computing_in(torch.float32):
        one = tensors(name, dtype)
    with computing_in(torch.float64):
        other = tensors(name, dtype)
    assert all(torch.equal(one[key], other[key]) and one[key].dtype is other[key].dtype for key in one | other)
    if dtype is torch.float32:
        assert torch.float64 not in {value.dtype for value in other.values()}
