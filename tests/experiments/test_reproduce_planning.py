"""Planning in the grid's report: measures with their basis, claims that episodes decide, and what was not measured."""

from html import unescape

import numpy as np
import pytest

from colaworld.experiments.reproduce_cells import SCALES
from colaworld.experiments.reproduce_claims import CLAIMS, Claim
from colaworld.experiments.reproduce_measures import CLOSEST, COSINE, COSINE_GAIN, FOLLOWS, PLANNING, SUCCESS
from colaworld.experiments.reproduce_report import report
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_verdicts import (
    FAILS,
    HOLDS,
    NOT_RUN,
    OPEN,
    Cells,
    gain_intervals,
    judge,
)

SEEDS = (0, 1, 2)
PLANS = {
    (claim.first, claim.second): claim for claim in CLAIMS if isinstance(claim, Claim) and claim.measure is SUCCESS
}
TWO_STAGE, LABELS, CONTEXT = (
    PLANS[pair]
    for pair in (("cola", "two_stage"), ("cola_labels_1", "real_actions_labels_1"), ("cola", "plain_adapter"))
)


def finished(variant: str, seed: int) -> StoredCell:
    """A cell that has measured nothing."""
    return StoredCell(
        cell=f"{variant}-s{seed}",
        variant=variant,
        seed=seed,
        identity={},
        status="finished",
        made_by={"versions": {"torch": "2"}, "revision": "123", "cores": 2, "workers": 2},
        evaluation={"clips": 16, "clip_seed": 0},
    )


def page(cells: Cells) -> str:
    return report(cells=cells, scale=SCALES["tiny"], seeds=SEEDS, command="python experiments/reproduce.py")


def looked_at(*, cosine: float, **other) -> dict:
    """An offline look at 12 plans, in a model that follows actions."""
    noise = 0.01 * np.random.default_rng(0).normal(size=12)
    chance = {"cosine_by_chance": [0.1] * 12, "cost_to_rest": [0.5] * 12, "recorded_to_rest": [0.6] * 12}
    return {"about": "CEM of 32 x 2", "clips": 12, "cosine": list(cosine + noise), **chance, **other}


def episodes(reached: int, **other) -> dict:
    """16 goals, the first ``reached`` of them reached from 20 cm away."""
    success = [int(number < reached) for number in range(16)]
    found = {"basis": "dev, settings 1", "category": ["reach", "push"] * 8, "success": success, "start": [0.2] * 16}
    found |= {"closest": [0.01 if each else 0.1 for each in success], "manifest_sha256": "abcdef", "simulators": []}
    return {**found, **other}


def planner(variant: str, seed: int, cosine: float | None = None, reached: int | None = None, **other) -> StoredCell:
    cell = finished(variant, seed)
    cell.evaluation["planning"] = None if cosine is None else looked_at(cosine=cosine, **other)
    if reached is not None:
        cell.evaluation["episodes"] = episodes(reached)
    return cell


def pair(claim: Claim, first: dict, second: dict) -> Cells:
    rows = ((claim.first, first), (claim.second, second))
    cells = [planner(name, seed, **row) for name, row in rows for seed in SEEDS]
    return {cell.cell: cell for cell in cells}


def section(html: str, title: str) -> str:
    return unescape(html.split(f"<h2>{title}</h2>")[1].split("<h2>")[0])


def test_measures_are_one_number_for_each_clip_or_goal() -> None:
    cell = planner("cola", 0, cosine=0.6, reached=4)
    assert COSINE.values(cell).shape == (12,) and SUCCESS.values(cell).shape == CLOSEST.values(cell).shape == (16,)
    assert COSINE_GAIN.mean(cell) == pytest.approx(COSINE.mean(cell) - 0.1)
    named = {measure.title: measure.mean(cell) for measure in PLANNING}
    assert named["share of goals reached in the simulator"] == named["share reached, push alone"] == 0.25
    assert named["closest distance to the goal (cm)"] == pytest.approx(100 * (4 * 0.01 + 12 * 0.1) / 16)
    assert named["closest distance over that at the start"] == pytest.approx((4 * 0.05 + 12 * 0.5) / 16)
    cell.evaluation["episodes"]["category"] = ["reach"] * 16
    assert {measure.title: measure.mean(cell) for measure in PLANNING}["share reached, push alone"] is None
    assert all(measure.mean(finished("cola", 0)) is None for measure in PLANNING)


def test_the_claims_on_planning_are_these() -> None:
    named = [(claim.first, claim.second) for claim in (TWO_STAGE, LABELS, CONTEXT)]
    assert named[0] == ("cola", "two_stage") and named[1] == ("cola_labels_1", "real_actions_labels_1")
    assert named[2] == ("cola", "plain_adapter")


@pytest.mark.parametrize(("ours", "theirs", "outcome"), [(14, 2, HOLDS), (2, 14, FAILS), (5, 5, OPEN), (0, 0, OPEN)])
def test_goals_reached_decide(ours: int, theirs: int, outcome: str) -> None:
    for claim in (TWO_STAGE, LABELS, CONTEXT):
        # Cosines say the opposite and decide nothing.
        cells = pair(claim, {"reached": ours, "cosine": 0.1}, {"reached": theirs, "cosine": 0.9})
        assert judge(claim, cells, SEEDS).outcome == outcome
        assert gain_intervals(claim, COSINE, cells, SEEDS)[0].high < 0


