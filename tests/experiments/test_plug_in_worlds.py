"""The laws of a world: one that keeps them all, and for every law one that breaks it and is told so by name."""

import re

import pytest
import torch
from torch import Tensor

from colaworld.experiments.conformance import Finding
from colaworld.experiments.conformance_world import check_world
from colaworld.experiments.planning_world import load_world


class Mover:
    """Brightness moves with the first action; keeps every law, and offers everything."""

    action_dim, context_frames, max_horizon = 2, 2, 5

    def encode(self, frames: Tensor) -> Tensor:
        return frames.float() / 255

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(0, 1)

    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        if len(frames) < 2 or len(actions) != len(frames) - 1:
            raise ValueError(f"{len(frames)} frames, {len(actions)} actions")
        return self.encode(frames[-1:])

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        if actions.shape[1] > self.max_horizon:
            raise ValueError("too far")
        noise = 0.01 * torch.randn(1, actions.shape[1], 1, 1, 1, generator=generator)
        return state[:, None] + 0.1 * actions.cumsum(dim=1)[..., :1, None, None] + noise

    def advance(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        latents = self.imagine(state, actions[:, None], generator)[:, 0]
        return latents, latents[:1]

    def refined(self, steps: int) -> "Mover":
        return self

    def with_gradients(self) -> "Mover":
        return self


def check(world: object) -> tuple[Finding, ...]:
    return check_world(world, height=8, width=12)


def broken(world: object) -> Finding:
    (finding,) = [finding for finding in check(world) if finding.status == "fail"]
    return finding


def test_a_world_that_keeps_the_laws_passes_each_of_them() -> None:
    findings = check(Mover())
    assert {finding.status for finding in findings} == {"pass"}
    methods = {finding.method for finding in findings}
    assert methods == {"attributes", "encode", "decode", "start", "imagine", "advance", "refined", "with_gradients"}
    assert len(findings) >= 18


def test_the_weights_that_ship_keep_them_too_with_all_that_is_optional() -> None:
    findings = check_world(load_world(steps=1, std=0.5).world)
    assert {finding.status for finding in findings} == {"pass"}
    assert {"advance", "refined", "with_gradients", "by_codes"} < {finding.method for finding in findings}


def test_the_global_random_state_is_left_as_it_was() -> None:
    class Draws(Mover):
        def start(self, frames: Tensor, actions: Tensor) -> Tensor:
            torch.rand(3)
            return super().start(frames, actions)

    before = torch.get_rng_state()
    check(Draws())
    assert torch.equal(torch.get_rng_state(), before)


class NoMethod(Mover):
    imagine = None


class NoSize(Mover):
    max_horizon = 0


class HalfASize(Mover):
    action_dim = 2.0


class FlatEncode(Mover):
    def encode(self, frames: Tensor) -> Tensor:
        return super().encode(frames).mean()


class IntegerEncode(Mover):
    def encode(self, frames: Tensor) -> Tensor:
        return frames


class EatsFrames(Mover):
    def encode(self, frames: Tensor) -> Tensor:
        frames.zero_()
        return super().encode(frames)


class CentredEncode(Mover):
    def encode(self, frames: Tensor) -> Tensor:
        latents = super().encode(frames)
        return latents - latents.mean(dim=0)


class WideDecode(Mover):
    def decode(self, latents: Tensor) -> Tensor:
        return 255 * latents


class DoubleDecode(Mover):
    def decode(self, latents: Tensor) -> Tensor:
        return latents.double()


class SmallDecode(Mover):
    def decode(self, latents: Tensor) -> Tensor:
        return latents[..., ::2, ::2]


class StrictStart(Mover):
    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        if len(frames) != 2:
            raise RuntimeError("exactly two")
        return super().start(frames, actions)


class GreedyStart(Mover):
    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        state = super().start(frames, actions)
        frames += 1
        return state


class OneFrame(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions, generator)[:, -1]


class NotANumber(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions, generator) / torch.zeros(())


class EatsActions(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions.mul_(0.5), generator)


class NeedsChance(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions, generator) + 0 * generator.initial_seed()


class GlobalChance(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions, generator) + torch.randn(())


class UsesUpItsState(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        futures = super().imagine(state, actions, generator)
        state.copy_(futures[0, -1:])
        return futures


class OneStateOnly(Mover):
    def start(self, frames: Tensor, actions: Tensor) -> Tensor:
        self.state = super().start(frames, actions)
        return self.state

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(self.state, actions, generator)


class StillTraining(Mover):
    """As batch normalisation that was left in training mode."""

    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions - actions.mean(dim=0), generator)


class ShortTable(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        torch.arange(4)[actions.shape[1] - 1]
        return super().imagine(state, actions, generator)


class CutShort(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions[:, : self.max_horizon], generator)


class OtherAdvance(Mover):
    def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
        return super().imagine(state, actions, torch.Generator().manual_seed(0))

    def advance(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        latents, state = super().advance(state, -actions, generator)
        return latents, state


class NoSlope(Mover):
    def with_gradients(self) -> Mover:
        class Cut(Mover):
            def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
                return super().imagine(state, actions.detach(), generator)

        return Cut()


@pytest.mark.parametrize(
    ("world", "method", "says"),
    [
        (NoMethod, "attributes", "expected imagine to be a method, got None"),
        (NoSize, "attributes", "expected max_horizon to be a whole number of 1 or more, got 0"),
        (HalfASize, "attributes", "expected action_dim to be a whole number of 1 or more, got 2.0"),
        (FlatEncode, "encode", r"expected latents \(2, \*latent\) of 2 frames, got \(\)"),
        (IntegerEncode, "encode", "floating point, got torch.uint8"),
        (EatsFrames, "encode", r"expected frames left as given, got \d+ changed"),
        (CentredEncode, "encode", "a frame alone encoded as among others"),
        (WideDecode, "decode", r"expected decoded frames in \[0, 1\], got \[0, 255\]"),
        (DoubleDecode, "decode", "expected decoded frames of torch.float32, got torch.float64"),
        (SmallDecode, "decode", r"of shape \(2, 3, 8, 12\), got \(2, 3, 4, 6\)"),
        (StrictStart, "start", "it raised RuntimeError: exactly two .*line"),
        (GreedyStart, "start", "expected frames left as given"),
        (OneFrame, "imagine", r"of shape \(3, 4, 3, 8, 12\), got \(3, 3, 8, 12\)"),
        (NotANumber, "imagine", "of finite numbers, got 3456 of 3456 NaN or infinite"),
        (EatsActions, "imagine", "expected actions left as given"),
        (NeedsChance, "imagine", "it raised AttributeError"),
        (GlobalChance, "imagine", "expected equal futures from equal seeds"),
        (UsesUpItsState, "imagine", "the same futures from a state used before"),
        (OneStateOnly, "start", "the same futures after another start"),
        (StillTraining, "imagine", "candidate 0 alone as among 3"),
        (ShortTable, "imagine", "it raised IndexError"),
        (CutShort, "imagine", r"of shape \(2, 6, 3, 8, 12\), got \(2, 5, 3, 8, 12\)"),
        (OtherAdvance, "advance", "what imagine says of one step"),
        (NoSlope, "with_gradients", "frames without a gradient"),
    ],
)
def test_a_broken_law_is_named(world: type[Mover], method: str, says: str) -> None:
    finding = broken(world())
    assert finding.method == method
    assert re.search(says, finding.message), finding


def test_what_is_no_world_at_all_is_said_to_lack_what_it_lacks() -> None:
    assert "expected an attribute action_dim, got a NoneType without one" in broken(None).message


@pytest.mark.parametrize(
    ("change", "law", "says"),
    [
        ({"max_horizon": 70}, None, None),
        ("far", "refused", "planning stops at max_horizon by itself"),
        ("blind", "actions matter", "no search can choose"),
        ("own noise", "a candidate alone", "each has noise of its own"),
    ],
)
def test_what_is_allowed_but_should_be_known_is_noted(change: object, law: str | None, says: str | None) -> None:
    class Odd(Mover):
        max_horizon = change["max_horizon"] if isinstance(change, dict) else 5

        def imagine(self, state: Tensor, actions: Tensor, generator: torch.Generator | None) -> Tensor:
            if change == "far":
                return state[:, None] + 0.1 * actions.cumsum(dim=1)[..., :1, None, None]
            if change == "blind":
                return super().imagine(state, 0 * actions, generator)
            futures = super().imagine(state, actions, generator)
            if change == "own noise":
                futures = futures + 0.3 * torch.randn(futures.shape, generator=generator)
            return futures

    findings = check(Odd())
    assert not [finding for finding in findings if finding.status == "fail"]
    notes = [finding for finding in findings if finding.status == "note"]
    if law is None:
        assert not notes and any("a horizon of 64" in finding.law for finding in findings)
    else:
        (note,) = notes
        assert law in note.law and says in note.message
