"""Laws of distillation: what the teacher's frames are, what the student is pulled towards, and what stays as it was."""

from copy import deepcopy

import pytest
import torch

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.cola import ColaModel
from colaworld.models.few_step import FewStepModel, ReflowConfig, teacher_frames, training_sources
from colaworld.models.flow import FlowConfig, SamplerConfig, integrate
from colaworld.models.imagination import Imagination, given
from colaworld.models.share import Share
from colaworld.models.video_transformer import VideoTransformer

NOISE = FlowConfig(source="noise", mean_fraction=0.0)
FLOWS = pytest.mark.parametrize("flow", [NOISE, FlowConfig()], ids=["noise", "last_frame"])


def teacher_of(flow: FlowConfig) -> ColaModel:
    """Random weights throughout: a fresh model says zero everywhere, whose paths are straight."""
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "latent_height": 4, "latent_width": 4}
    video = VideoTransformer(**sizes, width=32, depth=1, heads=2)
    bottleneck = Bottleneck(entries=8, width=8)
    conditioner = ActionConditioner(latent_action_dim=bottleneck.dim, width=32, depth=1, heads=2, video_width=32)
    model = ColaModel(video, conditioner, None, bottleneck, flow)
    with torch.no_grad():
        for part in (model.video, model.conditioner):
            for weight in part.parameters():
                weight.add_(0.15 * torch.randn_like(weight))
    return model.eval()


def student_of(teacher: ColaModel, **settings) -> FewStepModel:
    student = FewStepModel(deepcopy(teacher).requires_grad_(True), teacher, ReflowConfig(**settings))
    for part in (student.video, student.conditioner):
        part.train()
    return student


def clips(teacher: ColaModel, count: int = 3, frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(count, frames, *teacher.video.latent_shape, generator=chance)
    return latents, torch.randn(count, frames - 1, teacher.bottleneck.dim, generator=chance)


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(2)


@FLOWS
def test_the_teachers_frames_are_what_it_imagines(flow):
    teacher = teacher_of(flow)
    latents, actions = clips(teacher)
    sampler = SamplerConfig(steps=3, std=flow.std)
    imagination = Imagination(teacher.video, teacher.conditioner, flow, sampler)
    last = 3  # of the clean frames
    with torch.no_grad():
        start = imagination.start(latents[:, : last + 1], actions[:, :last])
        noise = torch.randn(3, 1, *teacher.video.latent_shape, generator=chance())
        imagined = imagination.roll_out(start, given(actions[:, last:]), 1, noise=noise)
        source = torch.randn(latents[:, 1:].shape)
        source[:, last] = imagination._source(latents[:, : last + 1], noise, 0)[:, 0]
        found = teacher_frames(teacher, latents[:, :-1], source, teacher.conditioner(actions), 3)
    torch.testing.assert_close(found[:, last:], imagined, rtol=1e-4, atol=1e-5)


@FLOWS
def test_sources_are_those_of_training(flow):
    last = torch.full((64, 8, 1, 2, 2), 5.0)
    source = training_sources(flow, last, chance())
    bare = (source == last).flatten(2).all(dim=2)
    assert bare.float().mean() == pytest.approx(flow.mean_fraction, abs=0.05)
    offset, std = (0.0, 1.0) if flow.source == "noise" else (5.0, flow.std)
    assert source[~bare].mean() == pytest.approx(offset, abs=0.1)
    assert source[~bare].std() == pytest.approx(std, abs=0.1)


@FLOWS
def test_one_step_of_a_one_step_teacher_leaves_nothing_to_learn(flow):
    # Also under actions that are dropped: teacher and student must miss the same ones.
    teacher = teacher_of(flow)
    teacher.conditioner.register_to_config(drop=0.5)
    latents, actions = clips(teacher)
    same = student_of(teacher, teacher_steps=1, at_source=1.0)
    assert same.flow_loss(latents, actions, chance()).item() == pytest.approx(0.0, abs=1e-9)
    more = student_of(teacher, teacher_steps=4, at_source=1.0)
    assert more.flow_loss(latents, actions, chance()).item() > 1e-4
    without = same.flow_loss(latents, None, chance())
    assert without.item() == pytest.approx(0.0, abs=1e-9)


def test_the_usual_teacher_takes_one_step_from_the_last_frame():
    assert ReflowConfig().steps_from(FlowConfig()) == 1
    assert ReflowConfig().steps_from(NOISE) == 8
    assert ReflowConfig(teacher_steps=2).steps_from(NOISE) == 2


@FLOWS
def test_a_student_comes_near_in_one_step_and_in_four(flow):
    teacher = teacher_of(flow)
    latents, actions = clips(teacher, count=2)
    student = student_of(teacher, teacher_steps=4)
    source = training_sources(flow, latents[:, :-1], torch.Generator().manual_seed(77))

    @torch.no_grad()
    def distances() -> list[float]:
        goal = teacher_frames(teacher, latents[:, :-1], source, teacher.conditioner(actions), 4)
        student.conditioner.eval()
        modulation = student.conditioner(actions)
        student.conditioner.train()

        def velocity(x, time):
            return student.video.two_streams(latents[:, :-1], x, time, action_modulation=modulation)

        return [float((integrate(velocity, source, steps) - goal).square().mean()) for steps in (1, 4)]

    before = distances()
    assert before[1] == pytest.approx(0.0, abs=1e-8) and before[0] > 1e-3
    optimizer = torch.optim.Adam([*student.video.parameters(), *student.conditioner.parameters()], lr=2e-3)
    random = chance()
    for _ in range(80):
        optimizer.zero_grad()
        student.flow_loss(latents, actions, random).backward()
        optimizer.step()
    after = distances()
    assert after[0] < 0.35 * before[0]
    assert after[1] < 0.35 * before[0]


def test_nothing_but_the_student_learns():
    teacher = teacher_of(NOISE)
    latents, actions = clips(teacher)
    student = student_of(teacher)
    actions.requires_grad_()
    student.train()  # as the loop does
    student.flow_loss(latents, actions, chance()).backward()
    assert actions.grad is None
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not teacher.video.training and not teacher.conditioner.training
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.conditioner.parameters())
    taught = {id(weight) for weight in teacher.parameters()}
    assert not taught & {id(weight) for weight in student.parameters()}
    assert student.state_dict().keys() == ColaModel(**vars_of(student)).state_dict().keys()


