"""What a study has come to: rates, comparisons, shares of what is reachable, verdicts, and its folder of results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colaworld.experiments.compare import compare
from colaworld.experiments.intervals import exact_mcnemar, instances_needed, wilson
from colaworld.experiments.study import study
from colaworld.experiments.study_config import StudyConfig, shown
from colaworld.experiments.study_kept import same, still_needed
from colaworld.experiments.study_reads import asked_for, held_to_rollouts
from colaworld.experiments.study_page import write_study
from colaworld.experiments.study_measures import models_of
from colaworld.experiments.study_results import (
    Study,
    comparisons_of,
    pairs_of,
    planning_drops_of,
    reachable,
    rows_of,
    summary_of,
)

SETTINGS = {"manifest": "goals", "manifest_sha256": "abc", "mujoco": "3.3.2"}


def play(runs: Path, name: str, outcomes: dict[str, list[tuple[str, bool]]]) -> None:
    """Episodes of ``vp2_eval.py``: for each row (category, success) of the instances in order."""
    folder = runs / "plays" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"rows": {row: SETTINGS for row in outcomes}}))
    lines = [
        {
            "row": row, "instance": number, "seed": 0, "category": category, "success": success, "scene": "s",
            "best_distance": 0.01 if success else 0.2, "start_distance": 0.3, "plan_seconds": [0.5, 1.5],
        }
        for row, episodes in outcomes.items()
        for number, (category, success) in enumerate(episodes)
    ]  # fmt: skip
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def finish(folder: Path, asked: int) -> None:
    """What a play leaves that has come to its end, ``asked`` for so many episodes of each row."""
    rows = json.loads((folder / "run.json").read_text())["rows"]
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    table = [
        {"row": row, "category": category,
         "episodes": sum((each["row"], each["category"]) == (row, category) for each in lines)}
        for row in rows for category in ("reach", "push")
    ] + [{"row": row, "category": "all", "episodes": 99} for row in rows]  # fmt: skip
    summary = {"settings": rows, "table": table, "config": {"episodes": asked, "rows": list(rows)}}
    (folder / "summary.json").write_text(json.dumps(summary))


def goals(reach: str, push: str) -> list[tuple[str, bool]]:
    return [("reach", each == "1") for each in reach] + [("push", each == "1") for each in push]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    play(folder, "cola-s0-cem", {"planner": goals("1111", "1100")})
    play(folder, "cola-s1-cem", {"planner": goals("1110", "1000")})
    play(folder, "two_stage-s0-cem", {"planner": goals("1000", "1000")})
    play(folder, "two_stage-s1-cem", {"planner": goals("0100", "1000")})
    play(folder, "cola-s0-mppi", {"planner": goals("11", "")})
    play(folder, "simulator", {"planner": goals("1111", "1010")})
    play(folder, "floors", {"inverse": goals("1000", "0000"), "random": goals("0000", "0000")})
    return folder


@pytest.fixture
def read(runs: Path) -> Study:
    return Study.read(runs, ("cola", "two_stage"), (0, 1))


def test_systems_that_went_on_are_judged_as_they_ended_with_what_their_training_knew(runs):
    trained = {"adapter": 1, "before_adapter": {"idm": 2}, "seed": 0, "budget": {"joint": 3}}
    ended = {"adapter": 4, "before_adapter": None, "seed": None, "budget": {}}
    for folder, report in ((runs / "cola-s0", trained), (runs / "rollouts" / "cola-s0", ended)):
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps(report))
    (runs / "two_stage-s0").mkdir()
    (runs / "two_stage-s0" / "evaluation.json").write_text(json.dumps(trained))
    rolled = Study.read(runs, ("cola", "two_stage"), (0, 1), rolled=True)
    assert rolled.evaluations == {("cola", 0): {**trained, "adapter": 4}}
    plain = Study.read(runs, ("cola", "two_stage"), (0, 1))
    assert plain.evaluations == {("cola", 0): trained, ("two_stage", 0): trained}


def test_rows_have_wilson_intervals_for_each_seed_by_itself(read):
    rows = {(each["row"], each["planner"], each["seed"], each["category"]): each for each in rows_of(read)}
    one = rows["cola", "cem", 1, "all"]
    assert (one["successes"], one["episodes"], one["seconds_per_plan"]) == (4, 8, 1.0)
    expected = wilson(4, 8)
    assert one["interval"] == [expected.low, expected.high]
    assert rows["cola", "mppi", 0, "reach"]["episodes"] == 2
    assert rows["random", None, None, "push"]["successes"] == 0 and ("expert", None, None, "all") not in rows
    assert rows["simulator", "cem", None, "all"]["successes"] == 6


def test_answers_snapped_to_codes_are_rows_of_their_own(runs, tmp_path):
    for recipe, reached in (("cola", "1111"), ("two_stage", "0010")):
        play(runs, f"{recipe}-s0-cem-snapped", {"planner": goals(reached, "0000")})
    study = Study.read(runs, ("cola", "two_stage"), (0, 1))
    (line,) = [
        each for each in comparisons_of(study)
        if (each["planner"], each["second"], each["category"]) == ("cem-snapped", "two_stage", "all")
    ]  # fmt: skip
    assert (line["only_first"], line["only_second"], line["episodes"]) == (3, 0, 8)
    page = write_study(study, tmp_path / "results", []).read_text()
    own = [each for each in comparisons_of(study) if each["second"] == "cola, cem"]
    assert [(each["category"], each["only_first"], each["only_second"]) for each in own if each["seed"] == 0] == [
        ("reach", 0, 0), ("push", 0, 2), ("all", 0, 2)
    ]  # fmt: skip
    (drop,) = planning_drops_of(study)  # cola loses two pushes, two_stage a reach and a push
    assert (drop["second"], drop["goals"], drop["lost_first"]) == ("two_stage", 8, 0.25)
    assert drop["lost_second"] == 0.125 and drop["more"]["estimate"] == -0.125 and drop["verdict"] == "not shown"
    assert f"| two_stage | 8 | {25} % | 12 % | -12 % [" in page
    table = page.partition("## CEM, the adapter's answers snapped to codes")[2].partition("## ")[0]
    assert "| cola | 0 | 4/4 | 0/4 |" in table and "| two_stage | 0 | 1/4 | 0/4 |" in table and "random" not in table
    assert (tmp_path / "results" / "cola-s0-cem-snapped_episodes.jsonl").is_file()


def test_recipes_are_compared_on_the_same_episodes_seed_by_seed_and_over_seeds(read):
    found = [each for each in comparisons_of(read) if each["planner"] == "cem"]
    lines = {(each["second"], each["seed"], each["category"]): each for each in found}
    first = lines["two_stage", 0, "all"]
    test = exact_mcnemar([True] * 4 + [True, True, False, False], [True, False, False, False, True, False, False, False])
    assert (first["only_first"], first["only_second"], first["p_value"]) == (4, 0, test.p_value)
    assert first["test"] == "exact McNemar" and not first["shown"] and first["needed"] > 8
    both = lines["two_stage", None, "all"]
    assert (both["instances"], both["episodes"], both["only_first"]) == (8, 16, 6)
    assert both["test"] == "sign flips of instances"
    assert lines["random", None, "all"]["episodes"] == 16, "one set of episodes stands beside each seed"
    assert both["trainings"] == 2 and first["trainings"] == 1
    lead = np.array([0.5, 0.5, 1, 0.5, 0, 0.5, 0, 0])  # of each goal, its trainings averaged
    assert both["needed"] == instances_needed(lead) or both["shown"]
    assert len(pairs_of(read, "cola", "inverse", "mppi", (0,))) == 2, "those that both have played"


def test_the_page_is_of_the_episodes_that_it_counts_though_more_are_played_meanwhile(runs, tmp_path):
    finish(runs / "plays" / "simulator", 8)
    study = Study.read(runs, ("cola", "two_stage"), (0, 1))
    folder, lines = tmp_path / "results", runs / "plays" / "simulator" / "episodes.jsonl"
    before = lines.read_text()
    write_study(study, folder, [])
    assert len((folder / "simulator_episodes.jsonl").read_text().splitlines()) == 8
    assert (folder / "simulator_summary.json").is_file()
    lines.write_text(before + before.splitlines()[0].replace('"instance": 0', '"instance": 99') + "\n")
    write_study(study, folder, [])
    assert len((folder / "simulator_episodes.jsonl").read_text().splitlines()) == 8, "what the tables are of"
    write_study(Study.read(runs, ("cola", "two_stage"), (0, 1)), folder, [])
    assert len((folder / "simulator_episodes.jsonl").read_text().splitlines()) == 9
    assert not (folder / "simulator_summary.json").exists(), "it is of fewer"


def test_where_there_are_no_codes_nothing_is_snapped(runs, tmp_path):
    evaluated(runs, "real_actions", 0, 0.5)
    path = runs / "real_actions-s0" / "evaluation.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(report | {"idm": None, "adapter_codes": None}))
    evaluated(runs, "cola", 0, 0.5)
    models = {each["recipe"]: each for each in models_of(Study.read(runs, ("cola", "real_actions"), (0,)))}
    assert models["real_actions"]["psnr_10_snapped_adapter"] is None and models["real_actions"]["psnr_10_adapter"] > 15
    assert models["cola"]["psnr_10_snapped_adapter"] == pytest.approx(models["cola"]["psnr_10_idm"] - 1.0)


def test_a_recipe_with_fewer_trainings_is_compared_in_those(runs, tmp_path):
    play(runs, "real_actions-s0-cem", {"planner": goals("1111", "1111")})
    study = Study.read(runs, ("cola", "two_stage", "real_actions"), (0, 1))
    found = [each for each in comparisons_of(study) if each["planner"] == "cem"]
    lines = {(each["first"], each["second"], each["seed"]) for each in found}
    assert ("two_stage", "real_actions", 0) in lines and ("cola", "two_stage", None) in lines
    assert ("cola", "real_actions", None) not in lines, "one training is no average"
    assert {each["trainings"] for each in reachable(study, "real_actions")} == {1}
    text = write_study(study, tmp_path / "results", []).read_text()
    assert "trainings: cola with seeds 0, 1; two_stage with seeds 0, 1; real_actions with seeds 0." in text
    assert "| cem | cola | real_actions | 0 | all |" in text and "| cem | cola | two_stage | all 2 | reach |" in text


def test_plays_that_have_no_goal_in_common_yet_are_left_out(runs):
    folder = runs / "plays" / "two_stage-s0-cem"
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    (folder / "episodes.jsonl").write_text("".join(json.dumps({**line, "instance": 99}) + "\n" for line in lines))
    study = Study.read(runs, ("cola", "two_stage"), (0, 1))
    found = {each["seed"] for each in comparisons_of(study) if each["second"] == "two_stage"}
    assert found == {1}


def test_all_trainings_together_are_compared_on_what_all_have_played(runs):
    """Another training is still at its reaches; its goals are no average of two."""
    for recipe in ("cola", "two_stage"):
        path = runs / "plays" / f"{recipe}-s1-cem" / "episodes.jsonl"
        path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"reach"' in line))
    read = Study.read(runs, ("cola", "two_stage"), (0, 1))
    found = [each for each in comparisons_of(read) if each["planner"] == "cem"]
    (both,) = (each for each in found if each["second"] == "two_stage" and each["seed"] is None)
    assert (both["category"], both["instances"], both["episodes"], both["trainings"]) == ("reach", 4, 8, 2)


def test_a_line_that_is_being_written_does_not_count(runs, tmp_path):
    path = runs / "plays" / "cola-s0-cem" / "episodes.jsonl"
    path.write_text(path.read_text()[:-9])
    page = write_study(Study.read(runs, ("cola", "two_stage"), (0, 1)), tmp_path / "results", [])
    assert len((page.parent / "cola-s0-cem_episodes.jsonl").read_text().splitlines()) == 7


def test_the_last_column_is_of_all_categories(runs, tmp_path):
    """Even where the first row has not got to one of them."""
    path = runs / "plays" / "cola-s0-cem" / "episodes.jsonl"
    kept = [line for line in path.read_text().splitlines(keepends=True) if '"reach"' in line]
    path.write_text("".join(kept))
    text = write_study(Study.read(runs, ("cola", "two_stage"), (0, 1)), tmp_path / "results", []).read_text()
    assert "| row | training | reach | push | all | rate | s/plan |" in text


def test_the_share_of_what_is_reachable_is_a_ratio_on_the_same_goals(read):
    found = {each["category"]: each for each in reachable(read, "cola")}
    assert found["reach"]["reachable"] == 1.0 and found["reach"]["share"]["estimate"] == pytest.approx(7 / 8)
    push = found["push"]  # the simulator reached two of four, cola-s0 two and cola-s1 one
    assert push["share"]["estimate"] == pytest.approx(0.375 / 0.5)
    assert found["all"]["share"]["estimate"] == pytest.approx((4 / 8 + 6 / 8) / 2 / (6 / 8))
    assert 0 <= push["share"]["low"] <= push["share"]["estimate"] <= push["share"]["high"]
    alone = {each["category"]: each for each in reachable(replace(read, recipes=("cola", "two_stage")), "two_stage")}
    assert alone["all"]["share"]["estimate"] < found["all"]["share"]["estimate"]


def test_what_is_missed_is_parted_into_the_costs_and_the_models(runs, tmp_path):
    """True futures with the planners' own cost reach four of the six goals that true distances reach."""
    play(runs, "ceiling", {"planner": goals("1110", "1000")})
    study = Study.read(runs, ("cola", "two_stage"), (0, 1))
    path = write_study(study, tmp_path / "results", [])
    summary = json.loads((path.parent / "summary.json").read_text())
    shares = {each["category"]: each["share"] for each in summary["reachable"]["ceiling"]}
    assert shares["all"]["estimate"] == pytest.approx(4 / 6, abs=1e-4)
    of = {each["category"]: each for each in summary["of_ceiling"]["two_stage"]}
    assert of["all"]["share"]["estimate"] == pytest.approx((2 + 2) / 2 / 4, abs=1e-4)
    assert of["all"]["instances"] == 8 and of["reach"]["reachable"] == 0.75
    assert not any("bar" in each for each in (*of.values(), *summary["reachable"]["ceiling"])), "it is the recipes'"
    text = path.read_text()
    assert "| ceiling | - | 3/4 | 1/4 | 4/8 |" in text and "### Of the ceiling" in text


