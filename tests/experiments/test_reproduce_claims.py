"""Verdicts on planted numbers: each of the outcomes, thresholds, margins, and what is not comparable."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from colaworld.experiments.reproduce_claims import CLAIMS, CLOSER_TITLES, FAR, MATTERS, Claim, CollapseClaim
from colaworld.experiments.reproduce_intervals import clustered_interval, t_interval
from colaworld.experiments.reproduce_measures import (
    PROBES,
    action_use,
    collapsed,
    constant_loss,
    drop,
    health,
    later_error,
    lost_worth,
    video,
)
from colaworld.experiments.reproduce_report import warmup_sentence
from colaworld.experiments.reproduce_store import StoredCell
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
    gain_intervals,
    judge,
    looked_again,
)

CLIPS = np.random.default_rng(0).normal(20, 3, 12)
COLLAPSE, _, WARMUP, *_ = CLAIMS
SEEDS = (0, 1, 2)


def about(second: str, measure: str) -> Claim:
    """The claim that cola is better than ``second`` by the measure whose title begins so."""
    return next(
        claim
        for claim in CLAIMS
        if isinstance(claim, Claim)
        and (claim.first, claim.second) == ("cola", second)
        and claim.measure.title.startswith(measure)
    )


FROZEN_LAM, TWO_STAGE = about("frozen_lam", "PSNR"), about("two_stage", "PSNR")
PROBE, DROP = about("two_stage", "probe"), about("two_stage", "drop")


def stored(variant: str, seed: int, *, psnr: float = 0.0, lost: float = 1.0, **other) -> StoredCell:
    """A finished cell whose PSNR is the clips' own plus ``psnr``, and ``lost`` less through the adapter."""
    tokens = other.get("tokens", [(0.8, 0.2, 2.5), (0.8, 0.2, 2.5)])
    noise = 0.01 * np.random.default_rng([seed, len(variant)]).normal(size=12)
    driven = {
        "use": other.get("use", 0.1),
        "health": [dict(zip(("utilisation", "max_usage", "entropy"), token, strict=True)) for token in tokens],
        "video": {"10": {"psnr": list(CLIPS + psnr + noise)}},
    }
    found = {
        "clips": 12,
        "clip_seed": other.get("clip_seed", 0),
        "budget": {"flops": {"warmup": 1.0, "joint": other.get("flops", 9.0)}},
        "before_adapter": {"idm": driven, "adapter": None},
        "idm": deepcopy(driven),
        "adapter": {"video": {"10": {"psnr": list(CLIPS + psnr - lost + noise)}}},
        "probe": {"l1": [other.get("probe", 0.16)] * 12, "l1_constant": 0.25},
    }
    return StoredCell(
        cell=f"{variant}-s{seed}", variant=variant, seed=seed, identity={}, status="finished", evaluation=found
    )


def learned(cell: StoredCell) -> dict:
    """What a planted cell measured before its adapter stage."""
    return cell.evaluation["before_adapter"]["idm"]


def planted(**variants: list[dict]) -> Cells:
    """``planted(cola=[{...} for each seed], ...)``."""
    cells = [stored(name, seed, **row) for name, rows in variants.items() for seed, row in enumerate(rows)]
    return {cell.cell: cell for cell in cells}


def verdict(claim, cells: Cells) -> Verdict:
    return judge(claim, cells, SEEDS)


def by_psnr(*gains: float) -> Cells:
    return planted(cola=[{"psnr": gain} for gain in gains], no_warmup=[{}] * 3, frozen_lam=[{}] * 3)


def test_every_claim_is_about_cells_of_the_grid() -> None:
    assert all({claim.first, claim.second} <= VARIANTS.keys() for claim in CLAIMS)
    assert all(verdict(claim, {}).outcome == NOT_RUN for claim in CLAIMS)


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [((1.0, 1.1, 0.9), HOLDS), ((-1.0, -1.1, -0.9), FAILS), ((1.0, -1.0, 0.2), OPEN), ((0.0, 0.0, 0.0), EQUAL)],
)
def test_the_intervals_side_decides(gains: tuple[float, ...], outcome: str) -> None:
    assert verdict(WARMUP, by_psnr(*gains)).outcome == verdict(FROZEN_LAM, by_psnr(*gains)).outcome == outcome


