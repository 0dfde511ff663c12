"""Hashes follow content and names; versions and revision are there to be stored."""

import hashlib
import re

import pytest

from colaworld.experiments.provenance import file_hash, git_revision, versions


def test_a_files_hash_is_its_sha256(tmp_path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    assert file_hash(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_folders_hash_follows_content_and_names(tmp_path) -> None:
    for folder, name, content in (("a", "x", b"1"), ("b", "x", b"1"), ("c", "y", b"1"), ("d", "x", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(content)
    a, b, c, d = (file_hash(tmp_path / folder) for folder in "abcd")
    assert a == b and len({a, c, d}) == 3


def test_what_is_missing_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        file_hash(tmp_path / "nowhere")


def test_versions_and_revision() -> None:
    found = versions()
    assert found["python"].startswith("3.") and all(found.values())
    revision = git_revision()
    assert revision is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision)
