"""The card of a published system, ``README.md``: what it is, what it learned from, what was measured, how to plan in it
and what it cannot do. Everything is read from the run's own files; what they do not say, the card says is not known.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import h5py
from huggingface_hub import ModelCardData

from colaworld.adapters.system import ColaSystem
from colaworld.envs.demos import starter_path
from colaworld.envs.encoded import INDEX as ENCODED
from colaworld.experiments.budget import StageCost
from colaworld.experiments.evaluation import summary
from colaworld.experiments.held_out import table as held_out_table
from colaworld.experiments.presets import PRESETS
from colaworld.experiments.provenance import distinct, file_hash
from colaworld.experiments.report import format_results
from colaworld.experiments.train_config import binding_flags, preset_defaults
from colaworld.experiments.video_metrics import metrics_table
from colaworld.models.frame_groups import GroupedConditioner

BEGAN_AS = {
    "STDiT3": ("hpcai-tech/OpenSora-STDiT-v3", "apache-2.0"),
    "WanBackbone": ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "apache-2.0"),
}
"""Video models that begin as published weights, by class: where those lie, and under which licence."""
STRIP = "strip_0.png"
"""The picture beside the card."""
NOT_KNOWN = "Not known: the system's folder does not say."


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One of the run's ``--data``: its name, the SHA-256 of its files (None: not here any more) and what its recordings
    say of the simulator that played them.
    """

    name: str
    sha256: str | None
    simulators: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card is made from. ``flags`` and ``evaluation`` as the run wrote them (None: it did not), ``sources`` of
    the data (None: not known), ``planning`` summaries of evaluations in the simulator, ``checkpoint`` the hash of the
    weights that were measured, ``versions`` when it was published; ``strip``: whether there is the picture.
    """

    name: str
    address: str
    system: ColaSystem
    dtype: str
    checkpoint: str
    goal_models: Sequence[str]
    flags: Mapping[str, Any] | None
    costs: Mapping[str, StageCost]
    sources: Sequence[DataSource] | None
    evaluation: Mapping[str, Any] | None
    held_out: Mapping[str, Any] | None
    versions: Mapping[str, str]
    revision: str | None
    planning: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    strip: bool = False
    notes: str = ""
    licence: str | None = None


def data_sources(flags: Mapping[str, Any] | None) -> tuple[DataSource, ...] | None:
    """The data that a run's ``flags`` name, looked at where they lie now; None where no flags are known."""
    if flags is None or "data" not in flags:
        return None
    paths = [Path(path) for path in flags["data"]]
    return tuple(_source(path, path.name) for path in paths) or (
        _source(starter_path(), "the starter data that ship with colaworld"),
    )


def _source(path: Path, name: str) -> DataSource:
    if not path.exists():
        return DataSource(name=name, sha256=None)
    if (path / ENCODED).is_file():
        sources = json.loads((path / ENCODED).read_text())["sources"]
        of = dict.fromkeys(PurePath(each["path"]).name for each in sources)
        return DataSource(name=f"{name}, encoded latents of {', '.join(of)}", sha256=file_hash(path))
    files = [path] if path.is_file() else sorted(path.rglob("*.hdf5"))
    accounts = [account for file in files if file.suffix == ".hdf5" for account in _accounts(file)]
    return DataSource(name=name, sha256=file_hash(path), simulators=tuple(distinct(accounts)))


def _accounts(file: Path) -> list[dict[str, Any]]:
    """What the recordings in an HDF5 file say of their simulator; nothing in files of others."""
    found: list[dict[str, Any]] = []

    def look(_: str, item: h5py.Group | h5py.Dataset) -> None:
        account = json.loads(item.attrs["simulator"]) if "simulator" in item.attrs else None
        if account:
            found.append(account)

    with h5py.File(file, "r") as opened:
        opened.visititems(look)
    return found


def without_folders(value: Any) -> Any:
    """JSON without the folders of its paths, which say something of a machine and nothing of the weights."""
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(each) for each in value]
    return PurePath(value).name if isinstance(value, str) and "/" in value else value


