"""Turn two finished runs into the weights that ship: bf16, the codec stored once, inside the package.

python experiments/package_weights.py --pretrained runs/pretrained/system --cola runs/cola/system

Runs with ``--stored-as bfloat16`` are rounded already: what was played with them is what ships, and goal models that
learned in their latents can follow.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from colaworld.adapters.system import load_system, save_system, weights_path
from colaworld.experiments.cli import main
from colaworld.experiments.further_training import sign
from colaworld.experiments.planning_world import system_folder
from colaworld.experiments.train_rollouts import ACCOUNT

LIMIT_MIB = 12.0


def package_weights(*, pretrained: Path, cola: Path, limit_mib: float = LIMIT_MIB) -> None:
    """Write ``<weights>/pretrained`` (codec and action-free video model) and ``<weights>/cola`` (the whole system).

    ValueError when the two do not share a codec or together exceed ``limit_mib``; nothing is written then.
    """
    free, whole = load_system(pretrained), load_system(cola)
    if free.info.stage != "pretrain" or whole.info.stage != "adapter":
        raise ValueError(f"expected stages 'pretrain' and 'adapter', got {free.info.stage!r} and {whole.info.stage!r}")
    for key, value in free.codec.state_dict().items():
        if not torch.equal(value, whole.codec.state_dict()[key]):
            raise ValueError(f"{cola}: its codec is not that of {pretrained} ({key} differs)")
    free = replace(free, conditioner=None, inverse_dynamics=None, bottleneck=None, adapter=None)
    parts = [*free.parts().values(), *whole.parts().values()]
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
    print(f"{count:,} parameters, {2 * count / 2**20:.2f} MiB: {weights_path(whole.info.preset, 'cola').parent}")


if __name__ == "__main__":
    main(package_weights)
