"""A study's steps: in the order of their needs, not twice, known by their words, waited for, and with their cores."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest

from colaworld.experiments.reproduce_runs import available_cores, locked
from colaworld.experiments.study_steps import Step, StepsFailed, run_steps


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


def test_scripts_may_have_moved(tmp_path):
    """What has been trained from one checkout is not another's for another: the words count, not where scripts lie."""
    places = [tmp_path / name / "script.py" for name in ("here", "there")]
    for place in places:
        place.parent.mkdir()
        place.write_text(f"open({str(tmp_path / 'a')!r}, 'w')")
    for place, word in ((places[0], "x"), (places[1], "x")):
        command = (sys.executable, str(place), word)
        run_steps([Step(name="a", command=command, left=(tmp_path / "a").is_file)], tmp_path / "logs", workers=1)
    (tmp_path / "logs" / "a.json").write_text(json.dumps([str(places[0]), "x"]))  # as they were remembered once
    run_steps([Step(name="a", command=command, left=(tmp_path / "a").is_file)], tmp_path / "logs", workers=1)
    with pytest.raises(ValueError, match="a was run as script.py x, not as script.py y"):
        other = Step(name="a", command=(*command[:2], "y"), left=(tmp_path / "a").is_file)
        run_steps([other], tmp_path / "logs", workers=1)


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
