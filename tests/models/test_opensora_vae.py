"""OpenSora's VAE: published names and count, 17 frames to 5 latents and back, chunk by chunk."""

import json

import pytest
import torch
from safetensors.torch import save_file

from colaworld.models.opensora_vae import PICTURE_SCALE, SCALE, SHIFT, OpenSoraVAE
from colaworld.models.opensora_weights import WEIGHTS

NARROW = {
    "height": 16,
    "width": 16,
    "picture_widths": (8, 8, 8, 8),
    "picture_layers": 1,
    "temporal_widths": (8, 8, 8, 16),
    "temporal_blocks": 1,
    "groups": 4,
}


@pytest.fixture(scope="module")
def vae() -> OpenSoraVAE:
    torch.manual_seed(0)
    return OpenSoraVAE(**NARROW).eval()


def encoded(vae: OpenSoraVAE, frames: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    return vae.compress(vae.encode(frames), generator)


def decoded(vae: OpenSoraVAE, latents: torch.Tensor, frames: int | None = None) -> torch.Tensor:
    return vae.decode(vae.expand(latents, frames))


def clip(frames: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, frames, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_names_and_count_are_the_published_ones():
    with torch.device("meta"):
        vae = OpenSoraVAE()
    tensors = vae.state_dict()
    # The published file has 1.57 GB in float32, of which SDXL's VAE is 83.65 M numbers.
    assert round(sum(tensor.numel() for tensor in tensors.values()) * 4 / 1e9, 2) == 1.57
    assert sum(tensor.numel() for tensor in vae.spatial_vae.state_dict().values()) == 83_653_863
    expected = {
        "scale": (1, 4, 1, 1, 1),
        "shift": (1, 4, 1, 1, 1),
        "spatial_vae.module.encoder.conv_in.weight": (128, 3, 3, 3),
        "spatial_vae.module.encoder.mid_block.attentions.0.to_out.0.weight": (512, 512),
        "spatial_vae.module.post_quant_conv.weight": (4, 4, 1, 1),
        "temporal_vae.encoder.conv_in.conv.weight": (128, 4, 3, 3, 3),
        "temporal_vae.encoder.block_res_blocks.1.0.conv3.conv.weight": (256, 128, 1, 1, 1),
        "temporal_vae.encoder.conv_blocks.1.conv.weight": (256, 256, 3, 3, 3),
        "temporal_vae.encoder.conv_blocks.2.conv.bias": (256,),
        "temporal_vae.encoder.res_blocks.3.norm2.weight": (512,),
        "temporal_vae.encoder.norm1.bias": (512,),
        "temporal_vae.encoder.conv2.conv.weight": (8, 512, 1, 1, 1),
        "temporal_vae.quant_conv.conv.weight": (8, 8, 1, 1, 1),
        "temporal_vae.post_quant_conv.conv.weight": (4, 4, 1, 1, 1),
        "temporal_vae.decoder.conv1.conv.weight": (512, 4, 3, 3, 3),
        "temporal_vae.decoder.block_res_blocks.2.0.conv3.conv.weight": (256, 512, 1, 1, 1),
        "temporal_vae.decoder.block_res_blocks.0.0.conv3.conv.weight": (128, 256, 1, 1, 1),
        "temporal_vae.decoder.conv_blocks.1.conv.weight": (512, 256, 3, 3, 3),
        "temporal_vae.decoder.conv_blocks.2.conv.weight": (1024, 512, 3, 3, 3),
        "temporal_vae.decoder.norm1.weight": (128,),
        "temporal_vae.decoder.conv_out.conv.weight": (4, 128, 3, 3, 3),
    }
    assert {name: tuple(tensors[name].shape) for name in expected} == expected
    assert not any("conv_blocks.0" in name or "conv1.conv.bias" in name for name in tensors if "encoder" in name)
    assert vae.latent_shape == (4, 32, 32)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (16, 4), (17, 5), (22, 7), (34, 10)])
def test_a_fourth_as_many_latents_and_as_many_frames_back(vae, frames, latents):
    found = encoded(vae, clip(frames, 2))
    assert found.shape == (2, latents, 4, 2, 2) and vae.latent_shape == (4, 2, 2)
    shown = decoded(vae, found, frames)
    assert shown.shape == (2, frames, 3, 16, 16) and shown.abs().max() <= 1.0


def test_chunks_are_encoded_and_decoded_alone(vae):
    frames = clip(34)
    latents = encoded(vae, frames)
    torch.testing.assert_close(latents[:, 5:], encoded(vae, frames[:, 17:]))
    torch.testing.assert_close(decoded(vae, latents)[:, 17:], decoded(vae, latents[:, 5:]))


