"""The inspector's page while episodes are played: up to date, for this machine alone, no burden to the evaluation."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest

from colaworld.experiments.inspector_episode import pack, save
from colaworld.experiments.inspector_live import LiveReport


def get(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.read()


def test_the_live_page_follows_the_running_episode_and_then_the_log(tmp_path, fake_episode, log_line) -> None:
    record = log_line(0, True)
    episode = fake_episode(steps=6)
    with LiveReport(tmp_path, title="a run", total=2) as live:
        assert live.url.startswith("http://127.0.0.1:")
        assert b'data-live="true"' in get(live.url) and json.loads(get(f"{live.url}index.json"))["episodes"] == []
        events = urllib.request.urlopen(f"{live.url}events", timeout=10)
        live.step(record, fake_episode(steps=2))
        assert events.readline().startswith(b"data: ")
        (running,) = json.loads(get(f"{live.url}index.json"))["episodes"]
        assert running["running"] and running["steps"] == 2 and running["name"] == "planner_000_seed0"
        assert len(json.loads(get(f"{live.url}episodes/planner_000_seed0.json"))["executed"]) == 3
        live.step(record, episode)
        episode.executed.append(np.zeros((16, 16, 3), np.uint8))  # the evaluation goes on, what was handed over stays
        assert len(json.loads(get(f"{live.url}episodes/planner_000_seed0.json"))["executed"]) == 7
        save(tmp_path, record, pack(fake_episode()))
        live.finished(record)
        index = json.loads(get(f"{live.url}index.json"))
        assert index["episodes"][0]["success"] and index["table"][0]["successes"] == 1 and index["total"] == 2
        assert len(json.loads(get(f"{live.url}episodes/planner_000_seed0.json"))["executed"]) == 7
    with pytest.raises(urllib.error.URLError):
        get(live.url)


@pytest.mark.parametrize("address", ["episodes/../run.json", "episodes/nobody.json", "run.json", "episodes/..json"])
def test_the_live_page_gives_away_no_other_file(tmp_path, address) -> None:
    (tmp_path / "run.json").write_text("{}")
    with LiveReport(tmp_path, title="a run") as live, pytest.raises(urllib.error.HTTPError, match="404"):
        get(live.url + address)


def test_the_live_page_is_for_this_machine_and_a_taken_port_is_one_sentence(tmp_path) -> None:
    with LiveReport(tmp_path, title="a run") as live:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            get(live.url, Host="elsewhere.example")
        port = int(live.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(ValueError, match=f"127.0.0.1 port {port}: "):
            LiveReport(tmp_path, title="another", port=port)


def test_a_reader_that_goes_away_or_a_damaged_episode_stops_nobody_else(tmp_path, fake_episode, log_line) -> None:
    record = log_line(0, False)
    save(tmp_path, record, pack(fake_episode()))
    (tmp_path / "episodes" / "planner_000_seed0.json").write_text("{")
    with LiveReport(tmp_path, title="a run", records=[record]) as live:
        urllib.request.urlopen(f"{live.url}events", timeout=10).close()
        with pytest.raises(OSError):
            get(f"{live.url}episodes/planner_000_seed0.json")
        live.finished(log_line(1, True))
        assert len(json.loads(get(f"{live.url}index.json"))["episodes"]) == 2
