"""What a run will need, before anything starts: parameters, memory, operations a step, time (``--print-plan``).

The run's own system is made on the meta device, which has shapes and no numbers, so that the largest takes no memory;
each stage's own loss is computed there, forward and backward, and PyTorch's formulas are added up (``budget``). Three
things stand in for what needs numbers: codes are taken as they come from inverse dynamics, the codec's loss is plain,
and the adapter stage is the world model under codes plus the adapter's network by itself. Not counted: crops of their
own, labelled clips, what is watched, evaluation.

Activations are what autograd keeps for the backward pass, in float32, with attention as fused kernels keep it (no
matrix of weights); halved under mixed precision, which is rough. With gradient checkpointing what is computed again is
counted too, and of activations the blocks' inputs.

With ``--loop.parallel fsdp`` each device holds its share of weights, gradients, moments and averages, and on top what
is gathered while a step is computed: everything outside the blocks, and two blocks (one is computed, the next on its
way).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from colaworld.adapters.action_adapter import context_windows
from colaworld.adapters.system import ColaSystem, weights_path
from colaworld.experiments.batches import Batch
from colaworld.experiments.budget import step_flops
from colaworld.experiments.devices import Device
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import RECIPES, StageName, Turn
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import CODEC_STRIDE, StageModel
from colaworld.experiments.train_config import TrainConfig
from colaworld.models.bottleneck import Bottleneck, Bottlenecked
from colaworld.models.codec import to_signed

FRAME_SKIP, ACTION_DIM = 5, 7
"""Of LIBERO's actions; they matter to the adapter's first layer alone."""
BYTES = 4
"""Of a number in float32."""
KEPT_OF_A_WEIGHT = {"gradients": 1, "optimiser": 2, "averages": 1}
"""Numbers beside each trained weight: its gradient, AdamW's two moments, the EMA."""
BLOCKS_AT_ONCE = 2
"""That are gathered where weights are sharded."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a run. ``flops`` of a step of the whole batch, the mean over the stage's steps; ``activations`` in
    bytes of one clip; ``trained`` parameters; ``gathered`` ones where weights are sharded.
    """

    stage: StageName
    steps: int
    batch_size: int
    flops: float
    trained: int
    activations: int
    gathered: int = 0

    def memory(self, weights: int, clips: int, precision: str, shards: int = 1) -> dict[str, float]:
        """Bytes on one device that works off ``clips`` at once, by what they are for; ``weights`` of all parts.
        ``shards``: among how many devices they are shared (1: each holds all).
        """
        halved = 1.0 if precision == "no" else 0.5
        kept = {name: BYTES * count * self.trained / shards for name, count in KEPT_OF_A_WEIGHT.items()}
        gathered = {"gathered": float(BYTES * self.gathered)} if shards > 1 else {}
        shared = {"weights": BYTES * weights / shards, **kept, **gathered}
        return {**shared, "activations": halved * clips * self.activations}

    def seconds(self, device: Device, count: int, precision: str) -> float:
        """Of the whole stage on ``count`` devices."""
        return self.steps * self.flops / (count * device.rate(precision))


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """``parameters`` of each part."""

    config: TrainConfig
    parameters: dict[str, int]
    stages: tuple[StagePlan, ...]


def run_plan(config: TrainConfig) -> RunPlan:
    """Of a run with these flags, for frames of the preset's size. No memory is allocated for the model."""
    preset = PRESETS[config.preset]
    with torch.device("meta"):
        system = build(
            preset,
            height=preset.pixels,
            width=preset.pixels,
            frame_skip=FRAME_SKIP,
            action_dim=ACTION_DIM,
            render_profile="lite",
            flow=config.flow,
            action_head=config.action_labels > 0.0,
            **{name: getattr(config, name) for name in ("recipe", "bottleneck", "tokens", "entries", "code_width")},
            **{name: getattr(config, name) for name in ("lam_output", "adapter_kind", "adapter_context")},
            **{name: getattr(config, name) for name in ("adapter_snap", "history", "clip")},
        )
        sizes = {name: system.bottleneck.config[name] for name in ("kind", "tokens", "entries", "width")}
        unquantised = _Unquantised(**sizes)
    parameters = {name: sum(each.numel() for each in part.parameters()) for name, part in system.parts().items()}
    system = replace(system, bottleneck=unquantised)
    if config.loop.gradient_checkpointing:
        system.enable_gradient_checkpointing()
    recipe = RECIPES[config.recipe]
    stages = [_stage_plan(system, recipe.turn(stage), config) for stage in config.run_stages()]
    return RunPlan(config=config, parameters=parameters, stages=tuple(stages))


