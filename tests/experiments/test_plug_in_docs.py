"""``docs/plug_in.md`` is kept to: its code runs and keeps the laws, its commands and names exist."""

import inspect
import re
from pathlib import Path

import pytest

from colaworld.experiments import conformance_planner, conformance_world
from colaworld.experiments.conformance import Finding
from colaworld.planning import protocols

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plug_in.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def made(name: str) -> object:
    """An instance of the class ``name`` of the page."""
    (code,) = [block for block in BLOCKS if f"class {name}" in block]
    names: dict[str, object] = {"__name__": "page"}
    exec(code, names)
    return names[name]()


def statuses(findings: tuple[Finding, ...]) -> set[str]:
    return {finding.status for finding in findings}


def test_the_whole_world_of_the_page_is_a_world_in_fifteen_lines() -> None:
    findings = conformance_world.check_world(made("Still"))
    notes = [finding for finding in findings if finding.status == "note"]
    assert statuses(findings) == {"pass", "note"}
    assert {note.law for note in notes} == {"actions matter", "a horizon of 11, beyond max_horizon, is refused"}
    (code,) = [block for block in BLOCKS if "class Still" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_its_planner_and_objective_keep_the_laws() -> None:
    assert statuses(conformance_planner.check_planner(made("PredictiveSampling"))) == {"pass"}
    assert statuses(conformance_planner.check_objective(made("Nearness"))) == {"pass"}


def test_every_block_of_code_is_tested_here() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("name", ["encode", "decode", "start", "imagine"])
def test_the_table_has_the_protocols_methods_with_their_arguments(name: str) -> None:
    arguments = [each for each in inspect.signature(getattr(protocols.World, name)).parameters if each != "self"]
    assert f"`{name}({', '.join(arguments)})`" in PAGE


def test_files_that_it_names_are_there() -> None:
    files = set(re.findall(r"[\w/]+/[\w/]+\.py", PAGE)) - {"path/to/file.py"}
    assert files >= {"experiments/examples/delta_cnn.py", "experiments/examples/predictive_sampling.py"}
    assert not [file for file in files if not (ROOT / file).is_file()]
    assert not [line for line in PAGE.splitlines() if len(line) > 160 and not line.startswith("|")]
