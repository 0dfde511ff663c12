"""The page: whole, small, self-contained, with every number from a cell and the paper's apart."""

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from colaworld.experiments.reproduce_cells import GROUPS, SCALES, Cell
from colaworld.experiments.reproduce_claims import CLAIMS, Cells
from colaworld.experiments.reproduce_plots import codebook_curves, data_address, worst_curve
from colaworld.experiments.reproduce_report import LARGEST, report
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_variants import VARIANTS

ALL = 3 * len(VARIANTS)


def video(level: float) -> dict:
    frechet = {"name": "random-features-v1", "value": 3.0, "n": 16}
    metrics = {"psnr": list(level + np.arange(16.0)), "ssim": [0.5] * 16, "lpips": None, "frechet": frechet}
    return {horizon: metrics for horizon in ("1", "5", "10")}


def finished(variant: str, seed: int) -> StoredCell:
    token = {"utilisation": 0.8, "max_usage": 0.2, "entropy": 2.5}
    read = {
        "use": 0.1,
        "shuffled_ratio": 1.2,
        "next_frame_error": 0.2,
        "health": [token] * 2,
        "video": video(20.125 + seed),
    }
    steps = list(range(0, 1500, 38))
    curves = {f"{key}_{number}": list(np.linspace(0, value, 40)) for number in (0, 1) for key, value in token.items()}
    curves["predicted"] = [1.0 / (step + 1) for step in steps]
    spent = {"warmup": 200, "joint": 1300}
    evaluation = {
        "clips": 16,
        "clip_seed": 0,
        "budget": {"steps": spent, "samples": spent, "seconds": spent, "flops": spent, "switch": None},
        "before_adapter": {"idm": None, "adapter": None, "adapter" if variant == "real_actions" else "idm": read},
        "idm": None if variant == "real_actions" else read,
        "adapter": read,
        "adapter_codes": None,
        "copy": {"video": video(17.0)},
        "probe": {"l1": [0.1] * 16, "l1_constant": 0.2, "displacement_r2": 0.3, "destination_r2": 0.4},
        "transfer": {"ceiling": 0.9, "own": 0.5, "transferred": 0.3, "by_chance": 0.1, "pull": 0.6},
    }
    return StoredCell(
        cell=f"{variant}-s{seed}",
        variant=variant,
        seed=seed,
        identity={"flags": {}, "data": "abc", "init": "def"},
        status="finished",
        made_by={"versions": {"torch": "2"}, "revision": "123", "cores": 2, "workers": 2},
        curves={"total_step": steps, **curves},
        evaluation=evaluation,
    )


def page(cells: Cells) -> str:
    return report(cells=cells, scale=SCALES["tiny"], seeds=(0, 1, 2), command="python experiments/reproduce.py")


