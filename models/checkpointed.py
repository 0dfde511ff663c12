"""Gradient checkpointing of a model that is a row of blocks: each is computed again in the backward pass.

``enable_gradient_checkpointing`` is diffusers'; a model runs its blocks through ``_run``.
"""

from collections.abc import Callable
from typing import Any

import torch


class Checkpointed:
    """For a diffusers ``ModelMixin``."""

    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    def _run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """What ``block`` returns."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)
