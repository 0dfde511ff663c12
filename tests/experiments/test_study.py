"""A study: what its scripts are told, what waits for what, and which flags are refused before anything is lost."""

import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import tyro

from colaworld.adapters import SHIPPED_PRESET
from colaworld.adapters.system import weights_path
from colaworld.envs.manifest import load_manifest
from colaworld.experiments.cost_correlation import CorrelationConfig
from colaworld.experiments.encode_latents import EncodeConfig
from colaworld.experiments.goal_settings import EvalConfig, on_yardstick
from colaworld.experiments.study import check_base, check_encoded, study
from colaworld.experiments.study_config import GOAL_MODEL_NAMES, StudyConfig, shown
from colaworld.experiments.study_steps import Step
from colaworld.experiments.train_config import TrainConfig
from colaworld.experiments.train_rollouts import RolloutTraining


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
    assert (of.manifest, of.episodes, of.run.name, of.horizon) == ("libero_goals_dev_v1", 16, "two_stage-s0", 5)
    without = {"mppi_episodes": 0, "ceiling_episodes": 0, "correlation_episodes": 0}
    fewer = [each.name for each in replace(config, **without).plays()]
    assert not {"play-cola-s0-mppi", "play-ceiling", "correlation-cola-s0"} & set(fewer)
    snapped = {each.name: each.command[2:] for each in replace(config, snapped_episodes=5).plays()}
    assert {name for name in snapped if name not in told} == {
        f"play-{recipe}-s{seed}-cem-snapped" for recipe in ("cola", "two_stage") for seed in (0, 1)
    }, "real_actions has no codes"
    codes = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=snapped["play-two_stage-s1-cem-snapped"])
    cem = tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=snapped["play-two_stage-s1-cem"])
    assert codes.adapter_snap is True and cem.adapter_snap is None
    assert replace(codes, adapter_snap=None, out=cem.out, episodes=12) == cem
    assert shown(config.trainings()[0]).startswith("python experiments/train_world_model.py --preset tiny_conv --from-scratch")


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


def test_data_are_encoded_once_where_asked(config):
    steps = {each.name: each for each in replace(config, encoded=True, encoding="--crops 3").trainings()}
    assert [*steps][:4] == ["codec", "encoded", "base", "cola-s0"]
    told = {name: each.command[2:] for name, each in steps.items()}
    codec, base, cola = (tyro.cli(TrainConfig, args=told[name]) for name in ("codec", "base", "cola-s0"))
    encode = tyro.cli(EncodeConfig, args=told["encoded"])
    assert codec.run_stages() == ("codec",) and codec.data == encode.data == config.data
    assert encode.crops == 3 and encode.init == codec.out and encode.out.name == "encoded"
    assert base.run_stages() == ("pretrain",) and base.init == codec.out / "system" and base.codec.steps == 5
    assert codec.from_scratch and codec.init is None
    other = replace(config, encoded=True, codec_init=Path("other"), preset="tiny_conv").trainings()[0]
    going_on = tyro.cli(TrainConfig, args=other.command[2:])
    assert going_on.init == Path("other") and not going_on.from_scratch and going_on.run_stages() == ("codec",)
    assert base.data == cola.data == (encode.out,) and cola.init == base.out / "system"
    assert [steps[name].after for name in ("encoded", "base", "cola-s0")] == [("codec",), ("encoded",), ("base",)]
    words = told["goals-cola-s0"]
    assert words[words.index("--data") + 1] == str(config.data[0]), "goal models read the pictures"


