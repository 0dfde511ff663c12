"""Everything that is said of a trained system, on the same held-out clips for every recipe: ``evaluation.json``.

Whether actions are used (U, shuffled ratio) and do not leak, what codes say of real actions (linear probe) and whether
they carry over to another start (code transfer), codebook health, imagined video at horizons 1, 5 and 10; each under
inverse dynamics' codes and under real actions through the adapter, since a method may lose on the way from one to the
other. And whether planning in it, over real actions, goes where the arm went (``planning_check``). Values that an
interval can be drawn from are one number a clip.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from colaworld.adapters.action_adapter import adapt, codes_of, context_windows
from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import ClipDataset
from colaworld.envs.whole_file import whole_file
from colaworld.experiments.action_checks import adapter_confusion, code_transfer
from colaworld.experiments.batches import Batch, fixed_batch, frame_latents
from colaworld.experiments.budget import StageCost
from colaworld.experiments.gripper_locator import fit_locator
from colaworld.experiments.held_out import (
    CONTEXT_FRAMES,
    HORIZONS,
    HeldOutConfig,
    held_out_windows,
    imagine_variants,
    trajectory_of,
    write_held_out,
)
from colaworld.experiments.planning_check import MEASURED, PlanningCheckConfig, planning_check
from colaworld.experiments.probe import probe_system
from colaworld.experiments.video_metrics import VideoMetricsConfig, video_metrics
from colaworld.experiments.watch import mean_error
from colaworld.models.bottleneck import Bottlenecked
from colaworld.models.health import health_report, moving_transitions
from colaworld.models.leak import future_leak

FORMAT = 1
BEFORE = "before_adapter.json"
PLANNING, CODEC = "planning", "codec"
TRANSFER_HORIZON = 5
TRAJECTORIES_OF_A_SCENE = 3
"""Code transfer takes a start, a donor and a bystander of one scene."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much is evaluated. Runs that are compared need the same."""

    train_clips: int = 192
    """Training clips that probe and locator are fitted on."""
    seed: int = 0
    """Of noise, shuffles and pairings, never of weights."""
    planning: PlanningCheckConfig = PlanningCheckConfig()
    """Plans to frames of the clips."""