def test_what_a_model_makes_of_recorded_actions_stands_beside_and_decides_nothing() -> None:
    """In the second's model they lead hardly nearer to their own goal than resting does; episodes decide."""
    for claim in PLANS.values():
        cells = pair(
            claim, {"reached": 14, "cosine": 0.5}, {"reached": 2, "cosine": 0.5, "recorded_to_rest": [0.96] * 12}
        )
        assert judge(claim, cells, SEEDS).outcome == HOLDS
        assert FOLLOWS.mean(cells[f"{claim.second}-s0"]) == pytest.approx(0.04)
        row = next(row for row in page(cells).split("<tr>") if unescape(row).startswith(f"<td>{claim.text}"))
        assert f"{FOLLOWS.title}: 0.360 [0.360, 0.360]" in unescape(row)


def test_without_episodes_it_has_not_run_and_cosines_stand_beside() -> None:
    cells = pair(TWO_STAGE, {"cosine": 0.6}, {"cosine": 0.2})
    verdict = judge(TWO_STAGE, cells, SEEDS)
    assert verdict.outcome == NOT_RUN and "Not every run has measured this: share of goals reached" in verdict.why
    row = next(row for row in page(cells).split("<tr>") if TWO_STAGE.text in row)
    assert "has not run" in row and "not deciding: cosine of planned and recorded movement: 0.400 [0.400, 0.400]" in row
    del cells["cola-s0"]
    row = next(row for row in page(cells).split("<tr>") if TWO_STAGE.text in row)
    assert "Has not run: cola-s0." in row and "not deciding" not in row


def test_other_goals_or_settings_are_not_compared() -> None:
    cells = pair(TWO_STAGE, {"reached": 14}, {"reached": 2})
    cells["cola-s1"].evaluation["episodes"] = episodes(3, basis="dev, settings 2")
    verdict = judge(TWO_STAGE, cells, SEEDS)
    assert verdict.outcome == NOT_RUN and "cannot be compared" in verdict.why
    assert "dev, settings 1; dev, settings 2" in verdict.why
    planning = section(page(cells), "Planning")
    rows = [row for row in planning.split("<tr>") if row.startswith("<td>share of goals reached in the simulator")]
    for row, number, others in zip(rows, (1, 2), ("seed 1: in another row", "seed 0: in another row"), strict=True):
        assert f"dev, settings {number}; not comparable with other rows" in row and others in row
    assert "0.875" in rows[0] and "0.125" in rows[0], "what is comparable is compared"
    assert "0.188 (one seed)" in rows[1] and "Δ" not in rows[1], "there is nothing of the second's beside it"


def test_the_page_shows_planning_where_it_is_asked_for() -> None:
    names = ("cola", "two_stage", "plain_adapter", "labelled_loss", "cola_labels_1", "no_fine_tune")
    cells = {f"{name}-s0": planner(name, 0, cosine=0.5, reached=4) for name in names if name != "two_stage"}
    cells["two_stage-s0"] = finished("two_stage", 0)
    html = page(cells)
    for title in ("Adapter robustness", "Do codes name actions?", "Adapter choices", "Label efficiency", "Planning"):
        part = section(html, title)
        planning = part if title == "Planning" else part.split("<h3>Planning</h3>")[1]
        assert "cosine of planned and recorded movement" in planning and "0.250 (one seed)" in planning
        assert "share of goals reached in the simulator" in planning and "7.75 (one seed)" in planning
    assert "<small>seed 0: not measured<br>seed 1: has not run" in section(html, "Planning")
    cells |= {f"two_stage-s{seed}": finished("two_stage", seed) for seed in SEEDS}
    assert "<td><small>not measured</small></td>" in section(page(cells), "Planning")
    assert "two-layer adapter" in section(html, "Do codes name actions?").split("<h3>Planning</h3>")[1]
    assert "<h3>Planning</h3>" not in section(html, "Bottlenecks")


def test_unmeasured_planning_leaves_no_empty_table() -> None:
    part = section(page({"cola-s0": finished("cola", 0)}), "Planning")
    ours, paper = part.split('<div class="paper">')
    assert f"Measured by none of these runs: {FOLLOWS.title}; cosine of planned" in ours and "<table>" not in ours
    assert "97.73" in paper and "21.20" in paper


def test_where_episodes_were_played_is_said() -> None:
    cell = planner("cola", 0, reached=4)
    cell.evaluation["episodes"]["simulators"] = [{"mujoco": "3.3.2", "scene": "libero_goal_0", "psnr_db": 100.0}]
    said = section(page({"cola-s0": cell}), "Where the numbers come from")
    assert "dev, settings 1; SHA-256 abcdef" in said and "simulator: mujoco 3.3.2, scene libero_goal_0" in said
    assert "Episodes: none" in section(page({"cola-s0": finished("cola", 0)}), "Where the numbers come from")
