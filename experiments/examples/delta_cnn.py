"""A world model without latent actions, to plug in: a small CNN that predicts what the held action adds to the frame.

    python experiments/examples/delta_cnn.py --out runs/delta_cnn            # trains in minutes, prints held-out errors
    python experiments/vp2_eval.py --world experiments/examples/delta_cnn.py:world --world-kwargs path=runs/delta_cnn \\
        --manifest libero_goals_v0

The network, the world and their factory ``world`` are the example, 62 lines; below stands how it is trained. Latents
are the frames at half their size, float32 ``(3, height / 2, width / 2)`` in [0, 1]. See ``docs/plug_in.md``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import torch
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.batches import Batch, StepBatches, collate
from colaworld.experiments.cli import main
from colaworld.experiments.held_out import HORIZONS, HeldOutConfig, held_out_windows, write_held_out

CONTEXT = 2
POOL = 2
"""Pixels of a frame for each of a latent, in height and width."""
PATCH = 2
"""Side of the patches of a latent that the network computes on."""
WEIGHTS = "delta_cnn.safetensors"


class Layer(nn.Module):
    """Looks around, then decides place by place in the light of the action what to add."""

    def __init__(self, action_dim: int, channels: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.wide = nn.Sequential(nn.GroupNorm(1, channels), nn.Conv2d(channels, 2 * channels, 1))
        self.modulation = nn.Linear(action_dim, 4 * channels)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """``(N, C, h, w)``, ``(N, A)`` -> ``(N, C, h, w)``."""
        scale, shift = self.modulation(actions)[..., None, None].chunk(2, dim=1)
        return hidden + self.narrow(F.silu(self.wide(self.around(hidden)) * (1 + scale) + shift))


class DeltaCNN(nn.Module):
    """Two latents and the action held from there on -> the next latent, sides multiples of ``PATCH``."""

    def __init__(self, *, action_dim: int, channels: int, depth: int) -> None:
        super().__init__()
        pixels, self.action_dim = 3 * PATCH**2, action_dim
        self.enter = nn.Conv2d(CONTEXT * pixels, channels, 3, padding=1)
        self.layers = nn.ModuleList(Layer(action_dim, channels) for _ in range(depth))
        self.leave = nn.Conv2d(channels, pixels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # it begins as a copy of the last frame
        nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """``latents (N, 2, 3, h, w)``, ``actions (N, A)`` -> ``(N, 3, h, w)``."""
        hidden = self.enter(F.pixel_unshuffle(latents.flatten(1, 2), PATCH))
        for layer in self.layers:
            hidden = layer(hidden, actions)
        return latents[:, -1] + F.pixel_shuffle(self.leave(F.silu(hidden)), PATCH)

    def roll_out(self, recent: Tensor, actions: Tensor) -> Tensor:
        """``recent (N, 2, 3, h, w)``, ``actions (N, H, A)`` -> what follows ``(N, H, 3, h, w)``, step by step."""
        future = []
        for action in actions.unbind(dim=1):
            future.append(self(recent, action))
            recent = torch.stack([recent[:, -1], future[-1]], dim=1)
        return torch.stack(future, dim=1)


class DeltaWorld:
    """``planning.protocols.World``: all that an evaluation asks of a world model."""

    context_frames, max_horizon = CONTEXT, max(HORIZONS)

    def __init__(self, model: DeltaCNN, checkpoint: Path | None = None, **seen: str | int) -> None:
        self.model, self.action_dim = model.eval().requires_grad_(False), model.action_dim
        self.checkpoint, self.device = checkpoint, model.enter.weight.device
        vars(self).update(seen)  # render_profile, frame_skip, height, width: evaluations on others are refused

    def encode(self, frames: Tensor) -> Tensor:
        """uint8 ``(N, 3, height, width)`` -> ``(N, 3, h, w)`` in [0, 1]."""
        return to_latents(frames.to(self.device))

    def decode(self, latents: Tensor) -> Tensor:
        """``(N, 3, h, w)`` -> ``(N, 3, height, width)``."""
        return F.interpolate(latents, scale_factor=POOL, mode="bilinear")

    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        """The last two latents ``(2, 3, h, w)``; what was done before them does not matter."""
        return self.encode(frames[-CONTEXT:])

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``actions (S, H, A) -> latents (S, H, 3, h, w)``; ValueError when H is beyond ``max_horizon``."""
        if actions.shape[1] > self.max_horizon:
            raise ValueError(f"a horizon of {actions.shape[1]} steps is beyond the world's {self.max_horizon}")
        return self.model.roll_out(state.expand(len(actions), *state.shape), actions.to(self.device)).clamp(0, 1)

    def with_gradients(self) -> Self:
        """Gradients pass as it is: ``--planner gradient`` can descend through it."""
        return self


def to_latents(frames: Tensor) -> Tensor:
    """``frames uint8 (..., 3, height, width)`` -> ``(..., 3, h, w)`` in [0, 1]."""
    return F.avg_pool2d(frames.flatten(0, -4).float() / 255, POOL).unflatten(0, frames.shape[:-3])


