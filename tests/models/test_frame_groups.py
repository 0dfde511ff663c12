"""Which frames a latent holds where time is compressed, and how their actions enter it."""

import pytest
import torch

from colaworld.models.frame_groups import FrameGroups, GroupedConditioner
from colaworld.models.share import Share


def conditioner(**sizes) -> GroupedConditioner:
    """Filled where it starts at zero."""
    torch.manual_seed(0)
    model = GroupedConditioner(
        **({"latent_action_dim": 3, "width": 16, "depth": 2, "heads": 2, "video_width": 8, "max_steps": 12} | sizes)
    )
    torch.nn.init.normal_(model.single.out[-1].weight, std=0.2)
    return model


def test_the_first_frame_of_a_chunk_is_a_latent_of_its_own():
    assert FrameGroups().lengths(17) == [1, 4, 4, 4, 4]
    assert FrameGroups().lengths(34) == [1, 4, 4, 4, 4] * 2
    assert FrameGroups().lengths(16) == [4, 4, 4, 4]
    assert FrameGroups().lengths(22) == [1, 4, 4, 4, 4, 1, 4]
    assert FrameGroups(chunk=None).lengths(21) == [1, 4, 4, 4, 4, 4]
    assert [FrameGroups().frames(latents) for latents in (1, 2, 5, 6, 10)] == [1, 5, 17, 18, 34]


def test_a_lead_is_latents_of_its_own_in_every_clip():
    groups = FrameGroups(chunk=None, lead=2)
    assert [groups.lengths(frames) for frames in (1, 2, 6, 14)] == [[1], [1, 1], [1, 1, 4], [1, 1, 4, 4, 4]]
    assert FrameGroups(chunk=None, lead=1).lengths(9) == [1, 4, 4]
    assert FrameGroups(chunk=None, lead=4).lengths(12) == [1, 3, 4, 4]
    assert groups.latents(14) == 5 and groups.frames(5) == 14
    assert groups.given(3).tolist() == [[False, False, False, True], [True] * 4]
    assert groups.group(torch.arange(1.0, 6.0).reshape(1, -1, 1)).tolist() == [[[0, 0, 0, 1], [2, 3, 4, 5]]]
    for frames in (3, 5, 13):
        with pytest.raises(ValueError, match=f"a clip has 1 or 2 . 4 n frames, got {frames}"):
            groups.lengths(frames)
    for lead, chunk in ((2, 17), (0, None), (5, None)):
        with pytest.raises(ValueError, match=f"got lead={lead} and chunk={chunk}"):
            FrameGroups(chunk=chunk, lead=lead)


@pytest.mark.parametrize("action", [0, 1, 4, 5, 12])
def test_with_a_lead_too_a_latent_depends_on_no_action_after_its_last_frame(action):
    groups = FrameGroups(chunk=None, lead=2)
    model, actions = conditioner(chunk=None, lead=2).eval(), torch.randn(1, 13, 3)
    other = actions.clone()
    other[:, action] += 1.0
    change = (model(groups.group(actions)) - model(groups.group(other))).abs().amax(dim=(0, 2, 3))
    reached = torch.tensor(groups.lengths(14)).cumsum(0)[1:] > action + 1
    assert change[~reached].sum() == 0.0 and change[reached].min() > 1e-4


@pytest.mark.parametrize("chunk", [None, 17])
@pytest.mark.parametrize("frames", [5, 17, 22, 34])
def test_every_action_enters_the_latent_whose_frame_it_leads_to(frames, chunk):
    groups = FrameGroups(chunk=chunk)
    if chunk is None and frames % 4 != 1:
        frames += 4 - (frames - 1) % 4
    actions = torch.arange(1.0, frames).reshape(1, -1, 1)  # action s - 1 leads to frame s
    grouped = groups.group(actions)
    ends = torch.tensor(groups.lengths(frames)).cumsum(0)
    for number, row in enumerate(grouped[0], start=1):
        expected = list(range(int(ends[number - 1]), int(ends[number])))
        held = row[groups.given(len(ends))[number - 1]].tolist()
        assert held == expected and row.count_nonzero() == len(expected)
    assert grouped.shape == (1, groups.latents(frames) - 1, 4)


