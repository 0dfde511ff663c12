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
from colaworld.experiments.study import StudyConfig, shown, study
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
    trained = [name for name in told if name.endswith(("-s0", "-s1")) and not name.startswith("play")]
    assert len(trained) == 6
    for name in trained:
        run = tyro.cli(TrainConfig, args=told[name])
        assert f"{run.recipe}-s{run.loop.seed}" == name == run.out.name
        assert run.init == base.out / "system" and run.joint.steps == 7 and run.loop.compile
        for planner, episodes in (("cem", 12), ("mppi", 30)):
            play = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told[f"play-{name}-{planner}"])
            assert (play.planner, play.episodes, play.samples, play.run) == (planner, episodes, 9, run.out)
            assert play.rows == ("planner",) and play.manifest == "libero_goals_v1"
            assert (play.objective, play.latent_weight, play.distance_weight) == ("sum", 0, 2)
    true = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told["play-simulator"])
    assert (true.world, true.objective, true.episodes) == ("simulator", "state", 12)
    ceiling = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told["play-ceiling"])
    assert (ceiling.world, ceiling.objective, ceiling.episodes) == ("simulator", "sum", 30)
    assert ceiling.weights() == play.weights() and ceiling.goal_models == play.goal_models
    assert ceiling.run.name == "cola-s0", "whose codec learned costs see true frames through"
    fewer = [each.name for each in replace(config, mppi_episodes=0, ceiling_episodes=0).plays()]
    assert "play-cola-s0-mppi" not in fewer and "play-ceiling" not in fewer
    assert shown(config.trainings()[0]).startswith("python experiments/train_world_model.py --preset tiny --from-scratch")


def test_what_cannot_be_is_said(config, tmp_path):
    with pytest.raises(ValueError, match="--data: there is no .*nowhere; experiments/collect.py"):
        study(replace(config, data=(tmp_path / "nowhere",)))
    with pytest.raises(ValueError, match="--recipes needs at least one value and none twice"):
        replace(config, recipes=("cola", "cola"))
    for name, least in (("episodes", 1), ("mppi_episodes", 0), ("ceiling_episodes", 0), ("workers", 1)):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be {least} or more, got {least - 1}"):
            replace(config, **{name: least - 1})
    with pytest.raises(ValueError, match="cola-s0 has not been trained, which play-floors needs: --only train"):
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
    assert len(pairs_of(read, "cola", "inverse", "mppi", (0,))) == 2, "those that both have played"


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
    text = path.read_text()
    assert "| ceiling | - | 3/4 | 1/4 | 4/8 |" in text and "### Of the ceiling" in text


def test_a_share_of_nothing_is_none(tmp_path):
    play(tmp_path, "cola-s0-cem", {"planner": goals("11", "")})
    play(tmp_path, "simulator", {"planner": goals("00", "")})
    assert [each["share"] for each in reachable(Study.read(tmp_path, ("cola",), (0,)), "cola")] == [None]


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
    assert yardstick.samples * yardstick.iterations >= play.samples * play.iterations


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
    assert "| two_stage | snapped to codes | 2 | 16 | 0.60 [0.60, 0.60] |" in path.read_text()
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
