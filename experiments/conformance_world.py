"""Is it a world? The laws of ``planning.protocols.World``, examined on random frames and actions before any episode.

Frames are uint8 noise ``(T, 3, height, width)``, actions uniform in [-1, 1]; nothing is trained or written, and the
global random state is left as it was.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from colaworld.experiments.conformance import (
    Examination,
    Finding,
    distance,
    expect,
    expect_attributes,
    expect_same,
    expect_tensor,
    expect_untouched,
)
from colaworld.planning.protocols import World

CANDIDATES = 3
HORIZON = 4
LONGEST = 64
"""Longer horizons are not tried, however far a world says it reaches."""
EXACT = 1e-4
"""Relative tolerance of what is computed twice in the same way."""
BATCHED = 1e-2
"""Relative tolerance of what is computed in batches of other sizes (half precision sums in another order)."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A world and what it is tried on."""

    world: World
    height: int
    width: int
    seed: int

    @cached_property
    def frames(self) -> Tensor:
        """One more than the context."""
        shape = (self.world.context_frames + 1, 3, self.height, self.width)
        return torch.randint(0, 256, shape, generator=self.generator(), dtype=torch.uint8)

    def actions(self, *shape: int) -> Tensor:
        """``(*shape, A)``, the same each time."""
        return 2 * torch.rand(*shape, self.world.action_dim, generator=self.generator()) - 1

    @cached_property
    def candidates(self) -> Tensor:
        """``(S, H, A)``."""
        return self.actions(CANDIDATES, min(HORIZON, self.world.max_horizon))

    @cached_property
    def latent(self) -> tuple[int, ...]:
        """Shape of one latent."""
        return tuple(self.world.encode(self.frames[:1]).shape[1:])

    def generator(self) -> torch.Generator:
        """Always the same chance."""
        return torch.Generator().manual_seed(self.seed)

    def start(self, extra: int = 0) -> Any:
        """From as many frames as the world wants, and ``extra`` more."""
        count = self.world.context_frames + extra
        return self.world.start(self.frames[-count:].clone(), self.actions(count - 1))

    def imagine(self, actions: Tensor, state: Any = None) -> Tensor:
        """From a start of its own unless ``state`` is given."""
        return self.world.imagine(self.start() if state is None else state, actions, self.generator())

    def future(self, value: Any, count: int, horizon: int) -> Tensor:
        """``value`` itself, which must be ``(count, horizon, *latent)``."""
        return expect_tensor(value, (count, horizon, *self.latent), of="imagined latents (S, H, *latent)")


