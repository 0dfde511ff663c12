"""Flags: the planner and prior each stands for, and what a run folder is bound to."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from colaworld.envs.manifest import load_manifest
from colaworld.experiments.goal_planners import code_prior, search_prior
from colaworld.experiments.goal_row_settings import row_settings
from colaworld.experiments.goal_settings import EvalConfig, LiberoPrior, make_planner, on_yardstick, parts_of_rows
from colaworld.planning.cem import CEM
from colaworld.planning.gradient import GradientPlanner
from colaworld.planning.icem import ICEM
from colaworld.planning.signs import SignedPrior

PRIOR = {"std_position": 0.5, "std_rotation": 0.0, "std_gripper": 0.5, "beta": 0.5}
HASHES = {part: f"hash of {part}" for part in ("progress", "success", "policy", "inverse")}
MPC = {"horizon": 4, "replan_every": 1, "max_batch": None, "warm_start": True, "episode_steps": None}


def planning(config: EvalConfig) -> dict:
    return row_settings(config, {"manifest": "abc"}, "weights", HASHES)["planner"]


def test_a_folder_from_before_there_were_other_searches_is_still_its_own() -> None:
    """Written out, because folders with exactly these settings exist."""
    then = {"samples": 64, "horizon": 4, "elite_fraction": 0.1}
    usual = EvalConfig(max_steps=15, rows=("planner", "random", "expert"), **then)
    assert row_settings(usual, {"manifest": "abc"}, "weights", HASHES) == {
        "planner": {
            "manifest": "abc",
            "max_steps": 15,
            **{f"prior.{name}": value for name, value in PRIOR.items()},
            "planner": {
                "samples": 64,
                "iterations": 2,
                "elite_fraction": 0.1,
                "keep": 0.0,
                "min_std": 0.0,
                "returns": "best",
            },
            "objective": "pixel",
            "last": None,
            "mpc": MPC,
            "flow": {"steps": 1, "std": 0.0, "guidance": 1.0},
            "checkpoint": "weights",
            "blur": 4.0,
        },
        "random": {
            "manifest": "abc",
            "max_steps": 15,
            **{f"prior.{name}": value for name, value in PRIOR.items()},
            "random_policy": "gaussian",
        },
        "expert": {"manifest": "abc", "max_steps": 15},
    }
    mppi = {"samples": 18, "iterations": 2, "gamma": 5.0, "normalise": True, "returns": "mean"}
    assert planning(EvalConfig(planner="mppi"))["planner"] == mppi
    assert planning(EvalConfig(planner="random_shooting"))["planner"] == {"samples": 18, "iterations": 2}


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"planner": "codes"}),
        ({}, {"planner": "icem"}),
        ({}, {"planner": "gradient"}),
        ({}, {"noise_exponent": 2.0}),
        ({}, {"noise_exponent": 0.0}),
        ({}, {"gripper": "sign"}),
        ({}, {"budget_seconds": 1.0}),
        ({}, {"final_steps": 4}),
        ({"budget_seconds": 1.0}, {"budget_seconds": 2.0}),
        ({"final_steps": 4}, {"finalists": 3}),
        ({"gripper": "sign"}, {"gripper_persistence": 0.0}),
        ({"planner": "icem"}, {"keep_elites": 0.5}),
        ({"planner": "icem"}, {"shrink_population": 0.5}),
        ({"planner": "icem"}, {"noise_exponent": 1.0}),
        ({"planner": "gradient"}, {"learning_rate": 0.2}),
        ({"planner": "codes"}, {"code_smoothing": 0.1}),
        ({}, {"dtype": "bfloat16"}),
        ({}, {"compile": True}),
        ({}, {"common_noise": False}),
        ({}, {"adapter_snap": True}),
        ({}, {"execute": "mean"}),
        ({"planner": "icem"}, {"execute": "mean"}),
        ({"adapter_snap": True}, {"adapter_snap": False}),
        ({}, {"objective": "progress"}),
        ({"objective": "sum"}, {"progress_weight": 1.0}),
        ({"objective": "sum", "success_weight": 1.0}, {"success_weight": 2.0}),
        ({"objective": "vp2"}, {"blur": 1.0}),
        ({}, {"propose": "policy"}),
        ({"propose": "nearest"}, {"proposal_data": (Path("mine"),)}),
    ],
)
def test_a_folder_is_bound_to_what_its_search_reads(base: dict, change: dict) -> None:
    before, after = EvalConfig(**base), EvalConfig(**{**base, **change})
    assert planning(before) != planning(after)
    for row in ("random", "expert"):
        assert row_settings(before, {}, None)[row] == row_settings(after, {}, None)[row]


@pytest.mark.parametrize(
    "change",
    [
        {"keep_elites": 0.5},
        {"shrink_population": 0.5},
        {"learning_rate": 0.2},
        {"gripper_persistence": 0.0},
        {"code_smoothing": 0.1},
        {"finalists": 3},
        {"max_batch": 4},
        {"max_memory_mib": 4},
        {"progress_weight": 1.0},
        {"goal_models": Path("anywhere")},
    ],
)
def test_and_to_nothing_that_it_does_not_read(change: dict) -> None:
    assert planning(EvalConfig()) == planning(EvalConfig(**change))


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({}, set()),
        ({"objective": "progress"}, {"progress"}),
        ({"objective": "success"}, {"success"}),
        ({"objective": "vp2"}, {"success"}),
        ({"objective": "sum", "progress_weight": 1.0, "success_weight": 1.0}, {"progress", "success"}),
        ({"propose": "policy"}, {"policy"}),
        ({"propose": "idm"}, {"inverse"}),
        ({"planner": "codes"}, {"inverse"}),
    ],
)
def test_rows_are_bound_to_the_goal_models_that_they_read(flags: dict, parts: set) -> None:
    config = EvalConfig(**flags, rows=("planner", "random"))
    assert set(planning(config).get("goal_models", {})) == set(parts_of_rows(config)) == parts
    for part in HASHES:
        other = row_settings(config, {"manifest": "abc"}, "weights", {**HASHES, part: "another"})
        assert (other["planner"] != planning(config)) == (part in parts)
        assert other["random"] == row_settings(config, {"manifest": "abc"}, "weights", HASHES)["random"]
    inverse = EvalConfig(rows=("inverse",))
    assert row_settings(inverse, {}, "w", HASHES)["inverse"]["goal_models"] == {"policy": "hash of policy"}
    assert parts_of_rows(inverse) == {"policy": "--rows inverse"}


def test_the_planners_that_flags_stand_for() -> None:
    icem = EvalConfig(planner="icem", samples=30, iterations=3, keep_elites=0.5, shrink_population=0.7)
    assert make_planner(icem) == ICEM(
        samples=30, iterations=3, elite_fraction=0.25, keep_elites=0.5, shrink_population=0.7
    )
    assert make_planner(EvalConfig(planner="gradient", learning_rate=0.3)) == GradientPlanner(
        samples=18, iterations=2, learning_rate=0.3
    )
    assert make_planner(EvalConfig(planner="codes")) == CEM(samples=18, iterations=2, elite_fraction=0.25)
    mpc = EvalConfig(budget_seconds=1.5, finalists=3).mpc()
    assert (mpc.budget_seconds, mpc.finalists) == (1.5, 3)


def test_the_priors_that_flags_stand_for() -> None:
    usual = LiberoPrior().prior()
    assert search_prior(EvalConfig()) == search_prior(EvalConfig(planner="mppi")) == usual
    coloured = replace(usual, beta=0.0, exponent=2.0)
    assert search_prior(EvalConfig(planner="icem")) == coloured
    assert search_prior(EvalConfig(planner="icem", noise_exponent=0.0)) == replace(usual, beta=0.0)
    assert search_prior(EvalConfig(noise_exponent=1.0)) == replace(usual, beta=0.0, exponent=1.0)
    signed = search_prior(EvalConfig(planner="icem", gripper="sign", gripper_persistence=0.5))
    assert signed == SignedPrior(**asdict(coloured), signed=(6,), persistence=0.5)
    codes = code_prior(EvalConfig(planner="codes", code_smoothing=0.1), sizes=(32, 32), rest_codes=(1, 2))
    assert (codes.sizes, codes.rest_codes, codes.smoothing) == ((32, 32), (1, 2), 0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"budget_seconds": 0.0}, "budget_seconds.*0"),
        ({"noise_exponent": -1.0}, "exponent.*-1"),
        ({"planner": "icem", "keep_elites": 2.0}, "keep_elites.*2"),
        ({"planner": "icem", "shrink_population": 0.0}, "shrink_population.*0"),
        ({"planner": "gradient", "learning_rate": 0.0}, "learning_rate.*0"),
        ({"gripper": "sign", "gripper_persistence": 2.0}, "persistence.*2"),
        ({"planner": "codes", "code_smoothing": 0.0}, "smoothing.*0"),
        ({"planner": "codes", "gripper": "sign"}, "--gripper sign.*codes"),
        ({"final_steps": 0}, "--final-steps.*0"),
        ({"finalists": 0}, "finalists.*0"),
        ({"world": "simulator", "planner": "gradient"}, "--planner gradient needs --world learned"),
        ({"world": "simulator", "planner": "codes"}, "--planner codes needs --world learned"),
        ({"world": "simulator", "final_steps": 2}, "--final-steps"),
        ({"world": "simulator", "propose": "policy"}, "--propose is of --world learned"),
        ({"world": "simulator", "dtype": "bfloat16"}, "--dtype is of --world learned"),
        ({"world": "simulator", "max_memory_mib": 9}, "--max-memory-mib is of --world learned"),
        ({"world": "simulator", "adapter_snap": True}, "--adapter-snap is of --world learned"),
        ({"planner": "codes", "adapter_snap": False}, "--adapter-snap is of real actions"),
        ({"planner": "random_shooting", "execute": "mean"}, "--execute mean is of cem, icem and codes, not of random_sh"),
        ({"planner": "gradient", "execute": "mean"}, "--execute mean is of cem, icem and codes, not of gradient"),
        ({"objective": "state"}, "--world learned has no --objective state"),
        ({"max_memory_mib": 0}, "--max-memory-mib.*0"),
        ({"common_noise": False, "max_batch": 4}, "--no-common-noise.*--max-memory-mib"),
        ({"planner": "codes", "propose": "policy"}, "--propose policy is of real actions"),
        ({"proposal_data": (Path("mine"),)}, "--proposal-data is of --propose nearest"),
        ({"objective": "sum", "pixel_weight": 0.0, "latent_weight": 0.0}, "--objective sum needs a weight"),
        ({"pixel_weight": math.nan}, "--pixel-weight must be finite, got nan"),
    ],
)
def test_flags_that_cannot_be_are_named(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvalConfig(**flags)


@pytest.mark.parametrize("change", [{"gripper": "sign"}, {"noise_exponent": 1.0}, {"budget_seconds": 1.0}])
def test_a_yardstick_searches_as_it_was_frozen(change: dict) -> None:
    manifest = load_manifest("libero_goals_v1")
    flags = EvalConfig(world="simulator", objective="state")
    assert search_prior(on_yardstick(flags, manifest)) == search_prior(EvalConfig())
    with pytest.raises(ValueError, match=f"{next(iter(change))} = .*--no-yardstick"):
        on_yardstick(replace(flags, **change), manifest)