def world(path: str | Path, device: str = "cpu") -> DeltaWorld:
    """The factory: the world trained into folder ``path``. FileNotFoundError or ValueError names a bad file."""
    file = Path(path) / WEIGHTS
    if not file.is_file():
        raise FileNotFoundError(f"{path} holds no {WEIGHTS}; python experiments/examples/delta_cnn.py --out {path}")
    try:
        with safe_open(file, framework="pt", device=device) as opened:
            sizes, seen = (json.loads(opened.metadata()[name]) for name in ("sizes", "seen"))
            model = DeltaCNN(**sizes).to(device)
            model.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read (cut short?): {error}") from error
    return DeltaWorld(model, file, **seen)


@dataclass(frozen=True, kw_only=True)
class DeltaConfig:
    """Sizes and training; the defaults take some minutes on one core."""

    channels: int = 64
    depth: int = 4
    steps: int = 1000
    """Optimiser steps."""
    batch_size: int = 24
    """Clips in a batch."""
    learning_rate: float = 2e-3
    """Adam's, at its peak."""
    unroll: int = 3
    """Frames of a clip that are predicted in the last quarter of the steps, each from the predicted ones before it; one
    until then."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "depth", "steps", "batch_size", "unroll"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(self, name)}")


def train(clips: ClipDataset, config: DeltaConfig) -> DeltaCNN:
    """Least squared error of the frames that follow two of ``clips``; the same weights for the same seed."""
    torch.manual_seed(config.seed)
    model = DeltaCNN(action_dim=clips.action_dim, channels=config.channels, depth=config.depth)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = OneCycleLR(optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.1)
    order = StepBatches(
        len(clips), config.batch_size, seed=config.seed, stage="delta_cnn", start=0, stop=config.steps
    )
    batches = tqdm(DataLoader(clips, batch_sampler=order, collate_fn=collate), desc="delta CNN", unit="step")
    for step, batch in enumerate(batches):
        end = CONTEXT + (config.unroll if 4 * step >= 3 * config.steps else 1)
        latents = to_latents(batch.frames[:, :end])
        predicted = model.roll_out(latents[:, :CONTEXT], held_actions(batch)[:, CONTEXT - 1 : end - 1])
        loss = F.mse_loss(predicted, latents[:, CONTEXT:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        batches.set_postfix_str(f"loss {loss.item():.5f}")
    return model


def held_actions(batch: Batch) -> Tensor:
    """``(B, T - 1, A)``: the mean of each chunk, which is the held action where one was held."""
    return batch.actions.mean(dim=2)


def imagined(world: DeltaWorld, windows: Batch, actions: Tensor) -> Tensor:
    """``(n, context + H, 3, height, width)``: each of ``windows``, what follows its context imagined."""
    clips = []
    for frames, held in zip(windows.frames, actions, strict=True):
        state = world.start(frames[:CONTEXT], held[: CONTEXT - 1])
        clips.append(world.decode(torch.cat([state, world.imagine(state, held[None, CONTEXT - 1 :])[0]])))
    return torch.stack(clips).cpu()


def delta_cnn(
    out: Path = Path("runs/delta_cnn"),
    data: tuple[Path, ...] = (),
    source: SourceOptions = SourceOptions(),
    config: Annotated[DeltaConfig, tyro.conf.arg(name="")] = DeltaConfig(),
    held_out: HeldOutConfig = HeldOutConfig(),
) -> None:
    """Train the example, write its weights, ``held_out.json`` and strips (real above imagined), print the errors.

    Args:
        out: folder for all of it.
        data: recordings with actions, whatever train_world_model.py takes; default: the starter data.
        source: how to read data that colaworld did not record.
        config: sizes and training.
        held_out: how many held-out clips are imagined and drawn.
    """
    paths = data or (starter_path(),)
    clips = ClipDataset(paths, length=CONTEXT + config.unroll, options=source)
    clips.require_actions("a world model of real actions")
    tests = ClipDataset(paths, length=CONTEXT + max(HORIZONS), split="validation", options=source)
    windows, trajectories = held_out_windows(tests.episodes, held_out)
    model = train(clips, config)
    sizes = {"action_dim": clips.action_dim, "channels": config.channels, "depth": config.depth}
    seen = {name: getattr(clips, name) for name in ("render_profile", "frame_skip", "height", "width")}
    with whole_file(out / WEIGHTS) as partial:
        save_file(model.state_dict(), partial, metadata={"sizes": json.dumps(sizes), "seen": json.dumps(seen)})
    held, learned = held_actions(windows), world(out)
    futures = {"delta CNN": imagined(learned, windows, held)}
    futures["delta CNN, shuffled"] = imagined(learned, windows, held.roll(1, dims=0))
    write_held_out(windows, futures, trajectories, held_out, out)


if __name__ == "__main__":
    main(delta_cnn)
