"""The collapse guard: planted collapses trip it, idle data do not, and its verdicts follow from the log alone."""

import json
import re

import pytest
import torch
import tyro

from colaworld.experiments.guard import CodebookCollapse, Guard, GuardConfig
from colaworld.models.bottleneck import Bottleneck
from colaworld.models.health import health_numbers, moving_transitions

HEALTHY = (0.4, 0.2, 2.1)
DEAD = (0.03, 1.0, 0.0)


def look(step, *tokens, stage="warmup", suffix="_moving", **others):
    """A watched line with ``(utilisation, max_usage, entropy)`` of every token, as read from a file."""
    line = {"stage": stage, "step": step, "total_step": step, "held_out/flow": 0.3}
    for token, figures in enumerate(tokens):
        for name, value in zip(("utilisation", "max_usage", "entropy"), figures, strict=True):
            line[f"held_out/{name}_{token}{suffix}"] = value
            line.setdefault(f"held_out/{name}_{token}", value)
    return json.loads(json.dumps(line | {f"held_out/{key}": value for key, value in others.items()}))


def guard(action="warn", entries=(32, 32), **settings):
    return Guard(GuardConfig(action=action, **settings), entries)


def judge(history, action="warn", *, stage="warmup", planned=300, entries=(32, 32), **settings):
    return guard(action, entries, **settings).judge(history, stage=stage, planned=planned)


def test_a_collapse_is_told_with_token_figure_and_threshold():
    verdict = judge([look(200, HEALTHY, HEALTHY), look(300, HEALTHY, (0.3, 0.45, 0.42))])
    assert verdict.collapsed and not verdict.settled
    assert verdict.why == "token 1: entropy 0.42 nat below 1.0 at step 300 of warmup"


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((0.19, 0.3, 1.5), "token 0: utilisation 0.19 below 0.2 at"),
        ((0.3, 0.51, 1.5), "token 0: max-usage 0.51 above 0.5 at"),
        ((0.3, 0.4, 0.99), "token 0: entropy 0.99 nat below 1.0 at"),
        (DEAD, "token 0: utilisation 0.03 below 0.2; token 0: max-usage 1 above 0.5; token 0: entropy 0 nat below 1.0"),
    ],
)
def test_each_threshold_trips_alone(figures, said):
    verdict = judge([look(300, figures, HEALTHY)])
    assert verdict.collapsed and verdict.why.startswith(said)
    assert not judge([look(300, (0.2, 0.5, 1.0), HEALTHY)]).collapsed


def test_codes_that_are_many_and_say_nothing_are_a_collapse():
    verdict = judge([look(300, HEALTHY, HEALTHY, action_use=0.004)])
    assert verdict.collapsed
    assert verdict.why == "the world model does not use the codes: action_use 0.004 below 0.01 at step 300 of warmup"
    assert not judge([look(300, HEALTHY, HEALTHY, action_use=0.02)]).collapsed
    assert judge([look(300, HEALTHY, HEALTHY, action_use=0.02)], least_action_use=0.05).collapsed
    assert not judge([look(300, HEALTHY, HEALTHY, action_use=-0.1)], least_action_use=-1).collapsed
    young = [look(50, HEALTHY, HEALTHY, action_use=0.0)]
    assert not judge(young).collapsed, "it begins at none"
    silent = [look(step, HEALTHY, HEALTHY, action_use=0.0) for step in (100, 200, 300)]
    assert judge(silent, "extend").goes_on, "a warm-up is for codes that say something"


def test_thresholds_are_settings():
    assert judge([look(300, HEALTHY, HEALTHY)], least_entropy=2.2).collapsed
    assert judge([look(300, HEALTHY, HEALTHY)], most_usage=0.1).collapsed
    assert not judge([look(300, DEAD)], entries=(32,), least_entropy=0, most_usage=1.0, least_utilisation=0).collapsed