def test_systems_go_on_on_their_rollouts_where_asked(config):
    steps = {each.name: each for each in replace(config, rollouts="--steps 9").trainings()}
    told = {name: each.command[2:] for name, each in steps.items()}
    rolled = tyro.cli(RolloutTraining, args=told["rollouts-two_stage-s1"])
    assert rolled.run == config.runs / "two_stage-s1" and rolled.out == config.runs / "rollouts" / "two_stage-s1"
    assert (rolled.steps, rolled.loop.seed, rolled.data) == (9, 1, config.data)
    assert rolled.reader == config.runs / "base" / "goal_models"
    words = told["reader"]
    assert words[words.index("--run") + 1] == str(config.runs / "base"), "it imagines nothing: recorded frames alone"
    assert words[words.index("--models") + 1] == "distance"
    assert set(steps["rollouts-two_stage-s1"].after) == {"two_stage-s1", "reader"}
    plays = {each.name: each for each in replace(config, rollouts="").plays()}
    for name, needed in (("play-two_stage-s1-cem", "two_stage-s1"), ("play-ceiling", "cola-s0")):
        words = plays[name].command
        assert words[words.index("--run") + 1] == str(config.runs / "rollouts" / needed)
        assert set(plays[name].after) == {f"rollouts-{needed}", f"goals-{needed}"}
    for name in ("goals-cola-s0", "evaluation-cola-s0"):
        words = told[name]
        assert words[words.index("--run") + 1] == str(config.runs / "rollouts" / "cola-s0")
        assert steps[name].after == ("rollouts-cola-s0",)
    encoded = replace(config, preset="tiny_conv", encoded=True, training="", base_training="", rollouts="--shift 4")
    with pytest.raises(ValueError, match="--rollouts has --shift 4, its data allow 0$"):
        check_encoded(encoded)
    check_encoded(replace(encoded, encoding="--crops 2"))
    with pytest.raises(SystemExit):
        replace(config, rollouts="--stepps 9")
    for flag in ("--run other", "--reader other", "--loop.seed 7", "--data other", "--out other"):
        with pytest.raises(ValueError, match=f"{flag.split()[0]} is what the study itself decides"):
            replace(config, rollouts=flag)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_study_starts_from_what_ships_where_asked(config, tmp_path, encoded):
    given = weights_path(name="pretrained")
    own = {"preset": SHIPPED_PRESET, "base": given, "base_training": "", "rollouts": "", "encoded": encoded}
    asked = replace(config, **own, training="", judge="reader", cost="--objective distance", recipes=("cola",), seeds=(0,))
    check_base(asked)
    steps = {each.name: each for each in asked.trainings() + asked.plays()}
    told = {name: each.command[2:] for name, each in steps.items()}
    first = ("encoded",) if encoded else ()
    assert not {"codec", "base", "reader"} & set(steps) and ("encoded" in steps) is encoded
    assert steps["cola-s0"].after == first and steps["rollouts-cola-s0"].after == ("cola-s0",)
    for name in (*first, "cola-s0"):
        assert told[name][told[name].index("--init") + 1] == str(given)
    judge = str(given.parent / "goal_models")
    assert told["rollouts-cola-s0"][told["rollouts-cola-s0"].index("--reader") + 1] == judge
    assert told["play-cola-s0-cem"][told["play-cola-s0-cem"].index("--goal-models") + 1] == judge
    assert steps["play-cola-s0-cem"].after == ("rollouts-cola-s0",)
    with pytest.raises(ValueError, match="--base-training '--codec.steps 3' is of what --base .* stands for"):
        replace(asked, base_training="--codec.steps 3")
    with pytest.raises(ValueError, match="cola: has been trained to stage 'adapter'; a study starts from one of"):
        check_base(replace(asked, base=weights_path()))
    with pytest.raises(ValueError, match="--base .*: holds no system"):
        study(replace(asked, base=tmp_path / "none"))
    shutil.copytree(given, tmp_path / "alone" / "pretrained")
    shutil.copytree(given.parent / "goal_models" / "policy", tmp_path / "alone" / "goal_models" / "policy")
    with pytest.raises(ValueError, match="--rollouts reads a distance, and .*goal_models has none"):
        check_base(replace(asked, base=tmp_path / "alone" / "pretrained"))