class _Unquantised(Bottleneck):
    """Looks nothing up: to find the nearest code there would have to be numbers."""

    def snap(self, latents: Tensor, *, commitment: float = 1.0) -> Bottlenecked:
        """The latents themselves."""
        return Bottlenecked(latents=latents, indices=None, loss=latents.new_zeros(()), parts={})


class _Kind(nn.Module):
    """The loss of one kind of step of a stage, of frames ``(1, T, 3, height, width)`` without numbers."""

    def __init__(self, system: ColaSystem, turn: Turn, config: StageConfig, step: int) -> None:
        super().__init__()
        self.turn, self.step, self.info = turn, step, system.info
        self.adapter = system.adapter if turn.stage == "adapter" and turn.reads == "codes" else None
        if self.adapter is not None:  # the world model's own part of it: under codes of a frozen latent action model
            turn = replace(turn, stage="joint", trained=tuple(name for name in turn.trained if name != "adapter"))
        self.model = StageModel(system, turn, replace(config, shift=0, own_crop=False, action_weight=0.0)).train()
        if self.adapter is not None:
            self.adapter.requires_grad_(True)

    def forward(self, batch: Batch) -> Tensor:
        """The loss."""
        if self.turn.stage == "codec":
            frames = to_signed(batch.frames[:, ::CODEC_STRIDE])
            return (self.model.codec.decode(self.model.codec.encode(frames)) - frames).square().mean()
        loss = self.model(batch, self.step, torch.Generator())[0]
        if self.adapter is not None:
            with torch.no_grad():
                latents = torch.empty(1, batch.frames.shape[1], *self.model.codec.latent_shape, device="meta")
                seen = context_windows(latents, self.adapter.config.context_frames)
            loss = loss + self.adapter(batch.actions, seen).square().mean()
        return loss


def _stage_plan(system: ColaSystem, turn: Turn, config: TrainConfig) -> StagePlan:
    stage, info = config.stage(turn.stage), system.info
    batch = Batch(
        frames=torch.empty(1, config.clip, 3, info.height, info.width, dtype=torch.uint8, device="meta"),
        actions=torch.empty(1, config.clip - 1, FRAME_SKIP, ACTION_DIM, device="meta"),
        ee_pos=torch.empty(1, config.clip, 3, device="meta"),
    )
    imagined = round(stage.steps * stage.imagined)
    flops, activations, trained, gathered = 0.0, 0, 0, 0
    for step, count in ((0, stage.steps - imagined), (stage.steps, imagined)):  # as StageModel.imagines tells them
        if count:
            kind = _Kind(system, turn, stage, step)
            trained = sum(weight.numel() for weight in kind.parameters() if weight.requires_grad)
            flops += count * step_flops(kind, lambda copy: copy(batch))
            activations, gathered = max(activations, _kept(kind, batch)), _gathered(kind.model)
    return StagePlan(
        stage=turn.stage,
        steps=stage.steps,
        batch_size=stage.batch_size,
        flops=flops * stage.batch_size / max(1, stage.steps),
        trained=trained,
        activations=activations,
        gathered=gathered,
    )


def _gathered(model: StageModel) -> int:
    """Parameters that a device of a sharded run sees whole at once."""
    blocks = [
        sum(weight.numel() for weight in module.parameters())
        for module in model.modules()
        if type(module).__name__ in model._no_split_modules
    ]
    outside = sum(weight.numel() for weight in model.parameters()) - sum(blocks)
    return outside + sum(sorted(blocks)[-BLOCKS_AT_ONCE:])