class Outline(HTMLParser):
    """Counts opened and closed tags; collects what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def full() -> str:
    """Every cell of the grid has run, but one that failed."""
    cells = {
        Cell(variant=variant, seed=seed).name: finished(variant.name, seed)
        for variant in VARIANTS.values()
        for seed in (0, 1, 2)
    }
    cells["fsq-s1"] = StoredCell(
        cell="fsq-s1", variant="fsq", seed=1, identity={}, status="failed", attempts=3, error="exit code 1: <nan>"
    )
    return page(cells)


def test_the_full_page_is_small_and_needs_nothing_else(full: str) -> None:
    assert 100_000 < len(full.encode()) <= LARGEST == 2 * 2**20
    outline = Outline()
    outline.feed(full)
    assert not outline.open, "every tag is closed"
    assert len(outline.loads) >= 13 and all(each.startswith("data:image/png;base64,") for each in outline.loads)
    assert not re.search(r"https?:|@import|url\(", full)


def test_the_full_page_shows_seeds_intervals_and_failures(full: str) -> None:
    # Seeds 0, 1, 2 have means 27.625, 28.625, 29.625: mean 28.625, t interval 2.484 to either side.
    assert "<b>28.62</b> [26.14, 31.11]" in full and "seed 0: 27.62<br>seed 1: 28.62<br>seed 2: 29.62" in full
    assert "failed</span> (3x): exit code 1: &lt;nan&gt;" in full and "(2 seeds)" in full and "seed 1: failed" in full
    assert f"Of {ALL} cells {ALL - 1} have finished, 1 have failed, 0 have not run" in full
    assert "Has not run: fsq-s1 (failed)." in full
    assert "random-features-v1 (n = 16 of ? features)" in full and "torch 2" in full and "python experiments/reproduce.py" in full
    assert "LPIPS at horizon 1" in full.split("Measured by none of these runs:")[1]


def test_the_papers_figures_stand_apart(full: str) -> None:
    apart = re.findall(r'<div class="paper">.*?</table></div></div>', full, flags=re.S)
    assert len(apart) == 5 and all("paper's figures" in each for each in apart)
    for figure in ("167.77", "158.36", ".1614", ".1623", "115.45", "93.68", "73.54", "74.65"):
        assert figure in "".join(apart)
    rest = re.sub(r'<div class="paper">.*?</table></div></div>', "", full, flags=re.S)
    assert "115.45" not in rest


def test_an_empty_grid_has_no_numbers_and_no_verdicts() -> None:
    empty = page({})
    claims = empty.split("<h2>The claims</h2>")[1].split("<h3>")[0]
    assert claims.count("<b>has not run</b>") == len(CLAIMS)
    assert not any(
        f"<b>{outcome}</b>" in empty for outcome in ("holds here", "does not hold here", "cannot tell at this n")
    )
    assert f"Of {ALL} cells 0 have finished, 0 have failed, {ALL} have not run" in empty
    assert empty.count("None of these cells has run.") == len(GROUPS) and "<img" not in empty
    assert "not known yet" in empty


def test_one_seed_has_no_interval() -> None:
    one = page({"cola-s0": finished("cola", 0)})
    assert "27.62 (one seed)" in one and "seed 1: has not run" in one


def test_the_page_compares_at_equal_compute_and_says_what_codes_name(full: str) -> None:
    assert "Each stage restarts its cosine learning rate" in full
    for name in ("Gradient paths", "Linear probe", "Bottlenecks"):
        part = full.split(f"<h2>{name}")[1].split("<h2>")[0]
        assert "At equal compute" in part and "least that any of these runs spent in all" in part
    naming = unescape(full.split("<h2>Do codes name actions?")[1].split("<h2>")[0])
    rows = ("action use U, before the adapter stage", "displacement, read linearly", "destination, read linearly")
    transfer = ("real frames", "a clip's own codes", "another clip's codes", "by chance", "codes name places")
    assert all(row in naming for row in rows) and all(row in naming for row in transfer)
    assert "At equal compute" not in naming


def test_cells_of_different_revisions_are_named() -> None:
    cells = {f"cola-s{seed}": finished("cola", seed) for seed in (0, 1)}
    assert "different revisions" not in page(cells)
    cells["cola-s1"].made_by["revision"] = "456"
    assert "The cells come from 2 different revisions of the code" in page(cells)


def test_distances_on_different_networks_share_no_table() -> None:
    cells = {f"cola-s{seed}": finished("cola", seed) for seed in (0, 1)}
    cells["cola-s1"].evaluation["before_adapter"] = {"idm": {"video": video(20.0)}}
    cells["cola-s1"].evaluation["before_adapter"]["idm"]["video"]["10"] |= {"frechet": {"name": "fvd", "value": 90.0}}
    said = page(cells).split("Not comparable between them:")[1].split("</p>")[0]
    assert "Fréchet distance at horizon 10" in said and "(fvd, random-features-v1)" in said and "PSNR" not in said


def test_a_page_that_grew_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("colaworld.experiments.reproduce_report.LARGEST", 1000)
    with pytest.raises(ValueError, match="more than 1000"):
        page({})


def test_curves_show_the_worse_token_without_idle_transitions() -> None:
    cell = finished("cola", 0)
    cell.curves.update({"total_step": [1, 2], "entropy_0": [2.0, 1.0], "entropy_1": [1.5, 3.0]})
    assert worst_curve(cell.curves, "entropy")[1].tolist() == [1.5, 1.0]
    cell.curves["entropy_1_moving"] = [None, 0.5]
    assert worst_curve(cell.curves, "entropy")[1].tolist() == [1.5, 0.5]
    cell.curves.clear()
    assert worst_curve(cell.curves, "entropy") is None and codebook_curves({"cola-s0": cell}, ("cola",), (0,)) is None


def test_a_plot_keeps_the_colours_of_its_thinnest_lines() -> None:
    figure, panel = plt.subplots(figsize=(12, 3.4))
    for number in range(10):
        for seed in range(3):
            panel.plot(np.sin(np.arange(40.0) * (number + seed)), color=f"C{number}", linewidth=0.9)
    drawn = base64.b64decode(data_address(figure).removeprefix("data:image/png;base64,"))
    pixels = np.array(Image.open(io.BytesIO(drawn)).convert("RGB")).reshape(-1, 3).astype(int)
    for number in range(10):
        wanted = 255 * np.array(to_rgb(f"C{number}"))
        assert np.abs(pixels - wanted).max(axis=1).min() < 24, f"C{number}"
