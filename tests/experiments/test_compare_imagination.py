"""Two held-out evaluations, clip by clip."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colaworld.experiments.compare_imagination import compare_imagination, compared, read_evaluation

CLIPS = 40


def evaluation(error: float, psnr: float, *, snapped: bool = True, seed: int = 0) -> dict[str, Any]:
    """Clips that differ from each other far more than two world models do on one of them."""
    clip = np.random.default_rng(seed).uniform(0.5, 2.0, CLIPS)
    driven = {
        "next_frame_error": (error * clip).tolist(),
        "video": {"1": {"psnr": (psnr + 5 * clip).tolist()}, "5": {"psnr": (psnr - 3 + 5 * clip).tolist()}},
    }
    copy = {
        "next_frame_error": clip.tolist(),
        "video": {horizon: {"psnr": (20 + 5 * clip).tolist()} for horizon in ("1", "5")},
    }
    return {"copy": copy, "idm": driven, "adapter": driven, "adapter_codes": driven if snapped else None}


def test_differences_are_of_the_same_clips() -> None:
    rows = compared(evaluation(0.4, 24.0), evaluation(0.5, 24.0), "A and B")
    error, psnr = rows[0], rows[1]
    assert (error["source"], error["measure"]) == ("idm", "error one step ahead, of the copy's")
    assert error["a"] == pytest.approx(0.4) and error["b"] == pytest.approx(0.5)
    difference = error["difference"]
    assert list(difference.values()) == pytest.approx([-0.1] * 3), "neither the clips' own spread nor the copy's is in it"
    assert psnr["difference"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert [row["measure"] for row in rows[:3]] == [error["measure"], "PSNR 1 ahead, dB", "PSNR 5 ahead, dB"]


def test_only_what_both_have_is_compared() -> None:
    rows = compared(evaluation(0.4, 24.0), evaluation(0.4, 24.0, snapped=False), "A and B")
    assert {row["source"] for row in rows} == {"idm", "adapter"}


def test_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="runs/a and runs/b were evaluated on other clips"):
        compared(evaluation(0.4, 24.0), evaluation(0.4, 24.0, seed=1), "runs/a and runs/b")
    shorter = evaluation(0.4, 24.0)
    shorter["copy"]["video"]["1"]["psnr"] = shorter["copy"]["video"]["1"]["psnr"][:-1]
    with pytest.raises(ValueError, match="a and b were evaluated on other clips"):
        compared(evaluation(0.4, 24.0), shorter, "a and b")
    nearer = evaluation(0.4, 24.0)
    del nearer["copy"]["video"]["5"]
    with pytest.raises(ValueError, match="a and b look 1, 5 and 1 steps ahead"):
        compared(evaluation(0.4, 24.0), nearer, "a and b")
    with pytest.raises(ValueError, match="a and b: one of them does not say how well copying"):
        compared(evaluation(0.4, 24.0), {}, "a and b")


def test_the_table_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, error in (("one", 0.4), ("other", 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(evaluation(error, 24.0)))
    compare_imagination(tmp_path / "one", tmp_path / "other" / "evaluation.json", tmp_path / "difference.json")
    said = capsys.readouterr().out
    assert "real actions, adapter" in said and "-0.100 [" in said and "not shown" in said
    rows = json.loads((tmp_path / "difference.json").read_text())["rows"]
    assert len(rows) == 9 and rows[0]["difference"]["high"] < 0.0


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no .*evaluation.json; train_world_model.py ends with it"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="evaluation.json is damaged"):
        read_evaluation(tmp_path)
