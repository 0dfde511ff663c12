"""What is watched while a run learns, on clips it does not train on: action use, codebook health, copying, and what
codes mean.

None of these has a gradient. All frames are unshifted, all numbers come from the same clips every time.
"""

import torch
from torch import Tensor

from colaworld.adapters.action_adapter import adapt, codes_of, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import Batch, frame_latents
from colaworld.experiments.recipes import Turn
from colaworld.models.bottleneck import Bottlenecked
from colaworld.models.codec import to_signed
from colaworld.models.cola import ColaModel
from colaworld.models.health import health_numbers, moving_transitions

RIDGE = 1e-2


def displacement_r2(train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> float:
    """R2 of a linear read-out of the gripper's displacement ``(N, 3)`` from latent actions ``(N, D)``, on held-out
    steps.
    """
    features, targets = train
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-3)

    def design(x: Tensor) -> Tensor:
        return ((x - mean) / scale).double()

    a, centre = design(features), targets.double().mean(dim=0)  # the ridge does not pull at the constant
    b = targets.double() - centre
    weights = torch.linalg.solve(a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1]).double(), a.T @ b)
    truth = held_out[1].double() - centre
    residual = (design(held_out[0]) @ weights - truth).square().sum()
    return float(1.0 - residual / truth.square().sum())


def _steps(model: ColaModel, latents: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    actions = model.latent_actions(latents).latents
    return actions.flatten(0, 1).cpu(), (batch.ee_pos[:, 1:] - batch.ee_pos[:, :-1]).flatten(0, 1).cpu()


@torch.no_grad()
def watch(system: ColaSystem, turn: Turn, train: Batch, held_out: Batch, *, seed: int) -> dict[str, float]:
    """All numbers for the system as it stands; ``train`` and ``held_out`` are fixed batches."""
    if turn.stage == "codec":
        return {key: float(value) for key, value in system.codec(held_out.frames)[1].items()}
    was_training = {name: part.training for name, part in system.parts().items()}
    for part in system.parts().values():
        part.eval()
    latents = system.codec.encode(held_out.frames)
    model = system.model()
    seen, *_ = model.world_clip(latents)
    copy = (seen[:, 1:] - seen[:, :-1]).square().mean()
    generator = torch.Generator(latents.device).manual_seed(seed)
    if turn.stage == "pretrain":
        metrics = {"copy": copy, "flow": model.flow_loss(latents, None, generator)}
        metrics["predicted"] = mean_error(model, latents, None)
    else:
        metrics = {"copy": copy} | _action_metrics(system, turn, latents, train, held_out, seed)
    for name, part in system.parts().items():
        part.train(was_training[name])
    return {key: float(value) for key, value in metrics.items()}


def _action_metrics(
    system: ColaSystem, turn: Turn, latents: Tensor, train: Batch, held_out: Batch, seed: int
) -> dict[str, Tensor | float]:
    if turn.reads == "actions":
        actions = adapt(system.adapter, system.bottleneck, held_out.actions, None)
        return _use_metrics(system.model(), latents, actions, seed, codes=False)
    model = system.model()
    read = model.latent_actions(latents)
    metrics = (
        _reconstruction(system, held_out, latents, read.latents)
        if turn.stage == "lam"
        else _use_metrics(model, latents, read.latents, seed, codes=model.bottleneck.codes)
    )
    if torch.isfinite(train.ee_pos).all() and torch.isfinite(held_out.ee_pos).all():  # not every source says it
        metrics["displacement_r2"] = displacement_r2(
            _steps(model, frame_latents(system.codec, train.frames), train), _steps(model, latents, held_out)
        )
    if read.indices is not None:
        metrics |= health_numbers(read.indices, model.bottleneck.code_sizes, moving_transitions(latents))
    if system.adapter is not None and turn.stage == "adapter":
        metrics |= _adapter_metrics(system, latents, held_out, read, seed)
    return metrics


def _use_metrics(
    model: ColaModel, latents: Tensor, actions: Tensor, seed: int, *, codes: bool
) -> dict[str, Tensor | float]:
    """The losses that say whether latent actions are used."""
    use = model.action_use(latents, actions, seed, codes=codes)
    return {
        "flow": use.right,
        "flow_shuffled": use.shuffled,
        "flow_constant": use.constant,
        "action_use": use.use,
        "predicted": mean_error(model, latents, actions),
    }


def _reconstruction(
    system: ColaSystem, held_out: Batch, latents: Tensor, actions: Tensor
) -> dict[str, Tensor | float]:
    """The forward dynamics model's error, under the right codes and another clip's."""
    pixels = system.forward_dynamics.config.output == "pixel"
    frames = to_signed(held_out.frames) if pixels else latents
    variants = {"reconstruction": actions, "reconstruction_shuffled": actions.roll(1, dims=0)}
    errors = {
        name: (system.forward_dynamics(frames[:, :-1], each) - frames[:, 1:]).square().mean()
        for name, each in variants.items()
    }
    return errors | {"reconstruction_copy": (frames[:, 1:] - frames[:, :-1]).square().mean()}


def _adapter_metrics(
    system: ColaSystem, latents: Tensor, held_out: Batch, read: Bottlenecked, seed: int
) -> dict[str, Tensor | float]:
    model = system.model()
    windows = context_windows(latents, system.adapter.config.context_frames)
    adapted = adapt(system.adapter, model.bottleneck, held_out.actions, windows)
    # The same context with another clip's actions: what an adapter that looks at its context alone would not notice.
    other = adapt(system.adapter, model.bottleneck, held_out.actions.roll(1, dims=0), windows)
    metrics: dict[str, Tensor | float] = {
        "flow_adapter": model.flow_loss(latents, adapted, torch.Generator(latents.device).manual_seed(seed)),
        "predicted_adapter": mean_error(model, latents, adapted),
        "predicted_adapter_shuffled": mean_error(model, latents, other),
    }
    if read.indices is not None:
        codes = codes_of(system.adapter, model.bottleneck, system.adapter(held_out.actions, windows))
        metrics["adapter_accuracy"] = (codes == read.indices).float().mean()
    return metrics


def mean_error(model: ColaModel, latents: Tensor, actions: Tensor | None, *, per_clip: bool = False) -> Tensor:
    """Squared error of the next frame (with compressed time: latent) as a plan imagines it (one step from the bare last
    one), true ones before it: the mean, or one for each clip ``(B,)``."""
    latents, actions, _ = model.world_clip(latents, actions)
    clean = latents[:, :-1]
    modulation = None if actions is None else model.conditioner(actions)
    time = torch.zeros(clean.shape[:2], device=clean.device)
    step = model.video.two_streams(clean, clean, time, action_modulation=modulation)
    errors = (clean + step - latents[:, 1:]).square().flatten(1).mean(dim=1)
    return errors if per_clip else errors.mean()
