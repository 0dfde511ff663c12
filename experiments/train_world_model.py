"""Train a CoLA world model: codec, action-free video model, warm-up, joint training, adapter.

    python experiments/train_world_model.py                    # warm-up, joint and adapter from the shipped action-free weights
    python experiments/train_world_model.py --from-scratch     # every stage
    python experiments/train_world_model.py --recipe two_stage # a baseline or an ablation at the same budget
    python experiments/train_world_model.py --data my.hdf5     # your own recordings (experiments/collect.py)
    python experiments/train_world_model.py --from-scratch --data demo.hdf5 lerobot/ --source.camera image
    python experiments/train_world_model.py --from-scratch --data videos/ --stages codec pretrain    # needs no actions
    python experiments/train_world_model.py --data a.hdf5 b.hdf5 --weights 3 1     # three quarters of a batch and one
    python experiments/train_world_model.py --preset opensora --print-plan --device-name h100 --device-count 8

Kill it at any moment and run the same command: it goes on from its last checkpoint (two minutes old at most).
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from diffusers.configuration_utils import ConfigMixin

from colaworld.adapters.system import ColaSystem, load_system, weights_path
from colaworld.envs.demos import ClipDataset, starter_path
from colaworld.experiments.budget import read_costs
from colaworld.experiments.batch_parts import check_divisible
from colaworld.experiments.batches import fixed_batch
from colaworld.experiments.cli import main
from colaworld.experiments.encoded_data import check_codec, check_stages
from colaworld.experiments.evaluation import BEFORE, Evaluation, summary, write_evaluation
from colaworld.experiments.devices import DeviceName, device_named
from colaworld.experiments.held_out import long_enough
from colaworld.experiments.mixture import Mixture, check_shares
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import LATENT_ACTION_STAGES, RECIPES, RecipeName, StageName
from colaworld.experiments.run_folder import read_progress
from colaworld.experiments.run_plan import plan_text, run_plan
from colaworld.experiments.shared_stages import begin_shared, share, shared_folder
from colaworld.experiments.train_config import (
    TrainConfig,
    check_guard,
    check_same_run,
    named_preset,
    preset_defaults,
    remember_run,
)
from colaworld.experiments.training import Data, make_accelerator, train_stage
from colaworld.experiments.turn_start import Labels, prepare


def command(defaults: TrainConfig) -> Callable[..., None]:
    """The script's function, whose flags are ``defaults`` where nothing else is said: a preset has its own."""

    def run(
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
        print_plan: bool = False,
        device_name: DeviceName = "cpu",
        device_count: int = 1,
    ) -> None:
        """Train, then evaluate on held-out clips.

        Args:
            print_plan: print parameters, memory, operations a step and time, and start nothing.
            device_name: of the plan: on which device; cpu is measured.
            device_count: of the plan: on how many of them.
        """
        if print_plan:
            print(plan_text(run_plan(config), device_named(device_name), device_count))
        else:
            train(config)

    return run


