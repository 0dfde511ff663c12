"""Encode data once with a system's frozen codec, into shards that training reads in the place of pictures.

    python experiments/encode_latents.py --data my.hdf5 --out data/encoded          # codec of the weights that ship
    python experiments/encode_latents.py --init runs/init --data libero_goal/ --crops 8 --dtype bf16 --out data/encoded
    accelerate launch --num_processes 8 experiments/encode_latents.py --init runs/init --data my.hdf5 --out data/encoded
    python experiments/encode_latents.py --verify data/encoded                      # the SHA-256 of every shard
    python experiments/train_world_model.py --data data/encoded --warmup.shift 0 --joint.shift 0 --adapter.shift 0

Kill it at any moment and give the same command again: shards that are there and whole are kept. Several processes take
turns at the shards; whoever sees them all writes ``encoded.json``.

One latent a frame is stored, as ``codec.encode`` makes it, whatever clip the frame will be in. Codecs that compress
time (OpenSora's) do so at each step, from these as they do from pictures: a latent of four frames depends on the frame
that its clip begins with. Crops move pixels, so those of a run are made here: of every training trajectory ``--crops``
copies, each shifted by up to ``--crop-pixels``, of which a step draws one for each clip.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from accelerate import PartialState
from tqdm import tqdm

from colaworld.adapters.system import load_system, weights_path
from colaworld.envs.demos import ClipDataset, SourceOptions, starter_path
from colaworld.envs.encoded import INDEX, verify
from colaworld.experiments.cli import main
from colaworld.experiments.latent_shards import begin, finish, is_whole, plan_shards, trajectory_tensors, write_shard
from colaworld.experiments.planning_world import system_folder
from colaworld.models.cola import CONTEXT_FRAMES
from colaworld.models.compressed_time import compressed_time


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What is encoded, and how it is stored."""

    init: Path | None = None
    """The system, or run, whose codec encodes; default: the weights that ship."""
    data: tuple[Path, ...] = ()
    """What train_world_model.py takes; default: the starter data."""
    source: SourceOptions = SourceOptions()
    out: Path = Path("data/encoded")
    """Folder of the shards."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the stored latents; they are computed in float32."""
    crops: int = 0
    """Shifted copies of every training trajectory, for stages with a shift."""
    crop_pixels: int = 4
    """By how much copies are shifted at most: the shift of the run's stages."""
    seed: int = 0
    """Of the shifts."""
    shard_mib: float = 512.0
    """Size of a shard; a trajectory that is larger has one of its own."""
    batch: int = 64
    """Frames that are encoded at once."""
    verify: Path | None = None
    """Only check the SHA-256 of every shard of this folder."""

    def __post_init__(self) -> None:
        if self.crops < 0 or self.crop_pixels < 1:
            raise ValueError(
                f"--crops must be 0 or more and --crop-pixels 1 or more, got {self.crops} and {self.crop_pixels}"
            )
        if not 0.0 < self.shard_mib < float("inf") or self.batch < 1:
            raise ValueError(
                f"--shard-mib must be above 0 and --batch 1 or more, got {self.shard_mib:g} and {self.batch}"
            )


def encode_latents(config: Annotated[EncodeConfig, tyro.conf.arg(name="")] = EncodeConfig()) -> None:
    """Encode data into shards, or check those of a folder."""
    if config.verify is not None:
        wrong = verify(config.verify)
        if wrong:
            raise ValueError("; ".join(wrong))
        print(f"{config.verify}: every shard is as it was written")
        return
    state = PartialState()
    ended = encode(config, part=state.process_index, parts=state.num_processes, device=state.device)
    print(f"encoded: {config.out / INDEX}" if ended else f"process {state.process_index}: its shards are there")
    state.destroy_process_group()


def encode(config: EncodeConfig, *, part: int = 0, parts: int = 1, device: torch.device | str = "cpu") -> bool:
    """Write shards ``part``, ``part + parts``, ...; then, if all are there, the index. Whether they were.

    ValueError before any work when ``--out`` holds something else, and when the codec takes other frames or makes no
    latents of single ones.
    """
    folder = system_folder(config.init) if config.init else weights_path(name="pretrained")
    system = load_system(folder, device=device)
    codec, info = system.codec, system.info
    compressed_time(codec, CONTEXT_FRAMES)
    data = ClipDataset(config.data or (starter_path(),), length=2, split="all", options=config.source)
    if (data.height, data.width) != (info.height, info.width):
        raise ValueError(
            f"{data.paths[0]}: frames are {data.height}x{data.width}, but the codec of {folder} takes {info.height}x"
            f"{info.width}"
        )
    crops = {"copies": config.crops} | ({"pixels": config.crop_pixels, "seed": config.seed} if config.crops else {})
    crops = {"pixels": 0, "seed": 0} | crops
    plan, episodes = plan_shards(
        data, codec, dtype=config.dtype, crops=crops, options=config.source, shard_bytes=config.shard_mib * 2**20
    )
    begin(config.out, plan)
    own = list(zip(plan["shards"], episodes, strict=True))[part::parts]
    frames = sum(len(episode.frames) for _, held in own for episode in held)
    with tqdm(total=frames, unit=" frames", desc="encode", disable=part != 0, mininterval=1.0) as bar:
        for entry, held in own:
            path, tensors = config.out / entry["file"], {}
            if is_whole(path):
                bar.update(sum(len(episode.frames) for episode in held))
                continue
            for number, episode in enumerate(held):
                found = trajectory_tensors(episode, codec, dtype=config.dtype, crops=crops, batch=config.batch)
                tensors |= {f"{number}.{name}": tensor for name, tensor in found.items()}
                bar.update(len(episode.frames))
            write_shard(path, tensors)
    return finish(config.out, plan)


if __name__ == "__main__":
    main(encode_latents)
