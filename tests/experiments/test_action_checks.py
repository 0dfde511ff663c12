"""Code transfer in a world whose law is known, the eye it is measured with, and confusions with known answers."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from colaworld.experiments.action_checks import (
    TransferReport,
    _correlation_interval,
    adapter_confusion,
    bystanders,
    code_transfer,
    correlation,
    derangement,
)
from colaworld.experiments.gripper_locator import fit_locator
from colaworld.models.flow import FlowConfig

HORIZON = 4


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Video(nn.Module):
    """The next frame is the position ``(B, 1, 3, 1, 1)`` after the code has acted on it."""

    def __init__(self, law: str) -> None:
        super().__init__()
        self.law, self.weight = law, nn.Parameter(torch.zeros(1))

    def remember(self, frames: Tensor, cache: object = None) -> object:
        return cache

    def next_velocity(self, x: Tensor, time: Tensor, cache: object, *, action_modulation: Tensor) -> Tensor:
        code = action_modulation[..., None, None]
        return {"movement": code, "short movement": 0.3 * code, "place": code - x, "ignored": 0.0 * x}[self.law]


class ToySystem:
    """Frames ``(n, T, 3, 1, 1)`` are the gripper's position; codes are what the law of the video makes of them."""

    def __init__(self, law: str) -> None:
        self.video, self.conditioner, self.codec = Video(law), nn.Identity(), nn.Identity()
        self.codec.encode = lambda frames: frames.float() / 255.0
        self.info = SimpleNamespace(flow=FlowConfig())

    def parts(self) -> dict[str, nn.Module]:
        return {"video": self.video, "codec": self.codec}

    def model(self) -> "ToySystem":
        return self

    def latent_actions(self, latents: Tensor) -> SimpleNamespace:
        places = latents[..., 0, 0]
        return SimpleNamespace(latents=places[:, 1:] if self.video.law == "place" else places.diff(dim=1))


def clips(count: int = 120, seed: int = 0) -> Tensor:
    start = 127.0 + 30.0 * draw(seed, count, 1, 3)
    walk = start + (5.0 * draw(seed + 1, count, HORIZON + 3, 3)).cumsum(dim=1)
    return walk.clamp(0.0, 255.0).byte()[..., None, None]


def exact(latents: Tensor) -> Tensor:
    return latents[..., 0, 0]


def transfer(law: str, **changed) -> TransferReport:
    given = {"frames": clips(), "locator": exact, "horizon": HORIZON, "seed": 0} | changed
    return code_transfer(ToySystem(law), **given)


def test_codes_that_name_movements_do_the_same_from_another_start():
    report = transfer("movement")
    assert (report.n, report.horizon) == (120, HORIZON)
    assert (report.ceiling, report.own, report.transferred) == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
    assert abs(report.by_chance) < 0.05 and abs(report.context) < 0.2 and abs(report.pull) < 1e-4
    assert report.per_dimension["transferred"] == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)


def test_codes_that_name_places_drive_their_own_start_only():
    report = transfer("place")
    assert report.own == pytest.approx(1.0, abs=1e-5)
    assert report.transferred < 0.5
    assert report.pull == pytest.approx(1.0, abs=1e-4)


def test_a_world_that_ignores_its_codes_transfers_nothing():
    report = transfer("ignored")
    assert (report.own, report.transferred, report.by_chance, report.pull) == pytest.approx((0.0,) * 4, abs=1e-6)
    assert report.ceiling == pytest.approx(1.0)


def test_movements_that_are_too_short_still_count():
    assert transfer("short movement").transferred == pytest.approx(1.0, abs=1e-5)


def test_a_locator_that_sees_poorly_lowers_all_of_it():
    places = exact(clips().float() / 255.0)
    report = transfer("movement", locator=lambda z: exact(z) + 0.05 * draw(z.shape[1], *z.shape[:-2]), ee_pos=places)
    assert report.ceiling < 0.9 and report.transferred < 0.9
    assert report.transferred_interval.low < report.transferred < report.transferred_interval.high


def test_the_true_positions_are_what_a_perfect_locator_finds():
    found, given = transfer("place"), transfer("place", ee_pos=exact(clips().float() / 255.0))
    assert found.transferred == pytest.approx(given.transferred) and found.pull == pytest.approx(given.pull)


def test_the_seed_decides_who_gives_to_whom():
    assert transfer("place") == transfer("place") and transfer("place") != transfer("place", seed=1)


def test_pairs_are_of_one_scene_and_never_of_one_clip():
    scenes = [("a", "b", "c")[number % 3] for number in range(30)] + ["d"] * 3 + ["lonely", "few", "few"]
    start, donor = derangement(36, 0, scenes)
    assert len(start) == 33  # scenes of fewer than three clips are left out
    for one, other in zip(start.tolist(), donor.tolist(), strict=True):
        assert one != other and scenes[one] == scenes[other]
    assert sorted(donor.tolist()) == sorted(start.tolist()) == list(range(33))
    place, bystander = bystanders(start, donor, scenes)
    found = set(zip(start[place].tolist(), bystander.tolist(), strict=True))
    for one, other in zip(start.tolist(), donor.tolist(), strict=True):
        scene = {number for number in range(33) if scenes[number] == scenes[one]}
        assert {third for first, third in found if first == one} == scene - {one, other}
    assert len(found) == len(place) == 3 * 10 * 8 + 3