def card(facts: CardFacts) -> str:
    """The card, with the front matter that the hub reads."""
    sections = [
        ("", _what(facts)),
        ("Load it and plan", _use(facts)),
        ("Data", _data(facts)),
        ("Training", _training(facts)),
        ("Measured", _measured(facts)),
        ("Simulator", _simulator(facts)),
        ("What it cannot do", _limits(facts)),
        *([("Notes", facts.notes.strip())] if facts.notes.strip() else []),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections)
    return f"---\n{_front(facts).to_yaml()}\n---\n\n# {facts.name}\n\n{body}\n"


def _front(facts: CardFacts) -> ModelCardData:
    began, licence = BEGAN_AS.get(type(facts.system.video).__name__, (None, "mit"))
    info = facts.system.info
    return ModelCardData(
        license=facts.licence or licence,
        library_name="colaworld",
        pipeline_tag="robotics",
        tags=["world-model", "latent-actions", "model-based-planning", "robotics", "libero", info.recipe],
        base_model=began,
    )


def _what(facts: CardFacts) -> str:
    info, parts = facts.system.info, facts.system.parts()
    sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()}
    rows = [f"| {name} | `{type(part).__name__}` | {sizes[name]:,} |" for name, part in parts.items()]
    also = f" Beside it: goal models ({', '.join(facts.goal_models)})." if facts.goal_models else ""
    return "\n".join([
        f"A co-evolving latent action world model: preset `{info.preset}`, recipe `{info.recipe}`, trained to stage "
        f"`{info.stage}`; {info.height}x{info.width} frames, one for {info.frame_skip} simulator steps of "
        f"{info.action_dim} numbers, render profile `{info.render_profile}`; {sum(sizes.values()):,} parameters in "
        f"{facts.dtype}.{also} JSON and safetensors: nothing in this folder is a program.",
        "",
        "| part | class | parameters |",
        "|---|---|---|",
        *rows,
    ])  # fmt: skip


def _use(facts: CardFacts) -> str:
    if facts.system.info.stage != "adapter":
        return (
            f"It has been trained to stage `{facts.system.info.stage}` only and does not plan yet; a run goes on from "
            f"it:\n\n```sh\npython experiments/train_world_model.py --preset {facts.system.info.preset} --init "
            f"{facts.address} --out runs/mine\n```"
        )
    return (
        f"```sh\npython experiments/vp2_eval.py --run {facts.address}\n```\n\n"
        "```python\nfrom pathlib import Path\n\nfrom colaworld.experiments.planning_world import load_world\n\n"
        f'world = load_world(Path("{facts.address}")).world   # colaworld.planning.protocols.World\n```'
    )


def _data(facts: CardFacts) -> str:
    if facts.sources is None:
        return NOT_KNOWN
    hashes = [f"`{each.sha256}`" if each.sha256 else "not there any more" for each in facts.sources]
    rows = [f"| {each.name} | {sha256} |" for each, sha256 in zip(facts.sources, hashes, strict=True)]
    return "\n".join([
        "A tenth of the trajectories was held out. Hashes were taken when this was published.",
        "",
        "| source | SHA-256 of its files |",
        "|---|---|",
        *rows,
    ])  # fmt: skip


def _training(facts: CardFacts) -> str:
    rows = [
        f"| {stage} | {cost.steps:,} | {cost.samples:,} | {cost.seconds / 3600:.2f} | {cost.flops:.3g} | "
        f"{cost.parameters:,} | {cost.why} |"
        for stage, cost in facts.costs.items()
    ]
    head = "| stage | steps | clips | hours | operations | parameters | why it ended |"
    lines = [head, "|---|---|---|---|---|---|---|", *rows] if rows else [NOT_KNOWN]
    if facts.flags is not None:
        said = ", ".join(f"`{name}={value}`" for name, value in _unusual(facts.flags).items()) or "none"
        if not facts.flags.get("from_scratch", True):
            began = without_folders(facts.flags.get("init")) or "the action-free weights that ship for its preset"
            lines += ["", f"It began from {began}, whose own training is not in the table."]
        lines += ["", f"Flags that are not the preset's own: {said}. All of them: `config.json`."]
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    lines += ["", f"Published with {versions}; code at {facts.revision or 'no git revision'}."]
    return "\n".join(lines)


