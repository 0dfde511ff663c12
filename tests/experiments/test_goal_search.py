"""What the flags say of goal models, proposals, codes and the engine is what plans, from a saved system to a table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from colaworld.adapters.goal_models import LATENT_ACTIONS, codec_digest, latent_action_digest, save_goal_model
from colaworld.adapters.system import load_system, save_system, staged
from colaworld.envs.demos import ClipDataset
from colaworld.experiments.goal_costs import learned_costs
from colaworld.experiments.goal_objectives import make_objective
from colaworld.experiments.goal_row_settings import row_settings
from colaworld.experiments.goal_search import make_mpc, make_propose
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.planning_world import LoadedWorld
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.train_goal_models import GoalFitConfig, fresh_model
from colaworld.experiments.episode_player import world_of
from colaworld.experiments.vp2_eval import evaluate
from colaworld.planning.objectives import PixelGoal, WeightedSum

QUICK = EvalConfig(objective="pixel", samples=6, iterations=2, horizon=3, max_steps=4, episodes=1, pictures=False, rows=("planner",))
FIT = GoalFitConfig(width=4, hidden=8, chunk=2)


def make_run(folder: Path, *, parts=("distance", "progress", "success", "policy", "inverse"), **changes) -> Path:
    """A run's folder with an untrained system and goal models that are as good."""
    torch.manual_seed(0)
    sizes = {"height": 16, "width": 16, "frame_skip": 5, "action_dim": 7, "render_profile": "lite"}
    system = build(PRESETS["nano"], **sizes, **changes)
    system.model().train()(torch.randn(8, 12, *system.codec.latent_shape), torch.Generator().manual_seed(0))
    save_system(staged(system, "adapter"), folder / "system")
    system = load_system(folder / "system")
    for name in parts:
        about = {LATENT_ACTIONS: latent_action_digest(system)} if name == "inverse" else {}
        part = fresh_model(name, system, FIT, seed=1)
        save_goal_model(folder / "goal_models", name, part, about, codec_digest(system.codec))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def played(config: EvalConfig, tasks, out: Path) -> list[dict]:
    evaluate(config, tasks, lambda: world_of(config), out)
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def settings(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"objective": "progress"}, {"progress"}),
        ({"objective": "distance"}, {"distance"}),
        ({"objective": "sum", "distance_weight": 2.0}, {"distance"}),
        ({"objective": "vp2"}, {"success"}),
        ({"objective": "sum", "progress_weight": 2.0, "success_weight": 1.0}, {"progress", "success"}),
        ({"propose": "policy"}, {"policy"}),
        ({"propose": "idm"}, {"inverse"}),
        ({"planner": "codes", "final_steps": 2}, {"inverse"}),
        ({"planner": "codes", "propose": "idm"}, {"inverse"}),
        ({"planner": "gradient", "objective": "success", "samples": 3}, {"success"}),
        ({"dtype": "bfloat16", "common_noise": False, "flow_std": 0.5, "max_memory_mib": 1}, set()),
    ],
)
def test_flags_reach_from_a_saved_system_to_the_table(flags, parts, run, spot_tasks, tmp_path) -> None:
    (record,) = played(replace(QUICK, run=run, **flags), spot_tasks(), tmp_path)
    assert len(record["plan_costs"]) == 3 and record["actions"][0] == [0.0] * 7
    assert all(len(action) == 7 and max(map(abs, action)) <= 1 for action in record["actions"])
    planner = settings(tmp_path)["planner"]
    assert set(planner.get("goal_models", {})) == parts and all(planner.get("goal_models", {}).values())
    assert planner.get("engine") == ({"dtype": "bfloat16", "common_noise": False} if "dtype" in flags else None)


def test_the_usual_objective_is_the_learned_distance_where_there_is_one(run, spot_tasks, tmp_path) -> None:
    usual = replace(QUICK, objective=EvalConfig().objective)
    bare = make_run(tmp_path / "bare", parts=("policy",))
    for of, objective in ((run, "distance"), (bare, "pixel")):
        played(replace(usual, run=of), spot_tasks(), tmp_path / objective)
        assert settings(tmp_path / objective)["planner"]["objective"] == objective
    assert replace(usual, world="simulator").settled(distance=True).objective == "pixel"
    chosen = replace(usual, objective="latent")
    assert chosen.settled(distance=True) == chosen


def test_the_engine_is_the_one_that_the_flags_describe(run) -> None:
    flags = {"dtype": "bfloat16", "compile": True, "max_memory_mib": 7, "common_noise": False}
    config = world_of(replace(QUICK, run=run, **flags)).world.imagination.config
    assert {name: getattr(config, name) for name in flags} == flags
    assert config.max_batch is None, "--max-batch is the search's alone: of imagining and costing"
    assert make_mpc(replace(QUICK, max_batch=2), world_of(replace(QUICK, run=run)).world).config.max_batch == 2