def test_a_gradual_collapse_is_told_once_and_so_is_its_end():
    entropies = (2.1, 1.6, 1.1, 0.7, 0.3, 0.3, 1.4, 1.9)
    lines = [look(100 * n, (0.4, 0.4, entropy), HEALTHY) for n, entropy in enumerate(entropies, start=1)]
    verdicts = [judge(lines[:end], planned=1000, grace=0) for end in range(1, len(lines) + 1)]
    assert [verdict.collapsed for verdict in verdicts] == [False] * 3 + [True] * 3 + [False] * 2
    assert [verdict.news for verdict in verdicts] == [n in (3, 6) for n in range(8)]
    assert "at step 400" in verdicts[3].why and "healthy" in verdicts[6].why


def test_moving_transitions_are_judged_where_they_are_told():
    line = look(300, HEALTHY, HEALTHY) | {"held_out/entropy_0": 0.1, "held_out/max_usage_1": 0.95}
    assert not judge([line]).collapsed
    assert judge([look(300, DEAD, HEALTHY, suffix="")]).collapsed


def test_a_window_too_small_is_not_judged_and_says_so():
    still = look(300, DEAD, DEAD, suffix="", transitions=352, transitions_moving=0)
    few = look(300, DEAD, DEAD, transitions=352, transitions_moving=63)
    for line, count in ((still, 0), (few, 63)):
        for action in ("warn", "stop", "extend"):
            verdict = guard(action).judge([line], stage="warmup", planned=300)
            assert not (verdict.collapsed or verdict.settled or verdict.goes_on)
            assert verdict.blind and verdict.news
            assert f"{count} transitions move, a judgement needs 64 at step 300" in verdict.why
    assert judge([few | {"held_out/transitions_moving": 64}]).collapsed


def test_a_codebook_larger_than_the_window_is_not_blamed_for_unused_entries():
    line = look(300, (0.1, 0.05, 4.0), transitions=352, transitions_moving=300)
    assert not judge([line], entries=(1024,)).collapsed
    assert judge([line], entries=(300,)).collapsed


def test_a_codebook_too_small_for_a_threshold_is_not_held_to_it():
    even = look(300, (1.0, 0.5, 0.69))
    assert not judge([even], entries=(2,)).collapsed
    assert judge([even], entries=(3,)).collapsed


def test_a_young_codebook_is_not_judged_but_a_grown_one_is():
    first = [look(step, DEAD, DEAD) for step in (50, 75, 76)]
    assert [judge(first[:end]).collapsed for end in (1, 2, 3)] == [False, False, True]
    assert "young" in judge(first[:2]).why
    later = [look(300, HEALTHY, HEALTHY), look(10, DEAD, DEAD, stage="joint")]
    assert judge(later, stage="joint").collapsed
    assert not judge(later[1:], stage="joint").collapsed  # a run without warm-up: the joint stage is its first


def test_stop_raises_the_sentence_and_warn_does_not():
    lines = [look(200, HEALTHY, HEALTHY), look(300, HEALTHY, DEAD)]
    healthy, dead = (guard("stop").judge(seen, stage="warmup", planned=300) for seen in (lines[:1], lines))
    assert dead.collapsed and not healthy.collapsed
    guard("stop").heed(healthy)
    with pytest.raises(CodebookCollapse, match="^token 1: utilisation 0.03 below 0.2; .* at step 300 of warmup$"):
        guard("stop").heed(dead)
    for action in ("warn", "extend"):
        guard(action).heed(dead)


def test_off_sees_nothing():
    assert judge([look(300, DEAD, DEAD)], "off").why == "the guard is off"
    assert not judge([look(300, DEAD, DEAD)], "off").collapsed


def test_no_codes_no_verdict():
    lines = [{"stage": "warmup", "step": 300, "total_step": 300, "held_out/flow": 0.2}]
    for entries in ((), (32, 32)):
        verdict = judge(lines, "extend", entries=entries)
        assert not (verdict.collapsed or verdict.goes_on) and verdict.why == "warmup has shown no codes to judge"