def test_a_missing_or_failed_cell_is_never_cannot_tell() -> None:
    cells = dict(by_psnr(1.0, -1.0, 0.2))
    del cells["no_warmup-s2"]
    assert verdict(WARMUP, cells).outcome == NOT_RUN and "no_warmup-s2" in verdict(WARMUP, cells).why
    cells["no_warmup-s2"] = StoredCell(
        cell="no_warmup-s2", variant="no_warmup", seed=2, identity={}, status="failed", error="nan"
    )
    assert verdict(WARMUP, cells).outcome == BROKEN and "Failed: no_warmup-s2" in verdict(WARMUP, cells).why
    del cells["no_warmup-s1"]
    assert verdict(WARMUP, cells).why == "Failed: no_warmup-s2; Has not run: no_warmup-s1."


@pytest.mark.parametrize(("spread", "outcome"), [(0.2 * MATTERS, EQUAL), (1.5 * MATTERS, OPEN)])
def test_a_difference_too_small_to_matter_is_no_open_question(spread: float, outcome: str) -> None:
    """Seeds differ by less than what matters to either side; where they reach beyond it nothing is known."""
    cells = by_psnr(0.0, spread, -spread)
    assert verdict(WARMUP, cells).outcome == outcome
    assert verdict(replace(WARMUP, smallest=0.0), cells).outcome == OPEN, "no smallest difference has been fixed"


def test_what_matters_is_asked_of_clips_too() -> None:
    """Seeds agree to a hair on no difference, but half of the clips are better by what matters greatly, half worse."""
    cells = by_psnr(0.0, 0.0, 0.0)
    for seed in SEEDS:
        plain = learned(cells[f"no_warmup-s{seed}"])["video"]["10"]["psnr"]
        better = [value + (-1) ** number * 20 * MATTERS for number, value in enumerate(plain)]
        learned(cells[f"cola-s{seed}"])["video"]["10"]["psnr"] = better
    found = verdict(WARMUP, cells)
    assert -MATTERS < found.gain.low <= found.gain.high < MATTERS and found.outcome == OPEN


def test_only_psnr_ten_steps_on_has_a_smallest_difference() -> None:
    claims = [claim for claim in CLAIMS if isinstance(claim, Claim)]
    assert {claim.smallest for claim in claims if claim.measure is FAR} == {MATTERS}
    assert {claim.smallest for claim in claims if claim.measure is not FAR} == {0.0}
    again = planted(cola=[{"use": 0.1}] * 3, no_warmup=[{"use": 0.1 + 1e-3 * seed} for seed in SEEDS])
    assert looked_again(WARMUP, again, SEEDS)["action use U"].outcome == OPEN, "of dB, not of U"


def test_what_was_not_measured_has_not_run() -> None:
    cells = by_psnr(1.0, 1.1, 0.9)
    learned(cells["cola-s1"])["video"]["10"]["psnr"][3] = None
    assert verdict(WARMUP, cells).outcome == NOT_RUN and "Not every run has measured" in verdict(WARMUP, cells).why


def test_the_interval_over_seeds_is_the_paired_t_tests() -> None:
    cells = by_psnr(0.3, 0.5, 0.1)
    far = video("learned", "psnr", 10)
    means = [[far.mean(cells[f"{name}-s{seed}"]) for seed in SEEDS] for name in ("cola", "no_warmup")]
    expected = ttest_rel(*means).confidence_interval()
    assert verdict(WARMUP, cells).gain.low == pytest.approx(expected.low)
    assert verdict(WARMUP, cells).gain.high == pytest.approx(expected.high)


def test_clips_that_disagree_keep_a_claim_open() -> None:
    """Three seeds agree to a hair that one clip is far better and the others a little worse."""
    cells = by_psnr(0.0, 0.0, 0.0)
    for seed in SEEDS:
        better = learned(cells[f"cola-s{seed}"])["video"]["10"]
        plain = learned(cells[f"no_warmup-s{seed}"])["video"]["10"]["psnr"]
        better["psnr"] = [plain[0] + 20.0 + 0.01 * seed, *(value - 1.0 for value in plain[1:])]
    found = verdict(WARMUP, cells)
    assert found.gain.low > 0 > found.clustered.low and found.outcome == OPEN


def test_other_clips_are_not_paired() -> None:
    cells = planted(cola=[{}] * 3, no_warmup=[{}, {}, {"clip_seed": 7}])
    with pytest.raises(ValueError, match="no_warmup-s2 was evaluated with clip_seed = 7, cola-s0 with 0"):
        verdict(WARMUP, cells)