def test_a_share_of_nothing_is_none(tmp_path):
    play(tmp_path, "cola-s0-cem", {"planner": goals("11", "")})
    play(tmp_path, "simulator", {"planner": goals("00", "")})
    assert [each["share"] for each in reachable(Study.read(tmp_path, ("cola",), (0,)), "cola")] == [None]


@pytest.mark.parametrize(("mine", "low", "high"), [("11000", 0.3, 1.0), ("00000", 0.0, 0.7)])
def test_a_share_that_no_resample_varies_has_a_width(tmp_path, mine, low, high):
    """Two of two reachable goals, or none of two, are no proof."""
    play(tmp_path, "cola-s0-cem", {"planner": goals(mine, "")})
    play(tmp_path, "simulator", {"planner": goals("11000", "")})
    (line,) = reachable(Study.read(tmp_path, ("cola",), (0,)), "cola")
    expected = wilson(mine.count("1"), 2)
    assert (line["share"]["low"], line["share"]["high"]) == pytest.approx((expected.low, expected.high))
    assert line["share"]["low"] >= low and line["share"]["high"] <= high and line["bar"] != "met"


def test_luck_does_not_meet_the_bar(tmp_path):
    """Nothing missed of a few goals, and one more reached: resampling sees no way down."""
    play(tmp_path, "cola-s0-cem", {"planner": goals("1" * 20, "")})
    play(tmp_path, "simulator", {"planner": goals("1" * 19 + "0", "")})
    (line,) = reachable(Study.read(tmp_path, ("cola",), (0,)), "cola")
    assert line["share"]["low"] == pytest.approx(wilson(19, 19).low) and line["share"]["high"] > 1.05
    assert line["bar"] == "not shown"