def entropies(*values, every=100):
    return [look(every * n, HEALTHY, (0.3, 0.3, value)) for n, value in enumerate(values, start=1)]


def test_a_settled_warmup_ends_as_planned():
    verdict = judge(entropies(1.5, 1.55, 1.5), "extend")
    assert verdict.settled and not verdict.goes_on and not verdict.news
    assert verdict.why.startswith("warmup ends after 300 steps (300 planned): the codebook has settled")
    assert "utilisation changed by at most 0, entropy by 0.05 nat" in verdict.why


def test_extend_goes_on_until_settled_and_says_why_it_switched():
    lines = entropies(1.2, 1.4, 1.8, 1.85, 1.9)
    verdicts = [judge(lines[:end], "extend") for end in range(1, 6)]
    assert [verdict.goes_on for verdict in verdicts] == [False, False, True, True, False]
    assert [verdict.news for verdict in verdicts] == [False, False, True, False, True]
    assert verdicts[2].why.startswith("warmup goes on past its 300 planned steps: the codebook is healthy but has not")
    assert "token 1: entropy changed by 0.6 in 3 looks, more than 0.1" in verdicts[2].why
    assert verdicts[4].settled and verdicts[4].why.startswith("warmup ends after 500 steps (300 planned): the codebook")


def test_utilisation_must_settle_too():
    lines = [look(100 * n, HEALTHY, (0.2 + 0.1 * n, 0.3, 1.5)) for n in (1, 2, 3)]
    verdict = judge(lines, "extend")
    assert verdict.goes_on and "token 1: utilisation changed by 0.2 in 3 looks" in verdict.why
    assert not judge(lines, "extend", settle_utilisation=0.25).goes_on


def test_a_steady_collapse_is_not_settled():
    lines = [look(100 * n, HEALTHY, DEAD) for n in range(1, 10)]
    verdicts = [judge(lines[:end], "extend") for end in range(3, 10)]
    assert [verdict.goes_on for verdict in verdicts] == [True] * 6 + [False]
    assert not any(verdict.settled for verdict in verdicts)
    assert verdicts[0].why.startswith("warmup goes on past its 300 planned steps: token 1: utilisation 0.03 below 0.2")
    assert verdicts[-1].collapsed and verdicts[-1].news
    assert verdicts[-1].why.startswith("warmup ends after 900 steps (300 planned, its limit): token 1: utilisation")


def test_one_bad_look_among_the_last_few_keeps_it_unsettled():
    lines = [look(100, HEALTHY, HEALTHY), look(200, HEALTHY, (0.4, 0.6, 2.1)), look(300, HEALTHY, HEALTHY)]
    verdict = judge(lines, "extend")
    assert verdict.goes_on and "token 1: max-usage 0.6 above 0.5 at step 200" in verdict.why


def test_too_few_looks_are_not_settled():
    verdict = judge(entropies(1.5, 1.5, every=150), "extend")
    assert verdict.goes_on and "2 of 3 looks so far" in verdict.why
    young = [look(30, HEALTHY), *(look(step, HEALTHY) for step in (150, 300))]
    assert not judge(young, "extend", entries=(32,)).settled and judge(young, entries=(32,), grace=0).settled


def test_only_the_warmup_is_prolonged_and_only_by_extend():
    assert guard("extend", most=4).limit("warmup", 300) == 1200
    assert guard("extend").limit("joint", 300) == guard("warn").limit("warmup", 300) == 300
    assert guard("extend").limit("warmup", 0) == 0
    rough = [look(100 * n, HEALTHY, (0.3, 0.3, 1.0 + n)) for n in (1, 2, 3)]
    joint = [line | {"stage": "joint"} for line in rough]
    assert judge(rough, "extend").goes_on
    assert not judge(rough, "warn").goes_on and not judge(joint, "extend", stage="joint").goes_on