def test_compute_is_named_where_it_differs() -> None:
    cells = planted(cola=[{"flops": 11.0}] * 3, two_stage=[{"flops": 9.0}] * 3)
    assert "spent 1.20 times the FLOPs" in verdict(TWO_STAGE, cells).why
    assert "FLOPs" not in verdict(TWO_STAGE, planted(cola=[{}] * 3, two_stage=[{}] * 3)).why
    nearly = planted(cola=[{"flops": 9.2}] * 3, two_stage=[{"flops": 9.0}] * 3)
    assert "FLOPs" not in verdict(TWO_STAGE, nearly).why
    beyond = planted(cola=[{"flops": 9.4}] * 3, two_stage=[{"flops": 9.0}] * 3)
    assert "spent 1.04 times the FLOPs" in verdict(TWO_STAGE, beyond).why
    nearly["cola-s0"].evaluation["budget"]["flops"]["adapter"] = 1e9  # after what is compared
    assert "FLOPs" not in verdict(TWO_STAGE, nearly).why


@pytest.mark.parametrize(
    ("token", "dead"),
    [
        ((0.8, 0.2, 2.5), False),
        ((0.19, 0.2, 2.5), True),
        ((0.8, 0.51, 2.5), True),
        ((0.8, 0.2, 0.99), True),
        ((0.2, 0.5, 1.0), False),
    ],
)
def test_collapse_by_the_papers_thresholds_in_any_token(token: tuple[float, ...], dead: bool) -> None:
    assert bool(collapsed(stored("cola", 0, tokens=[(0.8, 0.2, 2.5), token]))) is dead


def test_idle_transitions_do_not_count_where_they_are_told_apart() -> None:
    cell = stored("cola", 0, tokens=[(0.1, 0.9, 0.3)])
    assert collapsed(cell)
    learned(cell)["health"][0] |= {"utilisation_moving": 0.7, "max_usage_moving": 0.3, "entropy_moving": 2.0}
    assert not collapsed(cell) and health("learned", "entropy").mean(cell) == 2.0


@pytest.mark.parametrize(("dead", "outcome"), [((1, 1, 1), HOLDS), ((0, 0, 0), FAILS), ((1, 0, 1), OPEN)])
def test_collapse_is_judged_by_all_seeds(dead: tuple[int, ...], outcome: str) -> None:
    cells = planted(cola=[{}] * 3, no_warmup=[{"tokens": [(0.1, 0.9, 0.2)]} if each else {} for each in dead])
    assert verdict(COLLAPSE, cells).outcome == outcome
    why = verdict(COLLAPSE, cells).why
    assert f"collapsed with {sum(dead)} of 3 seeds" in why and "U 0.100 / 0.100 / 0.100" in why
    assert ("(by utilisation, max-usage, entropy)" in why) == any(dead)


def test_a_collapse_with_warmup_too_is_no_merit_of_the_warmup() -> None:
    dead = [{"tokens": [(0.1, 0.9, 0.2)]}] * 3
    assert verdict(COLLAPSE, planted(cola=dead, no_warmup=dead)).outcome == FAILS


@pytest.mark.parametrize(("ours", "outcome"), [(0.162, HOLDS), (0.14, HOLDS), (0.18, FAILS)])
def test_as_readable_means_within_a_margin(ours: float, outcome: str) -> None:
    cells = planted(cola=[{"probe": ours + 1e-4 * seed} for seed in SEEDS], two_stage=[{"probe": 0.16}] * 3)
    assert verdict(PROBE, cells).outcome == outcome


def test_unreadable_codes_are_not_as_readable() -> None:
    cells = planted(cola=[{"probe": 0.26}] * 3, two_stage=[{"probe": 0.26}] * 3)
    assert verdict(PROBE, cells).outcome == EMPTY and "equally unreadable" in verdict(PROBE, cells).why


def test_the_smaller_drop_wins_and_unused_codes_have_none() -> None:
    costs = {"cola": [{"lost": 0.5 + 0.01 * seed} for seed in SEEDS], "two_stage": [{"lost": 2.0}] * 3}
    assert verdict(DROP, planted(**costs)).outcome == HOLDS
    assert drop("psnr", 10, "snapped_adapter").mean(planted(**costs)["two_stage-s0"]) == pytest.approx(2.0)
    unused = {"cola": [{"lost": 0.0, "use": 0.009}] * 3, "two_stage": [{"lost": 2.0}] * 3}
    found = verdict(DROP, planted(**unused))
    assert found.outcome == EMPTY and f"0.009 with {VARIANTS['cola'].title}" in found.why