class Evaluation:
    """The clips and settings that all recipes are evaluated with. Puts the parts of a system in evaluation mode.

    The adapter stage trains the world model a little further, whatever the recipe; so what a recipe has come to is
    measured before it (``before_adapter``), and what an adapter costs after it.
    """

    def __init__(
        self,
        train: ClipDataset,
        held_out: ClipDataset,
        config: EvaluationConfig,
        windows: HeldOutConfig,
        video: VideoMetricsConfig,
    ) -> None:
        self.train, self.config, self.windows, self.video = train, config, windows, video
        self.clips, self.trajectories = held_out_windows(held_out.episodes, windows)
        scenes = {trajectory_of(each): each.scene for each in held_out.episodes}
        self.scenes = [scenes[each] for each in self.trajectories]
        self.truth = self.clips.frames.float() / 255.0

    @torch.no_grad()
    def before_adapter(self, system: ColaSystem, folder: Path) -> dict[str, Any]:
        """What the stages before the adapter have come to, also written to ``before_adapter.json`` in ``folder``."""
        report = self._look(system, imagine_variants(system, self.clips)) | self._code_checks(system)
        with whole_file(folder / BEFORE) as partial:
            partial.write_text(json.dumps(report, indent=1) + "\n")
        return report

    @torch.no_grad()
    def finished(self, system: ColaSystem, folder: Path) -> dict[str, Any]:
        """The evaluation of a trained system as JSON; also writes the held-out table and strips.

        What stands in ``before_adapter.json`` of the run folder ``folder`` is taken from there.
        """
        imagined = imagine_variants(system, self.clips)
        write_held_out(self.clips, imagined, self.trajectories, self.windows, folder / "held_out")
        copy = self.truth.clone()
        copy[:, CONTEXT_FRAMES:] = self.truth[:, CONTEXT_FRAMES - 1 : CONTEXT_FRAMES]
        latents, *_ = system.model().world_clip(system.codec.encode(self._on_device(system).frames))
        report: dict[str, Any] = {
            "format": FORMAT,
            "recipe": system.info.recipe,
            "clips": len(self.truth),
            "clip_seed": self.windows.seed,
            "copy": {"video": self._video(copy), "next_frame_error": _per_clip(latents[:, :-1], latents)},
            CODEC: self.codec(system),
        }
        path = folder / BEFORE
        checks = json.loads(path.read_text()) if path.is_file() else self._code_checks(system)
        look = self._look(system, imagined)
        before = {name: checks.pop(name) for name in look if name in checks} or None
        return report | look | {"before_adapter": before} | checks | {PLANNING: self.plans(system)}

    @torch.no_grad()
    def codec(self, system: ColaSystem) -> dict[str, Any]:
        """Of the real frames as the codec returns them: the best that imagination could do."""
        latents = system.codec.encode(self._on_device(system).frames)
        return {"video": self._video(system.codec.decode(latents).add(1.0).div(2.0).clamp(0.0, 1.0).cpu())}

    def plans(self, system: ColaSystem) -> dict[str, Any] | None:
        """`planning_check` of a system that acts on real actions; None for another."""
        if system.info.stage != "adapter" and system.inverse_dynamics is not None:
            return None
        return planning_check(
            system, self._on_device(system), self.scenes, self.config.planning, self.trajectories
        )

    def _on_device(self, system: ColaSystem) -> Batch:
        for part in system.parts().values():
            part.eval()
        return self.clips.to(next(system.video.parameters()).device)

    def _video(self, frames: Tensor) -> dict[str, Any]:
        return video_metrics(self.truth, frames, self.video, horizons=HORIZONS, context=CONTEXT_FRAMES)

    def _look(self, system: ColaSystem, imagined: Mapping[str, Tensor]) -> dict[str, Any]:
        """The world model under each way to drive it that the system has; None for the others."""
        clips, seed = self._on_device(system), self.config.seed
        latents = system.codec.encode(clips.frames)
        look: dict[str, Any] = {"idm": None, "adapter": None, "adapter_codes": None}
        read = None
        if system.inverse_dynamics is not None:
            read, codes = system.model().latent_actions(latents), system.bottleneck.codes
            look["idm"] = _driven(system, latents, read.latents, seed, codes=codes)
            look["idm"] |= {"video": self._video(imagined["IDM codes"])}
            look["idm"] |= {"health": _health(system, read.indices, latents)}
        for name, variant in (("adapter", "adapter"), ("adapter_codes", "adapter's codes")):
            if variant in imagined:
                frames = context_windows(latents, system.adapter.config.context_frames)
                snap = name == "adapter_codes" or system.adapter.config.snap
                actions = adapt(system.adapter, system.bottleneck, clips.actions, frames, snap=snap)
                look[name] = _driven(system, latents, actions, seed, codes=snap and system.bottleneck.codes)
                look[name] |= {"video": self._video(imagined[variant])}
                look[name] |= _adapted_codes(system, read, system.adapter(clips.actions, frames), latents)
        return look

    def _code_checks(self, system: ColaSystem) -> dict[str, Any]:
        """Leak, linear probe and code transfer, where there are codes and the data say what the checks need."""
        checks: dict[str, Any] = {"leak": None, "probe": None, "transfer": None}
        if system.inverse_dynamics is None:
            return checks
        clips, seed = self._on_device(system), self.config.seed
        latents = system.codec.encode(clips.frames)
        generator = torch.Generator(latents.device).manual_seed(seed)
        history = system.inverse_dynamics.config.history
        leak = future_leak(system.inverse_dynamics, latents[:8], history=history, generator=generator)
        checks["leak"] = {"passed": leak.passed, "why": str(leak)}
        batch = fixed_batch(self.train, self.config.train_clips, seed=seed).to(latents.device)
        acted = torch.isfinite(batch.actions).flatten(1).all(dim=1)
        if acted.any() and torch.isfinite(clips.actions).all():
            chosen = Batch(batch.frames[acted], batch.actions[acted], batch.ee_pos[acted])
            checks["probe"] = asdict(probe_system(system, chosen, clips))
        different = Counter(scene for scene, _ in set(zip(self.scenes, self.trajectories, strict=True)))
        enough = max(different.values()) >= TRAJECTORIES_OF_A_SCENE
        if enough and torch.isfinite(batch.ee_pos).all() and torch.isfinite(clips.ee_pos).all():
            locator = fit_locator(frame_latents(system.codec, batch.frames), batch.ee_pos)
            transfer = code_transfer(
                system,
                clips.frames,
                locator,
                horizon=TRANSFER_HORIZON,
                seed=seed,
                ee_pos=clips.ee_pos,
                scenes=self.scenes,
                trajectories=self.trajectories,
            )
            checks["transfer"] = asdict(transfer) | {"locator_cm": locator.error_cm(latents, clips.ee_pos)}
        return checks


