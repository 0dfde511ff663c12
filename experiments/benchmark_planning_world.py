"""What is planned in while it is measured: a trained system, or one of random weights, and a scene to start from."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.experiments.benchmark_planning_settings import BenchmarkConfig
from colaworld.experiments.goal_search import make_mpc
from colaworld.experiments.goal_settings import EvalConfig, LiberoPrior
from colaworld.experiments.planning_world import system_folder, system_hash
from colaworld.experiments.presets import PRESETS, build
from colaworld.planning.mpc import MPC
from colaworld.planning.protocols import World
from colaworld.planning.search import Plan

SIZE, FRAME_SKIP = 64, 5
"""Of frames and actions that a system of random weights is made for."""
UNLEARNED = 0.02
"""Standard deviation of what random weights are shaken by, so that no part is left at the zeros that it starts from."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A system, where it came from and its hash (None for random weights), context frames uint8 ``(2, 3, height,
    width)``, the action between them, a goal frame.
    """

    system: ColaSystem
    weights: str
    checkpoint: str | None
    frames: Tensor
    past: Tensor
    goal: Tensor

    @property
    def trained(self) -> bool:
        """Whether its pictures mean anything."""
        return self.checkpoint is not None

    def candidates(self, samples: int, horizon: int, seed: int = 0) -> Tensor:
        """Actions ``(samples, horizon, A)`` as a search draws them first."""
        return LiberoPrior().prior().gaussian(horizon).sample(samples, torch.Generator().manual_seed(seed))


def scene(config: BenchmarkConfig) -> Scene:
    """The system that the flags name on their device; frames are noise, for what they show costs nothing.

    Raises FileNotFoundError or ValueError naming the part of a system that is missing or damaged.
    """
    path = system_folder(config.run) if config.run else weights_path(config.preset)
    if config.run or path.is_dir():
        system, checkpoint = load_system(path, device=config.device), system_hash(path)
        weights = str(config.run) if config.run else config.preset
    else:
        system, weights, checkpoint = random_system(config), f"random, of {config.preset}'s sizes", None
    if system.info.stage != "adapter":
        raise ValueError(f"{path} has only been trained to stage {system.info.stage!r}; planning needs 'adapter'")
    chance = torch.Generator().manual_seed(0)
    shape = (3, 3, system.info.height, system.info.width)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=chance)
    past = torch.zeros(1, system.info.action_dim)
    return Scene(
        system=system, weights=weights, checkpoint=checkpoint, frames=frames[:2], past=past, goal=frames[2]
    )


def planner_in(config: BenchmarkConfig, world: World, objective: str = "latent") -> MPC:
    """CEM as evaluations have it, of the size that the flags say.

    ValueError for a horizon beyond the world's.
    """
    samples, iterations, horizon = config.plan()
    return make_mpc(EvalConfig(samples=samples, iterations=iterations, horizon=horizon, objective=objective), world)


def planned(mpc: MPC, scene: Scene) -> Plan:
    """One plan, from the scene's frames and goal; the same each time."""
    mpc.reset(scene.goal, seed=0)
    for frame in scene.frames:
        mpc.act(frame)
    return mpc.last_plan


def random_system(config: BenchmarkConfig) -> ColaSystem:
    """Of the preset's sizes, as if it had gone through all stages."""
    torch.manual_seed(0)
    system = build(
        PRESETS[config.preset],
        height=SIZE,
        width=SIZE,
        frame_skip=FRAME_SKIP,
        action_dim=LiberoPrior().prior().width,
        render_profile="lite",
    )
    with torch.no_grad():
        for part in (system.video, system.conditioner, system.adapter):
            for weight in part.parameters():
                weight.add_(UNLEARNED * torch.randn_like(weight))
    system.bottleneck(torch.randn(4, 40, system.bottleneck.input_dim))  # codes settle on what they first see
    for part in system.parts().values():
        part.to(config.device).eval()
    return replace(system, info=replace(system.info, stage="adapter"))