def test_prefix_by_prefix_equals_anew_and_other_lines_change_nothing():
    """What a run says as it goes is what one that was killed and goes on says: the log is the only state."""
    looks = entropies(0.5, 0.6, 1.4, 1.9, 1.92, 1.93)
    one = guard("extend")
    unbroken = [one.judge(looks[:end], stage="warmup", planned=300) for end in range(1, 7)]
    resumed = [judge(json.loads(json.dumps(looks[:end])), "extend") for end in range(1, 7)]
    assert unbroken == resumed
    losses = [{"stage": "warmup", "step": step, "total_step": step, "loss": 1.0} for step in range(10, 610, 10)]
    before = [{"stage": "pretrain", "step": 50, "total_step": 50, "held_out/flow": 1.0}]
    mixed = before + sorted(losses + looks, key=lambda line: line["step"])
    assert judge(mixed, "extend") == unbroken[-1]
    after = [*mixed, look(100, DEAD, DEAD, stage="joint")]
    assert judge(after, "extend") == unbroken[-1]
    assert judge(after, "extend", stage="joint").collapsed


def test_a_look_without_a_figure_is_named():
    line = look(300, HEALTHY, HEALTHY)
    del line["held_out/entropy_1_moving"]
    with pytest.raises(ValueError, match="step 300 of warmup: held_out/entropy_1_moving is None, not a number"):
        judge([line])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"action": "shout"}, "'shout'"),
        ({"least_utilisation": 20.0}, "least_utilisation must lie in [0, 1], got 20.0"),
        ({"most_usage": -0.5}, "most_usage must lie in [0, 1], got -0.5"),
        ({"least_entropy": float("nan")}, "least_entropy must be 0 or more, got nan"),
        ({"least_action_use": 1.5}, "least_action_use must be 1 or less, got 1.5"),
        ({"settle_entropy": -1.0}, "settle_entropy must be 0 or more, got -1.0"),
        ({"settle_looks": 1}, "settle_looks must be 2 or more, got 1"),
        ({"most": 0}, "most must be 1 or more, got 0"),
        ({"least_transitions": 0}, "least_transitions must be 1 or more, got 0"),
        ({"grace": 1.0}, "grace must lie in [0, 1), got 1.0"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        GuardConfig(**settings)


def test_the_action_is_the_flag_itself():
    def run(guard: GuardConfig = GuardConfig()) -> GuardConfig:
        return guard

    config = tyro.cli(run, args=["--guard", "extend", "--guard.most", "5"])
    assert (config.action, config.most) == ("extend", 5)


@torch.no_grad()
def test_a_real_codebook_of_one_repeated_entry_trips_it_and_an_untouched_one_does_not():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # k-means draws from the global generator
    moves = torch.rand(40, 9, generator=generator) < 0.4
    raw = torch.where(moves[..., None], torch.randn(40, 9, 16, generator=generator), 0.0)
    noise = torch.where(moves[..., None, None, None], torch.randn(40, 9, 2, 4, 4, generator=generator), 0.0)
    latents = torch.cat([torch.zeros(40, 1, 2, 4, 4), noise.cumsum(dim=1)], dim=1)
    bottleneck = Bottleneck(kind="vq", tokens=2, entries=8, width=8).train()
    bottleneck(raw)
    bottleneck.eval()

    def verdict() -> tuple[bool, str]:
        numbers = health_numbers(bottleneck(raw).indices, 8, moving_transitions(latents))
        said = judge([look(300, **numbers)], entries=(8, 8))
        return said.collapsed, said.why

    raw_usage = health_numbers(bottleneck(raw).indices, 8, torch.ones_like(moves))["max_usage_0"]
    assert raw_usage > 0.5  # what all transitions would say: most of them are idle
    assert verdict() == (
        False,
        "the codebook is healthy but has not settled at step 300 of warmup: 1 of 3 looks so far",
    )
    codebook = bottleneck.quantiser._codebook.embed
    codebook.copy_(codebook[:, :1].expand_as(codebook))
    collapsed, why = verdict()
    assert collapsed and "token 0: max-usage 1 above 0.5" in why and "token 1: entropy 0 nat below 1.0" in why
