"""A study: commands in the order of their needs, resumption, what its steps are told, and the numbers of its tables."""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
import tyro

from colaworld.envs.manifest import load_manifest
from colaworld.experiments.compare import compare
from colaworld.experiments.goal_settings import EvalConfig, on_yardstick
from colaworld.experiments.intervals import exact_mcnemar, wilson
from colaworld.experiments.reproduce_runs import available_cores, locked
from colaworld.experiments.cost_correlation import CorrelationConfig
from colaworld.experiments.study import GOAL_MODEL_NAMES, StudyConfig, shown, study
from colaworld.experiments.study_page import write_study
from colaworld.experiments.study_results import Study, comparisons_of, pairs_of, reachable, rows_of
from colaworld.experiments.study_steps import Step, StepsFailed, run_steps
from colaworld.experiments.train_config import TrainConfig


def step(folder: Path, name: str, *after: str, code: str = "") -> Step:
    """Appends its name to a list, then leaves a file."""
    said = f"open({str(folder / 'order')!r}, 'a').write('{name} ')\n{code}\nopen({str(folder / name)!r}, 'w')"
    return Step(name=name, command=(sys.executable, "-c", said), left=(folder / name).is_file, after=after)


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


def test_steps_run_after_what_they_need_and_once(tmp_path):
    steps = [step(tmp_path, "last", "a", "b"), step(tmp_path, "b", "a"), step(tmp_path, "a"), step(tmp_path, "c")]
    run_steps(steps, tmp_path / "logs", workers=2)
    found = order(tmp_path)
    assert sorted(found) == ["a", "b", "c", "last"]
    assert found.index("a") < found.index("b") < found.index("last")
    (tmp_path / "b").unlink()
    run_steps(steps, tmp_path / "logs", workers=1)
    assert order(tmp_path)[4:] == ["b"], "what is there is not made again"
    with pytest.raises(ValueError, match="workers must be 1 or more, got 0"):
        run_steps(steps, tmp_path / "logs", workers=0)


def test_a_failed_step_is_named_with_its_last_line_and_others_go_on(tmp_path):
    steps = [
        step(tmp_path, "bad", code="raise SystemExit('error: no such thing')"),
        step(tmp_path, "needs_it", "bad"),
        step(tmp_path, "other"),
        Step(name="empty", command=(sys.executable, "-c", "print('did nothing')"), left=lambda: False),
    ]
    with pytest.raises(StepsFailed, match="2 of 4 steps failed: .*error: no such thing") as said:
        run_steps(steps, tmp_path / "logs", workers=1)
    assert "empty" in str(said.value) and "did nothing" in str(said.value), "one that leaves nothing has failed too"
    assert order(tmp_path) == ["bad", "other"]
    steps[0], steps[3] = step(tmp_path, "bad"), step(tmp_path, "empty")
    run_steps(steps, tmp_path / "logs", workers=1)
    assert order(tmp_path)[2:] == ["bad", "needs_it", "empty"], "as they are listed"


def test_another_command_for_what_has_begun_is_refused(tmp_path):
    """Its results would stand beside flags that did not make them."""
    run_steps([step(tmp_path, "a")], tmp_path / "logs", workers=1)
    with pytest.raises(ValueError, match="(?s)logs/a.json: a was run as .*, not as .*pass.*choose another --runs"):
        run_steps([step(tmp_path, "b"), step(tmp_path, "a", code="pass")], tmp_path / "logs", workers=1)
    assert order(tmp_path) == ["a"]


