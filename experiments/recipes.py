"""Recipes: which parts learn in which stage, from which gradients. One switch (``--recipe``), one budget.

    cola              warm-up (video frozen), then joint: the paper's
    no_warmup         joint from the start
    two_stage         latent action model with a forward dynamics model of its own, then the world model on its frozen codes
    frozen_lam        after the warm-up inverse dynamics and bottleneck stay as they are
    frozen_world      after the warm-up video model and conditioner stay as they are
    no_grad_to_lam    joint, but the flow loss does not reach the latent action model, which keeps the bottleneck's losses
    no_grad_to_world  joint, but the flow loss under actions does not reach the video model, which keeps the action-free one
    real_actions      conditioned on real actions, no latent action model: the upper row

Every recipe starts from the same codec and action-free video model and spends the same number of steps, on the same
clips in the same order, before the adapter stage. Not stated in the paper: what a blocked gradient path leaves the other
side to learn from; here each side keeps the loss that is its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from colaworld.experiments.stage_config import StageConfig

StageName = Literal["codec", "pretrain", "lam", "warmup", "joint", "world", "adapter"]
RecipeName = Literal[
    "cola",
    "two_stage",
    "no_warmup",
    "frozen_lam",
    "frozen_world",
    "no_grad_to_lam",
    "no_grad_to_world",
    "real_actions",
]
LATENT_ACTION_STAGES: tuple[StageName, ...] = ("lam", "warmup", "joint", "world")
"""The stages between the action-free video model and the adapter: what recipes differ in and share a budget for."""

LAM = ("inverse_dynamics", "bottleneck")
WORLD = ("video", "conditioner")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One stage of a recipe."""

    stage: StageName
    trained: tuple[str, ...]
    """Parts of the system that learn."""
    reads: Literal["nothing", "codes", "actions"] = "codes"
    """Where latent actions come from: the latent action model, or real actions through the adapter."""
    flow_to_lam: bool = True
    """Whether the flow loss reaches the latent action model."""
    flow_to_video: bool = True
    """Whether the flow loss under actions reaches the video model; if not, it learns from the action-free loss."""

    @property
    def stream(self) -> str:
        """Stages with the same stream draw clips and noise from one sequence, one after another."""
        return "latent actions" if self.stage in LATENT_ACTION_STAGES else self.stage

    @property
    def wants_labels(self) -> bool:
        """Whether it learns from real actions, so that of few labels none should be missed."""
        return self.reads == "actions" or self.stage == "adapter"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Its turns, in order."""

    name: RecipeName
    turns: tuple[Turn, ...]

    @property
    def stages(self) -> tuple[StageName, ...]:
        """Names of the turns."""
        return tuple(turn.stage for turn in self.turns)

    @property
    def has_codes(self) -> bool:
        """Whether it learns latent actions, rather than to be conditioned on real ones."""
        return any("inverse_dynamics" in turn.trained for turn in self.turns)

    def turn(self, stage: StageName) -> Turn:
        """The turn of that name. ValueError when the recipe has none."""
        for turn in self.turns:
            if turn.stage == stage:
                return turn
        raise ValueError(f"recipe {self.name!r} has no stage {stage!r}; its stages are {', '.join(self.stages)}")

    def trained_by(self, stage: StageName) -> tuple[str, ...]:
        """The parts that have learned something when ``stage`` ends; nothing else is worth saving."""
        turns = self.turns[: self.stages.index(stage) + 1]
        return tuple(dict.fromkeys(part for turn in turns for part in turn.trained))


def _recipe(name: RecipeName, *middle: Turn, adapter: Turn | None = None) -> Recipe:
    first = (
        Turn(stage="codec", trained=("codec",), reads="nothing"),
        Turn(stage="pretrain", trained=("video",), reads="nothing"),
    )
    last = adapter or Turn(stage="adapter", trained=("video", "conditioner", "adapter"))
    return Recipe(name=name, turns=(*first, *middle, last))


_WARMUP = Turn(stage="warmup", trained=("conditioner", *LAM, "action_head"))
_JOINT = Turn(stage="joint", trained=(*WORLD, *LAM, "action_head"))
_ACTED = ("conditioner", "adapter", "bottleneck")

RECIPES: Mapping[RecipeName, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _recipe("cola", _WARMUP, _JOINT),
            _recipe("no_warmup", _JOINT),
            _recipe(
                "two_stage",
                Turn(stage="lam", trained=(*LAM, "forward_dynamics", "action_head")),
                Turn(stage="world", trained=WORLD),
            ),
            _recipe("frozen_lam", _WARMUP, replace(_JOINT, trained=WORLD)),
            _recipe("frozen_world", _WARMUP, replace(_JOINT, trained=(*LAM, "action_head"))),
            _recipe("no_grad_to_lam", _WARMUP, replace(_JOINT, flow_to_lam=False)),
            _recipe("no_grad_to_world", _WARMUP, replace(_JOINT, flow_to_video=False)),
            _recipe(
                "real_actions",
                Turn(stage="warmup", trained=_ACTED, reads="actions"),
                Turn(stage="joint", trained=("video", *_ACTED), reads="actions"),
                adapter=Turn(stage="adapter", trained=("video", *_ACTED), reads="actions"),
            ),
        )
    }
)


def latent_action_budgets(recipe: Recipe, warmup: StageConfig, joint: StageConfig) -> dict[StageName, StageConfig]:
    """The configs of the recipe's stages between pre-training and adapter: always ``warmup.steps + joint.steps`` in all.

    As many of the last steps train on imagined frames, whatever stage they fall into. ``two_stage`` spends half on its
    latent action model (paper: 30K of 60K).
    """
    total, imagined = warmup.steps + joint.steps, joint.imagined * joint.steps
    lam = total // 2
    steps = {"warmup": warmup.steps, "joint": joint.steps, "lam": lam, "world": total - lam}
    if "warmup" not in recipe.stages:
        steps["joint"] = total
    budgets: dict[StageName, StageConfig] = {}
    for stage in recipe.stages:
        if stage in LATENT_ACTION_STAGES:
            like = warmup if stage == "warmup" else joint
            share = 0.0 if stage in ("lam", "warmup") else min(1.0, imagined / max(1, steps[stage]))
            budgets[stage] = replace(like, steps=steps[stage], imagined=share)
    return budgets
