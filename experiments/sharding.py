"""FSDP: every process holds its share of weights, gradients, moments and averages (``--loop.parallel fsdp``).

PyTorch's ``fully_shard`` through accelerate. The blocks of video model, inverse and forward dynamics, which their
classes name in ``_no_split_modules``, are gathered one by one as they are computed; everything else once a step. What
is gathered and summed up is float32, so that a step computes what DDP's does; matrix products are in
``--loop.mixed-precision`` as there.
"""

import os
import warnings

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy

from colaworld.experiments.batch_parts import Part
from colaworld.experiments.loop_config import LoopConfig
from colaworld.experiments.stages import StageModel


def sharding_plugin(loop: LoopConfig) -> FullyShardedDataParallelPlugin | None:
    """accelerate's, or None where nothing is sharded. ValueError when the processes were not started for it."""
    if loop.parallel != "fsdp":
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise ValueError(f"accelerate launch --use_fsdp needs --loop.parallel fsdp, got {loop.parallel}")
        return None
    if "LOCAL_RANK" not in os.environ:
        raise ValueError(
            "--loop.parallel fsdp needs processes that share weights: start it by accelerate launch or torchrun"
        )
    if loop.mixed_precision == "fp16":
        raise ValueError("--loop.mixed-precision fp16 is not made for --loop.parallel fsdp; bf16 is")
    # Keys and values are views, which nothing writes to in training.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        mixed_precision_policy=MixedPrecisionPolicy(),
        state_dict_type="SHARDED_STATE_DICT",
        cpu_offload=False,
        cpu_ram_efficient_loading=False,
        activation_checkpointing=False,
    )


def shard_on_cpu(accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """accelerate takes its plugin on accelerators alone, though PyTorch shards on CPUs too."""
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = plugin
        for state in (PartialState(), accelerator.state):  # the one's every look at the other copies it
            state.distributed_type = DistributedType.FSDP


@torch.no_grad()
def fill_codebook(model: StageModel, part: Part) -> None:
    """A codebook that is still empty is filled from the first step's first clips, as that step would do: k-means writes
    it while the loss is computed, when of a sharded one there is only a gathered copy. To be called before weights are
    sharded, with the random generator as that step would find it.
    """
    bottleneck = model.cola.bottleneck
    if not bottleneck.empty:
        return
    statistics = {name: value.clone() for name, value in bottleneck.norm.named_buffers()}
    model.train()
    model(part.batch, 0, part.chance)
    for name, value in bottleneck.norm.named_buffers():
        value.copy_(statistics[name])