def test_actions_within_the_first_latent_are_left_out():
    assert FrameGroups().group(torch.arange(1.0, 8.0).reshape(1, -1, 1)).tolist() == [[[4.0, 5.0, 6.0, 7.0]]]


def test_a_last_chunk_that_begins_otherwise_is_refused():
    with pytest.raises(ValueError, match="20 frames lie in latents of .*3"):
        FrameGroups().group(torch.zeros(1, 19, 2))


@pytest.mark.parametrize("action", [0, 3, 4, 9, 16, 20])
def test_a_latent_depends_on_actions_up_to_its_last_frame_and_on_none_later(action):
    model, groups = conditioner().eval(), FrameGroups()
    actions = torch.randn(1, 21, 3)
    other = actions.clone()
    other[:, action] += 1.0
    change = (model(groups.group(actions)) - model(groups.group(other))).abs().amax(dim=(0, 2, 3))
    ends = torch.tensor(groups.lengths(22)).cumsum(0)
    reached = ends[1:] > action + 1  # the frame that the action leads to lies in this latent or an earlier one
    assert change[~reached].sum() == 0.0
    assert change[reached].min() > 1e-4


def test_what_stands_in_empty_places_changes_nothing():
    model, grouped = conditioner().eval(), FrameGroups().group(torch.randn(1, 17, 3))
    filled = grouped.clone()
    filled[:, 4, :9] = 5.0  # latent 5 holds frame 17 alone
    torch.testing.assert_close(model(filled), model(grouped), rtol=0, atol=0)


def test_the_order_of_a_latents_actions_matters():
    model, actions = conditioner().eval(), torch.randn(1, 1, 4, 3)
    forwards, backwards = (model(each.flatten(2)) for each in (actions, actions.flip(2)))
    assert (forwards - backwards).abs().max() > 1e-3


def test_a_fresh_one_says_nothing():
    fresh = GroupedConditioner(latent_action_dim=3, width=16, depth=1, heads=2, video_width=8)
    assert fresh(torch.randn(2, 4, 12)).abs().max() == 0.0


def test_a_latents_actions_are_dropped_together_and_step_by_step_only_in_training():
    model, grouped = conditioner(drop=0.5, depth=1), torch.randn(64, 1, 12)
    free = model.eval()(grouped, dropped=torch.ones(64, 1, dtype=torch.bool))
    assert (free - free[:1]).abs().max() < 1e-6
    kept = model(grouped)
    torch.testing.assert_close(model(grouped, generator=torch.Generator().manual_seed(0)), kept, rtol=0, atol=0)
    drawn = model.train()(grouped, generator=torch.Generator().manual_seed(0))
    is_free = (drawn - free).abs().amax(dim=(1, 2, 3)) < 1e-5
    is_kept = (drawn - kept).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (is_free ^ is_kept).all() and 16 < is_free.sum() < 48


def test_a_process_drops_the_rows_of_what_the_whole_batch_drops():
    model, grouped = conditioner(drop=0.5, depth=1).train(), torch.randn(8, 3, 12)
    whole = model(grouped, generator=torch.Generator().manual_seed(0))
    halves = [
        model(part, generator=Share(generator=torch.Generator().manual_seed(0), part=number, parts=2))
        for number, part in enumerate(grouped.chunk(2))
    ]
    torch.testing.assert_close(torch.cat(halves), whole)


def test_it_is_saved_and_too_many_latents_are_refused(tmp_path):
    model = conditioner(max_steps=2, chunk=None).eval()
    model.save_pretrained(tmp_path)
    grouped = torch.randn(1, 2, 12)
    torch.testing.assert_close(GroupedConditioner.from_pretrained(tmp_path)(grouped), model(grouped))
    with pytest.raises(ValueError, match="12 actions, .* 8"):
        model(torch.randn(1, 3, 12))
    with pytest.raises(ValueError, match="size must be 1 or more, got 0"):
        FrameGroups(size=0)
