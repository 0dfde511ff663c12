"""One tiny whole system, with every zero-initialised part filled so that actions have an effect."""

import pytest
import torch

from colaworld.adapters.system import ColaSystem, SystemInfo
from colaworld.adapters.action_adapter import ActionAdapter
from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.codec import FrameCodec
from colaworld.models.inverse_dynamics import InverseDynamics
from colaworld.models.video_transformer import VideoTransformer

LATENT = {"latent_channels": 4, "latent_height": 2, "latent_width": 2}


@pytest.fixture
def system() -> ColaSystem:
    torch.manual_seed(0)
    made = ColaSystem(
        info=SystemInfo(
            preset="test", stage="adapter", height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite"
        ),
        codec=FrameCodec(height=16, width=16, channels=(8, 8), latent_channels=4),
        video=VideoTransformer(**LATENT, width=16, depth=1, heads=2, max_frames=12),
        conditioner=ActionConditioner(latent_action_dim=16, width=16, depth=1, heads=2, video_width=16),
        inverse_dynamics=InverseDynamics(output_dim=16, **LATENT, width=16, depth=1, heads=2),
        bottleneck=Bottleneck(entries=8, width=8),
        adapter=ActionAdapter(latent_action_dim=16, **LATENT, hidden=16),
    )
    with torch.no_grad():
        for part in (made.video, made.conditioner, made.adapter):
            for parameter in part.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    made.bottleneck(torch.randn(4, 40, 16))
    for part in made.parts().values():
        part.eval()
    return made
