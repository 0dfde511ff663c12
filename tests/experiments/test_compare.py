"""Two evaluations against each other: pairs are paired, what cannot be compared is refused, seeds are not episodes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colaworld.experiments.compare import compare
from colaworld.experiments.episode_log import write_json
from colaworld.experiments.intervals import exact_mcnemar

IDENTITY = {"manifest": "goals", "manifest_sha256": "ab" * 32, "mujoco": "3.3.2", "max_steps": 15}
SIMULATOR = {"gl_renderer": "llvmpipe", "picture_sha256": "1234", "psnr_db": None}


def record(instance: int, success: bool, row: str, seed: int = 0, simulator: Any = SIMULATOR) -> dict[str, Any]:
    return {
        "row": row,
        "planner": "cem" if row == "planner" else None,
        "instance": instance,
        "category": "reach" if instance % 2 else "push",
        "scene": "scene",
        "seed": seed,
        "success": success,
        "start_distance": 0.2,
        "best_distance": 0.01 if success else 0.1,
        "simulator": simulator,
    }


def run(
    folder: Path,
    outcomes: dict[int, bool] | dict[tuple[int, int], bool],
    row: str = "planner",
    simulator: Any = SIMULATOR,
    **identity: Any,
) -> Path:
    """A results folder; ``outcomes`` by instance, or by (instance, seed)."""
    folder.mkdir(exist_ok=True)
    keys = [(key if isinstance(key, tuple) else (key, 0), won) for key, won in outcomes.items()]
    with (folder / "episodes.jsonl").open("a") as file:
        for (instance, seed), won in keys:
            file.write(json.dumps(record(instance, won, row, seed, simulator)) + "\n")
    path = folder / "run.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    write_json(path, {"rows": {**rows, row: {**IDENTITY, "mpc": {"horizon": 4}, **identity}}})
    write_json(folder / "summary.json", {"settings": {**rows, row: {**IDENTITY, "mpc": {"horizon": 4}, **identity}}})
    return folder


def numbers(tmp_path: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
    compare(*arguments, json=tmp_path / "numbers.json", **options)
    return json.loads((tmp_path / "numbers.json").read_text())


def entry(found: dict[str, Any], category: str) -> dict[str, Any]:
    return next(each for each in found["table"] if each["category"] == category)


A = {instance: instance < 12 for instance in range(20)}
B = {instance: instance % 4 == 0 for instance in range(20)}


def test_episodes_are_paired_whatever_their_order(tmp_path, capsys) -> None:
    a, b = run(tmp_path / "a", A), run(tmp_path / "b", dict(reversed(B.items())), mpc={"horizon": 6})
    found = numbers(tmp_path, a, b)
    whole = entry(found, "all")
    assert (whole["both"], whole["only_a"], whole["only_b"], whole["neither"]) == (3, 9, 2, 6)
    assert whole["p_value"] == exact_mcnemar(list(A.values()), list(B.values())).p_value
    assert whole["rate_a"]["estimate"] == 0.6 and whole["rate_b"]["estimate"] == 0.25
    assert whole["difference"]["low"] < whole["difference"]["estimate"] == pytest.approx(0.35)
    assert whole["only_b_episodes"] == [[12, 0], [16, 0]]
    assert whole["closest_a"] == 0.01 and whole["closest_b"] == 0.1
    assert [each["category"] for each in found["table"]] == ["push", "reach", "all"]
    assert sum(entry(found, each)["only_a"] for each in ("push", "reach")) == 9
    assert (found["alpha"], found["power"]) == (0.05, 0.8) and "Bonett" in found["methods"]["difference"]
    printed = capsys.readouterr().out
    assert "A: planner (cem)" in printed and "A and B differ in: mpc.horizon 4 / 6" in printed
    assert "20 episodes, 20 instances of goals, 1 seed" in printed and "Only B won: instances 12, 16" in printed
    assert "p < 0.05 with 80 % chance" in printed


def test_how_many_more_it_would_take(tmp_path, capsys) -> None:
    same, less, far = {**B}, {**B, 0: False}, dict.fromkeys(B, False) | {1: True}
    a = run(tmp_path / "a", B)
    equal = entry(numbers(tmp_path, a, run(tmp_path / "same", same)), "all")
    assert equal["p_value"] == 1 and equal["more"] is None
    assert "No difference was seen" in capsys.readouterr().out
    little = entry(numbers(tmp_path, a, run(tmp_path / "less", less)), "all")
    assert little["needed"] > 100 and little["more"] == little["needed"] - 20
    assert f"needs {little['needed']} instances, here are 20" in capsys.readouterr().out
    more = entry(numbers(tmp_path, a, run(tmp_path / "far", far)), "all")
    assert more["needed"] < little["needed"], "a larger difference is told by fewer"
    plain = entry(numbers(tmp_path, run(tmp_path / "won", dict.fromkeys(B, True)), a), "all")
    assert plain["significant"] and plain["more"] == 0
    assert "A is better (p = " in capsys.readouterr().out


def test_rows_of_one_run_and_of_two(tmp_path, capsys) -> None:
    a = run(run(tmp_path / "a", A), B, row="random")
    within = entry(numbers(tmp_path, a, a, row_b="random"), "all")
    b = run(tmp_path / "b", B, row="random")
    assert entry(numbers(tmp_path, a, b, row_b="random"), "all") == within and within["only_a"] == 9
    assert entry(numbers(tmp_path, a, b, row="random"), "all")["only_a"] == 0
    assert "A and B differ in: no setting" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"b has no episodes of row 'planner'; its rows: random"):
        compare(a, b)


def test_summaries_have_their_episodes_beside_them(tmp_path) -> None:
    a = run(tmp_path / "a", A)
    kept = tmp_path / "kept"
    kept.mkdir()
    (a / "summary.json").rename(kept / "reach_summary.json")
    (a / "episodes.jsonl").rename(kept / "reach_episodes.jsonl")
    b = run(tmp_path / "b", B)
    assert entry(numbers(tmp_path, kept / "reach_summary.json", b / "summary.json"), "all")["only_a"] == 9
    (kept / "reach_episodes.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*reach_episodes.jsonl"):
        compare(kept / "reach_summary.json", b)
    with pytest.raises(FileNotFoundError, match="there is no .*nowhere"):
        compare(tmp_path / "nowhere", b)
    with pytest.raises(ValueError, match="episodes.jsonl is neither a results folder nor a summary.json"):
        compare(b / "episodes.jsonl", b)
    write_json(b / "summary.json", {"table": []})
    with pytest.raises(ValueError, match="summary.json is not a summary of vp2_eval.py"):
        compare(b / "summary.json", b)


def test_a_line_cut_off_by_a_kill_is_left_out_and_left_alone(tmp_path) -> None:
    a, b = run(tmp_path / "a", A), run(tmp_path / "b", A)
    with (a / "episodes.jsonl").open("a") as file:
        file.write('{"row": "planner", "inst')
    before = (a / "episodes.jsonl").read_text()
    assert entry(numbers(tmp_path, a, b), "all")["episodes"] == 20
    assert (a / "episodes.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifest_sha256": "cd" * 32}, r"manifests: .*a was played on goals \(abababababab\), .*b on goals \(cdcdcd"),
        ({"mujoco": "3.4.0"}, "not the same task: .*a has mujoco = '3.3.2', .*b has '3.4.0'"),
        ({"max_steps": 30}, "max_steps = 15, .*b has 30"),
        (
            {"simulator": {**SIMULATOR, "picture_sha256": "5678"}},
            "different simulators: in scene scene .*a has picture_sha256 = '1234', .*b has '5678'",
        ),
    ],
)
def test_what_is_not_alike_is_refused(change, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        compare(run(tmp_path / "a", A), run(tmp_path / "b", B, **change))


def test_a_fingerprint_that_says_less_is_no_other_simulator(tmp_path, capsys) -> None:
    a = run(tmp_path / "a", A)
    compare(a, run(tmp_path / "b", B, simulator={**SIMULATOR, "psnr_db": 100.0}))
    assert "recorded no simulator" not in capsys.readouterr().out
    compare(a, run(tmp_path / "c", B, simulator=None))
    assert "In 20 of them a side recorded no simulator" in capsys.readouterr().out


def test_episodes_that_only_one_has_are_named(tmp_path) -> None:
    others = {k: won for k, won in B.items() if k > 2} | {(7, 1): True}
    a, b = run(tmp_path / "a", A), run(tmp_path / "b", others)
    with pytest.raises(ValueError, match=r"a has 3 episodes, instance 0 \(seed 0\), 1 .*b has 1 episode, instance 7 \(s"):
        compare(a, b)
    assert entry(numbers(tmp_path, a, b, shared=True), "all")["episodes"] == 17
    with pytest.raises(ValueError, match="no episode .* in common"):
        compare(a, run(tmp_path / "c", {99: True}), shared=True)


def test_seeds_of_an_instance_are_not_episodes_of_their_own(tmp_path, capsys) -> None:
    """The same outcome six times over tells no more than once."""
    once = entry(numbers(tmp_path, run(tmp_path / "a", A), run(tmp_path / "b", B)), "all")
    assert "not independent" not in capsys.readouterr().out
    sixfold = [{(k, seed): won for k, won in each.items() for seed in range(6)} for each in (A, B)]
    found = numbers(tmp_path, run(tmp_path / "c", sixfold[0]), run(tmp_path / "d", sixfold[1]))
    often = entry(found, "all")
    assert (often["episodes"], often["instances"], often["only_a"]) == (120, 20, 54)
    for name in ("rate_a", "rate_b", "difference"):
        assert often[name] == pytest.approx(once[name])
    assert often["p_value"] == pytest.approx(once["p_value"]) and often["needed"] == once["needed"]
    assert "Seeds of one instance are not independent" in capsys.readouterr().out


def test_seeds_that_differ_are_averaged(tmp_path) -> None:
    rng = np.random.default_rng(0)
    wins = {(k, seed): bool(rng.random() < 0.5) for k in range(20) for seed in range(4)}
    losses = dict.fromkeys(wins, False)
    whole = entry(numbers(tmp_path, run(tmp_path / "a", wins), run(tmp_path / "b", losses)), "all")
    assert whole["rate_a"]["estimate"] == pytest.approx(np.mean(list(wins.values())))
    assert whole["difference"]["estimate"] == pytest.approx(whole["rate_a"]["estimate"])
    assert whole["test"] == "sign flips of instances" and whole["p_value"] < 0.001
