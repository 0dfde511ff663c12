"""A study's folder of results: ``README.md`` with its tables, curves and losses, ``summary.json``, and for every play
the lines of its episodes and its settings, which ``compare.py`` reads.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from colaworld.envs.whole_file import whole_file
from colaworld.experiments.episode_log import read_lines, write_json, write_text
from colaworld.experiments.intervals import RESAMPLES, SIGN_FLIPS
from colaworld.experiments.reproduce_store import rounded
from colaworld.experiments.study_plots import PICTURES, SHOWN, thinned
from colaworld.experiments.study_results import (
    BASE,
    CEILING,
    CODEC,
    EVALUATION,
    FLOORS,
    METRICS,
    PLANNERS,
    SIMULATOR,
    SNAPPED,
    Study,
    rollouts_of,
    summary_of,
)

DIGITS = 5
LEAST_P = 2.0 / (RESAMPLES + 1) * 1.001
"""The two-sided p that drawn sign patterns cannot fall below."""
ANSWERS = {
    "psnr_10_drop": "snapped to codes",
    "psnr_10_drop_unsnapped": "as plans use them",
    "psnr_10_drop_from_before": "snapped, from the codes before the adapter stage",
}
MODEL_COLUMNS = {
    "psnr_1_copy": "PSNR at 1, copying the last frame",
    "psnr_1_learned": "before the adapter",
    "psnr_10_copy": "PSNR at 10, copying",
    "psnr_10_learned": "before the adapter",
    "psnr_10_idm": "IDM's codes after it",
    "psnr_10_snapped_adapter": "real actions, snapped",
    "psnr_10_drop": "drop",
    "psnr_10_adapter": "real actions, as plans use them",
    "ssim_10_copy": "SSIM at 10, copying",
    "ssim_10_learned": "before the adapter",
    "ssim_10_adapter": "real actions, as plans use them",
    "frechet_10_idm": "Fréchet at 10, IDM's codes",
    "frechet_10_snapped_adapter": "real actions, snapped",
    "frechet_10_drop": "drop",
    "frechet_10_adapter": "real actions, as plans use them",
    "utilisation_idm": "utilisation, IDM",
    "utilisation_adapter": "adapter",
    "max_usage_idm": "max-usage, IDM",
    "max_usage_adapter": "adapter",
    "entropy_idm": "entropy, IDM",
    "entropy_adapter": "adapter",
    "probe_l1": "probe L1",
    "probe_l1_constant": "constant",
}


def write_study(study: Study, folder: Path, commands: Sequence[str], finished: Sequence[str] = ()) -> Path:
    """Write everything into ``folder``; returns the path of its ``README.md``. ``commands`` that have begun, of which
    the ``finished`` need not be run again where the folder goes."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = summary_of(study, commands) | {"finished": list(finished)}
    summary = rounded(whole, DIGITS) | {"settings": whole["settings"]}  # with which a play goes on, or is refused
    for path, known in _known(study).items():
        kept = [json.dumps(rounded(record, DIGITS)) for record in _lines(path, known)]
        write_text(folder / f"{path.name}_episodes.jsonl", "".join(f"{line}\n" for line in kept))
        if _summed_up(path, known):
            with whole_file(folder / f"{path.name}_summary.json") as partial:
                shutil.copyfile(path / "summary.json", partial)
    for (recipe, seed), evaluation in study.evaluations.items():
        write_json(folder / f"{recipe}-s{seed}_{EVALUATION}", rounded(evaluation, DIGITS), indent=None)
    for name, logged in study.logs.items():
        lines = [json.dumps(rounded(line, DIGITS)) for line in thinned(logged)]
        write_text(folder / f"{name}_{METRICS}", "".join(f"{line}\n" for line in lines))
    drawn = [name for name, draw in PICTURES.items() if draw(study, folder / name)]
    for path in (*_stale(study, folder), *(folder / name for name in PICTURES if name not in drawn)):
        path.unlink(missing_ok=True)
    write_json(folder / "summary.json", summary)  # now that nothing lies there which it could be taken to know
    path = folder / "README.md"
    write_text(path, page(summary, study, pictures=drawn))
    return path