def test_answers_are_snapped_to_codes_where_the_flag_says_so(run) -> None:
    frames, actions = torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.linspace(-1, 1, 7).repeat(1, 2, 1)
    found = {}
    for snap in (None, False, True):
        world = world_of(replace(QUICK, run=run, adapter_snap=snap)).world
        latents = world.encode(frames)[None].repeat(1, 2, 1, 1, 1)[:, :3]
        answered = world.latent_actions(actions[:, :, None].repeat(1, 1, world.adapter.config.frame_skip, 1), latents)
        found[snap] = answered, world.model.bottleneck.snap(answered).latents
    assert torch.equal(*found[True]) and not torch.allclose(*found[False])
    made = world.adapter.config.snap
    assert torch.equal(found[None][0], found[made][0])


def test_a_folder_is_the_same_with_a_flag_that_says_what_the_adapter_does_anyway(run, spot_tasks, tmp_path) -> None:
    made = load_system(run / "system").adapter.config.snap
    first = played(replace(QUICK, run=run), spot_tasks(), tmp_path / "first")
    again = played(replace(QUICK, run=run, adapter_snap=made), spot_tasks(), tmp_path / "first")
    assert again == first and "adapter_snap" not in settings(tmp_path / "first")["planner"]
    with pytest.raises(ValueError, match=f"adapter_snap.*{not made}"):
        played(replace(QUICK, run=run, adapter_snap=not made), spot_tasks(), tmp_path / "first")


def test_codes_before_a_plan_are_part_of_what_a_folder_is_bound_to() -> None:
    """Folders from when they were those planned there are not gone on with."""
    of = row_settings(EvalConfig(planner="codes"), {}, "weights", {"inverse": "hash"})["planner"]
    assert of["codes_before"] == "read" and "codes_before" not in row_settings(EvalConfig(), {}, "weights")["planner"]


def test_a_system_without_codes_has_nothing_to_snap_to(tmp_path) -> None:
    bare = make_run(tmp_path / "bare", parts=(), bottleneck="continuous")
    with pytest.raises(ValueError, match="--adapter-snap True: .*bare.* has a continuous bottleneck"):
        world_of(replace(QUICK, run=bare, adapter_snap=True))


def test_the_row_that_plans_nothing_is_there_where_goal_models_are(run, spot_tasks, tmp_path, capsys) -> None:
    usual = replace(QUICK, run=run, rows=EvalConfig().rows, seeds=(0, 1))
    records = played(usual, spot_tasks(), tmp_path / "with")
    assert [record["row"] for record in records] == [*["planner"] * 2, "inverse", *["random"] * 2, "expert"]
    inverse = records[2]
    assert inverse["actions"][0] == [0.0] * 7 != inverse["actions"][1] and inverse["plan_seconds"] == []
    assert "planner against inverse" in capsys.readouterr().out
    bare = make_run(tmp_path / "bare", parts=())
    without = played(replace(usual, run=bare), spot_tasks(), tmp_path / "without")
    assert "inverse" not in {record["row"] for record in without}
    assert "the row inverse is left out" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--rows inverse needs goal models.*--goal-models"):
        played(replace(usual, run=bare, rows=("inverse",)), spot_tasks(), tmp_path / "asked")


def test_success_is_that_of_the_category(run) -> None:
    models = world_of(replace(QUICK, run=run)).goal_models
    now, goal = torch.randn(2, 5, *load_system(run / "system").codec.latent_shape)
    for category, kind in (("reach", "reach"), ("push", "push"), ("open_drawer", "both")):
        objective = make_objective(replace(QUICK, objective="success"), models, category)
        torch.testing.assert_close(objective.cost(now, goal[:1]), models.success.cost(now, goal[:1], kind))
    vp2 = make_objective(replace(QUICK, objective="vp2", blur=0.0), models, "reach")
    assert vp2.weights == (0.5, 10.0) and vp2.terms[0] == PixelGoal()
    config = replace(QUICK, objective="sum", pixel_weight=0.0, progress_weight=3.0)
    both = make_objective(config, models)
    assert isinstance(both, WeightedSum) and both.weights == (1.0, 3.0), "what weighs nothing is not computed"


def test_distance_is_that_of_the_category_in_centimetres(run) -> None:
    models = world_of(replace(QUICK, run=run)).goal_models
    now, goal = torch.randn(2, 5, *load_system(run / "system").codec.latent_shape)
    for category, kind in (("reach", "reach"), ("push", "both"), ("open_drawer", "both")):
        objective = make_objective(replace(QUICK, objective="distance"), models, category)
        torch.testing.assert_close(objective.cost(now, goal[:1]), 100.0 * models.distance.cost(now, goal[:1], kind))
        ranked = learned_costs(models, category, last=2, blur=3.0)
        torch.testing.assert_close(
            ranked["distance"].objective.cost(now, goal[:1]), 100.0 * models.distance.cost(now, goal[:1], kind)
        )
        both = ranked["blurred pixel and distance"].objective
        assert both.terms[0] == PixelGoal(last=2, blur=3.0) and both.weights == (1.0, 1.0) and both.terms[1].last == 2


