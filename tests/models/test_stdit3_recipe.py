"""The whole recipe over OpenSora's parts: frames to picture latents and codes, four codes to a latent, one loss."""

from dataclasses import replace

import torch

from colaworld.models.bottleneck import Bottleneck
from colaworld.models.cola import ColaModel
from colaworld.models.flow import FlowConfig
from colaworld.models.frame_groups import GroupedConditioner
from colaworld.models.inverse_dynamics import InverseDynamics
from colaworld.models.opensora_vae import OpenSoraVAE
from colaworld.models.stdit3 import STDiT3

LATENT = {"latent_channels": 4, "latent_height": 4, "latent_width": 4}


def test_one_loss_reaches_inverse_dynamics_through_four_codes_to_a_latent():
    torch.manual_seed(0)
    vae = OpenSoraVAE(
        height=32, width=32, picture_widths=(8, 8, 8, 8), picture_layers=1, temporal_widths=(8, 8, 8, 8),
        temporal_blocks=1, groups=4,
    ).eval()  # fmt: skip
    lam = InverseDynamics(output_dim=16, **LATENT, width=16, depth=1, heads=2)
    conditioner = GroupedConditioner(latent_action_dim=16, width=16, depth=1, heads=2, video_width=16)
    torch.nn.init.normal_(conditioner.single.out[-1].weight, std=0.2)
    flow = FlowConfig(source="noise", mean_fraction=0.0)
    bottleneck = Bottleneck(tokens=2, width=8, entries=4)
    model = ColaModel(STDiT3(**LATENT, width=16, depth=1, heads=2), conditioner, lam, bottleneck, flow)
    torch.nn.init.normal_(model.video.final_layer.linear.weight, std=0.2)
    frames = torch.randint(0, 256, (2, 17, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        pictures = vae.encode(frames)
        latents = vae.compress(pictures)
    codes = model.latent_actions(pictures, torch.Generator().manual_seed(0))
    grouped = replace(codes, latents=vae.frame_groups.group(codes.latents))
    assert pictures.shape[1] == 17 and latents.shape[1] == 5
    assert codes.latents.shape == (2, 16, 16) and grouped.latents.shape == (2, 4, 64)
    loss, parts = model.world_loss(latents, grouped, torch.Generator().manual_seed(0), imagined=True)
    loss.backward()
    assert parts["flow"] > 0.0
    assert sum(parameter.grad.abs().sum() for parameter in lam.parameters() if parameter.grad is not None) > 0.0
    assert all(parameter.grad is not None for parameter in model.video.parameters() if parameter.requires_grad)