def _known(study: Study) -> dict[Path, set[tuple[str, int, int]]]:
    """By folder the episodes that the tables are of, (row, instance, seed); meanwhile more may have been played."""
    found: dict[Path, set[tuple[str, int, int]]] = {}
    for side in study.plays.values():
        found.setdefault(side.path, set()).update((side.row, *key) for key in side.episodes)
    return found


def _lines(path: Path, known: Collection[tuple[str, int, int]]) -> list[dict[str, Any]]:
    lines = read_lines(path / "episodes.jsonl")[0].values()
    return [line for line in lines if (line["row"], line["instance"], line["seed"]) in known]


def _summed_up(path: Path, known: Collection[tuple[str, int, int]]) -> bool:
    """Whether a play has a summary, and one of these episodes: not of those that were there before it went on."""
    if not (path / "summary.json").is_file():
        return False
    table = json.loads((path / "summary.json").read_text())["table"]
    return sum(entry["episodes"] for entry in table if entry["category"] != "all") == len(known)


def _stale(study: Study, folder: Path) -> Iterator[Path]:
    """What lies under this study's names and is not of it: another study's, which had got further."""
    played = {path.name: _summed_up(path, known) for path, known in _known(study).items()}
    for name in (FLOORS, SIMULATOR, CEILING, *(f"{each}-{planner}" for each in study.names for planner in PLANNERS)):
        if name not in played:
            yield folder / f"{name}_episodes.jsonl"
        if not played.get(name):
            yield folder / f"{name}_summary.json"
    judged = {f"{recipe}-s{seed}" for recipe, seed in study.evaluations}
    yield from (folder / f"{name}_{EVALUATION}" for name in study.names if name not in judged)
    trainings = (CODEC, BASE, *study.names, *map(rollouts_of, study.names))
    yield from (folder / f"{name}_{METRICS}" for name in trainings if name not in study.logs)


def page(summary: Mapping[str, Any], study: Study, *, pictures: Sequence[str]) -> str:
    """``README.md``."""
    first, count = study.recipes[0], max(row["episodes"] for row in summary["rows"])
    lines = [
        f"# Planning to the goals of `{summary['manifest']}`",
        "",
        f"At most {count} episodes a row, by the commands at the end; trainings: {_trainings(study)}. Every episode "
        "is a line of `*_episodes.jsonl`, all numbers are in `summary.json`. [ ]: 95 %, of rates Wilson's. A learned "
        "model wants two frames first, so that its first action of an episode is none; the simulator's is not.",
        "",
        *_rates(summary["rows"], "cem"),
        *_rates(summary["rows"], "mppi"),
        *_rates(summary["rows"], SNAPPED, "CEM, the adapter's answers snapped to codes"),
        "## Who wins",
        "",
        "On the same episodes. Of one training the test is exact McNemar; of several a goal's trainings are averaged "
        "first and the test flips signs of goals. *Needed*: goals at which it would find such a difference with 80 % "
        "chance, of several trainings by the normal approximation. What another training would give is told by none of "
        "these tests: they are of the goals. The random policy's row is low by choice too: a goal is in the manifest "
        "only if ten of its draws fail there (`experiments/goal_instances.py`); the inverse model is the fairer floor.",
        "",
        *_table(
            (
                "planner",
                "row",
                "against",
                "training",
                "category",
                "only the row",
                "only the other",
                "difference",
                "p",
                "verdict",
            ),
            [_compared(each) for each in _told(summary["comparisons"])],
        ),
        "## Of what is reachable",
        "",
        "Reachable is what the simulator reached as world model, with the state's own distance as cost. The share is a "
        f"ratio of rates over the same goals; the bar, {100 * summary['bar']:.1f} %, is met where the whole interval "
        "lies above it, missed where it lies below. All is of CEM. The row `ceiling` is the simulator with the "
        "planners' own cost: what it misses of what is reachable is the cost's doing, what the others miss of it the "
        "model's, or that of what else differs: the simulator searches with the settings that the manifest was frozen "
        "with (its `yardstick`), and acts from the first step on.",
        "",
        *_shares(summary["reachable"], "reachable"),
        "### Of the ceiling",
        "",
        *_shares(summary["of_ceiling"], "ceiling"),
        *_correlations(summary["correlations"]),
        "## The systems",
        "",
        *_table(
            ("recipe", "seed", *MODEL_COLUMNS.values()),
            [
                (each["recipe"], each["seed"], *(_number(each[name]) for name in MODEL_COLUMNS))
                for each in summary["models"]
            ],
            none="Has not been evaluated.",
        ),
        "Before the adapter the IDM's codes drive it, or real actions where there are none. The Fréchet distance is "
        "on the features that each `*_evaluation.json` names. What the adapter costs against what it costs "
        f"`{first}`: how much more PSNR ten steps on is lost from the IDM's codes to the adapter's answers, trainings "
        f"averaged, over clips (above 0: `{first}` loses less).",
        "",
        *_table(
            ("recipe", "answers", "trainings", "clips", "more lost, dB", f"`{first}` loses less"),
            [
                (
                    each["second"],
                    ANSWERS[each["measure"]],
                    each["trainings"],
                    each["clips"],
                    "{estimate:.2f} [{low:.2f}, {high:.2f}]".format(**each["more"]),
                    each["verdict"],
                )
                for each in summary["drops"]
            ],
            none="Has not been measured.",
        ),
        *_planning_drops(summary["planning_drops"]),
    ]
    for name in pictures:
        lines += [f"![{SHOWN[name]}]({name})", ""]
    lines += ["## Commands", "", "`experiments/study.py` runs those of them that are missing.", ""]
    lines += ["```sh", *summary["commands"], "```", ""]
    return "\n".join(lines)