def _kept(kind: _Kind, batch: Batch) -> int:
    """Bytes that autograd keeps for the backward pass, weights left out; each storage once."""
    storages: dict[int, Any] = {each.untyped_storage()._cdata: None for each in kind.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    def blockwise(block: Any, *inputs: Any) -> Any:
        for each in inputs:
            if isinstance(each, Tensor) and each.requires_grad:
                keep(each)
        return checkpoint(block, *inputs, use_reentrant=False)

    for part in kind.modules():
        if getattr(part, "gradient_checkpointing", False):
            part.enable_gradient_checkpointing(blockwise)
    with _FusedAttention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kind(batch)
    total = 0
    for tensor in kept:
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage
            total += storage.nbytes()
    return total


class _FusedAttention(TorchFunctionMode):
    """Attention that keeps its inputs and its output, as fused kernels do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return _Attended.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attended(torch.autograd.Function):
    """Shapes alone."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.save_for_backward(query, key, value, output)
        return output


def plan_text(plan: RunPlan, device: Device, count: int) -> str:
    """The plan on ``count`` devices, as people read it. ValueError for a count below 1, or by which a batch cannot be
    divided."""
    if count < 1:
        raise ValueError(f"--device-count must be 1 or more, got {count}")
    for stage in plan.stages:
        if stage.batch_size % (count * plan.config.loop.accumulate):
            raise ValueError(
                f"--{stage.stage}.batch-size {stage.batch_size} cannot be divided by --device-count {count} times "
                f"--loop.accumulate {plan.config.loop.accumulate}"
            )
    config, precision = plan.config, plan.config.loop.mixed_precision
    weights = sum(plan.parameters.values())
    pixels = PRESETS[config.preset].pixels
    shards = count if config.loop.parallel == "fsdp" else 1
    columns = ("weights", *KEPT_OF_A_WEIGHT, *(("gathered",) if shards > 1 else ()), "activations", "all, GiB")
    lines = [
        f"plan of preset {config.preset}, recipe {config.recipe}: frames of {pixels}x{pixels}, clips of {config.clip}",
        "",
        f"{'part':<20}{'parameters, M':>16}",
        *(f"{name:<20}{number / 1e6:>16.2f}" for name, number in plan.parameters.items()),
        f"{'all':<20}{weights / 1e6:>16.2f}",
        "",
        f"on {count} x {device.name}: {_rate(device, precision)}",
        "",
        f"{'stage':<10}{'steps':>8}{'batch':>7}{'TFLOP a step':>14}{'hours':>9}"
        + "".join(f"{name:>13}" for name in columns),
    ]
    hours = 0.0
    for stage in plan.stages:
        clips = -(-stage.batch_size // (count * config.loop.accumulate))
        memory = [each / 2**30 for each in stage.memory(weights, clips, precision, shards).values()]
        took = stage.seconds(device, count, precision) / 3600
        hours += took
        over = "  more than it has" if device.memory is not None and sum(memory) > device.memory else ""
        lines.append(
            f"{stage.stage:<10}{stage.steps:>8}{stage.batch_size:>7}{stage.flops / 1e12:>14.4g}{took:>9.3g}"
            + "".join(f"{each:>13.3f}" for each in (*memory, sum(memory)))
            + over
        )
    lines += [f"{'all':<10}{hours:>38.3g}", "", *_notes(config, count)]
    return "\n".join(lines)


def _rate(device: Device, precision: str) -> str:
    kind = "float32" if precision == "no" else precision
    peak = device.rate(precision) / device.utilisation / 1e12
    source = "measured just now" if device.measured else "the maker's figure, dense"
    return f"peak {peak:.4g} TFLOP/s in {kind} ({source}), of which {device.utilisation:.0%} are assumed"


def _notes(config: TrainConfig, count: int) -> list[str]:
    notes = [
        "memory of one device, estimated: weights of all parts, then what belongs to those that the stage trains",
        "neither reading clips nor what is watched nor the evaluation at the end are in memory or time",
    ]
    if config.loop.gradient_checkpointing:
        notes.append("with --loop.gradient-checkpointing: what is computed again is counted")
    if not config.from_scratch and config.init is None and not weights_path(config.preset, "pretrained").is_dir():
        notes.append("codec and action-free video model come from --init, and are not in the plan (--from-scratch)")
    if count == 1 and config.loop.parallel == "fsdp":
        notes.append("one device has nobody to share with: --loop.parallel fsdp changes nothing")
    if count > 1 and config.loop.parallel == "fsdp":
        notes.append("weights, gradients, moments and averages are shared; while clips are watched, weights are whole")
    elif count > 1:
        notes.append("every device holds all weights and averages (--loop.parallel fsdp shares them)")
    if count > 1:
        notes.append("what devices tell each other costs no time here")
    return notes
