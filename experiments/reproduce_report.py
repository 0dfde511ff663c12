"""One self-contained HTML page from the stored cells of the grid: claims, tables, curves, what has run and what not.

Every number on it is read from a cell or, in a table marked so, is the paper's.
"""

from collections.abc import Sequence
from html import escape
from string import Template

from colaworld.experiments.provenance import distinct
from colaworld.experiments.reproduce_cells import GROUPS, Cell, GroupName, Scale, as_arguments
from colaworld.experiments.reproduce_claims import CLAIMS, MATTERS, CollapseClaim
from colaworld.experiments.reproduce_compute import compute_table
from colaworld.experiments.reproduce_measures import (
    ADAPTATION,
    ADAPTED,
    HEALTH,
    HORIZONS,
    PLANNING,
    PREDICTION,
    PROBES,
    SAID,
    TRANSFER,
    VIDEO_METRICS,
    Measure,
    Source,
    driven,
    video,
)
from colaworld.experiments.reproduce_paper import PAPER
from colaworld.experiments.reproduce_plots import adapter_cost, by_horizon, codebook_curves, finished_runs
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_tables import budget_table, claims_table, closer_table, html_table, measure_table
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.reproduce_verdicts import (
    BROKEN,
    EMPTY,
    EQUAL,
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    Cells,
    Verdict,
    judge,
)
from colaworld.experiments.video_metrics import few_clips

LARGEST = 2 * 2**20
"""Bytes of the page."""
_MEASURES: dict[GroupName, tuple[Measure, ...]] = {
    "warmup": (*PREDICTION, *HEALTH),
    "freeze": (*PREDICTION, *HEALTH),
    "gradients": (*PREDICTION, *HEALTH),
    "probe": PROBES,
    "compute": (*PREDICTION, *HEALTH),
    "adapter": ADAPTATION,
    "ramp": (*PREDICTION, *HEALTH),
    "guard": (*PREDICTION, *HEALTH),
    "bottlenecks": (*PREDICTION, *HEALTH, *PROBES, *ADAPTED),
    "naming": (*PROBES, *TRANSFER, *PREDICTION, *HEALTH, *ADAPTED),
    "adapters": ADAPTATION,
    "labels": ADAPTATION,
    "planning": PLANNING,
}
_CURVES: tuple[GroupName, ...] = ("warmup", "freeze", "gradients", "probe", "ramp", "guard", "bottlenecks", "naming")
_HORIZONS: tuple[GroupName, ...] = ("warmup", "freeze", "gradients")
_COMPUTE: tuple[GroupName, ...] = (*_HORIZONS, "probe", "adapter", "guard", "bottlenecks")
_PLANNED: dict[GroupName, tuple[str, ...]] = {
    "adapter": (),
    "naming": ("plain_adapter", "labelled_loss_plain_adapter"),
    "adapters": (),
    "labels": (),
}
"""Groups whose planning is shown too, with further variants that differ from theirs in nothing else."""
_COSTS: tuple[GroupName, ...] = ("adapter", "adapters", "labels")