def test_scripts_may_have_moved(tmp_path):
    """What has been trained from one checkout is not another's for another: the words count, not where scripts lie."""
    places = [tmp_path / name / "script.py" for name in ("here", "there")]
    for place in places:
        place.parent.mkdir()
        place.write_text(f"open({str(tmp_path / 'a')!r}, 'w')")
    for place, word in ((places[0], "x"), (places[1], "x")):
        command = (sys.executable, str(place), word)
        run_steps([Step(name="a", command=command, left=(tmp_path / "a").is_file)], tmp_path / "logs", workers=1)
    (tmp_path / "logs" / "a.json").write_text(json.dumps([str(places[0]), "x"]))  # as they were remembered once
    run_steps([Step(name="a", command=command, left=(tmp_path / "a").is_file)], tmp_path / "logs", workers=1)
    with pytest.raises(ValueError, match="a was run as script.py x, not as script.py y"):
        other = Step(name="a", command=(*command[:2], "y"), left=(tmp_path / "a").is_file)
        run_steps([other], tmp_path / "logs", workers=1)


def test_a_step_that_another_study_is_at_is_waited_for(tmp_path):
    lock, waited = locked_by(tmp_path, "a"), time.monotonic()
    Timer(1.0, lock.close).start()
    run_steps([step(tmp_path, "a"), step(tmp_path, "b")], tmp_path / "logs", workers=2)
    assert order(tmp_path) == ["b", "a"] and time.monotonic() - waited > 0.9


def locked_by(folder: Path, name: str):
    (folder / "logs").mkdir()
    return locked(folder / "logs" / f"{name}.lock")


def test_what_all_wait_for_has_the_cores_to_itself(tmp_path):
    said = "import os; threads = int(os.environ['OMP_NUM_THREADS']); open({!r}, 'a').write(f'{{threads}} ')"
    steps = [
        replace(step(tmp_path, name, code=said.format(str(tmp_path / "threads"))), alone=name == "alone")
        for name in ("alone", "other")
    ]
    run_steps(steps, tmp_path / "logs", workers=available_cores())
    assert (tmp_path / "threads").read_text().split() == [str(available_cores()), "1"]


def test_a_study_that_is_ended_ends_its_commands(config, tmp_path, monkeypatch):
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    slow = Step(name="slow", command=(sys.executable, "-c", code), left=lambda: False)
    monkeypatch.setattr(StudyConfig, "trainings", lambda self: [slow])
    before = signal.getsignal(signal.SIGTERM)
    Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try:
        with pytest.raises(SystemExit) as ended:
            study(replace(config, only=("train",)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    (tmp_path / "data").mkdir()
    return StudyConfig(
        data=(tmp_path / "data",), runs=tmp_path / "runs", results=tmp_path / "results", episodes=12,
        training="--joint.steps 7 --loop.compile", base_training="--codec.steps 5", planning="--samples 9",
        cost="--objective sum --latent-weight 0 --distance-weight 2",
    )  # fmt: skip


def test_what_the_scripts_are_told(config):
    told = {each.name: each.command[2:] for each in config.trainings() + config.plays()}
    base = tyro.cli(TrainConfig, args=told["base"])
    assert base.run_stages() == ("codec", "pretrain") and base.codec.steps == 5 and base.data == config.data
    trained = [f"{recipe}-s{seed}" for seed in (0, 1) for recipe in ("cola", "two_stage", "real_actions")]
    assert [name for name in told if told[name][0] == "--preset"] == ["base", *trained]
    for name in trained:
        run = tyro.cli(TrainConfig, args=told[name])
        assert f"{run.recipe}-s{run.loop.seed}" == name == run.out.name
        assert run.init == base.out / "system" and run.joint.steps == 7 and run.loop.compile
        for planner, episodes in (("cem", 12), ("mppi", 30)):
            play = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told[f"play-{name}-{planner}"])
            assert (play.planner, play.episodes, play.samples, play.run) == (planner, episodes, 9, run.out)
            assert play.rows == ("planner",) and play.manifest == "libero_goals_v1"
            assert (play.objective, play.latent_weight, play.distance_weight) == ("sum", 0, 2)
        words = told[f"goals-{name}"]
        models = words[words.index("--models") + 1 : words.index("--fit-config.hidden")]
        # each is judged by what has seen its own pictures; what plans nothing, and what ships, needs all of the first
        assert models == (GOAL_MODEL_NAMES if name == "cola-s0" else ("distance",))
        assert words[words.index("--run") + 1] == str(run.out) and "--out" not in words
    true = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told["play-simulator"])
    assert (true.world, true.objective, true.episodes) == ("simulator", "state", 12)
    ceiling = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told["play-ceiling"])
    assert (ceiling.world, ceiling.objective, ceiling.episodes) == ("simulator", "sum", 30)
    assert ceiling.weights() == play.weights()
    assert ceiling.run.name == "cola-s0", "whose codec and goal models see true frames"
    ranked = [told[f"correlation-{recipe}-s0"] for recipe in config.recipes]
    of = tyro.cli(tyro.conf.OmitArgPrefixes[CorrelationConfig], args=ranked[1])
    assert (of.manifest, of.episodes, of.run.name, of.horizon) == ("libero_goals_dev_v1", 16, "two_stage-s0", 4)
    without = {"mppi_episodes": 0, "ceiling_episodes": 0, "correlation_episodes": 0}
    fewer = [each.name for each in replace(config, **without).plays()]
    assert not {"play-cola-s0-mppi", "play-ceiling", "correlation-cola-s0"} & set(fewer)
    assert shown(config.trainings()[0]).startswith("python experiments/train_world_model.py --preset tiny --from-scratch")