def test_without_the_use_of_its_codes_nothing_is_said_of_the_cost() -> None:
    cells = planted(cola=[{"lost": 0.5}] * 3, two_stage=[{"lost": 2.0}] * 3)
    del cells["two_stage-s1"].evaluation["idm"]["use"]
    found = verdict(DROP, cells)
    assert found.outcome == NOT_RUN and "Not every run has measured this: action use U" in found.why


def test_one_weak_seed_does_not_end_a_comparison() -> None:
    weak = {"cola": [{"lost": 0.5 + 0.01 * seed, "use": (0.4, 0.4, 0.0)[seed]} for seed in SEEDS]}
    assert verdict(DROP, planted(**weak, two_stage=[{"lost": 2.0}] * 3)).outcome == HOLDS


def test_a_collapse_under_the_adapter_is_judged_by_its_codes() -> None:
    cells = planted(regressing_adapter=[{}] * 3, two_stage_regressing_adapter=[{}] * 3)
    claim = next(each for each in CLAIMS if isinstance(each, CollapseClaim) and each.source == "adapter")
    for name, cell in cells.items():
        healthy = learned(cell)["health"]
        dead = [{"utilisation": 0.1, "max_usage": 0.5, "entropy": 1.2}]
        cell.evaluation["adapter"]["health"] = dead if "two_stage" in name else healthy
    assert verdict(claim, cells).outcome == HOLDS and "(by utilisation)" in verdict(claim, cells).why


def test_claims_of_psnr_are_looked_at_again_and_others_are_not() -> None:
    cells = planted(cola=[{"use": 0.4 + 0.01 * seed} for seed in SEEDS], no_warmup=[{"use": 0.1}] * 3)
    again = looked_again(WARMUP, cells, SEEDS)
    assert again["action use U"].outcome == HOLDS and verdict(WARMUP, cells).outcome != HOLDS
    assert tuple(again) == CLOSER_TITLES[:3], "before the adapter there is nothing to lose"
    assert looked_again(PROBE, cells, SEEDS) == looked_again(COLLAPSE, cells, SEEDS) == {}
    assert looked_again(WARMUP, {}, SEEDS)["action use U"].outcome == NOT_RUN


def test_what_the_adapter_costs_is_looked_at_again_one_step_on() -> None:
    """PSNR ten steps on loses less with cola, the next frame's error rises more: the second is only shown."""
    cells = planted(cola=[{"lost": 0.5 + 0.01 * seed} for seed in SEEDS], two_stage=[{"lost": 2.0}] * 3)
    for name, cell in cells.items():
        rise = 0.03 + 0.001 * cell.seed if name.startswith("cola") else 0.01
        cell.evaluation["idm"]["next_frame_error"] = [0.2] * 12
        cell.evaluation["adapter"]["next_frame_error"] = [0.2 + rise] * 12
    again = looked_again(DROP, cells, SEEDS)
    assert tuple(again) == CLOSER_TITLES[1:], "U says nothing of what is lost"
    assert again["next-frame error"].outcome == FAILS and verdict(DROP, cells).outcome == HOLDS
    assert again["next-frame error"].gain.estimate == pytest.approx(-0.021)
    cell = cells["two_stage-s0"]
    cell.evaluation["adapter_codes"] = {"next_frame_error": [0.27] * 12}
    assert later_error("snapped_adapter").mean(cell) == pytest.approx(0.07)
    assert later_error("adapter").mean(cell) == pytest.approx(0.01)
    unused = planted(cola=[{"use": 0.009}] * 3, two_stage=[{}] * 3)
    assert {each.outcome for each in looked_again(DROP, unused, SEEDS).values()} <= {EMPTY, NOT_RUN}