def test_codes_are_searched_as_they_were_used_and_acted_on(run) -> None:
    loaded = world_of(replace(QUICK, run=run))
    inverse = loaded.goal_models.inverse
    inverse.count(torch.tensor([[1, 2], [1, 3]]), torch.tensor([[4, 5]]))
    mpc = make_mpc(replace(QUICK, planner="codes"), loaded.world, models=loaded.goal_models)
    assert mpc.world.code_sizes == (8, 8) and mpc.prior.rest().tolist() == [4, 5]
    assert mpc.prior.distribution(1).probabilities[0, 0].argmax() == 1
    frames = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mpc.reset(frames[2], 0)
    assert mpc.act(frames[0]).tolist() == [0.0] * 7
    action = mpc.act(frames[1])
    latents = loaded.world.encode(frames[:2])
    step = loaded.world.system.bottleneck.from_indices(mpc.last_plan.actions[None, :1])[0]
    torch.testing.assert_close(action, inverse(step, latents[:1], latents[1:])[0].detach())


def test_the_nearest_segment_comes_from_recordings(run, tmp_path, fake_recording) -> None:
    fake_recording(tmp_path / "data.hdf5", (0, 1, 2), frames=8)
    config = replace(QUICK, run=run, propose="nearest", proposal_data=(tmp_path / "data.hdf5",))
    loaded = world_of(config)
    episode = ClipDataset(config.proposal_data, length=2).episodes[1]
    frames, held = torch.from_numpy(episode.frames[:]), torch.from_numpy(episode.actions).mean(dim=1)
    propose = make_propose(config, loaded.world, loaded.goal_models)
    torch.testing.assert_close(propose(frames[2:3], frames[5], 4)[0], held[2:5])
    codes = make_propose(replace(config, planner="codes"), loaded.world, loaded.goal_models)
    assert codes(frames[2:3], frames[5], 4).shape == (1, 3, 2)
    with pytest.raises(FileNotFoundError, match="--proposal-data: there is no .*nowhere"):
        make_propose(replace(config, proposal_data=(tmp_path / "nowhere",)), loaded.world, None)


@pytest.mark.parametrize(
    ("changes", "flags", "error", "message"),
    [
        ({"parts": ()}, {"objective": "progress"}, ValueError, "--objective progress needs goal models"),
        ({"parts": ("policy",)}, {"objective": "vp2"}, ValueError, "--objective vp2: there is no success .*: policy"),
        ({"parts": ("policy",)}, {"planner": "codes"}, ValueError, "--planner codes: there is no inverse"),
        ({"bottleneck": "continuous"}, {"planner": "codes"}, ValueError, "--planner codes: .*continuous.* no codes"),
        ({}, {"goal_models": Path("nowhere")}, FileNotFoundError, "no goal models at nowhere"),
        ({}, {"horizon": 11}, ValueError, "--horizon 11 is beyond the world's 10"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(changes, flags, error, message, spot_tasks, tmp_path) -> None:
    made = make_run(tmp_path / "run", **changes)
    with pytest.raises(error, match=message):
        played(replace(QUICK, run=made, **flags), spot_tasks(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_goal_models_of_another_system_are_refused(run, spot_tasks, tmp_path) -> None:
    torch.manual_seed(5)
    other = load_system(run / "system")
    with torch.no_grad():
        other.inverse_dynamics.readout.bias.add_(0.5)
    save_system(other, tmp_path / "lam" / "system")
    with torch.no_grad():
        other.codec.latent_std.mul_(1.1)
    save_system(other, tmp_path / "codec" / "system")
    for name, message in (("lam", "another latent action model"), ("codec", "codec is .*, the system's is")):
        config = replace(QUICK, run=tmp_path / name, planner="codes", goal_models=run / "goal_models")
        with pytest.raises(ValueError, match=message):
            played(config, spot_tasks(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_candidate_that_is_no_number_is_counted_and_not_chosen(spot_tasks, spot_world, tmp_path) -> None:
    class Spoilt(spot_world):
        def imagine(self, state, actions, generator):
            imagined = super().imagine(state, actions, generator)
            imagined[-1] = torch.nan
            return imagined

    evaluate(QUICK, spot_tasks(), lambda: LoadedWorld(world=Spoilt(), checkpoint="w"), tmp_path)
    record = json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[0])
    assert record["rejected_candidates"] > 0 and all(cost < float("inf") for cost in record["plan_costs"])