def vars_of(model: ColaModel) -> dict:
    return {name: getattr(model, name) for name in ("video", "conditioner", "inverse_dynamics", "bottleneck", "flow")}


def test_the_data_are_not_read_in_training_and_are_what_is_watched():
    teacher = teacher_of(NOISE)
    latents, actions = clips(teacher)
    student = student_of(teacher)
    other = latents.clone()
    other[:, -1] += 1.0  # the last frame is no context of any
    assert student.flow_loss(latents, actions, chance()) == student.flow_loss(other, actions, chance())
    student.video.eval()
    student.conditioner.eval()
    plain = ColaModel(**vars_of(student)).flow_loss(latents, actions, chance())
    assert student.flow_loss(latents, actions, chance()) == plain
    assert student.flow_loss(other, actions, chance()) != plain


def test_parts_of_a_batch_draw_what_the_whole_does():
    teacher = teacher_of(NOISE)
    latents, actions = clips(teacher, count=4)
    student = student_of(teacher)
    whole = student.flow_loss(latents, actions, chance())
    halves = [
        student.flow_loss(own, acted, Share(generator=chance(), part=part, parts=2))
        for part, (own, acted) in enumerate(zip(latents.chunk(2), actions.chunk(2), strict=True))
    ]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"teacher_steps": 0}, "teacher_steps must be 1 or more, got 0"), ({"at_source": 1.5}, "got 1.5")],
)
def test_bad_settings_are_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        ReflowConfig(**arguments)


def test_another_source_is_refused():
    with pytest.raises(ValueError, match="different sources.*noise.*last_frame"):
        FewStepModel(teacher_of(FlowConfig()), teacher_of(NOISE), ReflowConfig())