def test_where_each_clip_is_a_trajectory_nothing_is_asked_of_them():
    """Pairs, chance and interval are what they were before anything knew of trajectories."""
    scenes, own = ["a", "b"] * 4 + ["a"], [f"trajectory {number}" for number in range(9)]
    for trajectories in (None, own):
        start, donor = derangement(9, 3, scenes, trajectories)
        assert start.tolist() == list(range(9)) and donor.tolist() == [4, 3, 0, 5, 8, 7, 2, 1, 6]
        place, bystander = bystanders(start, donor, scenes, trajectories)
        assert place.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 8, 8, 8]
        assert bystander.tolist() == [2, 6, 8, 5, 7, 4, 6, 8, 1, 7, 0, 2, 6, 1, 3, 0, 4, 8, 3, 5, 0, 2, 4]
        start, donor = derangement(7, 1, None, trajectories and trajectories[:7])
        assert donor.tolist() == [5, 0, 4, 1, 3, 6, 2]
    report = transfer("place")
    assert report == transfer("place", trajectories=[str(number) for number in reversed(range(120))])
    interval = report.transferred_interval
    assert (interval.low, interval.high) == pytest.approx((0.0236295064398, 0.2052646234977), rel=1e-9)


@pytest.mark.parametrize("sizes", [(4, 4, 4, 4), (1, 1, 1), (5, 1, 1), (1, 2, 9, 3), (2, 1, 1, 7), (6, 3, 3)])
def test_pairs_and_bystanders_are_never_of_one_trajectory(sizes: tuple[int, ...]):
    """32 windows of 8 trajectories, say; one may have more windows than all others."""
    trajectories = [f"{scene}/{k}" for scene in "ab" for k, size in enumerate(sizes) for _ in range(size)]
    scenes, count = [each[0] for each in trajectories], 2 * sum(sizes)
    left_out = 2 * max(0, 2 * max(sizes) - sum(sizes))
    for seed in range(5):
        start, donor = derangement(count, seed, scenes, trajectories)
        assert sorted(donor.tolist()) == start.tolist() == sorted(set(start.tolist()))
        assert len(start) == count - left_out, "what one trajectory has beyond the others"
        place, bystander = bystanders(start, donor, scenes, trajectories)
        for one, other in zip(start.tolist(), donor.tolist(), strict=True):
            assert trajectories[one] != trajectories[other] and scenes[one] == scenes[other]
        for one, other, third in zip(start[place].tolist(), donor[place].tolist(), bystander.tolist(), strict=True):
            assert len({trajectories[each] for each in (one, other, third)}) == 3 and scenes[one] == scenes[third]
        assert set(place.tolist()) == set(range(len(start))), "each has something to be chance"
    draws = {tuple(derangement(count, seed, scenes, trajectories)[1].tolist()) for seed in range(5)}
    assert len(draws) > 1


def test_a_scene_of_two_trajectories_has_nobody_to_be_chance():
    trajectories = ["a/0"] * 3 + ["a/1"] * 3 + ["b/0", "b/1", "b/2"]
    start, donor = derangement(9, 0, [each[0] for each in trajectories], trajectories)
    assert start.tolist() == [6, 7, 8] and set(donor.tolist()) == {6, 7, 8}
    with pytest.raises(ValueError, match="clips of 3 trajectories of one scene, got 6 clips of 1 scenes"):
        derangement(6, 0, None, trajectories[:6])


def test_windows_of_one_trajectory_count_once_in_the_interval():
    """Ten times the same twelve pairs are worth twelve."""
    a, b = draw(0, 12, HORIZON, 3), draw(1, 12, HORIZON, 3)
    twelve, many = torch.arange(12), [each.repeat(10, 1, 1) for each in (a, b)]
    once = _correlation_interval(a, b, seed=0, clusters=twelve)
    copied = _correlation_interval(*many, seed=0, clusters=twelve.repeat(10))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    narrow = _correlation_interval(*many, seed=0, clusters=torch.arange(120))
    assert narrow.high - narrow.low < 0.5 * (once.high - once.low)
    frames, whose = clips(12).repeat(10, 1, 1, 1, 1), [str(number % 12) for number in range(120)]
    alone, together = (transfer("place", frames=frames, trajectories=each) for each in (None, whose))
    wide, narrow = (each.transferred_interval.high - each.transferred_interval.low for each in (together, alone))
    assert together.n == alone.n == 120 and wide > 1.5 * narrow


