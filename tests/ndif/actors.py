"""The server's own actors, made to run on a CPU: NDIF imports them by the paths in its environment variables.

NDIF 0.1.2 places models on GPUs only and calls functions of nnsight with an argument that nnsight 0.8.1 dropped. Both
are patched here, outside its package. Each process that unpickles one of these classes imports this file, since Ray
sends a decorated class by value but its undecorated base by name: that is why every class has such a base.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ray
import torch
from ndif.services.ray.deployments.controller.controller import _ControllerActor
from ndif.services.ray.deployments.modeling.base import KILL_REASON_PREEMPTED
from ndif.services.ray.sandbox.model import SandboxModelDeployment
from nnsight.modeling.huggingface import HuggingFaceModel
from nnsight.modeling.mixins.remotable import Remotable


def no_wait(*_: Any) -> None:
    """Stands in for `torch.cuda.synchronize`."""


def without_remote_code(describe: Callable[..., Any]) -> classmethod:
    """The same class method, which accepts and ignores `trust_remote_code`."""

    @functools.wraps(describe)
    def described(cls: type, *arguments: Any, trust_remote_code: bool = False, **options: Any) -> Any:
        return describe(cls, *arguments, **options)

    return classmethod(described)


torch.cuda.synchronize = no_wait
Remotable.describe_checkpoint = without_remote_code(Remotable.describe_checkpoint.__func__)
Remotable.max_tp_size = without_remote_code(Remotable.max_tp_size.__func__)


class CPUModel(SandboxModelDeployment):
    """Serves one model: trusted requests in its own process, others in a runner's."""

    def load_from_disk(self) -> HuggingFaceModel:
        """Load the model on the CPU; with no devices registered, NDIF measures and limits no GPU memory."""
        self.gpu_mem_bytes_by_id = {}
        model = HuggingFaceModel.from_model_key(
            self.model_key, dispatch=True, dtype=self.dtype_name, device="cpu", **self.kwargs
        )
        model._module.requires_grad_(False)
        return model

    async def to_cache(self) -> None:
        """Do not move the weights: they are in main memory already."""
        await self.cancel(KILL_REASON_PREEMPTED)
        self.cached = True

    def from_cache(self, gpu_mem_bytes_by_id: dict[int, int]) -> None:  # noqa: ARG002, NDIF passes it
        """Do not move the weights back."""
        self.cached = False


class CPUController(_ControllerActor):
    """The original controller, as a class of this file, so that its process imports the patches above."""


CPUModelActor = ray.remote(num_cpus=1, max_restarts=-1)(CPUModel)
CPUControllerActor = ray.remote(num_cpus=1, num_gpus=0, max_restarts=-1, resources={"head": 1})(CPUController)
