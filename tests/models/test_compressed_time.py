"""Clips counted in frames around a world model that counts in latents."""

import pytest
import torch
from torch import Tensor

from colaworld.models.clip_imagination import ClipImagination, over_frames
from colaworld.models.codec import FrameCodec
from colaworld.models.compressed_time import CompressedTime, compressed_time
from colaworld.models.flow import FlowConfig
from colaworld.models.frame_groups import FrameGroups, GroupedConditioner
from colaworld.models.imagination import Imagination, given
from colaworld.models.opensora_vae import OpenSoraVAE
from colaworld.models.stdit3 import STDiT3
from colaworld.models.wan_clips import WanClips
from colaworld.models.wan_vae import WanVAE


class Sums:
    """A latent is the sum of its frames, each of them an equal part of it; normalised over the clip, as OpenSora's."""

    frame_groups, causal = FrameGroups(size=4, chunk=17), False

    def compress(self, pictures: Tensor) -> Tensor:
        lengths = self.frame_groups.lengths(pictures.shape[1])
        return torch.stack([part.sum(dim=1) for part in pictures.split(lengths, dim=1)], dim=1)

    def expand(self, latents: Tensor, frames: int | None = None) -> Tensor:
        lengths = self.frame_groups.lengths(frames)
        parts = [latents[:, k : k + 1] / length for k, length in enumerate(lengths) for _ in range(length)]
        return torch.cat(parts, dim=1) + latents.mean(dim=1, keepdim=True)


def pictures(frames: int) -> Tensor:
    return torch.randn(2, frames, 1, 1, 1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("frames", "used"), [(2, 2), (5, 2), (6, 6), (12, 10), (14, 14), (17, 14), (30, 14)])
def test_whole_latents_after_the_two_frames_that_a_plan_starts_from(frames, used):
    time, clip = CompressedTime(Sums(), 2), pictures(frames)
    latents = time.compress(clip)
    assert time.used(frames) == used and latents.shape[1] == 1 + (used - 2) // 4
    torch.testing.assert_close(latents[:, 0], clip[:, :2].sum(1))
    for k in range(1, latents.shape[1]):
        torch.testing.assert_close(latents[:, k], clip[:, 4 * k - 2 : 4 * k + 2].sum(1))


def test_actions_enter_the_latent_of_the_frame_they_lead_to():
    time = CompressedTime(Sums(), 2)
    actions = torch.arange(1.0, 12.0).reshape(1, -1, 1)  # action s leads to frame s
    assert time.group(actions)[0].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]]
    assert time.group(actions[:, :1]).shape == (1, 0, 4)
    assert time.group_ahead(actions[:, :6])[0].tolist() == [[1, 2, 3, 4], [5, 6, 6, 6]]
    marked = torch.zeros(1, 11, dtype=torch.bool)
    marked[0, 5] = True  # of action 6
    assert time.group_any(marked)[0].tolist() == [False, True]


def test_frames_of_a_latent_show_nothing_of_later_ones():
    time, latents = CompressedTime(Sums(), 2), torch.randn(1, 4, 1, 1, 1)
    whole = time.expand_ahead(latents, 11)
    assert whole.shape[1] == 11
    torch.testing.assert_close(time.expand_ahead(latents[:, :2], 4), whole[:, :4], rtol=0, atol=0)
    torch.testing.assert_close(time.expand_ahead(latents[:, :3], 7), whole[:, :7], rtol=0, atol=0)


def test_only_codecs_of_clips_compress_time():
    narrow = {"height": 16, "width": 16, "picture_widths": (8, 8, 8, 8), "temporal_widths": (8, 8, 8, 8), "groups": 4}
    assert compressed_time(FrameCodec(height=16, width=16, channels=(8, 8)), 2) is None
    assert compressed_time(OpenSoraVAE(**narrow, chunk=1), 2) is None
    assert compressed_time(OpenSoraVAE(**narrow), 2).size == 4
    wan = {"height": 16, "width": 16, "sizes": {"base_dim": 4, "num_res_blocks": 1}}
    assert compressed_time(WanVAE(**wan, chunk=1), 2) is None
    assert compressed_time(WanClips(**wan), 2).size == 4
    with pytest.raises(ValueError, match="WanVAE encodes clips whole.*chunk must be 1 .*got None"):
        compressed_time(WanVAE(**wan), 2)
    with pytest.raises(ValueError, match="a clip of 1 frames is shorter than the 2"):
        CompressedTime(Sums(), 2).used(1)


def test_imagined_frames_are_those_of_the_latents_inside():
    torch.manual_seed(0)
    codec = OpenSoraVAE(
        height=16, width=16, picture_widths=(8, 8, 8, 8), temporal_widths=(8, 8, 8, 8), temporal_blocks=1, groups=4
    ).eval()
    video = STDiT3(latent_height=2, latent_width=2, width=16, depth=1, heads=2).eval()
    conditioner = GroupedConditioner(latent_action_dim=3, width=16, depth=1, heads=2, video_width=16).eval()
    for layer in (video.final_layer.linear, conditioner.single.out[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    inside = Imagination(video, conditioner, FlowConfig(source="noise", mean_fraction=0.0))
    imagination = over_frames(inside, codec)
    assert isinstance(imagination, ClipImagination)
    assert over_frames(inside, FrameCodec(height=16, width=16, channels=(8, 8))) is inside
    frames, actions = torch.randn(2, 2, 4, 2, 2), torch.randn(2, 8, 3)
    with torch.no_grad():
        state = imagination.start(frames, torch.zeros(2, 1, 3))
        noise = imagination.noise(state, 7, torch.Generator().manual_seed(0))
        assert noise.shape == (1, 2, 4, 2, 2)
        found = imagination.roll_out(state, given(actions), 7, noise=noise)
        filled = torch.cat([actions[:, :7], actions[:, 6:7]], dim=1).reshape(2, 2, 12)
        latents = inside.roll_out(state, given(filled), 2, noise=noise)
        expected = codec.expand(torch.cat([codec.compress(frames), latents], dim=1), 10)
    assert found.shape == (2, 7, 4, 2, 2)
    torch.testing.assert_close(found[:, 4:], expected[:, 6:9])
    with pytest.raises(ValueError, match="starts from 2 frames, got 3"):
        imagination.start(torch.randn(1, 3, 4, 2, 2), torch.zeros(1, 2, 3))