def train(config: TrainConfig) -> None:
    """Train, then evaluate on held-out clips."""
    sources = config.data or (starter_path(),)
    train_clips = ClipDataset(sources, length=config.clip, split="train", encoded=True, options=config.source)
    held_out_clips = ClipDataset(sources, length=config.clip, split="validation", options=config.source)
    check_data(config, train_clips, held_out_clips)
    check_guard(config)
    check_same_run(config)
    accelerator = make_accelerator(config.out, config.loop, list(config.trackers))  # the codebook asks for processes
    for stage in config.run_stages():
        flag = f"--{stage}.batch-size"
        check_divisible(config.stage(stage).batch_size, accelerator, config.loop.accumulate, flag)
    if accelerator.is_main_process and begin_shared(config):
        print(f"{config.out}: begins after the stages that another run has shared in {shared_folder(config)}")
    accelerator.wait_for_everyone()
    torch.manual_seed(config.loop.seed)
    system = starting_system(config, train_clips)
    check_codec(train_clips, system.codec, config.init or config.out)
    labels = Labels.of(config, train_clips)
    if accelerator.is_main_process:
        remember_run(config)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("tensorboard")
    for part in system.parts().values():
        part.to(accelerator.device)
    data = Data(
        train=labels.clips,
        watched_train=fixed_batch(train_clips, 48, 1, Mixture.of(train_clips, config.weights)).to(accelerator.device),
        held_out=fixed_batch(held_out_clips, 32, seed=2).to(accelerator.device),
        labelled=labels.early,
        known=labels.clips.windows_of(labels.known.episodes) if config.label_fraction < 1.0 else None,
        weights=config.weights,
    )
    finished, steps_before, stream_before = list(finished_stages(config)), 0, 0
    evaluation = Evaluation(train_clips, held_out_clips, config.evaluation, config.held_out, config.video)
    for stage in config.run_stages():
        turn, latent = RECIPES[config.recipe].turn(stage), stage in LATENT_ACTION_STAGES
        if stage not in finished:
            costs = {name: cost for name, cost in read_costs(config.out).items() if name in finished}
            if read_progress(config.out).stage != stage:
                if stage == "adapter" and accelerator.is_main_process:
                    if not (config.out / BEFORE).is_file():
                        evaluation.before_adapter(system, config.out)
                    share(config)
                prepare(config, system, turn, labels, held_out_clips, accelerator)
            system = train_stage(
                accelerator,
                system,
                stage,
                config.after(costs).stage(stage),
                config.loop,
                data,
                config.out,
                steps_before=steps_before,
                stream_before=stream_before if latent else 0,
                guard=config.guard,
                stored=getattr(torch, config.stored_as) if stage == config.run_stages()[-1] else torch.float32,
            )
            finished.append(stage)
        spent = read_costs(config.out)[stage].steps
        steps_before += spent
        stream_before += spent if latent else 0
    main_process = accelerator.is_main_process  # once the group of processes is gone, each takes itself for the main one
    accelerator.end_training()
    if main_process:
        if config.stored_as != "float32":  # what is kept is what is evaluated
            system = load_system(config.out / "system", device=accelerator.device)
        if has_latent_actions(system):
            report = evaluation.finished(system, config.out)
            path = write_evaluation(config.out, report, read_costs(config.out), config.loop.seed)
            accelerator.print(summary(report), f"evaluation: {path}", sep="\n")
        accelerator.print(f"system: {config.out / 'system'}   metrics: {config.out / 'metrics.jsonl'}")


def has_latent_actions(system: ColaSystem) -> bool:
    """Whether a system can imagine under actions, which is what the held-out report looks at."""
    return "conditioner" in RECIPES[system.info.recipe].trained_by(system.info.stage)


def check_data(config: TrainConfig, train_clips: ClipDataset, held_out_clips: ClipDataset) -> None:
    """ValueError when the data lack what a stage, or the report at the end, will ask for."""
    stages, recipe = config.run_stages(), RECIPES[config.recipe]
    check_stages(config, train_clips)
    check_shares(train_clips, config.weights)
    if "adapter" in stages:
        train_clips.require_actions("stage 'adapter'")
    if any(recipe.turn(stage).reads == "actions" for stage in stages):
        train_clips.require_actions(f"recipe {config.recipe!r}")
    if config.action_labels:
        train_clips.require_actions("--action-labels")
    if "conditioner" in recipe.trained_by(stages[-1]):
        long_enough(held_out_clips.episodes)


def finished_stages(config: TrainConfig) -> tuple[StageName, ...]:
    """Stages whose weights the run's ``system/`` holds already."""
    if not (config.out / "system" / "system.json").is_file():
        return ()
    done = load_system(config.out / "system").info.stage
    stages = config.run_stages()
    return stages[: stages.index(done) + 1] if done in stages else ()