@pytest.mark.parametrize(
    ("mine", "bar"), [("11111", "not shown"), ("1" * 200, "met"), ("00000", "missed"), ("0" * 9 + "1", "missed")]
)
def test_the_bar_is_met_by_the_whole_interval_or_not_at_all(tmp_path, mine, bar):
    """Five of five are no proof: a share that resampling cannot vary has the interval of a rate."""
    play(tmp_path, "cola-s0-cem", {"planner": goals(mine, "")})
    play(tmp_path, "simulator", {"planner": goals("1" * len(mine), "")})
    (line,) = reachable(Study.read(tmp_path, ("cola",), (0,)), "cola")
    assert line["bar"] == bar and line["share"]["low"] < line["share"]["high"]


def evaluated(runs: Path, recipe: str, seed: int, lost: float) -> None:
    """An evaluation whose PSNR ten steps on loses ``lost`` dB through the adapter, and twice that snapped to codes."""
    clips = np.random.default_rng(seed).normal(20, 2, 16)
    found = {
        name: {"video": {"10": {"psnr": list(clips - share * lost)}}}
        for name, share in (("idm", 0), ("adapter", 1), ("adapter_codes", 2))
    }
    folder = runs / f"{recipe}-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps({"clips": 16, "budget": {}, **found}))
    lines = [{"stage": "joint", "total_step": step, "loss": 1 / step} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_the_adapter_costs_is_compared_on_the_same_clips(runs, tmp_path):
    for seed in (0, 1):
        evaluated(runs, "cola", seed, 0.5)
        evaluated(runs, "two_stage", seed, 0.8)
    path = write_study(Study.read(runs, ("cola", "two_stage"), (0, 1)), tmp_path / "results", [])
    drops = {each["measure"]: each for each in json.loads((path.parent / "summary.json").read_text())["drops"]}
    assert drops["psnr_10_drop"]["more"]["estimate"] == pytest.approx(0.6)
    assert drops["psnr_10_drop_unsnapped"]["more"]["estimate"] == pytest.approx(0.3)
    assert drops["psnr_10_drop"]["trainings"] == 2 and drops["psnr_10_drop"]["clips"] == 16
    assert "| two_stage | snapped to codes | 2 | 16 | 0.60 [0.60, 0.60] | shown |" in path.read_text()
    assert "(losses.png)" in path.read_text()
    assert len(Image.open(path.parent / "losses.png").getcolors()) > 20, "axes, curves and names"


def test_what_costs_the_first_recipe_more_is_the_opposite(runs):
    evaluated(runs, "cola", 0, 0.8)
    evaluated(runs, "two_stage", 0, 0.5)
    drops = summary_of(Study.read(runs, ("cola", "two_stage"), (0, 1)), [])["drops"]
    assert {each["verdict"] for each in drops} == {"the opposite"} and drops[0]["more"]["high"] < 0


def test_the_folder_of_results_can_be_compared_again(read, tmp_path, capsys):
    path = write_study(read, tmp_path / "results", ["python experiments/one.py", "python experiments/two.py"])
    text = path.read_text()
    for said in ("## CEM", "## MPPI", "| cola | 0 | 4/4 | 2/4 | 6/8 |", "not shown", "97.7 %", "python experiments/two.py"):
        assert said in text, said
    summary = json.loads((path.parent / "summary.json").read_text())
    assert {"row", "planner", "category", "seed", "successes", "episodes", "interval"} <= set(summary["rows"][0])
    assert summary["manifest_sha256"] == "abc" and summary["models"] == [] and "Has not been evaluated." in text
    for name in ("cola-s0-cem", "two_stage-s0-cem"):
        (path.parent / f"{name}_summary.json").write_text(json.dumps({"settings": {"planner": SETTINGS}}))
    compare(path.parent / "cola-s0-cem_summary.json", path.parent / "two_stage-s0-cem_summary.json")
    assert "8 instances of goals" in capsys.readouterr().out


def test_rank_correlations_stand_beside_the_ceiling(runs, tmp_path):
    for name, imagined in (("cola-s0", 0.5), ("two_stage-s0", 0.25)):
        folder = runs / "correlations" / name
        folder.mkdir(parents=True)
        table = [
            {"category": category, "cost": "distance", "future": future,
             "correlation": {"estimate": value, "low": value - 0.1, "high": value + 0.1}}
            for category in ("reach", "push", "all") for future, value in (("imagined", imagined), ("true", 0.8))
        ] + [{"category": "all", "cost": "pixel", "future": "imagined"}]  # fmt: skip
        settings = {"plans": 24, "horizon": 4, "manifest": "dev"}
        (folder / "correlation.json").write_text(json.dumps({"settings": settings, "table": table}))
    path = write_study(Study.read(runs, ("cola", "two_stage"), (0, 1)), tmp_path / "results", [])
    text = path.read_text()
    assert "| cost | true futures | imagined by cola-s0 | imagined by two_stage-s0 |" in text
    assert "| distance | 0.80 [0.70, 0.90] | 0.50 [0.40, 0.60] | 0.25 [0.15, 0.35] |" in text
    assert "| pixel | - | - | - |" in text
    assert set(json.loads((path.parent / "summary.json").read_text())["correlations"]) == {"cola-s0", "two_stage-s0"}


def test_kept_lines_have_five_digits(tmp_path):
    play(tmp_path, "cola-s0-cem", {"planner": goals("10", "")})
    whole = tmp_path / "plays" / "cola-s0-cem" / "episodes.jsonl"
    whole.write_text(whole.read_text().replace("0.3,", "0.123456789,").replace("0.2,", "1234567.8,"))
    write_study(Study.read(tmp_path, ("cola",), (0,)), tmp_path / "results", [])
    kept = [json.loads(line) for line in (tmp_path / "results" / "cola-s0-cem_episodes.jsonl").read_text().splitlines()]
    assert [each["start_distance"] for each in kept] == [0.12346, 0.12346] and kept[1]["best_distance"] == 1234600.0
    assert kept[0]["success"] is True and kept[0]["instance"] == 0


def test_episodes_of_other_goals_are_refused(read, runs, tmp_path):
    other = runs / "plays" / "two_stage-s1-cem" / "run.json"
    other.write_text(json.dumps({"rows": {"planner": SETTINGS | {"manifest": "others", "manifest_sha256": "d"}}}))
    with pytest.raises(ValueError, match="episodes of different manifests"):
        write_study(Study.read(runs, ("cola", "two_stage"), (0, 1)), tmp_path / "results", [])


def kept_of(config: StudyConfig) -> set[str]:
    known = json.loads((config.results / "summary.json").read_text())["finished"]
    return same([*config.trainings(), *config.plays()], known, shown)


def test_a_study_goes_on_in_a_fresh_clone_from_what_its_results_kept(runs, tmp_path, capsys):
    for recipe in ("cola", "two_stage"):
        evaluated(runs, recipe, 0, 0.5)
    table = [{"category": "all", "cost": "distance", "future": "true"}]
    found = {"settings": {"plans": 3, "horizon": 2, "manifest": "dev"}, "table": table}
    (runs / "correlations" / "cola-s0").mkdir(parents=True)
    (runs / "correlations" / "cola-s0" / "correlation.json").write_text(json.dumps(found))
    whole = Study.read(runs, ("cola", "two_stage"), (0,))
    for path in {side.path for side in whole.plays.values()}:  # all but cola's MPPI have finished
        if path.name != "cola-s0-mppi":
            finish(path, 8)
    results = tmp_path / "results"
    fresh = StudyConfig(
        data=(tmp_path,), recipes=("cola", "two_stage"), seeds=(0,), runs=runs, results=results,
        episodes=8, mppi_episodes=4, ceiling_episodes=0, correlation_episodes=3, only=("results",),
    )  # fmt: skip
    run = {step.name: shown(step) for step in (*fresh.trainings(), *fresh.plays())}
    done = [command for name, command in run.items() if not name.endswith("mppi")]
    before = write_study(whole, results, list(run.values()), done)
    old = json.loads((results / "summary.json").read_text())
    shutil.rmtree(runs)
    other = replace(fresh, training="--joint.steps 7")  # whose systems are others under the same names
    assert not any("two_stage" in name or "cola-s0" in name for name in kept_of(other))
    assert {"play-floors", "play-cola-s0-cem"} <= kept_of(fresh) and "play-simulator" in kept_of(other)
    study(fresh)
    assert "cola-s0-cem, floors, simulator, two_stage-s0-cem, evaluation of cola-s0" in capsys.readouterr().out
    new = json.loads((results / "summary.json").read_text())
    for name in ("reachable", "models", "drops", "correlations"):
        assert new[name] == old[name] and new[name], name
    assert old["rows"] == new["rows"], "also of what had not finished, and goes on"
    assert "(losses.png)" in before.read_text(), "drawn from the logs that were kept"
    half = fresh.runs / "plays" / "cola-s0-mppi"
    assert json.loads((half / "run.json").read_text()) == {"rows": {"planner": SETTINGS}}
    assert len((half / "episodes.jsonl").read_text().splitlines()) == 2 and not (half / "summary.json").exists()
    for flags, wanted in (
        ({"mppi_episodes": 0, "correlation_episodes": 0}, set()),
        ({"correlation_episodes": 0}, {"base", "cola-s0", "goals-cola-s0", "two_stage-s0"}),
        ({"mppi_episodes": 0, "correlation_episodes": 0, "seeds": (0, 1)}, {"base", "cola-s1", "two_stage-s1"}),
    ):
        study_of = replace(fresh, **flags)
        needed = still_needed(study_of.trainings(), study_of.plays())
        assert {each.name for each in needed} == wanted, "what has been played is not trained again"


def ran(config: StudyConfig, *names: str) -> None:
    """Remembers that these steps of a study were run by its own commands."""
    logs = config.runs / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for step in (*config.trainings(), *config.plays()):
        if step.name in names:
            step.remember_command(logs)


def test_commands_of_what_has_not_begun_are_not_told(runs, tmp_path):
    config = StudyConfig(data=(tmp_path,), runs=runs, results=tmp_path / "results", only=("results",))
    ran(config, "cola-s0", "play-cola-s0-cem")
    ran(replace(config, training="--joint.steps 9"), "two_stage-s0")  # by another command, of which nothing is left
    study(config)
    commands = json.loads((config.results / "summary.json").read_text())["commands"]
    assert "--recipe cola --loop.seed 0" in commands[0] and all("vp2_eval.py" in each for each in commands[1:])
    assert len(commands) == 8, "a training, and the seven plays that have episodes"
    assert json.loads((config.results / "summary.json").read_text())["finished"] == []


@pytest.mark.parametrize("only", [("results",), ("play", "results")])
def test_what_was_played_with_another_training_is_refused(tmp_path, only):
    """Also where the training's own folder is gone."""
    config = StudyConfig(
        data=(tmp_path,), recipes=("cola",), seeds=(0,), runs=tmp_path / "runs", results=tmp_path / "results",
        episodes=8, mppi_episodes=0, ceiling_episodes=0, correlation_episodes=0, only=only,
    )  # fmt: skip
    for name, row in (("cola-s0-cem", "planner"), ("simulator", "planner"), ("floors", "inverse")):
        play(config.runs, name, {row: goals("1111", "1100")})
        finish(config.runs / "plays" / name, 8)
    ran(config, "base", "cola-s0", "goals-cola-s0", "play-cola-s0-cem", "play-floors", "play-simulator")
    evaluated(config.runs, "cola", 0, 0.5)
    study(config)
    shutil.rmtree(config.runs / "cola-s0")
    with pytest.raises(ValueError, match="cola-s0.json: cola-s0 was run as .* not as .* --joint.steps 9"):
        study(replace(config, training="--joint.steps 9"))


def test_what_another_study_left_under_the_same_name_is_neither_taken_nor_kept(tmp_path):
    """One that has trained nothing whole and played two of eight goals, into the folder of one that was through."""
    first = StudyConfig(
        data=(tmp_path,), recipes=("cola",), seeds=(0,), runs=tmp_path / "runs", results=tmp_path / "results",
        episodes=8, mppi_episodes=0, ceiling_episodes=0, correlation_episodes=0, only=("results",),
    )  # fmt: skip
    for name in ("cola-s0-cem", "simulator"):
        play(first.runs, name, {"planner": goals("1111", "1111")})
        finish(first.runs / "plays" / name, 8)
    evaluated(first.runs, "cola", 0, 0.5)
    ran(first, "base", "cola-s0", "goals-cola-s0", "play-cola-s0-cem", "play-simulator")
    study(first)
    assert (first.results / "cola-s0_evaluation.json").is_file()
    shutil.rmtree(first.runs)
    second = replace(first, training="--joint.steps 7")
    play(second.runs, "cola-s0-cem", {"planner": goals("00", "")})
    ran(second, "base", "cola-s0", "goals-cola-s0", "play-cola-s0-cem")
    for fresh in (False, True):
        if fresh:
            shutil.rmtree(second.runs)
        study(second)
        steps = {step.name: step for step in (*second.trainings(), *second.plays())}
        assert not steps["cola-s0"].left() and not steps["play-cola-s0-cem"].left()
        assert steps["play-simulator"].left(), "which needs no training"
        left = {path.name for path in first.results.iterdir()}
        assert not left & {"cola-s0_evaluation.json", "cola-s0_metrics.jsonl", "cola-s0-cem_summary.json", "losses.png"}
        assert ("cola-s0-cem_episodes.jsonl" in left) is not fresh


def test_evaluations_and_logs_of_rollouts_are_kept_and_come_back(tmp_path):
    config = StudyConfig(
        data=(tmp_path,), recipes=("cola",), seeds=(0,), runs=tmp_path / "runs", results=tmp_path / "results",
        episodes=8, mppi_episodes=0, ceiling_episodes=0, correlation_episodes=0, only=("results",), rollouts="",
        judge="reader", cost="--objective distance",
    )  # fmt: skip
    play(config.runs, "cola-s0-cem", {"planner": goals("1111", "1111")})
    finish(config.runs / "plays" / "cola-s0-cem", 8)
    evaluated(config.runs / "rollouts", "cola", 0, 0.5)
    evaluated(config.runs, "cola", 0, 0.7)
    ran(config, "base", "reader", "cola-s0", "rollouts-cola-s0", "evaluation-cola-s0", "play-cola-s0-cem")
    study(config)
    text = (config.results / "rollouts-cola-s0_metrics.jsonl").read_text()
    shutil.rmtree(config.runs)
    study(config)
    assert (config.runs / "rollouts" / "cola-s0" / "evaluation.json").is_file()
    assert (config.results / "rollouts-cola-s0_metrics.jsonl").read_text() == text and "joint" in text


def test_a_play_is_over_when_every_row_has_its_episodes(tmp_path):
    play(tmp_path, "floors", {"inverse": goals("1000", "0000"), "random": goals("0000", "000")})
    folder = tmp_path / "plays" / "floors"
    assert asked_for(folder / "summary.json") is None
    finish(folder, 7)
    assert asked_for(folder / "summary.json") == 7
    finish(folder, 8)
    assert asked_for(folder / "summary.json") is None, "one of the random policy's was lost"


def test_a_system_that_has_not_been_on_its_rollouts_is_not_held_to_them(tmp_path):
    assert not held_to_rollouts(tmp_path)
    (tmp_path / "system.json").write_text(json.dumps({"stage": "adapter"}))
    assert not held_to_rollouts(tmp_path)
    (tmp_path / "system.json").write_text(json.dumps({"stage": "adapter", "rollouts": {"steps": 3}}))
    assert held_to_rollouts(tmp_path)
