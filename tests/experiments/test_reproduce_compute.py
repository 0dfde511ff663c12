"""Equal compute: curves against what was spent, on planted runs with known answers."""

import pytest

from colaworld.experiments.reproduce_compute import compute_curve, compute_table, value_at
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_verdicts import Cells, latent_flops


Stages = dict[str, tuple[int, float]]


def run(variant: str, stages: Stages, curve: dict[int, float | None], seed: int = 0) -> StoredCell:
    """A run with these steps and FLOPs in its stages and these watched numbers at these steps."""
    return StoredCell(
        cell=f"{variant}-s{seed}",
        variant=variant,
        seed=seed,
        identity={},
        status="finished",
        curves={"total_step": list(curve), "predicted": list(curve.values())},
        evaluation={
            "budget": {
                "steps": {stage: steps for stage, (steps, _) in stages.items()},
                "flops": {stage: flops for stage, (_, flops) in stages.items()},
            }
        },
    )


def by_name(*runs: StoredCell) -> Cells:
    return {each.cell: each for each in runs}


COLA = {"warmup": (20, 200.0), "joint": (80, 1600.0), "adapter": (10, 500.0)}
TWO_STAGE = {"lam": (50, 100.0), "world": (50, 800.0), "adapter": (10, 500.0)}


def test_only_latent_action_stages_are_counted_each_at_its_own_price() -> None:
    stages = {"pretrain": (100, 1e6), **COLA}
    curve = {50: 9.0, 100: 8.0, 110: 7.0, 120: 6.0, 160: 5.0, 200: 4.0, 210: 3.0}
    spent, values = compute_curve(run("cola", stages, curve), "predicted")
    assert spent.tolist() == [100.0, 200.0, 1000.0, 1800.0] and values.tolist() == [7.0, 6.0, 5.0, 4.0]
    assert latent_flops(run("cola", stages, curve)) == 1800.0


def test_values_between_looks_and_none_before_the_first() -> None:
    curve = compute_curve(run("two_stage", TWO_STAGE, {25: None, 50: None, 75: 3.0, 100: 1.0}), "predicted")
    assert value_at(curve, 700.0) == pytest.approx(2.0) and value_at(curve, 2000.0) == 1.0
    assert value_at(curve, 400.0) is None, "its world model has not begun"


def test_what_was_not_counted_or_watched_is_no_curve() -> None:
    cell = run("cola", COLA, {50: 1.0})
    assert compute_curve(cell, "flow") is None
    cell.evaluation["budget"]["flops"]["joint"] = None
    assert compute_curve(cell, "predicted") is None


def test_the_cheaper_recipe_may_win_at_equal_compute() -> None:
    cola = run("cola", COLA, {20: 3.0, 60: 2.0, 100: 1.0})  # 200, 1000 and 1800 FLOPs
    cheap = run("two_stage", TWO_STAGE, {75: 3.0, 100: 1.5})  # 900 FLOPs in all
    table = compute_table(by_name(cola, cheap), ("cola", "two_stage", "fsq"), (0,))
    assert "at 900 FLOPs" in table and "2.1250 (one seed)" in table, "cola at 900: between 3.0 at 200 and 2.0 at 1000"
    assert "cola (warm-up 8/60) is lowest at equal steps, two-stage (30/60 + 30/60) at equal compute." in table
    assert "1 of these variants have not run" in table


def test_seeds_have_an_interval_and_late_starters_say_so() -> None:
    runs = [run("cola", COLA, {20: 3.0 + seed, 100: 1.0 + seed}, seed) for seed in (0, 1)]
    late = {"lam": (50, 5000.0), "world": (50, 800.0)}
    runs += [run("two_stage", late, {75: 3.0, 100: 2.5}, seed) for seed in (0, 1)]
    table = compute_table(by_name(*runs), ("cola", "two_stage"), (0, 1))
    assert "<b>1.5000</b> [" in table and "predicts nothing yet" in table and "and at equal compute too." in table


def test_only_seeds_that_all_have_are_compared() -> None:
    """The second seed of cola alone is far better: it says nothing of the other recipe."""
    runs = [run("cola", COLA, {20: 3.0, 100: value}, seed) for seed, value in enumerate((2.0, 0.0))]
    runs += [run("two_stage", TWO_STAGE, {75: 3.0, 100: 1.5}, seed) for seed in (0, 2)]
    table = compute_table(by_name(*runs), ("cola", "two_stage"), (0, 1, 2))
    assert "2.0000 (one seed)" in table and "1.5000 (one seed)" in table
    assert "Over the seeds that all of them have (0) two-stage (30/60 + 30/60) is lowest at equal steps" in table
    del runs[0]
    assert "Fewer than two" in compute_table(by_name(*runs), ("cola", "two_stage"), (0, 1, 2)), "no seed of both"


def test_nothing_to_compare_is_said() -> None:
    assert "Fewer than two" in compute_table({}, ("cola", "two_stage"), (0,))
    assert "Fewer than two" in compute_table(by_name(run("cola", COLA, {50: 1.0})), ("cola", "two_stage"), (0,))
