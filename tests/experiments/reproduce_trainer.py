"""Stands in for train_world_model.py in tests of the grid: numbers from a formula of recipe and seed, in a moment.

``python reproduce_trainer.py PLAN <flags>``: PLAN is a folder. Its ``plan.json`` may have, for each variant, ``gain``
(dB of PSNR under the IDM's codes), ``drop``, ``probe``, ``collapsed``, and ``seconds`` to take; a file ``fail-<cell>``
makes that cell fail. When each run began and ended goes to ``calls.jsonl``.
"""

import json
import math
import random
import sys
import time
from pathlib import Path

plan, flags = Path(sys.argv[1]), sys.argv[2:]


def told(flag: str) -> str:
    return flags[flags.index(flag) + 1]


out, recipe, seed = Path(told("--out")), told("--recipe"), int(told("--loop.seed"))
mine = {"gain": 0.0, "drop": 1.0, "probe": 0.16, "collapsed": False, "seconds": 0.0}
mine |= json.loads((plan / "plan.json").read_text()).get(out.name.split("-s")[0], {})
with (plan / "calls.jsonl").open("a") as file:
    file.write(json.dumps({"cell": out.name, "at": time.time(), "event": "begins"}) + "\n")
time.sleep(mine["seconds"])
if (plan / f"fail-{out.name}").exists():
    print("loading\nerror: the loss is nan", file=sys.stderr)
    sys.exit(1)
out.mkdir(parents=True, exist_ok=True)
clips, rng = [random.Random(k).gauss(20, 3) for k in range(16)], random.Random(out.name)


def video(shift: float) -> dict:
    found = {}
    for horizon in (1, 5, 10):
        level = shift - 0.3 * horizon + rng.gauss(0, 0.05)
        psnr = [clip + level + rng.gauss(0, 0.1) for clip in clips]
        frechet = {"name": "random-features-v1", "value": 10 - level, "n": 16}
        found[str(horizon)] = {"psnr": psnr, "ssim": [each / 40 for each in psnr], "lpips": None, "frechet": frechet}
    return found


def token(entropy: float) -> dict:
    share = {"utilisation": entropy / 4, "max_usage": 0.9 - entropy / 4, "entropy": entropy}
    return share | {f"{key}_moving": value for key, value in share.items()}


entropy = 0.4 if mine["collapsed"] else 2.5
idm = {
    "use": 0.2 + rng.gauss(0, 0.01),
    "shuffled_ratio": 1.3,
    "next_frame_error": 0.15 - 0.01 * mine["gain"],
    "health": [token(entropy), token(2.8)],
    "video": video(mine["gain"]),
}
later = idm | {"video": video(mine["gain"] + 0.5)}
adapter = idm | {
    "video": video(mine["gain"] - mine["drop"]),
    "confusion": {"accuracy": [0.5, 0.4], "majority": [0.2] * 2},
}
codes = adapter | {"video": video(mine["gain"] - mine["drop"] - 0.2)}
before = {"idm": None, "adapter": idm} if recipe == "real_actions" else {"idm": idm, "adapter": None}
warmup, joint = int(told("--warmup.steps")), int(told("--joint.steps"))
budget = {
    "steps": {"warmup": warmup, "joint": joint},
    "samples": {"warmup": 4 * warmup, "joint": 4 * joint},
    "seconds": {"warmup": 0.1 * warmup, "joint": 0.15 * joint},
    "flops": {"warmup": 1e9 * warmup, "joint": 1.4e9 * joint},
    "parameters": {"video": 10},
    "switch": {"warmup_ended_at": warmup, "why": "as planned"},
}
evaluation = {
    "format": 1,
    "recipe": recipe,
    "seed": seed,
    "clips": 16,
    "clip_seed": 0,
    "budget": budget,
    "before_adapter": before,
    "idm": None if recipe == "real_actions" else later,
    "adapter": adapter,
    "adapter_codes": None if recipe == "real_actions" else codes,
    "copy": {"video": video(-2.0)},
    "probe": {
        "l1": [mine["probe"] + rng.gauss(0, 0.01) for _ in clips],
        "l1_constant": 0.25,
        "displacement_r2": 0.3,
        "destination_r2": 0.5,
    },
    "transfer": {"ceiling": 0.9, "own": 0.5, "transferred": 0.3, "by_chance": 0.0, "pull": 0.6},
}
with (out / "metrics.jsonl").open("w") as file:
    for step in range(10, 1501, 10):
        line = {"stage": "joint", "step": step, "total_step": step, "loss": 1 / step}
        if step % 20 == 0:
            line = {"total_step": step, "held_out/predicted": 0.1 + 1 / step, "held_out/flow": 0.5}
            for number in range(2):
                level = entropy * (1 - math.exp(-step / 200)) + rng.gauss(0, 0.05)
                shares = token(max(0.0, level)).items()
                line |= {f"held_out/{key}_{number}": value for key, value in shares if not key.endswith("_moving")}
                line |= {
                    f"held_out/{key}_{number}_moving": value for key, value in shares if not key.endswith("_moving")
                }
        file.write(json.dumps(line) + "\n")
(out / "evaluation.json").write_text(json.dumps(evaluation))
(out / "system").mkdir(exist_ok=True)
(out / "system" / "system.json").write_text("{}")
with (plan / "calls.jsonl").open("a") as file:
    file.write(json.dumps({"cell": out.name, "at": time.time(), "event": "ends"}) + "\n")