def test_recipes_are_compared_before_the_adapter_stage_and_drops_after_it() -> None:
    """Whatever the adapter stage makes of a world model changes no verdict on recipes, and nothing else makes drops."""
    cells = by_psnr(1.0, 1.1, 0.9)
    for seed in SEEDS:
        cells[f"cola-s{seed}"].evaluation["idm"]["video"]["10"]["psnr"] = [5.0] * 12
    assert verdict(WARMUP, cells).outcome == HOLDS
    costs = planted(cola=[{"lost": 0.5 + 0.01 * seed} for seed in SEEDS], two_stage=[{"lost": 2.0}] * 3)
    for cell in costs.values():
        learned(cell)["video"]["10"]["psnr"] = [5.0] * 12
    assert verdict(DROP, costs).outcome == HOLDS
    del cells["cola-s0"].evaluation["before_adapter"]
    assert verdict(WARMUP, cells).outcome == NOT_RUN


def test_the_drop_is_that_of_the_adapters_codes_where_it_has_some() -> None:
    costs = planted(cola=[{"lost": 0.5 + 0.01 * seed} for seed in SEEDS], two_stage=[{"lost": 2.0}] * 3)
    for seed in SEEDS:
        found = costs[f"cola-s{seed}"].evaluation
        later = [value - 4.0 for value in found["idm"]["video"]["10"]["psnr"]]
        found["adapter_codes"] = {"video": {"10": {"psnr": later}}}
    assert verdict(DROP, costs).outcome == FAILS
    cell = costs["cola-s0"]
    cost = {source: drop("psnr", 10, source).mean(cell) for source in ("adapter", "adapter_codes", "snapped_adapter")}
    assert cost == pytest.approx({"adapter": 0.5, "adapter_codes": 4.0, "snapped_adapter": 4.0})


def test_what_real_actions_drive_stands_beside_codes() -> None:
    cell = stored("real_actions", 0, psnr=2.0)
    far, codes = video("learned", "psnr", 10), video("learned", "psnr", 10).mean(cell)
    cell.evaluation["before_adapter"] = {"idm": None, "adapter": learned(cell)}
    assert far.mean(cell) == codes


def test_distances_on_different_networks_are_not_compared() -> None:
    cells = by_psnr(1.0, 1.1, 0.9)
    for name, cell in cells.items():
        network = "fvd" if name == "cola-s1" else "random-features-v1"
        learned(cell)["video"]["10"]["frechet"] = {"name": network, "value": 3.0, "n": 12}
    frechet = video("learned", "frechet", 10)
    assert gain_intervals(WARMUP, frechet, cells, SEEDS) == (None, None)
    assert frechet.bases(cells.values()) == ["fvd", "random-features-v1"]
    learned(cells["cola-s1"])["video"]["10"]["frechet"]["name"] = "random-features-v1"
    assert gain_intervals(WARMUP, frechet, cells, SEEDS)[0].estimate == 0.0


def test_a_warmup_that_does_not_matter_is_said_so() -> None:
    """Of all claims, as on the page; each compares runs that differ in their warm-up alone."""
    slow, full = ("cola", "no_warmup"), ("no_ramp", "no_warmup_no_ramp")

    def said(*gains: float, dead: bool = False, **changed: StoredCell) -> str:
        without = [{"tokens": [(0.1, 0.9, 0.2)] * 2} if dead else {}] * 3
        cells = planted(
            **{name: [{"psnr": gain} for gain in gains] for name in (slow[0], full[0])},
            **{name: without for name in (slow[1], full[1])},
        )
        return warmup_sentence([verdict(claim, {**cells, **changed}) for claim in CLAIMS])

    about = [claim for claim in CLAIMS if {slow[1], full[1]} & {claim.first, claim.second}]
    assert len(about) == 4 and all({claim.first, claim.second} in (set(slow), set(full)) for claim in about)
    unsure, equal = said(0.1, -0.1, 0.0), said(0.0, 0.0, 0.0)
    assert "Of 4 claims" in equal and "2 does not hold here, 2 no difference that matters. At this" in equal
    assert "2 does not hold here, 2 cannot tell at this n" in unsure and "does not matter" not in unsure
    assert "2 holds here, 2 no difference that matters." in said(0.0, 0.0, 0.0, dead=True)
    assert "not known yet" in warmup_sentence([verdict(claim, {}) for claim in CLAIMS])
    worse = said(-1.0, -1.1, -0.9)
    assert "4 does not hold here." in worse and "does not matter" not in worse, "it does harm"
    failed = {"no_ramp-s1": replace(stored("no_ramp", 1), status="failed", error="nan")}
    assert "not known yet" in said(0.0, 0.0, 0.0, **failed)