def test_transfer_names_what_is_missing():
    with pytest.raises(ValueError, match="horizon=6 needs clips of 8 frames, got 7"):
        transfer("movement", horizon=6)
    with pytest.raises(ValueError, match="3 clips of one scene, got 2 clips of 1 scenes"):
        transfer("movement", frames=clips(2))
    with pytest.raises(ValueError, match="120 clips need as many scenes, got 1"):
        transfer("movement", scenes=["a"])
    with pytest.raises(ValueError, match="120 clips need as many trajectories, got 2"):
        transfer("movement", trajectories=["a", "b"])
    with pytest.raises(ValueError, match="3 of 2520 numbers of ee_pos are not finite"):
        places = exact(clips().float())
        places[3, 4] = torch.nan
        transfer("movement", ee_pos=places)


def test_a_common_drift_is_no_correlation():
    a, b = draw(0, 500, 2, 3) + torch.tensor([9.0, 0.0, -9.0]), draw(1, 500, 2, 3) + torch.tensor([9.0, 0.0, -9.0])
    assert abs(correlation(a, b)) < 0.1
    assert correlation(a, -2.0 * a) == pytest.approx(-1.0)
    assert correlation(a, torch.ones_like(a)) == 0.0


def seen(places: Tensor) -> Tensor:
    """Latents ``(B, T, 4, 2, 2)`` that depend on the position in a curved way."""
    return torch.sin(places @ draw(9, 3, 16) + draw(8, 16)).unflatten(-1, (4, 2, 2))


def test_the_locator_finds_the_gripper_in_clips_it_has_not_seen():
    train, held_out = 0.5 * draw(0, 60, 6, 3), 0.5 * draw(1, 20, 6, 3)
    locator = fit_locator(seen(train), train)
    guess = 100.0 * float((held_out - train.mean(dim=(0, 1))).norm(dim=-1).mean())
    assert locator.error_cm(seen(held_out), held_out) < 0.2 * guess
    assert locator(seen(held_out)).shape == (20, 6, 3) and locator(seen(held_out)[0, 0]).shape == (3,)


def test_the_locators_strength_follows_the_noise():
    places = draw(0, 60, 6, 3)
    sure, unsure = fit_locator(seen(places), places), fit_locator(seen(places), places + 3.0 * draw(1, 60, 6, 3))
    assert sure.strength < unsure.strength


def test_the_locator_names_bad_positions():
    with pytest.raises(ValueError, match="at least 5 clips, got 2"):
        fit_locator(seen(draw(0, 2, 6, 3)), draw(0, 2, 6, 3))
    with pytest.raises(ValueError, match=r"shape \(5, 6, 3\), got \(5, 5, 3\)"):
        fit_locator(seen(draw(0, 5, 6, 3)), draw(0, 5, 5, 3))
    with pytest.raises(ValueError, match="90 of 90 numbers of ee_pos are not finite"):
        fit_locator(seen(draw(0, 5, 6, 3)), torch.full((5, 6, 3), torch.nan))


def codes(seed: int, steps: int = 4000, entries: int = 8) -> Tensor:
    return torch.randint(entries, (steps, 2), generator=torch.Generator().manual_seed(seed))


def test_the_same_codes_are_confused_with_nothing():
    confusion = adapter_confusion(codes(0), codes(0), 8)
    assert confusion.accuracy == (1.0, 1.0) and confusion.information == pytest.approx((1.0, 1.0))
    for matrix in confusion.matrices:
        assert (matrix == torch.diag(matrix.diagonal())).all() and matrix.sum() == 4000


def test_independent_codes_say_no_more_than_chance():
    confusion = adapter_confusion(codes(0, steps=400), codes(1, steps=400), 8)
    for accuracy, known, by_chance in zip(
        confusion.accuracy, confusion.information, confusion.information_by_chance, strict=True
    ):
        assert accuracy == pytest.approx(1 / 8, abs=0.06)
        assert by_chance > 0.01 and known == pytest.approx(by_chance, abs=0.02)


def test_renamed_codes_are_wrong_and_say_everything():
    confusion = adapter_confusion(codes(0), (codes(0) + 1) % 8, 8)
    assert confusion.accuracy == (0.0, 0.0) and confusion.information == pytest.approx((1.0, 1.0))
    assert confusion.information_by_chance[0] < 0.02


def test_one_code_for_everything_is_as_good_as_the_majority():
    read = torch.tensor([[0, 3]] * 30 + [[1, 2]] * 10)
    confusion = adapter_confusion(read, torch.tensor([[0, 3]]).expand(40, 2), (2, 4))
    assert confusion.accuracy == confusion.majority == (0.75, 0.75)
    assert confusion.information == (0.0, 0.0)
    assert confusion.matrices[0].tolist() == [[30, 0], [10, 0]] and confusion.matrices[1].shape == (4, 4)


def test_confusion_names_bad_codes():
    with pytest.raises(ValueError, match=r"codes of token 1 must be 0..6, got 0..7 and 0..7"):
        adapter_confusion(codes(0), codes(1), (8, 7))
    with pytest.raises(ValueError, match=r"\(4000, 2\), \(10, 2\)"):
        adapter_confusion(codes(0), codes(0)[:10], 8)