def _planning_drops(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    first = found[0]["first"]
    body = [
        (
            each["second"],
            each["goals"],
            _percent(each["lost_first"]),
            _percent(each["lost_second"]),
            _interval(each["more"], sign="+"),
            each["verdict"],
        )
        for each in found
    ]
    header = ("recipe", "goals", f"lost by `{first}`", "lost by the recipe", "more lost", f"`{first}` loses less")
    told = "The same in goals that CEM reaches with answers as they are and not with answers snapped to codes, net."
    return [told, "", *_table(header, body)]


def _correlations(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How each cost ranks plans, in what each system imagines of them and in what really happens."""
    if not found:
        return []
    settings = next(iter(found.values()))["settings"]
    entries = {name: _overall(of["table"]) for name, of in found.items()}
    costs = list(dict.fromkeys(each["cost"] for table in entries.values() for each in table))

    def shown(names: Sequence[str], cost: str, future: str) -> str:
        for name in names:
            for each in entries[name]:
                if (each["cost"], each["future"]) == (cost, future) and "low" in each.get("correlation", {}):
                    return "{estimate:.2f} [{low:.2f}, {high:.2f}]".format(**each["correlation"])
        return "-"

    body = [
        (cost, shown(list(entries), cost, "true"), *(shown([name], cost, "imagined") for name in entries))
        for cost in costs
    ]
    return [
        "## What the costs are worth",
        "",
        f"Rank correlation of each cost with how far {settings['plans']} plans of {settings['horizon']} steps end from "
        f"each goal of `{settings['manifest']}`, in true futures and in those that a system imagines.",
        "",
        *_table(("cost", "true futures", *(f"imagined by {name}" for name in entries)), body),
    ]


def _overall(table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of all categories together, or of the only one."""
    categories = list(dict.fromkeys(each["category"] for each in table))
    return [each for each in table if each["category"] == ("all" if "all" in categories else categories[0])]


def _trainings(study: Study) -> str:
    """Which trainings of each recipe have been played or evaluated."""
    known = {(row, seed) for row, _, seed in study.plays} | set(study.evaluations)
    found = {recipe: sorted(seed for row, seed in known if row == recipe) for recipe in study.recipes}
    said = (f"{recipe} with seeds {', '.join(map(str, seeds))}" for recipe, seeds in found.items() if seeds)
    return "; ".join(said) or "none"


def _shares(found: Mapping[str, Sequence[Mapping[str, Any]]], of: str) -> list[str]:
    """What each row reached of ``of``, category by category; only what is reachable has a bar."""
    bar = of == "reachable"
    body = [
        (
            row,
            each["trainings"],
            each["category"],
            each["instances"],
            _percent(each["reached"]),
            _percent(each["reachable"]),
            _interval(each["share"]),
            *([each.get("bar") or "-"] if bar else []),
        )
        for row, entries in found.items()
        for each in entries
    ]
    return _table(("row", "trainings", "category", "goals", "reached", of, "share", *(["bar"] if bar else [])), body)


def _rates(rows: Sequence[Mapping[str, Any]], planner: str, title: str = "") -> list[str]:
    """Rows of a planner and those that plan nothing, a column for each category."""
    chosen = [row for row in rows if row["planner"] in (planner, None)]
    if not any(row["planner"] == planner for row in chosen):
        return []
    if planner != "cem":  # what plans nothing stands in the first table
        chosen = [row for row in chosen if row["planner"] == planner]
    categories = sorted(dict.fromkeys(row["category"] for row in chosen), key=lambda name: name == "all")
    entries: dict[tuple[str, int | None], dict[str, Mapping[str, Any]]] = {}
    for row in chosen:
        entries.setdefault((row["row"], row["seed"]), {})[row["category"]] = row
    last = categories[-1]
    body = [
        (
            name,
            "-" if seed is None else seed,
            *(
                f"{each[category]['successes']}/{each[category]['episodes']}" if category in each else "-"
                for category in categories
            ),
            "-"
            if last not in each
            else _interval(
                dict(zip(("low", "high"), each[last]["interval"], strict=True), estimate=each[last]["rate"])
            ),
            "-"
            if last not in each or each[last]["seconds_per_plan"] is None
            else f"{each[last]['seconds_per_plan']:.2f}",
        )
        for (name, seed), each in entries.items()
    ]
    return [f"## {title or planner.upper()}", "", *_table(("row", "training", *categories, "rate", "s/plan"), body)]


def _told(comparisons: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of all trainings together every category, of one training all categories together."""
    several = {each["category"] for each in comparisons} - {"all"}
    pooled = {_sides(each) for each in comparisons if each["seed"] is None}
    return [
        each
        for each in comparisons
        if each["category"] == "all" or len(several) < 2 or _sides(each) not in pooled or each["seed"] is None
    ]


def _sides(each: Mapping[str, Any]) -> tuple[str, str, str]:
    return each["planner"], each["first"], each["second"]


def _compared(each: Mapping[str, Any]) -> tuple[Any, ...]:
    least = "<= " if each["test"] == SIGN_FLIPS and each["p_value"] <= LEAST_P else ""
    if each["shown"]:
        verdict = "shown"
    elif each["difference"]["estimate"] == 0:
        verdict = "not shown"
    else:
        verdict = f"not shown, {'too many' if each['needed'] is None else each['needed']} needed"
    return (
        each["planner"],
        each["first"],
        each["second"],
        f"all {each['trainings']}" if each["seed"] is None else each["seed"],
        each["category"],
        f"{each['only_first']:g}",
        f"{each['only_second']:g}",
        _interval(each["difference"], sign="+"),
        f"{least}{each['p_value']:.2g}",
        verdict,
    )


def _table(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, none: str = "Has not been played."
) -> list[str]:
    if not rows:
        return [none, ""]
    cells = [header, ["---"] * len(header), *rows]
    return [*("| " + " | ".join(map(str, each)) + " |" for each in cells), ""]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 10 else f"{value:.2f}"


def _interval(value: Mapping[str, float] | None, sign: str = "") -> str:
    if value is None:
        return "-"
    estimate, low, high = (f"{round(100 * value[name]) + 0:{sign}d}" for name in ("estimate", "low", "high"))
    return f"{estimate} % [{low}, {high}]"
