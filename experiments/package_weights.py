"""Turn two finished runs into the weights that ship: bf16, the codec stored once, inside the package.

    python experiments/package_weights.py --pretrained runs/pretrained/system --cola runs/cola/system
    python experiments/package_weights.py ... --goal-models runs/pretrained/goal_models runs/cola/goal_models

Runs with ``--stored-as bfloat16`` are rounded already: what was played with them is what ships, and goal models that
learned in their latents can follow. Those are rounded here.
"""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colaworld.adapters.goal_models import FOLDER, codec_digest, load_goal_models, save_goal_model
from colaworld.adapters.system import load_system, save_system, weights_path
from colaworld.experiments.cli import main
from colaworld.experiments.further_training import sign
from colaworld.experiments.planning_world import system_folder
from colaworld.experiments.train_rollouts import ACCOUNT

LIMIT_MIB = 16.0


def package_weights(
    *, pretrained: Path, cola: Path, goal_models: tuple[Path, ...] = (), limit_mib: float = LIMIT_MIB
) -> None:
    """Write ``<weights>/pretrained`` (codec and action-free video model), ``<weights>/cola`` (the whole system), and
    what the folders ``goal_models`` have into ``<weights>/goal_models``.

    ValueError when they do not share a codec, as it ships, or together exceed ``limit_mib``, or when two folders have
    the same goal model; nothing is written then.
    """
    free, whole = load_system(pretrained), load_system(cola)
    if free.info.stage != "pretrain" or whole.info.stage != "adapter":
        raise ValueError(f"expected stages 'pretrain' and 'adapter', got {free.info.stage!r} and {whole.info.stage!r}")
    for key, value in free.codec.state_dict().items():
        if not torch.equal(value, whole.codec.state_dict()[key]):
            raise ValueError(f"{cola}: its codec is not that of {pretrained} ({key} differs)")
    rounded = nn.Module.to(nn.Module.to(deepcopy(whole.codec), torch.bfloat16), torch.float32)
    judges: dict[str, tuple[nn.Module, Any]] = {}
    for folder in goal_models:
        found = load_goal_models(folder, rounded)
        if twice := sorted(set(judges) & set(found.about)):
            raise ValueError(f"{folder}: another folder has the goal model {twice[0]!r} too")
        judges |= {name: (found.part(name), found.about[name]) for name in found.about}
    free = replace(free, conditioner=None, inverse_dynamics=None, bottleneck=None, adapter=None)
    parts = [*free.parts().values(), *whole.parts().values(), *(part for part, _ in judges.values())]
    count = sum(p.numel() for part in parts for p in part.parameters()) - sum(
        p.numel() for p in free.codec.parameters()
    )
    if 2 * count > limit_mib * 2**20:
        raise ValueError(f"the weights would take {2 * count / 2**20:.2f} MiB in bf16, more than {limit_mib} MiB")
    save_system(free, weights_path(free.info.preset, "pretrained"), dtype=torch.bfloat16)
    shipped = weights_path(whole.info.preset, "cola")
    save_system(whole, shipped, dtype=torch.bfloat16, codec="../pretrained/codec")
    if account := json.loads((system_folder(cola) / "system.json").read_text()).get(ACCOUNT):
        sign(shipped, account, ACCOUNT)  # how it went on, if it did
    for name, (part, about) in judges.items():
        place = weights_path(whole.info.preset, FOLDER)
        save_goal_model(place, name, part, about, codec_digest(rounded), dtype=torch.bfloat16)
    print(f"{count:,} parameters, {2 * count / 2**20:.2f} MiB: {weights_path(whole.info.preset, 'cola').parent}")


if __name__ == "__main__":
    main(package_weights)
