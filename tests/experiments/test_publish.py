"""A run becomes a folder to give away, with a card that says what it is; and it is uploaded, or it is said why not."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from colaworld.adapters.goal_models import codec_digest, load_goal_models, save_goal_model
from colaworld.adapters.system import load_system, save_system, staged
from colaworld.experiments.budget import StageCost, record_cost
from colaworld.experiments.goal_settings import EvalConfig
from colaworld.experiments.held_out import compare
from colaworld.experiments.planning_world import load_world, system_hash, usual_goal_models
from colaworld.experiments.presets import PRESETS, build
from colaworld.experiments.publish import publish
from colaworld.experiments.train_config import preset_defaults, remember_run
from colaworld.experiments.vp2_eval import evaluate
from colaworld.models.goal_progress import GoalProgress


@pytest.fixture
def run(tmp_path, fake_recording) -> Path:
    """The folder of a nano run with everything that a run leaves behind, except that nobody trained."""
    folder = tmp_path / "runs" / "mine"
    torch.manual_seed(0)
    made = build(PRESETS["nano"], height=16, width=16, frame_skip=5, action_dim=7, render_profile="lite")
    data = tmp_path / "secret" / "recording.hdf5"
    data.parent.mkdir()
    fake_recording(data, [3, 7])
    remember_run(replace(preset_defaults("nano"), out=folder, data=(data,), from_scratch=True, clip=10))
    save_system(staged(made, "adapter"), folder / "system")
    for stage in ("warmup", "joint"):
        record_cost(folder, stage, StageCost(steps=1234, samples=8, seconds=7200.0, flops=1e12, parameters=99))
    progress = GoalProgress(latent_channels=made.codec.latent_shape[0], width=8, hidden=8)
    save_goal_model(folder / "goal_models", "progress", progress, {"data": ["/secret/x"]}, codec_digest(made.codec))
    truth = torch.rand(3, 12, 3, 16, 16)
    (folder / "held_out").mkdir()
    report = compare(truth, {"adapter": (truth + 0.1).clamp(0, 1), "adapter, shuffled": (truth + 0.2).clamp(0, 1)}, range(len(truth)))
    (folder / "held_out" / "held_out.json").write_text(json.dumps({"clips": 3, "seed": 0, **report}))
    (folder / "held_out" / "strip_0.png").write_bytes(b"a picture")
    (folder / "metrics.jsonl").write_text("")
    return folder


def test_a_published_run_plans_like_the_run(run, tmp_path):
    publish(run=run, out=tmp_path / "out")
    assert load_system(tmp_path / "out").info == load_system(run).info
    for name, part in load_system(run).parts().items():
        torch.testing.assert_close(
            dict(load_system(tmp_path / "out").parts()[name].state_dict()), dict(part.state_dict()), rtol=0, atol=0
        )
    folder = usual_goal_models(tmp_path / "out", "nano")
    assert load_world(tmp_path / "out", goal_models=folder).goal_models.progress is not None
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "README.md", "system", "goal_models", "config.json", "budget.json", "held_out", "publication.json"
    }  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name or "old" in path.name]


def test_bf16_halves_it_and_its_goal_models_still_fit(run, tmp_path):
    publish(run=run, out=tmp_path / "full")
    publish(run=run, out=tmp_path / "half", bf16=True)
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name).rglob("video/*.safetensors")) for name in ("full", "half")
    ]
    assert sizes[1] < 0.75 * sizes[0]
    system = load_system(tmp_path / "half")
    assert set(load_goal_models(tmp_path / "half" / "goal_models", system.codec).about) == {"progress"}
    card = (tmp_path / "half" / "README.md").read_text()
    assert "parameters in bfloat16" in card and "before the weights were rounded to bfloat16" in card
    mark = json.loads((tmp_path / "half" / "publication.json").read_text())
    assert mark["measured"] == system_hash(run / "system") != mark["published"]


def test_the_card_says_what_the_run_knows(run, tmp_path):
    (tmp_path / "notes.md").write_text("It likes bowls.")
    publish(run=run, out=tmp_path / "out", notes=tmp_path / "notes.md", licence="cc-by-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert ModelCard(text).data.license == front["license"] == "cc-by-4.0"
    assert front["library_name"] == "colaworld" and {"world-model", "cola"} <= set(front["tags"])
    for said in (
        "preset `nano`, recipe `cola`, trained to stage `adapter`; 16x16 frames",
        "| joint | 1,234 | 8 | 2.00 | 1e+12 | 99 | as planned |",
        "`clip=10`",
        "| recording.hdf5 | `",
        "below shuffled actions",
        "(held_out/strip_0.png)",
        system_hash(run / "system"),
        "vp2_eval.py --run out",
        "- see other frames than 16x16",
        "goal models (progress)",
        "No episodes in the simulator were given",
        "It likes bowls.",
    ):
        assert said in text
    everything = "".join(file.read_text() for file in (tmp_path / "out").rglob("*.json")) + text
    assert "secret" not in everything and str(tmp_path) not in everything


def test_episodes_in_the_simulator_and_their_fingerprint_are_on_the_card(run, tmp_path, spot_tasks):
    config = EvalConfig(run=run, rows=("planner",), samples=4, iterations=1, horizon=2, max_steps=2, pictures=False)
    world = load_world(run)
    summary = evaluate(config, spot_tasks(), lambda: world, tmp_path / "played")
    text = json.loads(summary.read_text())
    text["settings"]["planner"] |= {"manifest": "spots_v1", "manifest_sha256": "abc"}
    summary.write_text(json.dumps(text | {"simulators": [{"mujoco": "3.3.2", "settled_sha256": "0123"}]}))
    publish(run=run, out=tmp_path / "out", results=(tmp_path / "played",))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Goals of `spots_v1` (SHA-256 `abc`)" in card and "planner (cem)" in card
    assert '{"mujoco": "3.3.2", "settled_sha256": "0123"}' in card and "No episodes" not in card
    text["settings"]["planner"]["checkpoint"] = "f" * 64
    summary.write_text(json.dumps(text))
    with pytest.raises(ValueError, match="summary.json: its planner's checkpoint is ffffffffffff, the run's is"):
        publish(run=run, out=tmp_path / "other", results=(summary,))


def test_a_bare_system_has_a_card_that_admits_it(run, tmp_path):
    save_system(staged(load_system(run), "joint"), tmp_path / "bare")
    publish(run=tmp_path / "bare", out=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("Not known") == 2 and "no evaluation lies in the run" in card
    assert "trained to stage `joint` only" in card and "no adapter has been trained" in card


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    with pytest.raises(ValueError, match="mine exists and holds metrics.jsonl, which is not of a publication"):
        publish(run=run, out=run)
    save_system(load_system(run), tmp_path / "whole" / "system")
    with pytest.raises(ValueError, match="whole exists and holds system, which is not"):
        publish(run=run, out=tmp_path / "whole")
    publish(run=run, out=tmp_path / "out")
    publish(run=run, out=tmp_path / "out", bf16=True)
    assert "bfloat16" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="holds thesis.txt"):
        publish(run=run, out=tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").is_file() and (run / "metrics.jsonl").is_file()


class Hub:
    """What `upload` asks of the hub."""

    def __init__(self, public: bool = False) -> None:
        self.public, self.calls = public, []

    def create_repo(self, repo: str, **said: object) -> None:
        self.calls.append(("create", repo, said))

    def model_info(self, repo: str) -> object:
        return type("Info", (), {"private": not self.public})()

    def upload_folder(self, **said: object) -> None:
        names = {path.name for path in Path(said["folder_path"]).iterdir()}
        self.calls.append(("upload", said["repo_id"], names))


@pytest.fixture
def hub(monkeypatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    return made


def test_a_push_uploads_the_folder_once(run, tmp_path, hub, capsys):
    publish(run=run, out=tmp_path / "out", push="owner/name", private=True)
    (_, repo, said), (what, where, names) = hub.calls
    assert (repo, said) == ("owner/name", {"private": True, "exist_ok": True})
    assert (what, where) == ("upload", "owner/name") and {"README.md", "system", "config.json"} <= names
    assert "https://huggingface.co/owner/name" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.split("---\n")[2].startswith("\n# name\n") and "--run hub:owner/name" in card


def test_what_is_to_be_private_is_not_put_in_public(run, tmp_path, hub):
    hub.public = True
    with pytest.raises(ValueError, match="--private: owner/name exists and is public"):
        publish(run=run, out=tmp_path / "out", push="owner/name", private=True)
    assert [call[0] for call in hub.calls] == ["create"]


def test_faults_are_one_sentence_and_nothing_is_written(run, tmp_path, hub, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="--run .*nowhere: there is no run and no system"):
        publish(run=tmp_path / "nowhere", out=out)
    with pytest.raises(ValueError, match="--push name: expected OWNER/NAME"):
        publish(run=run, out=out, push="name")
    with pytest.raises(ValueError, match="--private says how to upload"):
        publish(run=run, out=out, private=True)
    with pytest.raises(FileNotFoundError, match="--notes .*none.md"):
        publish(run=run, out=out, notes=tmp_path / "none.md")
    with pytest.raises(FileNotFoundError, match="--results .*: there is no summary"):
        publish(run=run, out=out, results=(tmp_path,))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="--push owner/name: there is no token; log in with `hf auth login`"):
        publish(run=run, out=out, push="owner/name")
    assert not out.exists() and hub.calls == []


def test_a_hub_that_does_not_answer_is_one_sentence(run, tmp_path, hub, monkeypatch):
    def silent(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand so on")

    monkeypatch.setattr(hub, "upload_folder", silent)
    with pytest.raises(ValueError, match="--push owner/name: no route to host$"):
        publish(run=run, out=tmp_path / "out", push="owner/name")
    assert (tmp_path / "out" / "README.md").is_file()  # what was made is not lost
