"""Turn trained goal models into those that ship: bf16, inside the package, beside the weights that they belong to.

python experiments/train_goal_models.py --fit-config.hidden 96 --models progress success policy inverse
python experiments/train_goal_models.py --fit-config.hidden 96 --models distance --fit-config.steps 2500
python experiments/package_goal_models.py --goal-models runs/goal_models
"""

from pathlib import Path

import torch

from colaworld.adapters import SHIPPED_PRESET
from colaworld.adapters.goal_models import FOLDER, codec_digest, load_goal_models, save_goal_model
from colaworld.adapters.system import load_system, weights_path
from colaworld.experiments.cli import main

LIMIT_MIB = 4.0


def package_goal_models(
    *, goal_models: Path, preset: str = SHIPPED_PRESET, limit_mib: float = LIMIT_MIB, out: Path | None = None
) -> None:
    """Write ``<weights>/goal_models``, or ``out``.

    ValueError when they are not of the shipped ``preset``'s codec and latent actions or exceed ``limit_mib``; nothing
    is written then.
    """
    system = load_system(weights_path(preset))
    models, out = load_goal_models(goal_models, system.codec), out or weights_path(preset, FOLDER)
    if models.inverse is not None:
        models.inverse_of(system)
    parts = {name: models.part(name) for name in models.about}
    count = sum(weights.numel() for part in parts.values() for weights in part.state_dict().values())
    if 2 * count > limit_mib * 2**20:
        raise ValueError(f"the goal models would take {2 * count / 2**20:.2f} MiB in bf16, more than {limit_mib} MiB")
    for name, part in parts.items():
        save_goal_model(out, name, part, models.about[name], codec_digest(system.codec), dtype=torch.bfloat16)
    print(f"{count:,} parameters, {2 * count / 2**20:.2f} MiB: {out}")


if __name__ == "__main__":
    main(package_goal_models)
