"""Who proposes candidates: the nearest recorded segment, inverse dynamics' code for (now, goal), the inverse model."""

from dataclasses import replace

import pytest
import torch

from colaworld.adapters.goal_models import LATENT_ACTIONS, GoalModels, latent_action_digest
from colaworld.adapters.inverse_adapter import InverseAdapter
from colaworld.experiments.code_actions import CodeActions
from colaworld.experiments.goal_pairs import GoalFrames
from colaworld.experiments.goal_proposals import IdmProposal, NearestProposal
from colaworld.experiments.presets import PRESETS, build


def walk(lengths: tuple[int, ...]) -> GoalFrames:
    """Latents are places on a line, 10 apart from trajectory to trajectory; the action is the frame's own number."""
    length = torch.tensor(lengths)
    trajectory = torch.repeat_interleave(torch.arange(len(lengths)), length)
    first = length.cumsum(0) - length
    number = torch.arange(len(trajectory))
    place = (10.0 * trajectory + (number - first[trajectory]))[:, None, None, None]
    actions = number[:, None].float().repeat(1, 2)
    actions[first + length - 1] = torch.nan
    return GoalFrames(
        latents=place,
        trajectory=trajectory,
        first=first,
        length=length,
        scene=torch.zeros(len(lengths), dtype=torch.int64),
        actions=actions,
        ee_pos=torch.full((len(trajectory), 3), torch.nan),
        object_pos=torch.full((len(trajectory), 1, 3), torch.nan),
    )


def encode(frames: torch.Tensor) -> torch.Tensor:
    return frames.float()[:, :1, :1, :1]


def frame(place: int) -> torch.Tensor:
    return torch.full((3, 2, 2), place, dtype=torch.uint8)


def test_the_nearest_segment_begins_and_ends_where_it_should() -> None:
    nearest = NearestProposal(walk((6, 8)), encode)
    assert nearest.find(encode(frame(11)[None])[0], encode(frame(14)[None])[0]) == (7, 3)
    assert nearest(torch.stack([frame(0), frame(11)]), frame(14), 4).tolist() == [[[7.0, 7.0], [8.0, 8.0], [9.0, 9.0]]]
    assert nearest(frame(11)[None], frame(14), 2).tolist() == [[[7.0, 7.0], [8.0, 8.0]]], "no longer than the horizon"
    begin, steps = nearest.find(encode(frame(5)[None])[0], encode(frame(10)[None])[0])
    assert (begin < 6) == (begin + steps < 6), "never from one trajectory into the next"
    short = NearestProposal(walk((20,)), encode, longest=2)
    assert short.find(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 9.0))[1] == 2


def test_steps_whose_action_is_not_known_are_not_proposed() -> None:
    table = walk((8,))
    table.actions[2] = torch.nan
    begin, steps = NearestProposal(table, encode).find(torch.full((1, 1, 1), 1.0), torch.full((1, 1, 1), 4.0))
    assert not begin <= 2 < begin + steps
    table.actions[:] = torch.nan
    with pytest.raises(ValueError, match="--propose nearest takes actions from recordings, and these have none"):
        NearestProposal(table, encode)


@pytest.fixture
def system():
    torch.manual_seed(0)
    made = build(PRESETS["nano"], height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite")
    made.model().train()(torch.randn(8, 12, *made.codec.latent_shape), torch.Generator().manual_seed(0))
    for part in made.parts().values():
        part.eval()
    return made


@pytest.fixture
def models(system) -> GoalModels:
    torch.manual_seed(1)
    channels, rows, columns = system.codec.latent_shape
    inverse = InverseAdapter(
        latent_action_dim=system.bottleneck.dim,
        code_sizes=system.bottleneck.code_sizes,
        latent_channels=channels,
        latent_height=rows,
        latent_width=columns,
        width=8,
        hidden=16,
    )
    return GoalModels(inverse=inverse.eval(), about={"inverse": {LATENT_ACTIONS: latent_action_digest(system)}})


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_inverse_dynamics_proposes_its_code_for_the_goal(system, models) -> None:
    frames, encode = pictures(3), system.codec.encode
    latents = encode(frames)
    read = system.model().latent_actions(latents[None, 1:])
    codes = IdmProposal(system, encode, codes=True, models=GoalModels(about={}))(frames[:2], frames[2], 4)
    assert codes.dtype == torch.int64 and torch.equal(codes, read.indices[:, -1:].expand(1, 4, -1))
    real = IdmProposal(system, encode, codes=False, models=models)(frames[:2], frames[2], 4)
    step = models.inverse(read.latents[0, -1:], latents[:1], latents[1:2])
    torch.testing.assert_close(real, step[:, None].expand(1, 4, -1), rtol=1e-4, atol=1e-5)
    acted = CodeActions(models.inverse, system.bottleneck, encode)(codes[0, 0], frames[:2])
    torch.testing.assert_close(acted, step[0], rtol=1e-4, atol=1e-5)
    blind = replace(system, inverse_dynamics=None)
    with pytest.raises(ValueError, match="--propose idm: .* no inverse dynamics"):
        IdmProposal(blind, encode, codes=True, models=models)


@torch.no_grad()
def test_a_segment_is_proposed_as_codes_where_codes_are_searched(system) -> None:
    latents = system.codec.encode(pictures(6))
    table = replace(walk((6,)), latents=latents)
    table.actions[:] = torch.nan
    nearest = NearestProposal(table, system.codec.encode, system=system)
    codes = nearest(pictures(6)[1:3], pictures(6)[4], 4)
    assert torch.equal(codes, system.model().latent_actions(latents[None, 2:5]).indices)
