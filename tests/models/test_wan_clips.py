"""Wan's VAE with four frames to a latent: what a frame is to the recipe, which latents Wan makes of it, and back."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from colaworld.models.compressed_time import CompressedTime
from colaworld.models.wan_clips import WanClips
from colaworld.models.wan_vae import WanVAE

SIZES = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}
NARROW = {"height": 16, "width": 24, "sizes": SIZES}


@pytest.fixture(scope="module")
def codec() -> WanClips:
    torch.manual_seed(0)
    return WanClips(**NARROW).eval()


def clip(frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, frames, 3, 16, 24), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def test_a_frame_is_its_pixels(codec):
    frames = clip(3)
    folded = codec.encode(frames)
    assert folded.shape == (2, 3, *codec.latent_shape) == (2, 3, 192, 2, 3) and codec.clip_shape == (4, 2, 3)
    torch.testing.assert_close(codec.decode(folded), frames / 127.5 - 1.0, rtol=0, atol=1e-6)
    torch.testing.assert_close(codec.encode(frames[0, 1]), folded[0, 1], rtol=0, atol=0)
    other = frames.clone()
    other[:, :, :, 3, 17] += 1  # pixel (3, 17) lies in the patch of row 0, column 2
    changed = (codec.encode(other) - folded).abs().amax(dim=(0, 1, 2)) > 0.0
    assert changed.tolist() == [[False, False, True], [False, False, False]]
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*\(3, 16, 24\)"):
        codec.encode(torch.zeros(1, 5, 3, 8, 8))


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (2, 2), (6, 3), (14, 5)])
@torch.no_grad()
def test_latents_are_wans_of_a_clip_that_stood_still_before(codec, frames, latents):
    pixels = clip(frames)
    found = codec.compress(codec.encode(pixels))
    assert found.shape == (2, latents, *codec.clip_shape)
    wan = WanVAE(**NARROW).eval()
    wan.load_state_dict(codec.state_dict())
    filled = torch.cat([pixels[:, :1]] * (0 if frames == 1 else 3) + [pixels], dim=1)
    torch.testing.assert_close(found, wan.encode(filled))
    pictures = codec.expand(found, frames)
    assert pictures.shape == (2, frames, *codec.latent_shape)
    torch.testing.assert_close(codec.decode(pictures), wan.decode(found)[:, -frames:])


@torch.no_grad()
def test_nothing_is_seen_of_later_frames_on_either_way(codec):
    time, frames = CompressedTime(codec, 2), codec.encode(clip(14))
    later = frames.clone()
    later[:, 6] = -later[:, 6]
    latents = time.compress(frames)
    change = (latents - time.compress(later)).abs().amax(dim=(0, 2, 3, 4))
    assert change[:3].max() == 0.0 and change[3] > 1e-4  # frame 6 is the first of latent 3
    whole = time.expand_ahead(latents, 11)
    assert whole.shape[1] == 11
    torch.testing.assert_close(whole, codec.expand(latents)[:, 2:13])
    torch.testing.assert_close(time.expand_ahead(latents[:, :3], 4), whole[:, :4])


def test_lengths_that_no_latents_make_up_are_refused(codec):
    with pytest.raises(ValueError, match="1 or 2 . 4 n frames, got 5"):
        codec.compress(torch.zeros(1, 5, *codec.latent_shape))
    with pytest.raises(ValueError, match="3 latents are 6 frames, got frames=5"):
        codec.expand(torch.zeros(1, 3, *codec.clip_shape), 5)
    with pytest.raises(ValueError, match="lead=2 and chunk=1"):
        WanClips(**NARROW, chunk=1)


@torch.no_grad()
def test_published_weights_are_read_and_come_back_as_this_codec(tmp_path):
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(**SIZES).eval()
    theirs.save_pretrained(tmp_path / "vae")
    codec = WanClips.from_pretrained(tmp_path / "vae", height=16, width=24)
    assert type(codec) is WanClips
    torch.testing.assert_close(dict(codec.module.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    codec.save_pretrained(tmp_path / "ours")
    again = WanClips.from_pretrained(tmp_path / "ours").eval()
    folded = codec.encode(clip(6))
    torch.testing.assert_close(again.compress(folded), codec.compress(folded))