def starting_system(config: TrainConfig, clips: ClipDataset) -> ColaSystem:
    """A fresh system with whatever is already trained put in: the run's own parts, or those of ``--init``."""
    begun = (config.out / "system" / "system.json").is_file()
    if config.init is None and not begun and not PRESETS[config.preset].trains_codec:
        raise ValueError(
            f"--init is missing: preset {config.preset!r} starts from published weights, which "
            "experiments/published_system.py makes a system of"
        )
    fresh = fresh_system(config, clips)
    finished = finished_stages(config)
    if finished:
        source = config.out / "system"
    elif config.from_scratch:
        return fresh
    else:
        source = config.init or weights_path(config.preset, "pretrained")
        if config.init is None and not source.is_dir():
            raise ValueError(
                f"preset {config.preset!r} ships no weights to start from: give --from-scratch, or --init a system of "
                "stage 'pretrain'"
            )
    trained = load_system(source)
    if not finished and config.run_stages() == ("codec",):  # all else is fresh, so the preset may be another
        check_parts(source, {"codec": trained.codec}, fresh)
        return replace(fresh, codec=trained.codec)
    for name in ("preset", "height", "width", "frame_skip", "action_dim", "render_profile"):
        wanted, found = getattr(fresh.info, name), getattr(trained.info, name)
        if wanted != found:
            raise ValueError(f"{source}: {name} is {found!r}, but the data and flags of this run say {wanted!r}")
    left = [stage for stage in config.run_stages() if stage not in finished]
    if not finished and (trained.info.recipe != config.recipe or not config.stages):
        check_not_beyond(source, trained, left)
    check_parts(source, trained.parts(), fresh)
    check_turn(source, config.recipe, trained.info.stage, left)
    return replace(fresh, **trained.parts(), info=replace(fresh.info, stage=trained.info.stage))


def fresh_system(config: TrainConfig, clips: ClipDataset) -> ColaSystem:
    """An untrained system for these flags and clips."""
    return build(
        PRESETS[config.preset],
        height=clips.height,
        width=clips.width,
        frame_skip=clips.frame_skip,
        action_dim=clips.action_dim,
        render_profile=clips.render_profile,
        recipe=config.recipe,
        bottleneck=config.bottleneck,
        tokens=config.tokens,
        entries=config.entries,
        code_width=config.code_width,
        replace_unused=config.replace_unused,
        lam_output=config.lam_output,
        action_head=config.action_labels > 0.0,
        adapter_kind=config.adapter_kind,
        adapter_context=config.adapter_context,
        adapter_snap=config.adapter_snap,
        history=config.history,
        clip=config.clip,
        flow=config.flow,
    )


def check_parts(source: Path, trained: Mapping[str, ConfigMixin], fresh: ColaSystem) -> None:
    """ValueError when a trained part is not of the kind or size that the flags ask for."""
    for name, part in trained.items():
        wanted, found = public_config(getattr(fresh, name)), public_config(part)
        for key, value in found.items():
            if wanted.get(key) != value:
                raise ValueError(
                    f"{source}: {key} of its {name} is {value!r}, but the flags of this run say {wanted.get(key)!r}"
                )


def check_turn(source: Path, recipe: RecipeName, trained: StageName, left: list[StageName]) -> None:
    """ValueError when the first stage that is left has another untrained one before it."""
    stages = RECIPES[recipe].stages
    if left and left[0] != stages[0]:
        before = stages[stages.index(left[0]) - 1]
        if trained not in stages or stages.index(trained) < stages.index(before):
            raise ValueError(
                f"{source} has been trained to stage {trained!r}, but stage {left[0]!r} of recipe {recipe!r} "
                f"begins after {before!r}"
            )


def check_not_beyond(source: Path, trained: ColaSystem, left: list[StageName]) -> None:
    """ValueError when what a run would begin with has learned latent actions already, and the run begins with those."""
    if left and left[0] in LATENT_ACTION_STAGES and trained.info.stage not in RECIPES[trained.info.recipe].stages[:2]:
        raise ValueError(
            f"--init {source} has been trained to stage {trained.info.stage!r} of recipe {trained.info.recipe!r}, and "
            f"this run begins with {left[0]!r}: give it a system of stage 'pretrain', or, to train the same recipe's "
            "stages again, name them with --stages"
        )


def public_config(part: ConfigMixin) -> dict[str, object]:
    """What a part was made with, as JSON would bring it back, without diffusers' own notes."""
    return json.loads(json.dumps({key: value for key, value in part.config.items() if not key.startswith("_")}))


if __name__ == "__main__":
    main(command(preset_defaults(named_preset(sys.argv[1:]))))