@torch.no_grad()
def check_world(world: World, *, height: int = 64, width: int = 64, seed: int = 0) -> tuple[Finding, ...]:
    """All laws that could be examined; those that rest on a broken one are left out."""
    exam = Examination()
    with exam.law("attributes", "sizes and methods are there"):
        expect_attributes(
            world, ("action_dim", "context_frames", "max_horizon"), ("encode", "decode", "start", "imagine")
        )
    if exam.broken:
        return tuple(exam.findings)
    trial = Trial(world=world, height=height, width=width, seed=seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for laws in (_codec, _imagination, _chance, _horizon, _options):
            laws(exam, trial)
            if exam.broken:
                break
    return tuple(exam.findings)


def _codec(exam: Examination, trial: Trial) -> None:
    """``encode`` and ``decode``."""
    frames, world = trial.frames[:2], trial.world
    with exam.law("encode", "frames uint8 (N, 3, height, width) -> finite floats (N, *latent)"):
        given = frames.clone()
        latents = expect_tensor(world.encode(given), None, of="latents (N, *latent)")
        expect(latents.ndim >= 2 and len(latents) == 2, "latents (2, *latent) of 2 frames", tuple(latents.shape))
        expect_untouched("frames", given, frames)
    if exam.broken:
        return
    with exam.law("encode", "a frame's latent does not depend on the others in the batch"):
        expect_same(world.encode(frames[1:]), latents[1:], BATCHED, "a frame alone encoded as among others")
    with exam.law("decode", "latents (N, *latent) -> float32 (N, 3, height, width) in [0, 1]"):
        shape, given = (2, 3, trial.height, trial.width), latents.clone()
        pictures = expect_tensor(world.decode(given), shape, of="decoded frames")
        expect(pictures.dtype == torch.float32, "decoded frames of torch.float32", pictures.dtype)
        low, high = pictures.min().item(), pictures.max().item()
        expect(low >= -1e-3 and high <= 1 + 1e-3, "decoded frames in [0, 1]", f"[{low:.3g}, {high:.3g}]")
        expect_untouched("latents", given, latents)
    if not exam.broken:
        with exam.law("decode", "a latent's frame does not depend on the others in the batch"):
            expect_same(world.decode(latents[1:]), pictures[1:], BATCHED, "a latent alone decoded as among others")


def _imagination(exam: Examination, trial: Trial) -> None:
    """``start`` and ``imagine``: shapes, and whose memory is whose."""
    count, candidates, world = trial.world.context_frames, trial.candidates, trial.world
    with exam.law("start", "context_frames frames and the actions between them -> a state; they are left as given"):
        frames, actions = trial.frames[-count:].clone(), trial.actions(count - 1)
        world.start(frames, actions)
        expect_untouched("frames", frames, trial.frames[-count:])
        expect_untouched("actions", actions, trial.actions(count - 1))
    if exam.broken:
        return
    with exam.law("imagine", "(S, H, A) -> finite floats (S, H, *latent); they are left as given"):
        given = candidates.clone()
        trial.future(trial.imagine(given), *candidates.shape[:2])
        expect_untouched("actions", given, candidates)
    if exam.broken:
        return
    with exam.law("start", "more than context_frames frames will do"):
        trial.future(trial.imagine(candidates, trial.start(extra=1)), *candidates.shape[:2])
    with exam.law("imagine", "the generator may be None"):
        trial.future(world.imagine(trial.start(), candidates, None), *candidates.shape[:2])


def _chance(exam: Examination, trial: Trial) -> None:
    """What a future may depend on: state, its own actions, the generator."""
    candidates = trial.candidates
    first = trial.imagine(candidates)
    with exam.law("imagine", "the same generator seed gives the same futures"):
        expect_same(trial.imagine(candidates), first, EXACT, "equal futures from equal seeds")
    if exam.broken:
        return
    with exam.law("imagine", "the state is left as it was"):
        state = trial.start()
        trial.imagine(candidates, state)
        trial.imagine(-candidates, state)
        expect_same(trial.imagine(candidates, state), first, EXACT, "the same futures from a state used before")
    with exam.law("start", "a state outlives the start of another"):
        state = trial.start()
        count = trial.world.context_frames
        trial.world.start(255 - trial.frames[-count:], trial.actions(count - 1))
        expect_same(trial.imagine(candidates, state), first, EXACT, "the same futures after another start")
    law = "a candidate alone is what it is in a batch"
    with exam.law("imagine", law):
        twins = trial.imagine(candidates[:1].repeat(CANDIDATES, 1, 1))
        if distance(twins, twins[:1].expand_as(twins)) > BATCHED:
            exam.note("imagine", law, "equal candidates differ: each has noise of its own, and costs compare less well")
        else:
            for index in (0, CANDIDATES - 1):
                alone = trial.imagine(candidates[index : index + 1])
                expect_same(alone, first[index : index + 1], BATCHED, f"candidate {index} alone as among {CANDIDATES}")
    law = "actions matter"
    with exam.law("imagine", law):
        if distance(trial.imagine(-candidates), first) <= 1e-6:
            exam.note("imagine", law, "opposite actions lead to the same future: no search can choose among them")


def _horizon(exam: Examination, trial: Trial) -> None:
    """One step, all steps, one too many."""
    longest = min(trial.world.max_horizon, LONGEST)
    for horizon in sorted({1, longest}):
        named = "max_horizon" if horizon == trial.world.max_horizon else "a horizon"
        with exam.law("imagine", f"{named} of {horizon} is imagined"):
            trial.future(trial.imagine(trial.actions(2, horizon)), 2, horizon)
    if exam.broken or longest < trial.world.max_horizon:
        return
    beyond, law = longest + 1, f"a horizon of {longest + 1}, beyond max_horizon, is refused"
    with exam.law("imagine", law):
        try:
            answer = trial.imagine(trial.actions(2, beyond))
        except Exception:  # however it says so
            return
        trial.future(answer, 2, beyond)
        exam.note("imagine", law, f"it answers with {beyond} frames; planning stops at max_horizon by itself")


def _options(exam: Examination, trial: Trial) -> None:
    """What a world may offer besides, where it does."""
    world, candidates = trial.world, trial.candidates
    if hasattr(world, "advance"):
        with exam.law("advance", "one step of imagine (S, A) -> latents (S, *latent) and the state after it"):
            latents, after = world.advance(trial.start(), candidates[:, 0], trial.generator())
            expect_tensor(latents, (CANDIDATES, *trial.latent), of="latents (S, *latent)")
            if not trial_is_random(trial):
                expect_same(latents, trial.imagine(candidates[:, :1])[:, 0], BATCHED, "what imagine says of one step")
            world.advance(after, candidates[:, -1], trial.generator())
    if hasattr(world, "refined"):
        with exam.law("refined", "a world that understands this one's states"):
            finer = world.refined(2).imagine(trial.start(), candidates, trial.generator())
            trial.future(finer, *candidates.shape[:2])
    if hasattr(world, "with_gradients"):
        with exam.law("with_gradients", "gradients reach the actions"), torch.enable_grad():
            passing, leaf = world.with_gradients(), candidates.clone().requires_grad_()
            imagined = passing.imagine(trial.start(), leaf, trial.generator())
            pictures = passing.decode(imagined.flatten(0, 1))
            expect(pictures.requires_grad, "decoded frames that depend on the actions", "frames without a gradient")
            (slope,) = torch.autograd.grad(pictures.square().sum(), leaf, allow_unused=True)
            expect(slope is not None, "a gradient of the actions", None)
            expect_tensor(slope, tuple(leaf.shape), of="the gradient of the actions")
    if hasattr(world, "by_codes"):
        with exam.law("by_codes", "a world of codes, with code_sizes"):
            sizes = world.by_codes().code_sizes
            expect(len(sizes) >= 1 and min(sizes) >= 2, "code_sizes of 2 or more for each token", sizes)


def trial_is_random(trial: Trial) -> bool:
    """Whether another seed makes another future."""
    other = trial.world.imagine(trial.start(), trial.candidates, torch.Generator().manual_seed(trial.seed + 1))
    return distance(other, trial.imagine(trial.candidates)) > EXACT
