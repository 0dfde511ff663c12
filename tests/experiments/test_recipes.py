"""Recipes: each leaves untouched what it says, all spend one budget on the same clips in the same order."""

import numpy as np
import pytest
import torch

from colaworld.adapters.system import ColaSystem
from colaworld.experiments.batches import Batch, StepBatches
from colaworld.experiments.loop_config import LoopConfig
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.recipes import LATENT_ACTION_STAGES, RECIPES, latent_action_budgets
from colaworld.experiments.stage_config import StageConfig
from colaworld.experiments.stages import StageModel
from colaworld.experiments.train_config import TrainConfig

STAGE = StageConfig(steps=10, batch_size=2, shift=1)
NAMES = tuple(RECIPES)


def system_of(recipe: str = "cola", **others) -> ColaSystem:
    """Nano, with every layer that starts at zero moved away from it, so that gradients pass."""
    torch.manual_seed(0)
    sizes = {"height": 32, "width": 32, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = build(PRESETS["nano"], **sizes, recipe=recipe, **others)
    with torch.no_grad():
        for part in system.parts().values():
            for parameter in part.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        if system.inverse_dynamics is not None:  # fill the codebook
            system.model().latent_actions(system.codec.encode(batch().frames))
    return system


def batch() -> Batch:
    draw = torch.Generator().manual_seed(0)
    return Batch(
        frames=torch.randint(256, (2, 5, 3, 32, 32), dtype=torch.uint8, generator=draw),
        actions=torch.randn(2, 4, 5, 7, generator=draw),
        ee_pos=torch.randn(2, 5, 3, generator=draw),
    )


def learns(recipe: str, stage: str, *, flow_only: bool = False, config: StageConfig = STAGE) -> set[str]:
    """The parts that one step's loss gives a gradient; ``flow_only``: without the bottleneck's own losses."""
    system = system_of(recipe)
    if flow_only:
        for name in ("codebook_weight", "commitment_weight"):
            system.bottleneck.register_to_config(**{name: 0.0})
    model = StageModel(system, RECIPES[recipe].turn(stage), config, steps_before=500)  # the commitment has grown in
    model(batch(), 0, torch.Generator().manual_seed(0))[0].backward()
    moved = set()
    for name, part in system.parts().items():
        gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
        if any(bool(gradient.any()) for gradient in gradients):
            moved.add(name)
    return moved


LAM, WORLD = {"inverse_dynamics", "bottleneck"}, {"video", "conditioner"}


@pytest.mark.parametrize(
    ("recipe", "stage", "parts"),
    [
        ("cola", "pretrain", {"video"}),
        ("cola", "warmup", {"conditioner"} | LAM),
        ("cola", "joint", WORLD | LAM),
        ("no_warmup", "joint", WORLD | LAM),
        ("two_stage", "lam", LAM | {"forward_dynamics"}),
        ("two_stage", "world", WORLD),
        ("frozen_lam", "warmup", {"conditioner"} | LAM),
        ("frozen_lam", "joint", WORLD),
        ("frozen_world", "joint", LAM),
        ("no_grad_to_lam", "joint", WORLD | LAM),
        ("no_grad_to_world", "joint", WORLD | LAM),
        ("real_actions", "warmup", {"conditioner", "adapter"}),
        ("real_actions", "joint", WORLD | {"adapter"}),
        ("real_actions", "adapter", WORLD | {"adapter"}),
    ],
)
def test_a_stage_gives_its_parts_a_gradient_and_no_other(recipe, stage, parts):
    assert learns(recipe, stage) == parts


def test_no_grad_to_lam_keeps_the_flow_loss_from_inverse_dynamics():
    assert "inverse_dynamics" in learns("cola", "joint", flow_only=True)
    assert learns("no_grad_to_lam", "joint", flow_only=True) == WORLD


def test_no_grad_to_world_leaves_the_video_model_the_action_free_loss_alone():
    gradients = {}
    for recipe in ("cola", "no_grad_to_world"):
        system = system_of(recipe)
        model = StageModel(system, RECIPES[recipe].turn("joint"), STAGE)
        with torch.no_grad():
            latents = model.codec.encode(batch().frames)
        model.cola(latents, torch.Generator().manual_seed(1), flow_to_video=recipe == "cola")[0].backward()
        gradients[recipe] = [parameter.grad.clone() for parameter in system.video.parameters()]
    # The action-free loss as it is drawn second, by hand.
    system = system_of("cola")
    model = system.model().requires_grad_(True)
    with torch.no_grad():
        latents = system.codec.encode(batch().frames)
    draw = torch.Generator().manual_seed(1)
    model.eval().video.train(), model.conditioner.train()
    model.flow_loss(latents, model.latent_actions(latents).latents, draw)
    (system.info.flow.weight * model.flow_loss(latents, None, draw)).backward()
    for blocked, plain, expected in zip(
        gradients["no_grad_to_world"], gradients["cola"], system.video.parameters(), strict=True
    ):
        torch.testing.assert_close(blocked, expected.grad, rtol=1e-3, atol=1e-5)
        assert not torch.equal(blocked, plain) or not blocked.any()
    assert all(parameter.requires_grad for parameter in system.video.parameters())


@pytest.mark.parametrize("recipe", NAMES)
def test_every_recipe_spends_the_same_steps_and_imagines_as_often(recipe):
    warmup, joint = StageConfig(steps=20), StageConfig(steps=80, imagined=0.25)
    budgets = latent_action_budgets(RECIPES[recipe], warmup, joint)
    assert set(budgets) == {stage for stage in RECIPES[recipe].stages if stage in LATENT_ACTION_STAGES}
    assert sum(each.steps for each in budgets.values()) == 100
    assert sum(each.steps * each.imagined for each in budgets.values()) == pytest.approx(20)


@pytest.mark.parametrize("recipe", NAMES)
def test_every_recipe_begins_with_the_same_weights(recipe):
    one, other = (build(PRESETS["nano"], height=32, width=32, frame_skip=5, action_dim=7, render_profile="lite",
                        recipe=name) for name in ("cola", recipe) if torch.manual_seed(3))  # fmt: skip
    for name in [name for name in one.parts() if name in other.parts()]:
        if recipe == "real_actions" and name in ("bottleneck", "adapter"):
            continue  # they are of another kind
        for key, value in one.parts()[name].state_dict().items():
            assert torch.equal(value, other.parts()[name].state_dict()[key]), (name, key)


def test_the_commitment_loss_grows_in_over_the_first_steps_whatever_their_stage():
    system, config = system_of("two_stage"), StageConfig(steps=10, commitment_ramp=8)
    grown = [StageModel(system, RECIPES["two_stage"].turn("lam"), config).commitment(step) for step in (0, 4, 9)]
    assert grown == [0.0, 0.5, 1.0]
    assert StageModel(system, RECIPES["two_stage"].turn("world"), config, steps_before=6).commitment(1) == 7 / 8


def test_an_adapter_of_another_kind_leaves_the_rest_as_it_was():
    one, other = system_of(), system_of(adapter_context=False, adapter_kind="classify")
    for name in ("inverse_dynamics", "conditioner", "video", "codec"):
        for key, value in one.parts()[name].state_dict().items():
            assert torch.equal(value, other.parts()[name].state_dict()[key]), (name, key)


def test_where_few_actions_are_known_half_of_every_batch_has_them():
    few = [3, 4, 5]
    batches = list(StepBatches(1000, 5, seed=0, stage="joint", start=0, stop=20, half_of=few))
    assert all(sum(index in few for index in each) >= 3 for each in batches)
    assert batches[7:] == list(StepBatches(1000, 5, seed=0, stage="joint", start=7, stop=20, half_of=few))
    plain = list(StepBatches(1000, 5, seed=0, stage="joint", start=0, stop=20))
    assert [each[3:] for each in plain] == [each[3:] for each in batches]


def test_what_has_learned_nothing_is_not_saved():
    assert "adapter" not in RECIPES["cola"].trained_by("joint")
    assert set(RECIPES["two_stage"].trained_by("lam")) == {"codec", "video", "action_head", "forward_dynamics"} | LAM
    with pytest.raises(ValueError, match="recipe 'two_stage' has no stage 'warmup'; its stages are codec, pretrain, lam"):
        RECIPES["two_stage"].turn("warmup")


@pytest.mark.parametrize("output", ["latent", "pixel"])
def test_the_forward_dynamics_model_learns_to_use_the_code(output):
    system = system_of("two_stage", lam_output=output)
    model = StageModel(system, RECIPES["two_stage"].turn("lam"), StageConfig(steps=60, batch_size=2, shift=0))
    optimizer = torch.optim.Adam(model.trained_parameters(), 3e-3)
    losses = []
    for step in range(60):
        loss, metrics = model(batch(), step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(metrics["reconstruction"]))
    assert losses[-1] < 0.7 * losses[0]


def test_real_actions_whose_labels_are_withheld_teach_the_world_without_them():
    system = system_of("real_actions")
    model = StageModel(system, RECIPES["real_actions"].turn("joint"), STAGE)
    unknown = batch()
    unknown.actions[0] = np.nan
    loss, _ = model(unknown, 0, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss)
    other = batch()
    other.actions[0] = np.nan
    other.actions[1] += 1.0
    assert not torch.equal(loss, model(other, 0, torch.Generator().manual_seed(0))[0])
    unknown.actions[:] = np.nan
    model(unknown, 0, torch.Generator().manual_seed(0))[0].backward()
    assert all(each.grad is None or not each.grad.any() for each in system.adapter.parameters())


def test_inverse_dynamics_on_its_own_crop_sees_another_picture():
    seen = []
    system = system_of()
    config = StageConfig(steps=10, batch_size=2, shift=4)
    for own in (False, True):
        model = StageModel(system, RECIPES["cola"].turn("joint"), StageConfig(**{**vars(config), "own_crop": own}))
        model.cola.latent_actions = lambda latents, *rest, **others: seen.append(latents) or _stop()
        model.cola.flow_loss = None
        with pytest.raises(StopIteration):
            model(batch(), 0, torch.Generator().manual_seed(0))
    assert not torch.equal(seen[0], seen[1])
    with pytest.raises(ValueError, match="own_crop needs a crop"):
        StageConfig(steps=1, shift=0, own_crop=True)


def _stop() -> None:
    raise StopIteration


def test_a_little_labelled_data_teaches_the_codes_through_the_head():
    system = system_of(action_head=True)
    config = StageConfig(steps=10, batch_size=2, shift=0, action_weight=1.0)
    model = StageModel(system, RECIPES["cola"].turn("joint"), config)
    plain, _ = model(batch(), 0, torch.Generator().manual_seed(0))
    taught, metrics = model(batch(), 0, torch.Generator().manual_seed(0), batch())
    assert taught.item() == pytest.approx(plain.item() + metrics["action"].item(), rel=1e-4)
    metrics_only = system.action_head.loss(model.cola.latent_actions(model.codec.encode(batch().frames)).latents,
                                           batch().actions)  # fmt: skip
    metrics_only.backward()
    assert any(bool(each.grad.any()) for each in system.inverse_dynamics.parameters() if each.grad is not None)


def test_flags_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="--stages warmup: recipe 'two_stage' has codec, pretrain, lam, world, adapter"):
        TrainConfig(recipe="two_stage", stages=("warmup",))
    with pytest.raises(ValueError, match="--bottleneck fsq has no use in recipe 'real_actions'"):
        TrainConfig(recipe="real_actions", bottleneck="fsq")
    for others in ({"recipe": "real_actions"}, {"bottleneck": "simvq"}):
        with pytest.raises(ValueError, match="--replace-unused 0.2: must be 0, or above with --bottleneck vq or resid"):
            TrainConfig(replace_unused=0.2, **others)
    with pytest.raises(ValueError, match="--replace-unused writes a codebook, which --loop.parallel fsdp shards"):
        TrainConfig(replace_unused=0.2, loop=LoopConfig(parallel="fsdp"))
    with pytest.raises(ValueError, match="go together, got 0.01, 0.0 and 0.0"):
        TrainConfig(action_labels=0.01)
    with pytest.raises(ValueError, match="--action-labels 0.1 asks for what --label-fraction 0.01 withholds"):
        TrainConfig(action_labels=0.1, label_fraction=0.01, joint=StageConfig(steps=5, action_weight=1.0))
    with pytest.raises(ValueError, match=r"--label-fraction in \(0, 1\], got 0.0 and 0.0"):
        TrainConfig(label_fraction=0.0)


@pytest.mark.parametrize(("share", "expected"), [(0.0, []), (0.01, []), (0.3, [7, 8, 9, 10, 11])])
def test_a_prolonged_stage_imagines_only_if_it_would_have_anyway(share, expected):
    config = StageConfig(steps=10, batch_size=2, imagined=share)
    model = StageModel(system_of(), RECIPES["cola"].turn("warmup"), config)
    assert [step for step in range(12) if model.imagines(step)] == expected