def test_latents_are_padded_in_front_convolved_causally_and_standardised(vae):
    frames = clip(5)
    pictures = vae.encode(frames)
    raw = vae.spatial_vae.module.encode(frames[0] / 127.5 - 1.0).latent_dist.mean
    torch.testing.assert_close(pictures[0], raw * PICTURE_SCALE)
    padded = torch.cat([torch.zeros(1, 3, 4, 2, 2), pictures], dim=1).transpose(1, 2)
    moments = vae.temporal_vae.quant_conv(vae.temporal_vae.encoder(padded))
    expected = (moments[:, :4] - torch.tensor(SHIFT).view(1, 4, 1, 1, 1)) / torch.tensor(SCALE).view(1, 4, 1, 1, 1)
    torch.testing.assert_close(encoded(vae, frames), expected.transpose(1, 2))


def test_convolutions_see_the_past_alone(vae):
    layer = vae.temporal_vae.encoder.conv_in
    pictures = torch.randn(1, 4, 6, 2, 2)
    later = pictures.clone()
    later[:, :, 4] += 1.0
    change = (layer(pictures) - layer(later)).abs().amax(dim=(0, 1, 3, 4))
    assert change[:4].max() == 0.0 and change[4:].min() > 1e-3


def test_with_chunks_of_one_every_frame_is_a_picture_as_of_a_frame_codec(vae):
    pictures = OpenSoraVAE(**NARROW, chunk=1).eval()
    pictures.load_state_dict(vae.state_dict())
    frames = clip(3, 2)
    latents = pictures.encode(frames)
    assert latents.shape == (2, 3, 4, 2, 2)
    torch.testing.assert_close(latents[:, 1:2], encoded(vae, frames[:, 1:2]))
    torch.testing.assert_close(pictures.encode(frames[1]), latents[1])
    torch.testing.assert_close(pictures.encode(frames[1, 2]), latents[1, 2])
    shown = pictures.decode(latents)
    assert shown.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(shown[:, 1:2], decoded(vae, latents[:, 1:2], 1))
    torch.testing.assert_close(pictures.decode(latents[1]), shown[1])
    torch.testing.assert_close(pictures.decode(latents[1, 2]), shown[1, 2])


def test_a_sample_is_drawn_from_the_generator_alone(vae):
    frames = clip(5)
    drawn = [encoded(vae, frames, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert (drawn[0] - drawn[2]).abs().max() > 1e-3 and (drawn[0] - encoded(vae, frames)).abs().max() > 1e-3


def test_both_halves_learn_a_clip_back():
    torch.manual_seed(0)
    vae, frames = OpenSoraVAE(**NARROW), clip(5).float() / 127.5 - 1.0
    optimiser, errors = torch.optim.Adam(vae.parameters(), lr=3e-3), []
    for _ in range(10):
        error = (decoded(vae, encoded(vae, frames)) - frames).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.95 * errors[0]
    for part in (vae.spatial_vae.module.encoder.conv_in, vae.temporal_vae.encoder.conv_in.conv):
        assert part.weight.grad.abs().max() > 0.0


def test_published_weights_and_our_own_folder_are_read(vae, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "VideoAutoencoderPipeline"}))
    save_file(vae.state_dict(), tmp_path / WEIGHTS)
    expected = encoded(vae, clip(5))
    torch.testing.assert_close(encoded(OpenSoraVAE.from_pretrained(tmp_path, **NARROW), clip(5)), expected)
    vae.save_pretrained(tmp_path / "ours")
    torch.testing.assert_close(encoded(OpenSoraVAE.from_pretrained(tmp_path / "ours"), clip(5)), expected)
    tensors = vae.state_dict()
    del tensors["temporal_vae.encoder.norm1.bias"]
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="missing, the first is temporal_vae.encoder.norm1.bias"):
        OpenSoraVAE.from_pretrained(tmp_path, **NARROW)


def test_what_does_not_fit_is_refused(vae):
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*\(3, 16, 16\)"):
        encoded(vae, torch.zeros(1, 5, 3, 8, 8))
    with pytest.raises(ValueError, match="17 frames are 5 latents, got 2"):
        decoded(vae, torch.zeros(1, 2, 4, 2, 2), 17)
    with pytest.raises(ValueError, match="20x16 do not divide by 8"):
        OpenSoraVAE(**(NARROW | {"height": 20}))
    with pytest.raises(ValueError, match="4 levels have 3 steps between, got 2"):
        OpenSoraVAE(**(NARROW | {"compress": (True, True)}))
