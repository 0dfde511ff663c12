"""The probe on laws with known answers, and on a system's own codes."""

import math
from types import SimpleNamespace

import pytest
import torch

from colaworld.experiments.batches import Batch
from colaworld.experiments.probe import linear_probe, probe_system

STEPS = 11


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def law(features: torch.Tensor) -> torch.Tensor:
    weights = draw(7, features.shape[-1], 3) * torch.tensor([1.0, 0.01, 100.0])
    return features @ weights + torch.tensor([5.0, 0.0, -3.0])


def test_a_linear_law_is_recovered_whatever_the_units():
    train, held_out = 10.0 * draw(0, 40, STEPS, 6) + 3.0, 10.0 * draw(1, 10, STEPS, 6) + 3.0
    report = linear_probe((train, law(train)), (held_out, law(held_out)))
    assert len(report.l1) == 10
    for error, constant in zip(report.l1_per_dimension, report.l1_constant_per_dimension, strict=True):
        assert error < 1e-4 * constant


def test_the_error_is_that_of_the_noise():
    train, held_out = draw(0, 200, STEPS, 4), draw(1, 200, STEPS, 4)
    noise = 0.5
    report = linear_probe(
        (train, law(train) + noise * draw(2, 200, STEPS, 3)), (held_out, law(held_out) + noise * draw(3, 200, STEPS, 3))
    )
    expected = noise * math.sqrt(2.0 / math.pi)  # E|x| of a Gaussian
    assert report.l1_per_dimension == pytest.approx([expected] * 3, rel=0.05)
    assert report.mean == pytest.approx(sum(report.l1_per_dimension) / 3)


def test_it_is_the_absolute_error_that_is_minimised():
    # One action in five is a wild outlier on one side: a squared error would follow them, the absolute error does not.
    features = draw(0, 100, STEPS, 2)
    truth = features @ torch.tensor([[1.0], [-2.0]])
    wild = (torch.arange(STEPS) % 5 == 0).float()[:, None] * 50.0
    clean = draw(1, 20, STEPS, 2)
    report = linear_probe((features, truth + wild), (clean, clean @ torch.tensor([[1.0], [-2.0]])))
    assert report.mean < 0.01


def test_collinear_and_constant_features_change_nothing():
    train, held_out = draw(0, 40, STEPS, 4), draw(1, 20, STEPS, 4)
    actions = [law(x) + draw(seed, *x.shape[:2], 3) for seed, x in ((2, train), (3, held_out))]

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x @ draw(4, 4, 5), torch.full_like(x[..., :2], 7.0)], dim=-1)

    plain = linear_probe((train, actions[0]), (held_out, actions[1]))
    wide = linear_probe((doubled(train), actions[0]), (doubled(held_out), actions[1]))
    assert wide.l1 == pytest.approx(plain.l1, rel=1e-3)


def test_features_that_say_nothing_are_as_good_as_the_median():
    actions = [draw(seed, 40, STEPS, 2).exp() for seed in (0, 1)]  # skewed: the mean would do worse
    report = linear_probe((torch.ones(40, STEPS, 3), actions[0]), (torch.ones(40, STEPS, 3), actions[1]))
    assert report.mean == pytest.approx(report.l1_constant, rel=1e-3)
    assert report.l1_constant < float((actions[1] - actions[0].mean(dim=(0, 1))).abs().mean())


def test_a_dimension_that_never_moves_costs_nothing():
    train, held_out = draw(0, 40, STEPS, 3), draw(1, 10, STEPS, 3)
    still = [torch.cat([x[..., :1], torch.full_like(x[..., :1], 0.3)], dim=-1) for x in (train, held_out)]
    assert linear_probe((train, still[0]), (held_out, still[1])).l1_per_dimension == pytest.approx([0.0, 0.0], abs=1e-5)


def test_held_out_clips_have_no_part_in_the_fit():
    train, held_out = draw(0, 8, STEPS, 60), draw(1, 40, STEPS, 60)
    report = linear_probe((train, draw(2, 8, STEPS, 1)), (held_out, draw(3, 40, STEPS, 1)))
    assert report.mean > report.l1_constant  # nothing to learn, and more features than the clips can bear


def test_bad_input_is_named():
    good = (torch.zeros(3, STEPS, 4), torch.zeros(3, STEPS, 7))
    with pytest.raises(ValueError, match=r"held_out: .* do not fit: \(3, 10, 4\), \(3, 11, 7\)"):
        linear_probe(good, (good[0][:, 1:], good[1]))
    with pytest.raises(ValueError, match="train: 77 of 231 actions are not finite"):
        linear_probe((good[0], torch.cat([good[1][:2], torch.full((1, STEPS, 7), torch.nan)])), good)
    with pytest.raises(ValueError, match="features 4 and 5"):
        linear_probe(good, (torch.zeros(3, STEPS, 5), good[1]))


class Toy:
    """A system whose frames ``(B, T, 3, 1, 1)`` are the gripper's position, and whose codes say what ``meaning`` is."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning
        self.codec = torch.nn.Linear(1, 1)
        self.codec.encode = lambda frames: frames.float() / 255.0

    def model(self) -> "Toy":
        return self

    def eval(self) -> "Toy":
        return self

    def latent_actions(self, latents: torch.Tensor) -> SimpleNamespace:
        places = latents.flatten(2)
        movement, destination = places[:, 1:] - places[:, :-1], places[:, 1:]
        return SimpleNamespace(latents=movement if self.meaning == "movement" else destination)


def toy_batch(seed: int) -> Batch:
    start = 127.0 + 30.0 * draw(seed, 80, 1, 3)
    places = (start + (5.0 * draw(seed + 1, 80, 6, 3)).cumsum(dim=1)).clamp(0.0, 255.0).byte()
    ee_pos = places.float() / 255.0
    actions = (ee_pos[:, 1:] - ee_pos[:, :-1])[:, :, None].expand(-1, -1, 5, -1)
    return Batch(frames=places[..., None, None], actions=actions, ee_pos=ee_pos)


def test_codes_that_name_movements_and_codes_that_name_places_are_told_apart():
    train, held_out = toy_batch(0), toy_batch(10)
    movement = probe_system(Toy("movement"), train, held_out)
    assert movement.mean < 1e-3 * movement.l1_constant
    assert movement.displacement_r2 > 0.99 and movement.destination_r2 < 0.2
    place = probe_system(Toy("destination"), train, held_out)
    assert place.mean > 0.9 * place.l1_constant
    assert place.displacement_r2 < 0.2 and place.destination_r2 > 0.99


def test_without_positions_only_the_probe_is_there():
    train, held_out = toy_batch(0), toy_batch(10)
    held_out.ee_pos[:, 2] = torch.nan
    report = probe_system(Toy("movement"), train, held_out)
    assert report.displacement_r2 is None and report.destination_r2 is None and len(report.l1) == 80