def _unusual(flags: Mapping[str, Any]) -> dict[str, Any]:
    preset = flags.get("preset")
    usual = _flat(binding_flags(preset_defaults(preset))) if preset in PRESETS else {}
    return {name: value for name, value in _flat(without_folders(flags)).items() if usual.get(name, ...) != value}


def _flat(flags: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in flags.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return flat


def _measured(facts: CardFacts) -> str:
    measured = ("float32", (facts.flags or {}).get("stored_as"))  # a run may have been rounded before it was measured
    blocks = [] if facts.dtype in measured else [f"Measured before the weights were rounded to {facts.dtype}."]
    for result in facts.planning:
        said = next(each for row, each in result["settings"].items() if row == "planner")
        blocks.append(f"Goals of `{said['manifest']}` (SHA-256 `{said['manifest_sha256']}`), by `vp2_eval.py`:")
        blocks.append(_code(format_results(result["table"], result["mcnemar"], result["config"]["planner"])))
    if facts.evaluation is not None:
        driven = {name: facts.evaluation[name] for name in ("copy", "idm", "adapter", "adapter_codes")}
        blocks.append("Held-out clips (`evaluation.json`); `copy` repeats the last frame:")
        videos = {name: each["video"] for name, each in driven.items() if each}
        blocks.append(_code(f"{metrics_table(videos)}\n\n{summary(dict(facts.evaluation))}"))
    if facts.held_out is not None:
        blocks.append("Error where things move, held-out windows (`held_out/held_out.json`):")
        blocks.append(_code(held_out_table(facts.held_out)))
        if facts.strip:
            blocks.append(f"![real, then imagined in each of these ways](held_out/{STRIP})")
    if facts.evaluation is None and facts.held_out is None and not facts.planning:
        blocks = ["Nothing: no evaluation lies in the run."]
    elif not facts.planning:
        blocks.append("No episodes in the simulator were given (`publish.py --results`).")
    return "\n\n".join(blocks) + f"\n\nHash of the weights that were measured: `{facts.checkpoint}`."


def _code(text: str) -> str:
    return f"```\n{text}\n```"


def _simulator(facts: CardFacts) -> str:
    blocks = []
    for what, accounts in (
        ("recordings", [each for source in facts.sources or () for each in source.simulators]),
        ("episodes", [each for result in facts.planning for each in result.get("simulators") or ()]),
    ):
        lines = [json.dumps(account) for account in distinct(accounts)]
        blocks.append(f"Of the {what}:\n\n" + _code("\n".join(lines)) if lines else f"Of the {what}: not known.")
    return "\n\n".join([*blocks, "`python -m colaworld.envs.doctor` says whether yours behaves alike."])


def _limits(facts: CardFacts) -> str:
    info = facts.system.info
    limits = [
        f"see other frames than {info.height}x{info.width} of render profile `{info.render_profile}`, or take "
        f"other actions than {info.frame_skip} x {info.action_dim} numbers a frame",
        f"go beyond the {info.clip} frames of its training clips but from frames that it imagined itself",
        "be expected to know scenes, objects or cameras that are not in its data",
        "be trusted with a real robot: it has seen what is listed under Data and nothing else",
    ]
    if isinstance(facts.system.conditioner, GroupedConditioner):
        limits.append(
            "show a single step as a whole plan does: a latent of its holds several frames, imagined together, and a "
            "step in their midst is shown as if its action were held"
        )
    if facts.system.info.stage != "adapter":
        limits.append("take real actions: no adapter has been trained")
    return "\n".join(f"- {limit}" for limit in limits)
