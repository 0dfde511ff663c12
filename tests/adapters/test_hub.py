"""Systems by their name on the hub: what is fetched, what is never read, what is said when there is none."""

import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from colaworld.adapters import hub
from colaworld.adapters.system import ColaSystem, load_system, save_system


@pytest.fixture
def served(tmp_path, monkeypatch) -> Path:
    """A folder that is what the hub has; asked for, it hands out what matches the patterns."""
    remote = tmp_path / "remote"
    remote.mkdir()
    asked: list[tuple[str, str | None]] = []

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision))
        local = tmp_path / "local"
        for pattern in allow_patterns:
            for file in remote.rglob(pattern):
                target = local / file.relative_to(remote)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        return str(local)

    hub._fetched.cache_clear()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub, "asked", asked, raising=False)
    yield remote
    hub._fetched.cache_clear()


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def set_traps(folder: Path, sprung: Path) -> None:
    """Pickles and a program beside every part's weights."""
    for config in folder.rglob("config.json"):
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
            (config.parent / name).write_bytes(pickle.dumps(Trap(sprung)))
        (config.parent / "modeling.py").write_text(f"open({str(sprung)!r}, 'w')")
        text = json.loads(config.read_text())
        config.write_text(json.dumps(text | {"auto_map": {"AutoModel": "modeling.Model"}}))


def test_a_system_is_loaded_by_its_name(system, served):
    save_system(system, served / "system")
    for name in ("hub:owner/name", "hub:owner/name", "hub:owner/name@v1.0"):
        loaded = load_system(name)
    torch.testing.assert_close(loaded.video.state_dict(), system.video.state_dict(), rtol=0, atol=0)
    assert ColaSystem.from_pretrained("owner/name").info == system.info
    assert hub.asked == [("owner/name", None), ("owner/name", "v1.0")]  # once each


def test_programs_and_pickles_are_neither_fetched_nor_read(system, served, tmp_path):
    save_system(system, served / "system")
    set_traps(served, tmp_path / "sprung")
    load_system("hub:owner/name")
    found = {file.suffix for file in (tmp_path / "local").rglob("*") if file.is_file()}
    assert found == {".json", ".safetensors"}
    load_system(served)  # a folder at hand, with all of them inside
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_in_the_place_of_the_weights_is_refused(system, tmp_path):
    save_system(system, tmp_path / "run")
    set_traps(tmp_path / "run", tmp_path / "sprung")
    part = tmp_path / "run" / "video"
    weights = part / "diffusion_pytorch_model.safetensors"
    weights.write_bytes((part / "diffusion_pytorch_model.bin").read_bytes())
    with pytest.raises(ValueError, match="video/diffusion_pytorch_model.safetensors: cannot be read"):
        load_system(tmp_path / "run")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="the video of the system is missing"):
        load_system(tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.bin", "../other.safetensors", 3])
def test_a_list_of_shards_names_safetensors_alone(system, tmp_path, file):
    save_system(system, tmp_path / "run")
    set_traps(tmp_path / "run", tmp_path / "sprung")
    index = tmp_path / "run" / "video" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {"embed.weight": file}}))
    with pytest.raises(ValueError, match=f"index.json: field 'weight_map' names {file!r}, expected safetensors"):
        load_system(tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", 3])
def test_a_fetched_system_stays_in_its_folder(system, served, place):
    save_system(system, served / "system")
    file = served / "system" / "system.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps(text | {"parts": text["parts"] | {"codec": place}}))
    with pytest.raises(ValueError, match=f"system.json: field 'parts' names {place!r}, which is not inside"):
        load_system("hub:owner/name")


def test_names_that_are_none_and_what_is_not_there(served, monkeypatch):
    (served / "unrelated.json").write_text("{}")
    for name in ("hub:name", "hub:a/b/c", "hub:a/b@"):
        with pytest.raises(ValueError, match=f"{name}: expected hub:OWNER/NAME or"):
            load_system(name)
    with pytest.raises(FileNotFoundError, match="no system at .*: system.json is missing"):
        load_system("hub:owner/name")

    def silent(*_: object, **__: object) -> str:
        raise OSError("no route to host\nand so on")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", silent)
    with pytest.raises(FileNotFoundError, match="hub:owner/other cannot be fetched: no route to host$"):
        load_system("hub:owner/other")


def test_save_pretrained_and_from_pretrained(system, tmp_path):
    system.save_pretrained(tmp_path / "run")
    system.save_pretrained(tmp_path / "run")
    assert ColaSystem.from_pretrained(tmp_path / "run").info == system.info
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="mine exists and holds something else than a system"):
        system.save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match="safetensors without variants"):
        system.save_pretrained(tmp_path / "other", safe_serialization=False)


def test_diffusers_mixin_uploads_the_folder(system, monkeypatch, served):
    from diffusers.utils import hub_utils

    def upload_folder(*, repo_id: str, folder_path: str, **_: object) -> str:
        shutil.copytree(folder_path, served, dirs_exist_ok=True)
        return repo_id

    made = lambda name, **_: type("Made", (), {"repo_id": name})  # noqa: E731
    monkeypatch.setattr(hub_utils, "create_repo", made)
    monkeypatch.setattr(hub_utils, "upload_folder", upload_folder)
    card = huggingface_hub.ModelCard("---\nlicense: mit\n---\n# a system")
    monkeypatch.setattr(hub_utils, "load_or_create_model_card", lambda *_, **__: card)
    assert system.push_to_hub("owner/name") == "owner/name"
    assert (served / "README.md").is_file() and (served / "system.json").is_file()
    assert load_system("hub:owner/name").info == system.info
