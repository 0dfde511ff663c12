"""Code transfer in a world whose law is known, the eye it is measured with, and confusions with known answers."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from colaworld.experiments.action_checks import (
    TransferReport,
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
    report = transfer(
        "movement", locator=lambda z: exact(z) + 0.05 * draw(z.shape[1], *z.shape[:-2]), ee_pos=places
    )
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


def test_transfer_names_what_is_missing():
    with pytest.raises(ValueError, match="horizon=6 needs clips of 8 frames, got 7"):
        transfer("movement", horizon=6)
    with pytest.raises(ValueError, match="3 clips of one scene, got 2 clips of 1 scenes"):
        transfer("movement", frames=clips(2))
    with pytest.raises(ValueError, match="120 clips need as many scenes, got 1"):
        transfer("movement", scenes=["a"])
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
