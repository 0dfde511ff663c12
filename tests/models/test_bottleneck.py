"""Laws that every bottleneck keeps, whatever its kind: codes, gradients, losses, files, and that it learns."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from colaworld.models.bottleneck import Bottleneck
from colaworld.models.quantisers import LEVELS, REPLACED, fsq_levels

QUANTISED = ("vq", "fsq", "simvq", "residual_vq")
KINDS = (*QUANTISED, "continuous")
SIZES = {"tokens": 3, "entries": 16, "width": 5, "commitment_weight": 0.5}
LEARNED = {"vq": "quantiser._codebook.embed", "simvq": "quantiser.code_transform.weight"} | {
    "residual_vq": "quantiser.layers.1._codebook.embed"
}
"""A parameter of each kind that has some."""


def noise(bottleneck: Bottleneck, batch: int = 4, steps: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, steps, bottleneck.input_dim, generator=torch.Generator().manual_seed(seed))


def made(kind: str, **sizes) -> Bottleneck:
    """A bottleneck in evaluation that has seen a batch."""
    torch.manual_seed(0)
    bottleneck = Bottleneck(kind=kind, **({"entries": 8, "width": 4} | sizes))
    bottleneck(noise(bottleneck, steps=200))
    return bottleneck.eval()


def between(bottleneck: Bottleneck) -> torch.Tensor:
    """Points in the codebook's space, ``(2, 60, D)``, and some well outside."""
    return 1.5 * torch.randn(2, 60, bottleneck.dim, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", QUANTISED)
def test_codes_make_the_round_trip(kind):
    bottleneck = made(kind)
    out = bottleneck(noise(bottleneck, seed=3))
    torch.testing.assert_close(bottleneck.from_indices(out.indices), out.latents)
    again = bottleneck.snap(out.latents).indices
    if kind == "residual_vq":  # one token after another: a later code may reach into another cell of the first token
        assert (again[..., 0] == out.indices[..., 0]).float().mean() > 0.8
    else:
        assert (again == out.indices).all()


def test_a_residual_code_that_stays_in_its_cell_makes_the_round_trip_too():
    bottleneck = made("residual_vq")
    with torch.no_grad():
        bottleneck.quantiser.layers[1]._codebook.embed.mul_(0.01)
    indices = torch.cartesian_prod(torch.arange(8), torch.arange(8))[None]
    assert (bottleneck.snap(bottleneck.from_indices(indices)).indices == indices).all()


@pytest.mark.parametrize("kind", QUANTISED)
def test_all_combinations_of_codes_are_different_actions(kind):
    bottleneck = made(kind)
    assert (bottleneck.codes, bottleneck.code_sizes) == (True, (8, 8))
    actions = bottleneck.from_indices(torch.cartesian_prod(torch.arange(8), torch.arange(8))[None])[0]
    assert actions.shape == (64, bottleneck.dim)
    assert torch.pdist(actions).min() > 1e-3


@pytest.mark.parametrize("kind", ("vq", "fsq", "simvq"))
def test_the_nearest_code_is_picked(kind):
    bottleneck = made(kind)
    points = between(bottleneck)
    every = bottleneck.from_indices(torch.arange(8)[None, :, None].expand(-1, -1, 2))[0, :, : bottleneck.dim // 2]
    nearest = torch.cdist(points.unflatten(-1, (2, -1)), every).argmin(dim=-1)
    assert (bottleneck.snap(points).indices == nearest).all()


def test_a_residual_token_is_nearest_to_what_the_first_leaves():
    bottleneck = made("residual_vq")
    points, books = between(bottleneck), bottleneck.quantiser.codebooks
    first = torch.cdist(points, books[0]).argmin(dim=-1)
    second = torch.cdist(points - books[0][first], books[1]).argmin(dim=-1)
    out = bottleneck.snap(points)
    assert (out.indices == torch.stack([first, second], dim=-1)).all()
    torch.testing.assert_close(out.latents, books[0][first] + books[1][second])
    left = torch.stack([points - books[0][first], points - out.latents])
    torch.testing.assert_close(out.parts["codebook"], left.square().mean().detach())


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("kind", QUANTISED)
def test_the_greatest_logit_is_the_code_that_is_picked(kind, tokens):
    bottleneck = made(kind, tokens=tokens)
    logits = bottleneck.code_logits(between(bottleneck))
    assert logits.shape == (2, 60, tokens, 8)
    assert (logits.argmax(dim=-1) == bottleneck.snap(between(bottleneck)).indices).all()
    assert logits.max() <= 1e-4


@pytest.mark.parametrize("entries", sorted(LEVELS))
def test_a_code_is_surest_of_itself(entries):
    """An adapter that answers with the code itself has nearly nothing left to learn."""
    bottleneck = made("fsq", entries=entries)
    codes = torch.arange(entries)[None, :, None].expand(-1, -1, 2)
    sure = bottleneck.code_logits(bottleneck.from_indices(codes)).softmax(dim=-1)
    assert sure.argmax(dim=-1).equal(codes)
    assert sure.amax(dim=-1).min() > 0.7
    assert entries == torch.tensor(fsq_levels(entries)).prod()


@pytest.mark.parametrize("kind", QUANTISED)
def test_logits_teach_an_adapter_every_code(kind):
    bottleneck = made(kind)
    codes = torch.cartesian_prod(torch.arange(8), torch.arange(8))[None]
    if kind == "residual_vq":  # codes that points can have
        codes = bottleneck.snap(bottleneck.from_indices(codes)).indices
    points = nn.Parameter(torch.zeros(1, 64, bottleneck.dim))
    optimiser = torch.optim.Adam([points], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        F.cross_entropy(bottleneck.code_logits(points).flatten(0, 2), codes.flatten()).backward()
        optimiser.step()
    assert (bottleneck.snap(points).indices == codes).float().mean() > 0.95


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_what_goes_in(kind, training):
    bottleneck = made(kind).train(training)
    raw = noise(bottleneck, seed=3).requires_grad_()
    weights = torch.randn(bottleneck.dim)
    (bottleneck(raw).latents * weights * torch.randn(4, 50, 1)).sum().backward()
    assert (raw.grad[..., : bottleneck.dim] != 0.0).float().mean() > 0.99
    points = between(bottleneck).requires_grad_()
    (bottleneck.snap(points).latents * weights).sum().backward()
    torch.testing.assert_close(points.grad, weights.expand_as(points))


def test_what_lies_far_beyond_the_levels_is_not_drawn_further():
    bottleneck = made("fsq")
    raw = torch.tensor([0.0, 5.0, -5.0])[:, None, None].repeat(1, 1, bottleneck.dim).requires_grad_()
    bottleneck(raw).latents.sum().backward()
    inside, above, below = raw.grad.amax(dim=(1, 2))
    assert max(above, below) < 0.01 * inside


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_reaches_all_that_can_be_learned(kind, training):
    bottleneck = made(kind).train(training)
    raw = noise(bottleneck, seed=3).requires_grad_()
    loss = bottleneck(raw).loss
    learned = dict(bottleneck.named_parameters())
    assert (LEARNED[kind] in learned) if kind in LEARNED else not learned
    if kind == "fsq":
        assert loss == 0.0
        return
    loss.backward()
    assert raw.grad.abs().max() > 0.0
    assert all(parameter.grad.abs().max() > 0.0 for parameter in learned.values())


@pytest.mark.parametrize("kind", LEARNED)
def test_the_two_losses_move_their_own_side(kind):
    for weights, moved in (((1.0, 0.0), (False, True)), ((0.0, 0.25), (True, False))):
        bottleneck = made(kind, codebook_weight=weights[0], commitment_weight=weights[1])
        points = between(bottleneck).requires_grad_()
        bottleneck.snap(points).loss.backward()
        sides = (points, bottleneck.get_parameter(LEARNED[kind]))
        assert tuple(t.grad is not None and bool(t.grad.abs().max() > 0) for t in sides) == moved


@pytest.mark.parametrize("kind", LEARNED)
def test_commitment_can_grow_in(kind):
    bottleneck = made(kind)
    none, half, whole = (bottleneck.snap(between(bottleneck), commitment=share) for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none.loss.detach(), none.parts["codebook"])
    torch.testing.assert_close((whole.loss - none.loss).detach(), 0.25 * whole.parts["commitment"])
    torch.testing.assert_close(half.loss - none.loss, whole.loss - half.loss)


@pytest.mark.parametrize("sparing", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_keeps_everything(kind, sparing, tmp_path):
    bottleneck = made(kind, **SIZES)
    bottleneck.save_pretrained(tmp_path)
    loaded, loading = Bottleneck.from_pretrained(
        tmp_path, use_safetensors=True, low_cpu_mem_usage=sparing, output_loading_info=True
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert {key: loaded.config[key] for key in SIZES} == SIZES and loaded.config.kind == kind
    raw = noise(bottleneck, seed=3)
    here, there = bottleneck(raw), loaded(raw)
    torch.testing.assert_close(here.latents, there.latents)
    torch.testing.assert_close(here.loss, there.loss)
    if bottleneck.codes:
        assert torch.equal(here.indices, there.indices)
        torch.testing.assert_close(bottleneck.code_logits(here.latents), loaded.code_logits(here.latents))


@pytest.mark.parametrize("kind", QUANTISED)
def test_equal_inputs_have_equal_codes_and_indices_are_in_range(kind):
    bottleneck = made(kind, tokens=3).train()
    raw = noise(bottleneck, seed=3)
    out = bottleneck(torch.cat([raw, raw.flip(1)]))
    assert out.indices.shape == (8, 50, 3) and out.indices.dtype == torch.int64
    assert torch.equal(out.indices[:4], out.indices[4:].flip(1))
    assert out.indices.min() >= 0 and (out.indices.amax(dim=(0, 1)) < torch.tensor(bottleneck.code_sizes)).all()


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_scale_of_the_raw_tokens_does_not_matter(kind):
    bottleneck = made(kind)
    raw = noise(bottleneck, seed=3)
    bottleneck.recalibrate(raw)
    before = bottleneck(raw).indices
    bottleneck.recalibrate(3.0 * raw + 2.0)
    assert (bottleneck(3.0 * raw + 2.0).indices == before).float().mean() > 0.995  # rounding
    assert (bottleneck(raw).indices == before).float().mean() < 0.9


def clusters() -> torch.Tensor:
    """24 kinds of motion, three for each entry, that lie close together far from zero, ``(32, 24, 10)``."""
    return 3.0 + 0.1 * (torch.randn(24, 10) + 0.05 * torch.randn(32, 24, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_an_auto_encoder_learns_through_it(kind):
    """50 steps from scratch on nearly equal inputs: more than a few codes live, and they say which input it was."""
    torch.manual_seed(0)
    bottleneck = Bottleneck(kind=kind, entries=8, width=8).train()
    data, generator = clusters(), torch.Generator().manual_seed(0)
    encoder = nn.Linear(10, bottleneck.input_dim)
    decoder = nn.Sequential(nn.Linear(bottleneck.dim, 64), nn.GELU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam([*bottleneck.parameters(), *encoder.parameters(), *decoder.parameters()], lr=0.03)
    target = (data - data.mean(dim=(0, 1))) / data.std()
    if kind == "continuous":  # it does not standardise what it is given
        data = target
    for _ in range(50):
        optimiser.zero_grad()
        out = bottleneck(encoder(data), generator)
        (F.mse_loss(decoder(out.latents), target) + out.loss).backward()
        optimiser.step()
    with torch.no_grad():
        out = bottleneck(encoder(data))
        left = F.mse_loss(decoder(out.latents), target) / target.square().mean()
    assert left < 0.4
    if bottleneck.codes:
        assert all(len(token.unique()) >= 5 for token in out.indices.flatten(0, 1).T)


def test_sizes_mean_the_same_number_of_actions():
    dims = {kind: Bottleneck(kind=kind).dim for kind in KINDS}
    assert dims == {"vq": 64, "simvq": 64, "residual_vq": 64, "continuous": 64, "fsq": 4}
    assert {Bottleneck(kind=kind).code_sizes for kind in QUANTISED} == {(32, 32)}
    assert all(Bottleneck(kind=kind).input_dim == dims[kind] for kind in QUANTISED)


def test_a_continuous_one_has_no_codes():
    bottleneck = Bottleneck(kind="continuous")
    assert (bottleneck.codes, bottleneck.code_sizes) == (False, ())
    for call in (bottleneck.code_logits, bottleneck.from_indices):
        with pytest.raises(ValueError, match="continuous bottleneck has no codes"):
            call(torch.zeros(1, 1, 2, dtype=torch.int64))


@pytest.mark.parametrize("kind", QUANTISED)
def test_what_is_no_code_is_named(kind):
    bottleneck = made(kind)
    with pytest.raises(ValueError, match="2 indices of 0..7 a step, got 3 of 0..0"):
        bottleneck.from_indices(torch.zeros(1, 1, 3, dtype=torch.int64))
    for wrong in (-1, 8):
        with pytest.raises(ValueError, match=f"2 indices of 0..7 a step, got 2 of {wrong}..{wrong}"):
            bottleneck.from_indices(torch.full((1, 1, 2), wrong))
    with pytest.raises(ValueError, match=f"takes {bottleneck.dim} numbers a step, got 3"):
        bottleneck(torch.zeros(1, 1, 3))


def test_sizes_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="'vq', 'continuous', 'fsq', 'simvq', 'residual_vq', got 'spam'"):
        Bottleneck(kind="spam")
    with pytest.raises(ValueError, match="fsq has levels for 4, 8, 16, .*1024 entries, got 33"):
        Bottleneck(kind="fsq", entries=33)
    for kind in KINDS:
        with pytest.raises(ValueError, match="entries >= 2, got 2, 32, 1"):
            Bottleneck(kind=kind, entries=1)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_has_trained_can_be_moved_and_copied(kind):
    trained = made(kind).train()
    trained(noise(trained))
    assert not any(buffer.requires_grad for buffer in trained.buffers())
    deepcopy(nn.Module.to(trained, torch.bfloat16))


def far_from_tokens(kind: str, **sizes) -> Bottleneck:
    """In training, with all entries of the last token's codebook but one where no token is."""
    bottleneck = made(kind, **sizes).train()
    with torch.no_grad():
        bottleneck.get_parameter(LEARNED[kind])[:, 1:] += 50.0
    return bottleneck


@pytest.mark.parametrize("kind", REPLACED)
def test_unused_entries_start_anew_where_tokens_are(kind):
    torch.manual_seed(0)
    used = {}
    for replace_unused in (0.0, 0.2):
        bottleneck = far_from_tokens(kind, replace_unused=replace_unused)
        for seed in range(400):  # until what was counted before has worn off
            bottleneck(noise(bottleneck, steps=4, seed=seed))
        used[replace_unused] = len(bottleneck(noise(bottleneck)).indices[..., -1].unique())
    assert used == {0.0: 1, 0.2: 8}


@pytest.mark.parametrize("kind", REPLACED)
def test_entries_start_anew_in_training_alone_and_by_what_inverse_dynamics_says(kind):
    bottleneck = far_from_tokens(kind, replace_unused=0.2)
    before = deepcopy(bottleneck.state_dict())
    bottleneck.snap(between(bottleneck))  # an adapter's answers count for nothing
    bottleneck.eval()
    bottleneck(noise(bottleneck))
    assert all(torch.equal(value, before[name]) for name, value in bottleneck.state_dict().items())
    bottleneck.train()(noise(bottleneck))
    counts = f"{LEARNED[kind].removesuffix('embed')}cluster_size"
    assert not torch.equal(bottleneck.get_buffer(counts), before[counts])


@pytest.mark.parametrize("refused", [{"kind": "fsq", "replace_unused": 0.2}, {"replace_unused": -0.1}])
def test_entries_are_replaced_where_there_are_some(refused):
    with pytest.raises(ValueError, match="replace_unused must be 0, or above for 'vq' and 'residual_vq'"):
        Bottleneck(**refused)