def test_what_a_step_waits_for(config):
    after = {each.name: set(each.after) for each in config.trainings() + config.plays()}
    assert after["cola-s1"] == {"base"} and after["goals-cola-s1"] == {"cola-s1"}
    assert after["play-two_stage-s1-cem"] == {"two_stage-s1", "goals-two_stage-s1"}
    assert after["play-floors"] == after["play-ceiling"] == after["correlation-cola-s0"] == {"cola-s0", "goals-cola-s0"}
    pixels = replace(config, cost="")
    plain = {each.name: set(each.after) for each in pixels.trainings() + pixels.plays()}
    assert plain["play-two_stage-s1-cem"] == {"two_stage-s1"}, "pixels are read by nobody"
    assert "goals-two_stage-s1" not in plain and "goals-cola-s0" in plain
    first = {each.name: each for each in replace(config, recipes=("real_actions", "cola")).trainings()}
    assert "inverse" not in first["goals-real_actions-s0"].command, "there are no codes to act on"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"planning": "--objective distance"}, "--planning .*: objective is of --cost"),
        ({"planning": "--samples 9 --rows expert"}, "--planning .*: rows is what the study itself decides"),
        ({"cost": "--objective distance --horizon 3"}, "--cost .*: horizon is of --planning"),
        ({"cost": "--no-yardstick"}, "--cost .*: yardstick is of --planning, or of no cost"),
    ],
)  # fmt: skip
def test_flags_have_their_places(config, flags, words):
    with pytest.raises(ValueError, match=words):
        replace(config, **flags)


def test_what_the_yardstick_refuses_is_refused_before_anything_is_trained(config):
    with pytest.raises(ValueError, match="yardstick of goal manifest libero_goals_v1 has blur = 4.0"):
        study(replace(config, cost="--blur 2"))


def test_what_cannot_be_is_said(config, tmp_path):
    with pytest.raises(ValueError, match="--data: there is no .*nowhere; experiments/collect.py"):
        study(replace(config, data=(tmp_path / "nowhere",)))
    with pytest.raises(ValueError, match="--recipes needs at least one value and none twice"):
        replace(config, recipes=("cola", "cola"))
    counts = ("episodes", "workers", "mppi_episodes", "ceiling_episodes", "correlation_episodes")
    for name, least in zip(counts, (1, 1, 0, 0, 0), strict=True):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be {least} or more, got {least - 1}"):
            replace(config, **{name: least - 1})
    with pytest.raises(ValueError, match="^cola-s0 has not been trained, which play-floors needs: --only train"):
        study(replace(config, only=("play",)))
    with pytest.raises(ValueError, match="nothing has been played yet"):
        study(replace(config, only=("results",)))


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


