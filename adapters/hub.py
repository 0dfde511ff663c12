"""Systems on the Hugging Face hub: ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION`` wherever a system's folder may be.

JSON and safetensors are all that is fetched, and all that is ever read of a checkpoint: a program or a pickle beside
them stays where it is. One process sees one copy, however often it asks.
"""

import json
import re
from functools import cache
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub.errors import HTTPError

PREFIX = "hub:"
FETCHED = ("*.json", "*.safetensors")
"""Names of the files that are fetched."""
REPLACED = ("system/*", "goal_models/*", "held_out/*")
"""What an upload takes away when it does not bring it itself."""
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def located(path: str | Path) -> Path:
    """The folder of a system: ``path`` itself, ``system`` inside it when it is the folder of a run, or a local copy
    when it names a system on the hub.

    ValueError for a name that is none, FileNotFoundError when the hub has no such system or does not answer.
    """
    named = str(path).removeprefix(PREFIX)
    if named == str(path):
        return _inside(Path(path))
    match = _NAME.fullmatch(named)
    if match is None:
        raise ValueError(f"{path}: expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    folder = _inside(_fetched(match["repo"], match["revision"]))
    _check_places(folder / "system.json")
    return folder


def _inside(path: Path) -> Path:
    inside = path / "system"
    return inside if (inside / "system.json").is_file() else path


@cache
def _fetched(repo: str, revision: str | None) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(FETCHED)))
    except (OSError, HTTPError) as error:
        raise FileNotFoundError(f"{PREFIX}{repo} cannot be fetched: {_first_line(error)}") from error


def _check_places(described: Path) -> None:
    """A system that somebody else wrote names no folder outside its own."""
    try:
        places = json.loads(described.read_text())["parts"].values()
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return  # whoever reads the system says so
    for place in places:
        if not isinstance(place, str) or PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise ValueError(f"{described}: field 'parts' names {place!r}, which is not inside the system's folder")


def check_upload(repo: str) -> None:
    """ValueError when ``repo`` is no name on the hub or there is no token to upload with."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"--push {repo}: expected OWNER/NAME")
    if huggingface_hub.get_token() is None:
        raise ValueError(f"--push {repo}: there is no token; log in with `hf auth login` or set HF_TOKEN")


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Upload ``folder`` as one commit and return its address; the repository is made where there is none.

    ValueError when ``private`` is asked of one that is public; nothing is uploaded then; also when the hub
    refuses or does not answer.
    """
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(f"--private: {repo} exists and is public; make it private first or choose another --push")
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Publish a system",
            delete_patterns=list(REPLACED),
        )
    except (OSError, HTTPError) as error:
        raise ValueError(f"--push {repo}: {_first_line(error)}") from error
    return f"https://huggingface.co/{repo}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
