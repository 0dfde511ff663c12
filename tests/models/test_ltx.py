"""LTX-Video: diffusers' own network where nothing is hidden, its names, its sizes."""

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel

from colaworld.models.ltx import LTXBackbone

SIZES = {"latent_channels": 4, "latent_height": 2, "latent_width": 3, "patch": 1, "width": 20, "depth": 2, "heads": 2}


def theirs_and_ours() -> tuple[LTXVideoTransformer3DModel, LTXBackbone]:
    """The same weights; theirs with a cross-attention that adds nothing."""
    torch.manual_seed(0)
    theirs = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, cross_attention_dim=20,
        num_layers=2, caption_channels=8,
    ).eval()  # fmt: skip
    for block in theirs.transformer_blocks:
        torch.nn.init.zeros_(block.attn2.to_out[0].weight)
        torch.nn.init.zeros_(block.attn2.to_out[0].bias)
    ours = LTXBackbone(**SIZES).eval()
    found = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert found.missing_keys == []
    assert all("attn2" in name or name.startswith("caption_projection") for name in found.unexpected_keys)
    return theirs, ours


@torch.no_grad()
def test_with_one_time_for_all_frames_and_no_mask_it_is_diffusers_network():
    theirs, ours = theirs_and_ours()
    latents, time = torch.randn(2, 3, 4, 2, 3), torch.tensor([0.25, 0.75])
    velocity, _ = ours(latents, time[:, None].expand(-1, 3), torch.arange(3))
    expected = theirs(
        latents.permute(0, 1, 3, 4, 2).flatten(1, 3),
        torch.zeros(2, 1, 8),
        1000.0 * (1.0 - time),
        torch.ones(2, 1),
        num_frames=3,
        height=2,
        width=3,
        rope_interpolation_scale=(8 / 25, 32, 32),
        return_dict=False,
    )[0]
    expected = -expected.reshape(2, 3, 2, 3, 4).permute(0, 1, 4, 2, 3)  # theirs is noise - data
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)


def test_the_published_size():
    with torch.device("meta"):
        video = LTXBackbone()
    count = sum(parameter.numel() for parameter in video.parameters())
    assert video.latent_shape == (128, 8, 8) and 1.3e9 < count < 1.5e9  # 1.9 B with text


@pytest.mark.parametrize(
    ("sizes", "words"), [({"heads": 3}, "20 does not make 3 heads"), ({"mlp_ratio": 2.0}, "fixed at 4 .*got 2.0")]
)
def test_sizes_that_it_cannot_have_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        LTXBackbone(**(SIZES | sizes))
