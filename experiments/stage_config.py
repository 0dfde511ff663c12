"""One stage's budget, optimiser and crops."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage's budget and optimiser. Not stated in the paper for models this small: found by trial on training
    clips.
    """

    steps: int
    """Optimiser steps."""
    batch_size: int = 6
    """Clips in a batch, over all processes."""
    learning_rate: float = 8e-4
    """AdamW's, at its peak; it decays along a cosine."""
    learning_rate_warmup: int = 50
    """Steps in which the learning rate grows in."""
    weight_decay: float = 0.01
    """AdamW's."""
    shift: int = 4
    """Random crop: clips are shifted by up to this many pixels."""
    commitment_ramp: int = 500
    """Steps of latent-action training, over all its stages, in which the commitment loss grows in. Not stated in the
    paper."""
    own_crop: bool = False
    """Inverse dynamics sees the clip under another crop than the world model, so that a code cannot name a place in the
    picture. Differs from the paper (the same crop)."""
    action_weight: float = 0.0
    """Weight of reading the real action off the code, on labelled clips (``--action-labels``). Differs from the paper
    (0)."""
    imagined: float = 0.0
    """The last share of the steps that trains on the model's own imagined frames as context."""

    through_adapter: float = 0.0
    """Adapter stage: share of clips on which the world model is run on the adapter's codes (and the adapter learns
    through it) instead of the inverse dynamics model's. Differs from the paper (0)."""

    adapter_weight: float = 1.0
    """Adapter stage: weight of agreeing with the inverse dynamics model's codes, beside the flow loss."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1:
            raise ValueError(f"a stage needs steps >= 0 and batch_size >= 1, got {self.steps} and {self.batch_size}")
        if self.shift < 0 or self.action_weight < 0.0:
            raise ValueError(f"shift and action_weight must not be negative, got {self.shift}, {self.action_weight}")
        if self.own_crop and self.shift == 0:
            raise ValueError("own_crop needs a crop: shift is 0")
        if not 0.0 <= self.imagined <= 1.0:
            raise ValueError(f"imagined must lie in [0, 1], got {self.imagined}")
        if not 0.0 <= self.through_adapter <= 1.0:
            raise ValueError(f"through_adapter must lie in [0, 1], got {self.through_adapter}")