def evaluate(
    system: ColaSystem,
    train: ClipDataset,
    held_out: ClipDataset,
    config: EvaluationConfig,
    windows: HeldOutConfig,
    video: VideoMetricsConfig,
    folder: Path,
) -> dict[str, Any]:
    """`Evaluation.finished` in one call."""
    return Evaluation(train, held_out, config, windows, video).finished(system, folder)


def _driven(system: ColaSystem, latents: Tensor, actions: Tensor, seed: int, *, codes: bool) -> dict[str, Any]:
    """What the world model makes of latent actions ``(B, N, D)`` when every frame before is true."""
    model = system.model()
    use = model.action_use(latents, actions, seed, codes=codes)
    step = mean_error(model, latents, actions, per_clip=True)
    return {
        "use": float(use.use),
        "shuffled_ratio": float(use.shuffled_ratio),
        "flow": float(use.right),
        "next_frame_error": step.tolist(),
    }


def _health(system: ColaSystem, indices: Tensor | None, latents: Tensor) -> list[dict[str, Any]] | None:
    if indices is None:
        return None
    return health_report(indices, system.bottleneck.code_sizes, moving_transitions(latents))


def _adapted_codes(system: ColaSystem, read: Bottlenecked | None, answer: Tensor, latents: Tensor) -> dict[str, Any]:
    """Health of the codes that an adapter's latent actions are nearest to, and how they compare with those read."""
    if read is None or read.indices is None:
        return {"health": None, "confusion": None}
    codes = codes_of(system.adapter, system.bottleneck, answer)
    confusion = adapter_confusion(read.indices, codes, system.bottleneck.code_sizes)
    return {
        "health": _health(system, codes, latents),
        "confusion": {"accuracy": confusion.accuracy, "majority": confusion.majority}
        | {"information": confusion.information, "information_by_chance": confusion.information_by_chance},
    }


def _per_clip(predicted: Tensor, latents: Tensor) -> list[float]:
    return (predicted - latents[:, 1:]).square().flatten(1).mean(dim=1).tolist()


def summary(report: dict[str, Any]) -> str:
    """The evaluation in a few lines."""
    lines = [f"on {report['clips']} held-out clips:"]
    before = report["before_adapter"] or {}
    looks = {f"{name}, before": before.get(name) for name in ("idm", "adapter")}
    for name, driven in (looks | {name: report[name] for name in ("idm", "adapter", "adapter_codes")}).items():
        if driven is not None:
            error = sum(driven["next_frame_error"]) / len(driven["next_frame_error"])
            copy = report["copy"]["next_frame_error"]
            lines.append(
                f"{name:<15} U {driven['use']:.3f}  shuffled / right {driven['shuffled_ratio']:.2f}  next frame "
                f"{error:.4f} (copy {sum(copy) / len(copy):.4f})  PSNR at {HORIZONS[-1]} "
                f"{sum(driven['video'][str(HORIZONS[-1])]['psnr']) / report['clips']:.2f} dB"
            )
    if report["probe"] is not None:
        probe = report["probe"]
        lines.append(
            f"codes: probe L1 {sum(probe['l1']) / len(probe['l1']):.4f} (constant {probe['l1_constant']:.4f})  "
            f"R2 of displacement {_digits(probe['displacement_r2'])}  of destination {_digits(probe['destination_r2'])}"
        )
    if report["transfer"] is not None:
        transfer = report["transfer"]
        lines.append(
            "transfer: own {own:.2f}  transferred {transferred:.2f}  chance {by_chance:.2f}".format(**transfer)
        )
    if report.get(PLANNING) is not None:
        means = {name: sum(values) / len(values) for name, values in report[PLANNING].items() if name in MEASURED}
        lines.append(
            f"planning, {report[PLANNING]['clips']} clips: "
            + "  ".join(f"{name.replace('_', ' ')} {mean:.2f}" for name, mean in means.items())
        )
    if report["leak"] is not None:
        lines.append(report["leak"]["why"])
    return "\n".join(lines)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write_evaluation(folder: Path, report: dict[str, Any], costs: dict[str, StageCost], seed: int | None) -> Path:
    """``evaluation.json`` of a run, whole: the report, the seed of its weights and what it has spent."""
    names = ("steps", "samples", "seconds", "flops", "parameters")
    budget = {name: {stage: getattr(cost, name) for stage, cost in costs.items()} for name in names}
    if "warmup" in costs:
        budget["switch"] = {"warmup_ended_at": costs["warmup"].steps, "why": costs["warmup"].why}
    path = folder / "evaluation.json"
    with whole_file(path) as partial:
        partial.write_text(json.dumps({**report, "seed": seed, "budget": budget}, indent=1) + "\n")
    return path