@pytest.mark.parametrize(("use", "outcome"), [((0.38, 0.40, 0.39), EQUAL), ((0.1, 0.5, 0.4), OPEN)])
def test_pixels_alone_do_not_say_that_nothing_differs(use: tuple[float, ...], outcome: str) -> None:
    """PSNR ten steps on hardly sees actions: what sees them must not leave room for a difference either."""
    cells = by_psnr(0.0, 0.0, 0.0)
    for seed, value in zip(SEEDS, use, strict=True):
        learned(cells[f"cola-s{seed}"])["use"] = value
        learned(cells[f"no_warmup-s{seed}"])["use"] = 0.38
    found = verdict(WARMUP, cells)
    assert found.outcome == outcome and ("by others one may: action use U" in found.why) == (outcome == OPEN)


def test_what_the_adapter_loses_counts_in_what_codes_are_worth() -> None:
    """Codes at a flow loss of 0.1, a constant one at 0.2: a loss of 0.15 has lost half, whatever PSNR says."""
    lost, cell = lost_worth("snapped_adapter"), stored("cola", 0)
    assert lost.mean(cell) is None, "flow losses were not measured"
    cell.evaluation["idm"] |= {"flow": 0.1, "use": 0.5}
    cell.evaluation["adapter"]["flow"] = 0.12
    cell.evaluation["adapter_codes"] = {"flow": 0.15}
    assert lost.mean(cell) == pytest.approx(0.5) and lost_worth("adapter").mean(cell) == pytest.approx(0.2)
    cell.evaluation["idm"]["use"] = 0.0
    assert lost.mean(cell) is None, "there is nothing to lose"


def test_uses_of_actions_against_other_constants_are_not_compared() -> None:
    """A mean is a kinder constant than a wrong code: dead codes against a code and real actions against their mean."""
    cells = planted(cola=[{"use": 0.3}] * 3, continuous=[{"use": 0.2}] * 3)
    for seed in SEEDS:
        learned(cells[f"continuous-s{seed}"])["health"] = None
    claim, use = replace(WARMUP, second="continuous", measure=action_use("learned")), action_use("learned")
    assert verdict(claim, cells).outcome == NOT_RUN and "cannot be compared" in verdict(claim, cells).why
    assert use.bases(cells.values()) == ["against the commonest code", "against the mean"]
    cell = cells["cola-s0"]
    cell.evaluation["adapter"] |= {"use": 0.1, "health": learned(cell)["health"]}
    assert action_use("adapter").bases([cell]) == ["against the commonest code"], "it answers with codes"
    cell.evaluation["adapter_codes"] = {"use": 0.2, "health": learned(cell)["health"]}
    assert action_use("adapter").bases([cell]) == ["against the mean"]
    learned(cell)["flow"] = 0.14
    assert constant_loss("learned").mean(cell) == pytest.approx(0.2)


def test_each_dimension_of_the_probe_counts_in_its_own_constant() -> None:
    """Dimensions have different ranges; one that never varies has no share."""
    cell = stored("cola", 0)
    dimensions = [measure for measure in PROBES if "as a share" in measure.title]
    assert len(dimensions) == 7 and all(measure.mean(cell) is None for measure in dimensions)
    cell.evaluation["probe"] |= {"l1_per_dimension": [0.1, 0.3, *[0.2] * 5]}
    cell.evaluation["probe"] |= {"l1_constant_per_dimension": [0.2, 0.3, *[0.1] * 4, 0.0]}
    shares = [measure.mean(cell) for measure in dimensions]
    assert shares[:6] == pytest.approx([0.5, 0.0, *[-1.0] * 4]) and shares[6] is None
    assert dimensions[6].title.endswith(": gripper")


def test_intervals_of_known_numbers() -> None:
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.estimate == 2.0 and interval.high - 2.0 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        t_interval([1.0])
    rng = np.random.default_rng(0)
    clips_vary = np.broadcast_to(rng.normal(size=50), (4, 50))
    width = clustered_interval(clips_vary).high - clustered_interval(clips_vary).low
    assert width == pytest.approx(2 * 1.96 * clips_vary[0].std() / 50**0.5, rel=0.1), "copies of a seed add nothing"
    with pytest.raises(ValueError, match="2 seeds and 2 clips"):
        clustered_interval(np.zeros((1, 5)))
