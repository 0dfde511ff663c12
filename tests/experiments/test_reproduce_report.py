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
from colaworld.experiments.reproduce_claims import CLAIMS, FAR
from colaworld.experiments.reproduce_measures import action_use, constant_loss
from colaworld.experiments.reproduce_plots import codebook_curves, data_address, worst_curve
from colaworld.experiments.reproduce_report import LARGEST, report
from colaworld.experiments.reproduce_store import StoredCell
from colaworld.experiments.reproduce_tables import closer_table, measure_table
from colaworld.experiments.reproduce_variants import VARIANTS
from colaworld.experiments.reproduce_verdicts import Cells

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
    claims = full.split("<h2>The claims</h2>")[1].split("<h3>")[0]
    failed = [row for row in claims.split("<tr>") if '<span class="failed"><b>a run failed</b></span>' in row]
    assert len(failed) == 1 and "Failed: fsq-s1." in failed[0], "one claim is about that variant"
    assert "random-features-v1 (n = 16 of ? features)" in full and "torch 2" in full
    assert "python experiments/reproduce.py" in full
    assert "LPIPS at horizon 1" in full.split("Measured by none of these runs:")[1]


def test_the_papers_figures_stand_apart(full: str) -> None:
    apart = re.findall(r'<div class="paper">.*?</table></div></div>', full, flags=re.S)
    assert len(apart) == 6 and all("paper's figures" in each for each in apart)
    for figure in ("167.77", "158.36", ".1614", ".1623", "115.45", "93.68", "73.54", "74.65"):
        assert figure in "".join(apart)
    adapter, planning = (
        next(each for each in apart if each in full.split(f"<h2>{title}")[1].split("<h2>")[0])
        for title in ("Adapter robustness", "Planning")
    )
    assert "utilisation about 10 %, max-usage about 0.5" in adapter
    for figure in ("97.73", "90.91", "21.20", "7.73", "p = 0.36"):
        assert figure in planning
    for table in apart:
        widths = {row.count("<td>") + row.count("<th>") for row in table.split("<tr>")[1:]}
        assert len(widths) == 1, "a cell for every column"
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


def rows_of(table: str, title: str) -> list[list[str]]:
    """The cells of the rows of a measure that begins so."""
    rows = [row.split("</td></tr>")[0].split("</td><td>") for row in table.split("<tr><td>")[1:]]
    return [row for row in rows if row[0].startswith(title)]


def test_distances_on_different_networks_share_no_row() -> None:
    cells = {f"cola-s{seed}": finished("cola", seed) for seed in (0, 1)}
    cells["cola-s1"].evaluation["before_adapter"] = {"idm": {"video": video(20.0)}}
    cells["cola-s1"].evaluation["before_adapter"]["idm"]["video"]["10"] |= {"frechet": {"name": "fvd", "value": 90.0}}
    warmup = page(cells).split("<h2>Length of the warm-up")[1].split("<h2>")[0]
    fvd, random = rows_of(warmup, "Fréchet distance at horizon 10")
    assert "fvd; not comparable with other rows" in fvd[0] and "random-features-v1; not comparable" in random[0]
    place = GROUPS["warmup"].variants.index("cola") + 1
    assert fvd[place].startswith("90.000 (one seed)") and random[place].startswith("3.000 (one seed)")
    assert "seed 0: in another row<br>seed 1: 90.000" in fvd[place]
    assert "seed 0: 3.000<br>seed 1: in another row" in random[place]
    ((title, *_),) = rows_of(warmup, "PSNR (dB) at horizon 10")
    assert "not comparable" not in title


def test_uses_of_actions_have_a_row_for_each_constant() -> None:
    """Real actions are compared with their mean, codes with the commonest of them."""
    cells = {f"{name}-s0": finished(name, 0) for name in ("cola", "real_actions")}
    cells["real_actions-s0"].evaluation["before_adapter"]["adapter"] = {"use": 0.05, "flow": 0.19}
    cells["cola-s0"].evaluation["before_adapter"]["idm"] |= {"use": 0.25, "flow": 0.15}
    measures = (action_use("learned"), constant_loss("learned"))
    table = measure_table(cells, ("cola", "real_actions"), (0,), measures)
    code, mean = rows_of(table, "action use U")
    assert "against the commonest code" in code[0] and "against the mean" in mean[0]
    assert [cell.split(" ")[0] for cell in (code[1], mean[2])] == ["0.250", "0.050"]
    assert code[2] == mean[1] == "<small>seed 0: in another row</small>" and "Δ" not in "".join((*code, *mean))
    code, mean = rows_of(table, "flow loss of one constant action")
    assert code[1].startswith("0.2000") and mean[2].startswith("0.2000")


