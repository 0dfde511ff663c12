"""What is watched while a run learns, on clips it does not train on: action use, codebook health, copying, and what
codes mean.

None of these has a gradient. All frames are unshifted, all numbers come from the same clips every time.
"""

import torch
from torch import Tensor

from colaworld.adapters.action_adapter import adapt, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import Batch
from colaworld.models.cola import ColaModel
from colaworld.models.health import codebook_health

RIDGE = 1e-2


def displacement_r2(train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]) -> float:
    """R2 of a linear read-out of the gripper's displacement ``(N, 3)`` from latent actions ``(N, D)``, on held-out
    steps.
    """
    features, targets = train
    mean, scale = features.mean(dim=0), features.std(dim=0).clamp_min(1e-3)

    def design(x: Tensor) -> Tensor:
        return torch.cat([(x - mean) / scale, torch.ones(len(x), 1)], dim=1).double()

    a, b = design(features), targets.double()
    weights = torch.linalg.solve(a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1]).double(), a.T @ b)
    truth = held_out[1].double()
    residual = (design(held_out[0]) @ weights - truth).square().sum()
    return float(1.0 - residual / (truth - b.mean(dim=0)).square().sum())


def _steps(model: ColaModel, latents: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    actions = model.latent_actions(latents).latents
    return actions.flatten(0, 1).cpu(), (batch.ee_pos[:, 1:] - batch.ee_pos[:, :-1]).flatten(0, 1).cpu()


@torch.no_grad()
def watch(system: ColaSystem, stage: str, train: Batch, held_out: Batch, *, seed: int) -> dict[str, float]:
    """All numbers for the system as it stands; ``train`` and ``held_out`` are fixed batches."""
    if stage == "codec":
        return {key: float(value) for key, value in system.codec(held_out.frames)[1].items()}
    was_training = {name: part.training for name, part in system.parts().items()}
    for part in system.parts().values():
        part.eval()
    latents = system.codec.encode(held_out.frames)
    copy = (latents[:, 1:] - latents[:, :-1]).square().mean()
    generator = torch.Generator(latents.device).manual_seed(seed)
    if stage == "pretrain":
        model = system.model()
        metrics = {"copy": copy, "flow": model.flow_loss(latents, None, generator)}
        metrics["predicted"] = mean_error(model, latents, None)
    else:
        metrics = {"copy": copy} | _action_metrics(system, latents, train, held_out, seed)
    for name, part in system.parts().items():
        part.train(was_training[name])
    return {key: float(value) for key, value in metrics.items()}


def _action_metrics(
    system: ColaSystem, latents: Tensor, train: Batch, held_out: Batch, seed: int
) -> dict[str, Tensor | float]:
    model = system.model()
    read = model.latent_actions(latents)
    use = model.action_use(latents, read.latents, seed)
    metrics: dict[str, Tensor | float] = {
        "flow": use.right,
        "flow_shuffled": use.shuffled,
        "flow_constant": use.constant,
        "action_use": use.use,
        "predicted": mean_error(model, latents, read.latents),
        "displacement_r2": displacement_r2(
            _steps(model, system.codec.encode(train.frames), train), _steps(model, latents, held_out)
        ),
    }
    if read.indices is not None:
        for token, health in enumerate(codebook_health(read.indices, model.bottleneck.config.entries)):
            metrics[f"utilisation_{token}"] = health.utilisation
            metrics[f"max_usage_{token}"] = health.max_usage
            metrics[f"entropy_{token}"] = health.entropy
    if system.adapter is not None and system.info.stage == "adapter":
        windows = context_windows(latents, system.adapter.config.context_frames)
        adapted = adapt(system.adapter, model.bottleneck, held_out.actions, windows)
        metrics["flow_adapter"] = model.flow_loss(latents, adapted, torch.Generator(latents.device).manual_seed(seed))
        metrics["predicted_adapter"] = mean_error(model, latents, adapted)
        # The same context with another clip's actions: what an adapter that looks at its context alone would not notice.
        other = adapt(system.adapter, model.bottleneck, held_out.actions.roll(1, dims=0), windows)
        metrics["predicted_adapter_shuffled"] = mean_error(model, latents, other)
        if read.indices is not None:
            codes = model.bottleneck.snap(adapted).indices
            metrics["adapter_accuracy"] = (codes == read.indices).float().mean()
    return metrics


def mean_error(model: ColaModel, latents: Tensor, actions: Tensor | None) -> Tensor:
    """Squared error of the next frame as a plan imagines it (one step from the bare last frame), true frames before it."""
    clean = latents[:, :-1]
    modulation = None if actions is None else model.conditioner(actions)
    time = torch.zeros(clean.shape[:2], device=clean.device)
    step = model.video.two_streams(clean, clean, time, action_modulation=modulation)
    return (clean + step - latents[:, 1:]).square().mean()
