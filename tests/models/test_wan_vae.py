"""Wan's VAE: diffusers' own weights and figures, 17 frames to 5 latents and back, causal, one latent a frame."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from colaworld.models.wan_vae import WanVAE

SIZES = {
    "base_dim": 4,
    "z_dim": 4,
    "num_res_blocks": 1,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [2.0, 1.5, 3.0, 0.5],
}
NARROW = {"height": 16, "width": 16, "sizes": SIZES}


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(**NARROW).eval()


def clip(frames: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_it_is_the_published_one():
    with torch.device("meta"):
        vae, theirs = WanVAE(), AutoencoderKLWan()
    assert vae.latent_shape == (16, 32, 32)
    assert [*vae.module.state_dict()] == [*theirs.state_dict()]
    assert round(sum(parameter.numel() for parameter in vae.parameters()) / 1e6) == 127


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (17, 5)])
@torch.no_grad()
def test_a_fourth_as_many_latents_and_as_many_frames_back(vae, frames, latents):
    found = vae.encode(clip(frames, 2))
    assert found.shape == (2, latents, 4, 2, 2) and vae.latent_shape == (4, 2, 2)
    assert vae.frame_groups.latents(frames) == latents
    decoded = vae.decode(found, frames)
    assert decoded.shape == (2, frames, 3, 16, 16) and decoded.abs().max() <= 1.0


@torch.no_grad()
def test_latents_are_diffusers_standardised(vae):
    frames = clip(5)
    mean, std = (torch.tensor(SIZES[name]).view(1, 4, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    pixels = (frames / 127.5 - 1.0).transpose(1, 2)
    raw = vae.module.encode(pixels).latent_dist.mean
    latents = vae.encode(frames)
    torch.testing.assert_close(latents, ((raw - mean) / std).transpose(1, 2))
    torch.testing.assert_close(vae.decode(latents), vae.module.decode(raw).sample.transpose(1, 2))


@torch.no_grad()
def test_later_frames_change_no_earlier_latent(vae):
    frames = clip(9).float() / 127.5 - 1.0
    later = frames.clone()
    later[:, 5] = -later[:, 5]
    change = (vae.encode(frames) - vae.encode(later)).abs().amax(dim=(0, 2, 3, 4))
    assert change[:2].max() == 0.0 and change[2] > 1e-4
    latents = vae.encode(frames)
    torch.testing.assert_close(vae.decode(latents[:, :2]), vae.decode(latents)[:, :5])


@torch.no_grad()
def test_frames_alone_are_clips_of_one_frame(vae):
    frames = clip(3, 2)
    pictures = WanVAE(**NARROW, chunk=1).eval()
    pictures.load_state_dict(vae.state_dict())
    assert pictures.frame_groups.latents(3) == 3
    alone = pictures.encode(frames)
    assert alone.shape == (2, 3, 4, 2, 2)
    torch.testing.assert_close(alone[:, 1:2], vae.encode(frames[:, 1:2]))
    torch.testing.assert_close(pictures.encode(frames[1, 2]), alone[1, 2])
    decoded = pictures.decode(alone)
    assert decoded.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(pictures.decode(alone[1, 2]), decoded[1, 2])


@torch.no_grad()
def test_chunks_are_encoded_and_decoded_alone(vae):
    chunked, frames = WanVAE(**NARROW, chunk=5).eval(), clip(10)
    chunked.load_state_dict(vae.state_dict())
    latents = chunked.encode(frames)
    assert latents.shape[1] == chunked.frame_groups.latents(10) == 4
    torch.testing.assert_close(latents[:, 2:], vae.encode(frames[:, 5:]))
    torch.testing.assert_close(chunked.decode(latents)[:, 5:], vae.decode(latents[:, 2:]))


@torch.no_grad()
def test_how_many_go_through_at_once_changes_nothing_and_a_sample_is_the_generators(vae):
    frames, one = clip(5, 3), WanVAE(**NARROW, batch=1).eval()
    one.load_state_dict(vae.state_dict())
    torch.testing.assert_close(one.encode(frames), vae.encode(frames))
    torch.testing.assert_close(one.decode(one.encode(frames)), vae.decode(vae.encode(frames)))
    drawn = [vae.encode(frames, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert (drawn[0] - drawn[2]).abs().max() > 1e-3 and (drawn[0] - vae.encode(frames)).abs().max() > 1e-3


def test_both_halves_learn_a_clip_back():
    torch.manual_seed(0)
    vae, frames = WanVAE(**NARROW), clip(5).float() / 127.5 - 1.0
    optimiser, errors = torch.optim.Adam(vae.parameters(), lr=3e-3), []
    for _ in range(8):
        error = (vae.decode(vae.encode(frames)) - frames).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.95 * errors[0]
    assert vae.module.encoder.conv_in.weight.grad.abs().max() > 0.0


@torch.no_grad()
def test_diffusers_folder_and_our_own_are_read(tmp_path):
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(**SIZES).eval()
    theirs.save_pretrained(tmp_path / "pipeline" / "vae")
    vae = WanVAE.from_pretrained(tmp_path / "pipeline", subfolder="vae", height=16, width=16)
    assert not vae.training and vae.latent_shape == (4, 2, 2)
    torch.testing.assert_close(dict(vae.module.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    latents = vae.encode(clip(5))
    assert latents.shape == (1, 2, 4, 2, 2)
    vae.save_pretrained(tmp_path / "ours")
    again, info = WanVAE.from_pretrained(
        tmp_path / "ours", torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
    )
    assert info["missing_keys"] == info["unexpected_keys"] == []
    torch.testing.assert_close(again.encode(clip(5)), latents)
    file = tmp_path / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["quant_conv.bias"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match="1 names are missing, the first is quant_conv.bias"):
        WanVAE.from_pretrained(tmp_path / "pipeline" / "vae", height=16, width=16)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"height": 20}, "20x16 do not divide by 8"),
        ({"chunk": 16}, "chunk must be 4 n . 1 .*got 16"),
        ({"sizes": SIZES | {"temperal_downsample": [False, False, True]}}, "temperal_downsample .*False, False, True"),
        ({"sizes": SIZES | {"latents_std": [1.0]}}, "latents_std must have z_dim=4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        WanVAE(**(NARROW | sizes))


def test_clips_that_do_not_fit_are_refused(vae):
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*\(3, 16, 16\)"):
        vae.encode(torch.zeros(1, 5, 3, 8, 8))
    with pytest.raises(ValueError, match="4 n . 1 frames, got 16"):
        vae.encode(clip(16))
    with pytest.raises(ValueError, match="2 latents are 5 frames, got frames=4"):
        vae.decode(torch.zeros(1, 2, 4, 2, 2), 4)
