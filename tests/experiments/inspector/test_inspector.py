"""What the inspector keeps of episodes, and the page made of it: whole, escaped, within its limit, the same after a
resumed run.
"""

import base64
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colaworld.experiments.inspector import NAME, inspector, write_report
from colaworld.experiments.inspector_episode import Packed, load, pack, save


class Scripts(HTMLParser):
    """The script elements of a page as a browser would find them: attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.found.append((dict(attributes), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.found:
            attributes, text = self.found[-1]
            self.found[-1] = (attributes, text + data)


def contents(path: Path) -> tuple[dict, dict[str, dict]]:
    """The index and the episodes of a page."""
    found = Scripts(path.read_text()).found
    index = next(json.loads(text) for attributes, text in found if attributes.get("id") == "index")
    named = {attributes.get("data-episode"): text for attributes, text in found}
    return index, {name: json.loads(text) for name, text in named.items() if name}


def tile(packed: Packed, number: int) -> int:
    """The mean grey of frame ``number`` in the sheet."""
    sheet = np.asarray(Image.open(io.BytesIO(packed.sprite)).convert("RGB"))
    height, width = packed.detail["size"]
    row, column = divmod(number, packed.detail["columns"])
    return round(sheet[row * height : (row + 1) * height, column * width : (column + 1) * width].mean())


def test_every_frame_is_found_where_the_numbers_say(fake_episode) -> None:
    packed = pack(fake_episode(steps=9))
    detail = packed.detail
    assert tile(packed, detail["goal"]) == pytest.approx(200, abs=3)
    assert [tile(packed, number) for number in detail["executed"]] == pytest.approx(range(0, 100, 10), abs=3)
    assert [plan["step"] for plan in detail["plans"]] == list(range(1, 9))
    for plan in detail["plans"]:
        wanted = [10 * (plan["step"] + ahead) + 5 for ahead in (1, 2, 3)]
        assert [tile(packed, number) for number in plan["imagined"]] == pytest.approx(wanted, abs=3)


def test_errors_are_measured_against_what_followed_and_against_nothing_moving(fake_episode) -> None:
    first, *_, last = pack(fake_episode(steps=6)).detail["plans"]
    assert first["error"] == pytest.approx([5 / 255] * 3, abs=1e-5)
    assert first["still"] == pytest.approx([10 / 255, 20 / 255, 30 / 255], abs=1e-5)
    assert len(last["error"]) == len(last["still"]) == 1, "only one frame followed the last plan"


def test_what_a_search_went_through_is_kept_and_infinity_is_no_number(fake_episode, fake_plan) -> None:
    plan = fake_plan(imagined=np.stack([np.full((16, 16, 3), 1, np.uint8)]))
    plan.history = (replace(plan.history[0], mean_cost=math.inf), plan.history[1])
    episode = fake_episode()
    episode.plans = {2: plan}
    (kept,) = json.loads(json.dumps(pack(episode).detail, allow_nan=False))["plans"]
    assert [each["mean"] for each in kept["iterations"]] == [None, 2.0]
    told = [(each["best"], each["elite"], each["elite_spread"]) for each in kept["iterations"]]
    assert told == [(2, 2.5, 0.2), (1, 1.5, 0.2)]
    assert kept["actions"][0] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert kept["codes"] == [[4, 31], [5, 30], [6, 29]]


def test_frames_of_two_sizes_are_refused(fake_episode) -> None:
    episode = fake_episode()
    episode.executed[2] = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"one size, got \[\(8, 8, 3\), \(16, 16, 3\)\]"):
        pack(episode)


def test_the_page_holds_the_episodes_the_table_and_the_tests(tmp_path, fake_episode, log_line) -> None:
    outcomes = ((0, True, "planner"), (0, False, "random"), (1, False, "planner"), (1, False, "random"))
    records = [log_line(instance, success, row=row) for instance, success, row in outcomes]
    for record in records:
        save(tmp_path, record, pack(fake_episode(planned=record["row"] == "planner")))
    index, episodes = contents(write_report(tmp_path, records, title="a run"))
    assert sorted(episodes) == sorted(each["name"] for each in index["episodes"])
    shown = episodes["planner_001_seed0"]
    assert base64.b64decode(shown.pop("sprite")) == load(tmp_path, "planner_001_seed0").sprite
    assert shown == load(tmp_path, "planner_001_seed0").detail
    assert index["episodes"][0]["plan_seconds"] == 0.5 and index["episodes"][1]["plan_seconds"] is None
    planner = next(entry for entry in index["table"] if entry["row"] == "planner")
    assert (planner["successes"], planner["episodes"]) == (1, 2)
    assert planner["wilson_low"] < 0.5 < planner["wilson_high"]
    (test,) = index["tests"]
    assert (test["second"], test["only_first"], test["neither"]) == ("random", 1, 1)


def test_no_name_can_break_out_of_the_page(tmp_path, fake_episode, log_line) -> None:
    evil = "</script><script>alert(1)</script><!--<script>&amp;\u2028"
    record = log_line(0, False, scene=evil, category=evil)
    save(tmp_path, record, pack(fake_episode()))
    text = write_report(tmp_path, [record], title=evil).read_text()
    index, episodes = contents(tmp_path / NAME)
    assert index["episodes"][0]["scene"] == index["table"][0]["category"] == index["title"] == evil
    assert len(Scripts(text).found) == 3, "index, one episode, the page's own script"
    assert "alert(1)</script>" not in text


def test_the_page_forbids_itself_every_address_and_every_other_script(tmp_path, log_line) -> None:
    text = write_report(tmp_path, [log_line(0, True)], title="a run").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"(?:src|href)=\"(?!#)", text) and "http" not in text.replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )


def test_beyond_the_limit_pictures_of_successes_are_left_out_first(tmp_path, fake_episode, log_line) -> None:
    records = [log_line(0, True), log_line(1, False), log_line(2, True), log_line(3, False)]
    random = np.random.default_rng(0)
    for record in records:
        episode = fake_episode()
        episode.executed = [random.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in episode.executed]
        save(tmp_path, record, pack(episode))
    whole = write_report(tmp_path, records, title="a run").stat().st_size
    bare = write_report(tmp_path, records, title="a run", max_megabytes=1e-6).stat().st_size
    path = write_report(tmp_path, records, title="a run", max_megabytes=0.6 * (whole - bare) / 1e6)
    index, episodes = contents(path)
    assert set(episodes) == {"planner_001_seed0", "planner_003_seed0"}
    assert [each["pictures"] for each in index["episodes"]] == ["left out", "yes", "left out", "yes"]
    assert path.stat().st_size < bare + 0.6 * (whole - bare)
    with pytest.raises(ValueError, match="max_megabytes must be positive, got 0"):
        write_report(tmp_path, records, title="a run", max_megabytes=0)


def test_a_page_made_anew_from_the_folder_is_the_same(tmp_path, capsys, fake_episode, log_line) -> None:
    records = [log_line(0, True), log_line(1, False)]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    save(tmp_path, records[0], pack(fake_episode()))
    before = write_report(tmp_path, records, title=f"Plans of {tmp_path.name}").read_text()
    inspector(tmp_path)
    assert (tmp_path / NAME).read_text() == before and str(tmp_path / NAME) in capsys.readouterr().out
    assert contents(tmp_path / NAME)[0]["episodes"][1]["pictures"] == "no"
    with pytest.raises(FileNotFoundError, match="no results folder"):
        inspector(tmp_path / "elsewhere")
    (tmp_path / "episodes" / "planner_000_seed0.json").write_text("{")
    with pytest.raises(ValueError, match="planner_000_seed0.json is damaged"):
        inspector(tmp_path)