def test_one_reader_judges_all_where_asked(config):
    own = {"rollouts": "", "judge": "reader", "reader_training": "--fit-config.steps 7", "cost": "--objective distance"}
    judged = replace(config, **own)
    steps = {each.name: each for each in judged.trainings() + judged.plays()}
    told = {name: each.command[2:] for name, each in steps.items()}
    reader = str(config.runs / "base" / "goal_models")
    for name in ("play-cola-s0-cem", "play-two_stage-s1-mppi", "play-ceiling", "correlation-two_stage-s0"):
        assert told[name][told[name].index("--goal-models") + 1] == reader
        assert steps[name].after[1:] == ("reader",) and not {"goals-two_stage-s0", "goals-two_stage-s1"} & set(steps)
    assert steps["play-floors"].after == ("rollouts-cola-s0", "goals-cola-s0")
    assert "--goal-models" not in told["play-simulator"] and "--goal-models" not in told["play-floors"]
    words = told["goals-cola-s0"]
    models = words[words.index("--models") + 1 : words.index("--fit-config.hidden")]
    assert models == tuple(name for name in GOAL_MODEL_NAMES if name != "distance"), "that one is the reader's"
    assert told["reader"][-2:] == ("--fit-config.steps", "7")
    for flags, words in (
        ({"rollouts": None}, "--judge reader: without --rollouts there is no reader"),
        ({"cost": "--objective progress"}, "--judge reader knows a distance alone, and --cost has --objective progress"),
        ({"planning": "--propose policy"}, "--judge reader knows a distance alone, and --planning has --propose policy"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(judged, **flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"preset": "tiny"}, "base has --pretrain.shift 4, its data allow 0$"),
        ({"encoding": "--crops 2", "training": "--adapter.shift 3"}, "cola-s0 has --adapter.shift 3, .* allow 0 or 4"),
        ({"training": "--lam-output pixel", "recipes": ("two_stage",)}, "two_stage-s0 is to predict pictures"),
    ],
)
def test_what_encoded_data_cannot_do_is_said_before_they_are_made(config, flags, words):
    own = {"preset": "tiny_conv", "encoded": True, "training": "", "base_training": ""}
    check_encoded(replace(config, **own))
    check_encoded(replace(config, **own | {"encoding": "--crops 2", "training": "--joint.shift 4"}))
    with pytest.raises(ValueError, match=words):
        study(replace(config, **own | flags))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"encoding": "--crops 2"}, "--encoding '--crops 2' is of --encoded"),
        ({"codec_init": Path("there")}, "--codec-init 'there' is of --encoded"),
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
    counts = ("episodes", "workers", "mppi_episodes", "snapped_episodes", "ceiling_episodes", "correlation_episodes")
    for name, least in zip(counts, (1, 1, 0, 0, 0, 0), strict=True):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be {least} or more, got {least - 1}"):
            replace(config, **{name: least - 1})
    with pytest.raises(ValueError, match="^cola-s0 has not been trained, which play-floors needs: --only train"):
        study(replace(config, only=("play",)))
    with pytest.raises(ValueError, match="nothing has been played yet"):
        study(replace(config, only=("results",)))


def test_the_simulator_has_no_fewer_candidates_than_the_models(config):
    usual = StudyConfig(data=config.data)
    told = {each.name: each.command[2:] for each in usual.plays()}
    true, play = (
        tyro.cli(tyro.conf.OmitArgPrefixes[EvalConfig], args=told[name]) for name in ("play-simulator", "play-cola-s0-cem")
    )
    yardstick = on_yardstick(true, load_manifest(true.manifest))
    steps = (15, 14)  # a learned model wants two frames first: its first action of an episode is none
    searched = [
        each.samples * each.iterations * math.ceil(count / each.replan_every)
        for each, count in zip((yardstick, play), steps, strict=True)
    ]
    assert 0.95 * searched[0] < searched[1] <= searched[0]
    elites = [each.samples * each.elite_fraction for each in (yardstick, play)]
    assert yardstick.horizon == play.horizon and abs(elites[0] - elites[1]) < 1
