"""Laws of the frame codec."""

import pytest
import torch

from colaworld.models.codec import FrameCodec, to_signed


@pytest.fixture
def codec() -> FrameCodec:
    torch.manual_seed(0)
    return FrameCodec(height=16, width=16, channels=(8, 8), latent_channels=4).eval()


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_shapes_follow_leading_dimensions(codec):
    latents = codec.encode(frames(2, 3))
    assert latents.shape == (2, 3, *codec.latent_shape) == (2, 3, 4, 2, 2)
    assert codec.decode(latents).shape == (2, 3, 3, 16, 16)


def test_frames_are_coded_one_by_one(codec):
    batch = frames(5)
    torch.testing.assert_close(codec.encode(batch)[3:4], codec.encode(batch[3:4]), rtol=1e-4, atol=1e-5)


def test_many_frames_are_coded_a_few_at_a_time(codec, monkeypatch):
    frames, latents = torch.randn(7, 3, codec.config.height, codec.config.width), torch.randn(7, *codec.latent_shape)
    together = codec.encode(frames), codec.decode(latents)
    counts = []
    whole = codec.autoencoder.decode
    monkeypatch.setattr(codec.autoencoder, "decode", lambda part: counts.append(len(part)) or whole(part))
    monkeypatch.setattr("colaworld.models.codec.PIXELS_AT_ONCE", 3 * codec.config.height * codec.config.width)
    torch.testing.assert_close((codec.encode(frames), codec.decode(latents)), together)
    assert counts == [3, 3, 1]


def test_standardised_latents_have_unit_scale_and_decode_to_the_same_picture(codec):
    batch = frames(64)
    before = codec.decode(codec.encode(batch))
    codec.standardise(batch)
    latents = codec.encode(batch)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(codec.decode(latents), before, rtol=1e-3, atol=1e-4)


def test_uint8_covers_minus_one_to_one():
    assert to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_what_moves_weighs_more():
    torch.manual_seed(0)
    still = frames(1, 1).expand(1, 4, -1, -1, -1).contiguous()
    moving = still.clone()
    moving[:, 2, :, 4:8, 4:8] = 255 - moving[:, 2, :, 4:8, 4:8]
    plain, weighted = (
        FrameCodec(height=16, width=16, channels=(8, 8), latent_channels=4, motion_weight=weight)
        for weight in (0.0, 8.0)
    )
    weighted.load_state_dict(plain.state_dict())
    for clip, louder in ((still, False), (moving, True)):
        losses = [model(clip, torch.Generator().manual_seed(0))[0] for model in (plain, weighted)]
        assert (losses[1] > losses[0]) == louder


def test_learns_one_batch(codec):
    codec.train()
    batch = frames(2, 2)
    optimizer = torch.optim.AdamW(codec.parameters(), 1e-2)
    losses = []
    for step in range(60):
        loss, _ = codec(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_frame_of_another_size_is_named(codec):
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*\(3, 16, 16\)"):
        codec.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="20x20"):
        FrameCodec(height=20, width=20)