def test_differences_to_cola_are_paired_by_seed() -> None:
    """Seeds differ by 1 dB from each other and the variants by 0.5, 0.7: the difference is known far better."""
    cells = {f"{name}-s{seed}": finished(name, seed) for name in ("cola", "fsq", "simvq") for seed in (0, 1)}
    cells |= {"fsq-s2": finished("fsq", 2), "continuous-s2": finished("continuous", 2)}
    del cells["simvq-s1"]
    for name, cell in cells.items():
        more = {"fsq-s0": -0.5, "fsq-s1": -0.7, "fsq-s2": 9.0, "simvq-s0": 0.25}.get(name, 0.0)
        cell.evaluation["before_adapter"]["idm"] = {"video": video(20.0 + cell.seed + more)}
    far = rows_of(
        measure_table(cells, ("fsq", "cola", "simvq", "continuous"), (0, 1, 2), (FAR,)), "PSNR (dB) at horizon 10"
    )[0]
    assert "<small>Δ -0.60 [-1.87, +0.67]</small>" in far[1], "the third seed is not cola's"
    assert "Δ" not in far[2] and "<small>Δ +0.25</small>" in far[3] and "Δ" not in far[4]
    below = measure_table(cells, ("fsq", "cola"), (0, 1, 2), (FAR,)).split("</table>")[1]
    assert "Δ: difference to cola (warm-up 8/60), paired by the seeds that both have" in below
    other = measure_table(cells, ("fsq", "simvq"), (0, 1, 2), (FAR,))
    assert "Δ: difference to FSQ" in other and "Δ +0.75" in other, "without cola the first is the reference"
    assert "Δ" not in measure_table(cells, ("cola", "two_stage"), (0, 1, 2), (FAR,)), "nothing to explain"
    cells["fsq-s0"].evaluation["before_adapter"]["idm"] = {"video": video(20.0 - 1e-3)}
    assert "Δ +0.00</small>" in measure_table(cells, ("fsq", "cola"), (0,), (FAR,)), "nothing is below nothing"


def test_bounds_of_all_runs_are_shown_or_said_to_be_missing(full: str) -> None:
    warmup = full.split("<h2>Length of the warm-up")[1].split("<h2>")[0]
    assert "For copying the last frame: PSNR (dB) at horizon 1 24.50; " in warmup
    assert "For the real frames through the codec, which bounds all runs: not measured yet." in warmup
    cell = finished("cola", 0)
    cell.evaluation["codec"] = {"video": video(30.0)}
    assert "which bounds all runs: PSNR (dB) at horizon 1 37.50; " in page({"cola-s0": cell})


def test_closer_measures_stand_in_the_table_with_why_they_say_nothing() -> None:
    cells = {f"{name}-s{seed}": finished(name, seed) for name in ("cola", "continuous") for seed in (0, 1, 2)}
    for name, cell in cells.items():
        if name.startswith("continuous"):
            cell.evaluation["before_adapter"]["idm"] = cell.evaluation["before_adapter"]["idm"] | {"health": None}
    table = closer_table(cells, (0, 1, 2))
    (row,) = rows_of(table, "VQ codes predict better than continuous")
    assert "against the commonest code; against the mean" in row[1] and "gain 0.0000 [0.0000, 0.0000]" in row[2]
    (row,) = rows_of(table, "VQ codes predict better than FSQ")
    assert row[1:] == [*['<span class="none">has not run</span>'] * 3, ""]
    (row,) = rows_of(table, "Going from the IDM&#x27;s codes")
    assert row[1] == "" and "has not run" in row[4]


def test_few_clips_for_many_features_are_said_to_mean_little() -> None:
    cell = finished("cola", 0)
    distance = {"name": "fvd", "value": 3.0, "n": 64, "features": 400}
    cell.evaluation["before_adapter"]["idm"]["video"]["10"]["frechet"] = distance
    assert "fvd: 64 clips are few for its 400 features, its distances mean little" in page({"cola-s0": cell})
    distance["n"] = 800
    assert "mean little" not in page({"cola-s0": cell})


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


def test_no_legend_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the titles of a group are."""
    reached = []

    def looked(figure: plt.Figure) -> str:
        figure.canvas.draw()
        edges = [legend.get_window_extent().transformed(figure.transFigure.inverted()) for legend in figure.legends]
        reached.extend(max(edge.x1, edge.y1, 1.0 - edge.y0) for edge in edges)
        return data_address(figure)

    monkeypatch.setattr("colaworld.experiments.reproduce_plots.data_address", looked)
    cells = {f"{name}-s0": finished(name, 0) for name in VARIANTS}
    for group in GROUPS.values():
        assert codebook_curves(cells, group.variants, (0,))
    assert len(reached) == len(GROUPS) and max(reached) <= 1.0


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
