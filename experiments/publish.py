"""A trained system as a folder to give away: the parts, a card, the numbers; and its upload to the Hugging Face hub.

    python experiments/publish.py --run runs/train --out runs/published --bf16
    python experiments/publish.py --run runs/train --out runs/published --results runs/vp2 --push OWNER/NAME --private
    python experiments/vp2_eval.py --run runs/published         # or, from anywhere, --run hub:OWNER/NAME

The folder is laid out as a run's: ``system/``, ``goal_models/`` where the run has them, ``evaluation.json``,
``budget.json``, ``config.json`` (its flags, without folders), ``held_out/``; ``README.md`` is the card. All weights are
safetensors.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from colaworld.adapters.goal_models import (
    LATENT_ACTIONS,
    codec_digest,
    latent_action_digest,
    load_goal_models,
    save_goal_model,
)
from colaworld.adapters.hub import PREFIX, check_upload, located, upload
from colaworld.adapters.system import ColaSystem, load_system, save_system, take_place
from colaworld.experiments.budget import BUDGET, read_costs
from colaworld.experiments.cli import main
from colaworld.experiments.model_card import STRIP, CardFacts, card, data_sources, without_folders
from colaworld.experiments.planning_world import goal_models_beside, system_hash, usual_goal_models
from colaworld.experiments.provenance import git_revision, versions

MARK = "publication.json"
"""By which a folder is known that may be written anew."""
FORMAT = 1
PUBLISHED = {MARK, "README.md", "system", "goal_models", "config.json", "evaluation.json", BUDGET, "held_out"}


def publish(
    *,
    run: Path,
    out: Path,
    push: str | None = None,
    private: bool = False,
    bf16: bool = False,
    results: tuple[Path, ...] = (),
    notes: Path | None = None,
    licence: str | None = None,
) -> None:
    """Write the folder and its card; upload it where that is asked.

    Args:
        run: folder of a training run or of a trained system.
        out: the folder to write; one that this script wrote before is replaced.
        push: OWNER/NAME on the hub; needs a token (`hf auth login` or HF_TOKEN).
        private: of the repository on the hub.
        bf16: round the weights to half the size.
        results: folders of vp2_eval.py, or their summary.json, made with these weights.
        notes: a text for the end of the card.
        licence: of the weights, in the hub's words; default: mit, or that of the published weights they began as.
    """
    if private and push is None:
        raise ValueError("--private says how to upload: give --push OWNER/NAME too")
    if push is not None:
        check_upload(push)
    check_out(out)
    source = located(run)
    if not (source / "system.json").is_file():
        raise FileNotFoundError(f"--run {run}: there is no run and no system (system.json is missing)")
    if notes is not None and not notes.is_file():
        raise FileNotFoundError(f"--notes {notes}: there is no such file")
    checkpoint = system_hash(source)
    planning = [read_result(path, checkpoint) for path in results]
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    dtype = torch.bfloat16 if bf16 else torch.float32
    system = load_system(source)
    save_system(system, partial / "system", dtype=dtype)
    keep_remarks(source / "system.json", partial / "system" / "system.json")
    parts = put_goal_models(run, system, partial, dtype)
    folder = source.parent if source.name == "system" else source
    flags = read_json(folder / "config.json")
    evaluation, held_out = read_json(folder / "evaluation.json"), read_json(folder / "held_out" / "held_out.json")
    for name, text in (("config.json", without_folders(flags)), ("evaluation.json", evaluation)):
        if text is not None:
            (partial / name).write_text(json.dumps(text, indent=1) + "\n")
    for name in (BUDGET, "held_out/held_out.json", f"held_out/{STRIP}"):
        if (folder / name).is_file():
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, partial / name)
    facts = CardFacts(
        name=(push or out.name).rpartition("/")[2],
        address=f"{PREFIX}{push}" if push else out.name,
        system=system,
        dtype="bfloat16" if bf16 else "float32",
        checkpoint=checkpoint,
        goal_models=parts,
        flags=flags,
        costs=read_costs(folder),
        sources=data_sources(flags),
        evaluation=evaluation,
        held_out=held_out,
        versions=versions(),
        revision=git_revision(),
        planning=planning,
        strip=(partial / "held_out" / STRIP).is_file(),
        notes=notes.read_text(encoding="utf-8") if notes else "",
        licence=licence,
    )
    (partial / "README.md").write_text(card(facts), encoding="utf-8")
    mark = {"format": FORMAT, "measured": checkpoint, "published": system_hash(partial / "system")}
    (partial / MARK).write_text(json.dumps(mark, indent=2) + "\n")
    take_place(partial, out)
    print(f"published: {out}   next: read {out / 'README.md'}, then vp2_eval.py --run {out}")
    if push is not None:
        print(f"uploaded: {upload(out, push, private=private)}   from anywhere: --run {PREFIX}{push}")


def check_out(out: Path) -> None:
    """ValueError when ``out`` holds what this script did not write: it is replaced as a whole."""
    if not out.exists():
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    strange = sorted(names - PUBLISHED) or sorted(names if MARK not in names else ())
    if strange:
        raise ValueError(f"--out {out} exists and holds {strange[0]}, which is not of a publication; choose another")


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file; ValueError naming it when it cannot be read."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def read_result(path: Path, checkpoint: str) -> dict[str, Any]:
    """The summary of an evaluation in the simulator; ValueError when it was made with other weights than those of hash
    ``checkpoint``.
    """
    file = path / "summary.json" if path.is_dir() else path
    result = read_json(file)
    if result is None:
        raise FileNotFoundError(f"--results {path}: there is no summary of an evaluation")
    made_with = result.get("settings", {}).get("planner", {}).get("checkpoint")
    if made_with != checkpoint:
        raise ValueError(
            f"--results {file}: its planner's checkpoint is {str(made_with)[:12]}, the run's is {checkpoint[:12]}"
        )
    return result


def keep_remarks(before: Path, after: Path) -> None:
    """What a ``system.json`` says beyond a system's own fields (a student: how it was made) is said in its copy too."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    after.write_text(json.dumps({**without_folders(old), **new}, indent=2) + "\n")


def put_goal_models(run: Path, system: ColaSystem, partial: Path, dtype: torch.dtype) -> list[str]:
    """Goal models beside ``run`` into ``partial``, bound to the system as it is published there; their names."""
    if usual_goal_models(run, system.info.preset) is None:
        return []
    folder = goal_models_beside(run)
    models = load_goal_models(folder, system.codec)
    if models.inverse is not None:
        models.inverse_of(system)
    published = load_system(partial / "system")  # rounded, where that is asked: its digests are others
    for name, about in models.about.items():
        if LATENT_ACTIONS in about:
            about = {**about, LATENT_ACTIONS: latent_action_digest(published)}
        about, codec = without_folders(about), codec_digest(published.codec)
        save_goal_model(partial / folder.name, name, models.part(name), about, codec, dtype=dtype)
    return list(models.about)


if __name__ == "__main__":
    main(publish)
