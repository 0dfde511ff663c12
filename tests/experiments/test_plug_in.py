"""Loading what somebody else wrote: where it is looked for, what is said when it is not as it should be, and what a
result remembers of it.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from colaworld.experiments.plug_in import (
    PlugInError,
    arguments_of,
    assemble,
    check,
    is_spec,
    load,
    plug_in,
    shown,
)
from colaworld.planning.cem import CEM

WORLD = '''
from pathlib import Path


class Still:
    action_dim, context_frames, max_horizon = 7, 1, 10

    def __init__(self, speed=0.0, device="cpu", checkpoint=None):
        self.speed, self.device, self.checkpoint = speed, device, checkpoint

    def encode(self, frames):
        return frames.float() / 255

    def decode(self, latents):
        return latents

    def start(self, frames, actions):
        return self.encode(frames[-1:])

    def imagine(self, state, actions, generator):
        if self.speed > 1:
            raise RuntimeError("too fast")
        moved = self.speed * actions.mean(dim=2)[..., None, None, None]
        return (state[:, None] + moved).clamp(0, 1)


def raises():
    raise KeyError("weights")


def leaves():
    raise SystemExit(3)


def needs(path):
    return Still()


still = Still()
three = 3
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "still_world.py"
    path.write_text(WORLD)
    return path


def test_a_spec_is_told_from_a_name() -> None:
    assert is_spec("a.b:c") and is_spec("a/b.py:c") and not is_spec("cem")
    assert [shown(text) for text in ("a.b:c", "a/b.py:c", "cem")] == ["a.b:c", "b.py:c", "cem"]


def test_a_file_is_loaded_with_its_neighbours_and_once(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("SPEED = 0.5\n")
    path = tmp_path / "mine.py"
    path.write_text("from neighbour_of_mine import SPEED\ndef make(speed=SPEED):\n    return [speed]\n")
    assert assemble(f"{path}:make").made == [0.5]
    assert load(f"{path}:make")[1] is load(f"{path}:make")[1]


def test_a_module_is_found_in_the_working_directory_and_among_what_is_installed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    (tmp_path / "lies_here").mkdir()
    (tmp_path / "lies_here" / "deep.py").write_text("class Nest:\n    make = staticmethod(lambda: 7)\n")
    monkeypatch.chdir(tmp_path)
    assert assemble("lies_here.deep:Nest.make").made == 7
    assert assemble("colaworld.planning.cem:CEM", ("samples=9",)).made == CEM(samples=9)


@pytest.mark.parametrize(
    ("spec", "words", "says"),
    [
        ("no_such_module_at_all:make", (), "no module named 'no_such_module_at_all'"),
        ("colaworld.no_such:make", (), "no module named 'colaworld.no_such'"),
        ("nowhere/mine.py:make", (), "there is no Python file nowhere/mine.py"),
        ("nowhere/mine:make", (), "there is no Python file nowhere/mine"),
        (":make", (), "not of the form module:attribute"),
        ("module:", (), "not of the form module:attribute"),
        ("FILE:Stil", (), "no attribute 'Stil'; did you mean Still"),
        ("FILE:three", (), "is a int, which cannot be called"),
        ("FILE:still", (), "is a world already; name a function or class that makes one"),
        ("FILE:raises", (), r"raised KeyError: 'weights' \(.*still_world.py, line 28\)"),
        ("FILE:leaves", (), "raised SystemExit: 3"),
        ("FILE:needs", (), r"missing a required argument: 'path'; it takes \(path\)"),
        ("FILE:Still", ("sped=1",), "unexpected keyword argument 'sped'; it takes .*speed"),
        ("FILE:Still", ("speed",), "key=value or one JSON object, got 'speed'"),
        ("FILE:Still", ("speed=1", "speed=2"), "'speed' is given twice"),
        ("FILE:Still", ('{"speed": }',), "no JSON object"),
        ("FILE:Still", ("checkpoint=nowhere.pt",), "checkpoint must be a path or several, got 'nowhere.pt'"),
        ("FILE:Still", ("checkpoint=3",), "checkpoint must be a path or several, got 3"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(spec: str, words: tuple[str, ...], says: str, file: Path) -> None:
    with pytest.raises(PlugInError, match=says) as caught:
        assemble(spec.replace("FILE", str(file)), words)
    assert "\n" not in str(caught.value)


def test_an_import_that_fails_is_told_with_its_cause(tmp_path: Path) -> None:
    for name, text, says in (
        ("lacks", "import no_such_dependency\n", "importing .* raised ModuleNotFoundError: .*no_such_dependency"),
        ("broken", "def f(:\n", "importing .* raised SyntaxError"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(PlugInError, match=says) as caught:
            load(f"{tmp_path / name}.py:make")
        assert caught.value.__cause__ is not None
        (tmp_path / f"{name}.py").write_text("def make():\n    return 1\n")
        assert assemble(f"{tmp_path / name}.py:make").made == 1, "a failed import leaves nothing behind"


def test_words_become_arguments() -> None:
    words = ("path=runs/a=b", "steps=3", "rate=1e-3", "snap=true", "keep=False", "to=null", "of=[1, 2]", 'name="3"')
    found = arguments_of(words)
    assert tuple(found) == ("path", "steps", "rate", "snap", "keep", "to", "of", "name")
    assert tuple(found.values()) == ("runs/a=b", 3, 1e-3, True, False, None, [1, 2], "3")
    assert arguments_of(('{"path": "a b", "steps": 3}',)) == {"path": "a b", "steps": 3}
    assert arguments_of(("rate=NaN", "empty=")) == {"rate": "NaN", "empty": ""}


def test_offers_reach_parameters_of_their_names_and_words_come_first(file: Path) -> None:
    assert assemble(f"{file}:Still", device="cuda", samples=3).made.device == "cuda"
    assert assemble(f"{file}:Still", ("device=mps",), device="cuda").made.device == "mps"


def test_a_broken_law_stops_before_anything_is_planned(file: Path) -> None:
    assert plug_in(f"{file}:Still", ("speed=0.1",), kind="world").made.speed == 0.1
    with pytest.raises(PlugInError, match="is no world: imagine: .* it raised RuntimeError: too fast"):
        plug_in(f"{file}:Still", ("speed=2",), kind="world")
    with pytest.raises(PlugInError, match="is no planner: attributes: .*expected an attribute samples, got a Still"):
        plug_in(f"{file}:Still", kind="planner")


def identity(file: Path, *words: str) -> dict:
    assemble.cache_clear()
    for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(file)]:
        del sys.modules[name]
    return assemble(f"{file}:Still", words).identity


def test_a_result_remembers_arguments_code_and_weights(file: Path, tmp_path: Path, monkeypatch) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"1")
    first = identity(file, f"checkpoint={weights}", "speed=0.5", "device=cpu")
    assert first["spec"] == "still_world.py:Still"
    assert first["arguments"] == {"checkpoint": str(weights), "speed": 0.5}, "where it runs is not what it is"
    assert identity(file, f"checkpoint={weights}", "speed=0.5", "device=cuda") == first
    (weights / "a.bin").write_bytes(b"2")
    second = identity(file, f"checkpoint={weights}", "speed=0.5")
    assert {name for name in first if first[name] != second[name]} == {"checkpoint"}
    file.write_text(WORLD + "\n# another\n")
    third = identity(file, f"checkpoint={weights}", "speed=0.5")
    assert {name for name in second if second[name] != third[name]} == {"source"}
    assert identity(file)["checkpoint"] is None
    several = identity(file, f'checkpoint=["{weights}", "{file}"]')["checkpoint"]
    assert re.fullmatch("[0-9a-f]{64}", several) and several != third["checkpoint"]


def test_the_code_of_its_classes_counts_where_it_lies_elsewhere(tmp_path: Path) -> None:
    net = tmp_path / "net_of_mine.py"
    net.write_text("class Net:\n    pass\n")
    path = tmp_path / "makes_it.py"
    path.write_text("def make():\n    from net_of_mine import Net\n    return Net()\n")
    before = assemble(f"{path}:make").identity["source"]
    net.write_text("class Net:\n    pass\n\n\n")
    assemble.cache_clear()
    assert assemble(f"{path}:make").identity["source"] != before


def test_the_command_prints_each_law_and_fails_when_one_is_broken(file: Path, capsys) -> None:
    check(f"{file}:Still", ("speed=0.1",), size=16)
    printed = capsys.readouterr().out
    assert "Still, a world" in printed and "pass  imagine" in printed and '"speed": 0.1' in printed
    with pytest.raises(PlugInError, match=r"breaks 1 of \d+ laws"):
        check(f"{file}:Still", ("speed=2",), size=16)
    assert "fail  imagine" in capsys.readouterr().out
    check("colaworld.planning.cem:CEM", ("samples=20",))
    assert "CEM, a planner" in capsys.readouterr().out
    check("colaworld.planning.objectives:PixelGoal", ("blur=1",), size=16)
    assert "PixelGoal, a objective" in capsys.readouterr().out
    with pytest.raises(PlugInError, match="made a int, which has neither imagine nor update nor target"):
        check("builtins:int")


def test_it_runs_as_a_module(file: Path) -> None:
    command = [sys.executable, "-m", "colaworld.experiments.plug_in", f"{file.name}:Still", "--kwargs", "speed=2"]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "too fast" in done.stdout and done.stderr.startswith("error: still_world.py:Still")