def test_rows_have_wilson_intervals_for_each_seed_by_itself(read):
    rows = {(each["row"], each["planner"], each["seed"], each["category"]): each for each in rows_of(read)}
    one = rows["cola", "cem", 1, "all"]
    assert (one["successes"], one["episodes"], one["seconds_per_plan"]) == (4, 8, 1.0)
    expected = wilson(4, 8)
    assert one["interval"] == [expected.low, expected.high]
    assert rows["cola", "mppi", 0, "reach"]["episodes"] == 2
    assert rows["random", None, None, "push"]["successes"] == 0 and ("expert", None, None, "all") not in rows
    assert rows["simulator", "cem", None, "all"]["successes"] == 6


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
    assert len(pairs_of(read, "cola", "inverse", "mppi", (0,))) == 2, "those that both have played"


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


@pytest.mark.parametrize(
    ("mine", "bar"), [("11111", "not shown"), ("1" * 200, "met"), ("00000", "missed"), ("0" * 9 + "1", "missed")]
)
def test_the_bar_is_met_by_the_whole_interval_or_not_at_all(tmp_path, mine, bar):
    """Five of five are no proof: a share that resampling cannot vary has the interval of a rate."""
    play(tmp_path, "cola-s0-cem", {"planner": goals(mine, "")})
    play(tmp_path, "simulator", {"planner": goals("1" * len(mine), "")})
    (line,) = reachable(Study.read(tmp_path, ("cola",), (0,)), "cola")
    assert line["bar"] == bar and line["share"]["low"] < line["share"]["high"]


def test_the_simulator_has_no_fewer_candidates_than_the_models(config):
    usual = StudyConfig(data=config.data)
    told = {each.name: each.command[2:] for each in usual.plays()}
    true, play = (
        tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told[name]) for name in ("play-simulator", "play-cola-s0-cem")
    )
    yardstick = on_yardstick(true, load_manifest(true.manifest))
    searched = [each.samples * each.iterations / each.replan_every for each in (yardstick, play)]
    assert searched[0] >= searched[1]
    assert (yardstick.horizon, yardstick.elite_fraction) == (play.horizon, play.elite_fraction)


def evaluated(runs: Path, recipe: str, seed: int, lost: float) -> None:
    """An evaluation whose PSNR ten steps on loses ``lost`` dB through the adapter, and twice that snapped to codes."""
    clips = np.random.default_rng(seed).normal(20, 2, 16)
    found = {
        name: {"video": {"10": {"psnr": list(clips - share * lost)}}}
        for name, share in (("idm", 0), ("adapter", 1), ("adapter_codes", 2))
    }
    folder = runs / f"{recipe}-s{seed}"
    folder.mkdir(exist_ok=True)
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
    assert "(losses.png)" in path.read_text() and (path.parent / "losses.png").stat().st_size > 5000


def test_the_folder_of_results_can_be_compared_again(read, tmp_path, capsys):
    path = write_study(read, tmp_path / "results", ["python experiments/one.py", "python experiments/two.py"])
    text = path.read_text()
    for said in ("## CEM", "## MPPI", "| cola | 0 | 4/4 | 2/4 | 6/8 |", "not shown", "97.7 %", "python experiments/two.py"):
        assert said in text, said
    summary = json.loads((path.parent / "summary.json").read_text())
    assert {"row", "planner", "category", "seed", "successes", "episodes", "interval"} <= set(summary["rows"][0])
    assert summary["manifest_sha256"] == "abc" and summary["models"] == []
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


def test_commands_of_what_has_not_begun_are_not_told(config, runs, tmp_path):
    config = replace(config, runs=runs, only=("results",))
    (runs / "logs").mkdir()
    for name in ("cola-s0", "play-cola-s0-cem"):
        (runs / "logs" / f"{name}.json").write_text("[]")
    study(config)
    commands = json.loads((config.results / "summary.json").read_text())["commands"]
    assert len(commands) == 2 and "--recipe cola --loop.seed 0" in commands[0] and "vp2_eval.py" in commands[1]


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