_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>CoLA-World's claims at scale $scale</title><style>
body { font: 15px/1.45 sans-serif; max-width: 1150px; margin: 1.5em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 12px; margin: .6em 0 }
td, th { border: 1px solid #ccc; padding: 2px 6px; vertical-align: top; text-align: left }
th { background: #f3f3f3 } td small { color: #666; display: block } .wide { overflow-x: auto }
.measures td + td { white-space: nowrap } .measures td:first-child { position: sticky; left: 0; background: #fff;
min-width: 12em }
.paper table { background: #fff8e6 } .holds { background: #d9f2d9 } .fails { background: #f7d7d7 }
.open { background: #eee } .none { background: #fff; color: #888 } .failed { background: #f7d7d7 }
code, pre { background: #f5f5f5; font-size: 12px } pre { padding: .5em; overflow-x: auto } img { max-width: 100% }
</style></head><body>
<h1>CoLA-World's claims at scale “$scale”</h1>
<p>Written by</p><pre>$command</pre><p>It shows all cells that were there, those of earlier calls too.</p>
<p>$status</p>
<h2>The claims</h2>$claims
<p>$warmup</p>
<h3>Looked at again</h3><p>$again</p>$closer
<h3>How a claim is judged</h3><p>$method</p>
<h2>What has run</h2>$grid
$groups
<h2>What it cost</h2>$budget
<h2>Where the numbers come from</h2>$provenance
</body></html>
""")

_METHOD = (
    "All runs start from the same codec and action-free video model, and are evaluated on the same clips; a "
    "comparison is paired by seed. Recipes are compared as their latent-action stages leave them: the adapter stage, "
    "which trains every world model further, comes after that, and only adapters, what they cost and planning are "
    "judged after it. Planning is looked at twice: the cosine of what a plan commands the gripper with what was "
    "recorded between two frames of a held-out clip; and episodes in the simulator, which decide, on goals for "
    "development, on which nothing else is reported. Each stage restarts its cosine learning rate: a recipe of two "
    "stages goes through two of them; a warm-up whose end is not known keeps it constant. The forward dynamics model "
    "of two-stage training predicts latents here, not pixels. Where few trajectories keep their labels, runs on real "
    "actions and every adapter stage draw half of each batch from these, so that their clips come in another order "
    "than those of runs with all labels. Claims compare at equal steps; tables “at equal compute” stand beside them. The "
    "interval over seeds is Student's t, 95 %, over one mean for each seed: with three seeds it is wide, as three "
    "seeds tell little. Where a measure has a number for each clip or goal, a bootstrap that resamples seeds and, "
    "across them, clips or goals must agree. “{holds}”: all intervals of the gain lie above zero; “{fails}”: all lie "
    "below; “{equal}”, for comparisons by PSNR ten steps on: no interval reaches {matters} dB to either side, half "
    "of what a world model loses that makes no use of its codes (fixed when 30 cells had run), nor half of that by "
    "action use, next-frame error or Fréchet distance (when 45 had); “{open}”: anything "
    "else; “{not_run}”: a run that it needs has not finished, or has not measured it, or not in the same way; "
    "“{broken}”: one ended in an error. The claim on collapse is a threshold (utilisation below 20 %, max-usage "
    "above 50 % or entropy below 1.0 nat, in any token): it holds when every seed does as claimed and does not when "
    "none does. “{empty}”: the two lack what the claim is about. Each claim has one deciding measure. {count} claims "
    "are judged, each at 95 % by itself. The Fréchet distance is on the extractor named below, and is the paper's FVD "
    "only if that is its name."
)

_AGAIN = (
    "PSNR ten steps on hardly sees actions here: a run whose codes are unused loses a tenth of a dB. The same "
    "comparisons by measures that do see them: action use U, the error one step ahead (what it rises by from the IDM's "
    "codes to the adapter), and the Fréchet distance ten steps ahead. They were chosen when 23 cells had run (for what "
    "the adapter costs: 30), and decide nothing about those. A model that hardly uses its codes loses little on the "
    "way to the adapter's: the share of the codes' worth that is lost was added when 45 had run."
)


def report(*, cells: Cells, scale: Scale, seeds: Sequence[int], command: str) -> str:
    """The page. ``seeds`` are those that every claim needs; cells of further seeds are shown in the tables. ValueError
    when it would be larger than 2 MiB.
    """
    shown = sorted({*seeds, *(cell.seed for cell in cells.values())})
    verdicts = [judge(claim, cells, seeds) for claim in CLAIMS]
    page = _PAGE.substitute(
        scale=escape(scale.name),
        command=escape(command),
        status=escape(_status(cells, shown)),
        claims=claims_table(verdicts, cells, seeds),
        warmup=escape(warmup_sentence(verdicts)),
        again=escape(_AGAIN),
        closer=closer_table(cells, seeds),
        method=escape(
            _METHOD.format(
                holds=HOLDS,
                fails=FAILS,
                equal=EQUAL,
                open=OPEN,
                not_run=NOT_RUN,
                broken=BROKEN,
                empty=EMPTY,
                matters=MATTERS,
                count=len(CLAIMS),
            )
        ),
        grid=_grid(cells, shown),
        groups="\n".join(_group(name, cells, shown) for name in GROUPS),
        budget=budget_table(cells, shown),
        provenance=_provenance(cells, scale),
    )
    if len(page.encode()) > LARGEST:
        raise ValueError(f"the report would be {len(page.encode())} bytes, more than {LARGEST}")
    return page


def warmup_sentence(verdicts: Sequence[Verdict]) -> str:
    """What the claims on warm-up come to."""
    without = {"no_warmup", "no_warmup_no_ramp"}
    about = [verdict for verdict in verdicts if without & {verdict.claim.first, verdict.claim.second}]
    outcomes = [verdict.outcome for verdict in about]
    if {NOT_RUN, BROKEN} & set(outcomes):
        return "Whether the warm-up matters at this scale is not known yet: its runs have not all finished."
    counted = ", ".join(f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes))
    as_good = all(each.outcome == (FAILS if isinstance(each.claim, CollapseClaim) else EQUAL) for each in about)
    said = " At this scale it does not matter." if as_good else ""
    return f"Of {len(outcomes)} claims that a warm-up is better than none: {counted}.{said}"


def _status(cells: Cells, seeds: Sequence[int]) -> str:
    wanted = {Cell(variant=variant, seed=seed).name for variant in VARIANTS.values() for seed in seeds}
    finished = sum(cell.finished for cell in cells.values())
    failed = len(cells) - finished
    absent = len(wanted - cells.keys())
    return f"Of {len(wanted)} cells {finished} have finished, {failed} have failed, {absent} have not run."


def _grid(cells: Cells, seeds: Sequence[int]) -> str:
    rows = []
    for variant in VARIANTS.values():
        row = [escape(variant.title)]
        for seed in seeds:
            cell = cells.get(Cell(variant=variant, seed=seed).name)
            if cell is None:
                row.append('<span class="none">has not run</span>')
            elif cell.finished:
                row.append("finished")
            else:
                row.append(f'<span class="failed">failed</span> ({cell.attempts}x): {escape(cell.error or "")}')
        rows.append(row)
    return html_table(["", *(f"seed {seed}" for seed in seeds)], rows)


def _group(name: GroupName, cells: Cells, seeds: Sequence[int]) -> str:
    group = GROUPS[name]
    parts = [f"<h2>{escape(group.title)}</h2><p>{escape(group.question)}</p>"]
    plots = (
        (_CURVES, codebook_curves, "Dashed: the threshold of a collapse. One thin line for each seed."),
        (_HORIZONS, by_horizon, "One thin line for each seed."),
        (_COSTS, adapter_cost, "One line for each seed."),
    )
    for groups, plot, caption in plots:
        picture = plot(cells, group.variants, seeds) if name in groups else None
        if picture is not None:
            parts.append(f'<p><img src="{picture}" alt="{escape(caption)}"><br><small>{escape(caption)}</small></p>')
    parts.append(measure_table(cells, group.variants, seeds, _MEASURES[name]))
    if name in _PLANNED and any(finished_runs(cells, variant, seeds) for variant in group.variants):
        variants = (*group.variants, *_PLANNED[name])
        parts.append(f"<h3>Planning</h3>{measure_table(cells, variants, seeds, PLANNING)}")
    if name in _HORIZONS:
        parts += [f"<p>{escape(_bound(cells, source))}</p>" for source in ("copy", "codec")]
    if name in _COMPUTE:
        parts.append(compute_table(cells, group.variants, seeds))
    if name in PAPER:
        paper = PAPER[name]
        cell_rows = [[escape(text) for text in row] for row in paper.rows]
        parts.append(
            f'<div class="paper"><p>The paper\'s figures ({escape(paper.title)}; another model and scale):</p>'
            f"{html_table(paper.header, cell_rows)}</div>"
        )
    return "\n".join(parts)


def _bound(cells: Cells, source: Source) -> str:
    """A sentence with the video metrics of copying the last frame, or of what the codec returns, which are the same
    for every run.
    """
    name = "copying the last frame" if source == "copy" else "the real frames through the codec, which bounds all runs"
    measures = [video(source, metric, horizon) for metric in VIDEO_METRICS for horizon in HORIZONS]
    cell = next((cell for cell in cells.values() if measures[0].mean(cell) is not None), None)
    known = [(measure, value) for measure in measures if (value := measure.mean(cell)) is not None]
    mine = f", {SAID[source]}"
    said = "; ".join(f"{measure.title.removesuffix(mine)} {measure.text(value)}" for measure, value in known)
    return f"For {name}: {said or 'not measured yet'}."


def _provenance(cells: Cells, scale: Scale) -> str:
    finished = [cell for cell in cells.values() if cell.finished]
    distances = [
        distance
        for cell in finished
        for source in SAID
        for each in (driven(cell.evaluation, source).get("video") or {}).values()
        if (distance := each.get("frechet"))
    ]
    extractors = sorted(
        {f"{each['name']} (n = {each.get('n')} of {each.get('features', '?')} features)" for each in distances}
    )
    few = "".join(f"<p>{escape(line)}</p>" for line in few_clips([each for each in distances if "features" in each]))
    makers = "".join(
        f"<li>{escape(', '.join(f'{name} {version}' for name, version in maker['versions'].items()))}; revision "
        f"{escape(str(maker['revision']))}; {maker['cores']} cores, {maker['workers']} runs at once</li>"
        for maker in distinct(cell.made_by for cell in finished)
    )
    revisions = {str(cell.made_by.get("revision")) for cell in finished}
    if len(revisions) > 1:
        makers += (
            f"<li><b>The cells come from {len(revisions)} different revisions of the code</b>, each read when its cell "
            "began: what changed between them may be part of any difference.</li>"
        )
    hashes = "".join(
        f"<li>{escape(name)}: <code>{escape(str(value))}</code></li>"
        for identity in distinct({k: v for k, v in cell.identity.items() if k != "flags"} for cell in finished)
        for name, value in identity.items()
    )
    flags = "".join(
        f"<tr><td>{escape(variant.title)}</td><td><code>"
        f"{escape(' '.join(as_arguments(Cell(variant=variant, seed=0).flags(scale))))}</code></td></tr>"
        for variant in VARIANTS.values()
    )
    clips = sorted({(cell.evaluation.get("clips"), cell.evaluation.get("clip_seed")) for cell in finished}, key=str)
    judged = "; ".join(f"{count} clips drawn with seed {seed}" for count, seed in clips) or "none yet"
    return (
        f"<p>Evaluation clips: {escape(judged)}. Fréchet extractor: {escape('; '.join(extractors) or 'none yet')}.</p>"
        f"{few}{_episodes(finished)}"
        f"<p>Versions and machines:</p><ul>{makers or '<li>none yet</li>'}</ul>"
        f"<p>SHA-256 of data and starting weights:</p><ul>{hashes or '<li>none yet</li>'}</ul>"
        f"<details><summary>Flags of every run with seed 0</summary><table>{flags}</table></details>"
    )


def _episodes(finished: Sequence[StoredCell]) -> str:
    """Which goals were played with which settings, and in which simulators; how plans on clips were looked at."""
    looks = sorted({str(cell.evaluation["planning"]["about"]) for cell in finished if cell.evaluation.get("planning")})
    played = [cell.evaluation["episodes"] for cell in finished if cell.evaluation.get("episodes")]
    goals = [f"{each['basis']}; SHA-256 {each['manifest_sha256']}" for each in played]
    simulators = distinct(simulator for each in played for simulator in each["simulators"])
    lines = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(goals))
    lines += "".join(
        f"<li>simulator: {escape(', '.join(f'{name} {value}' for name, value in each.items()))}</li>"
        for each in simulators
    )
    return (
        f"<p>Plans on held-out clips: {escape('; '.join(looks) or 'none yet')}. "
        f"Episodes: {'' if lines else 'none yet.'}</p>" + (f"<ul>{lines}</ul>" if lines else "")
    )
