"""Imagining fast comes to what imagining slowly does."""

import pytest
import torch
from torch import Tensor

from colaworld.models.action_conditioner import ActionConditioner
from colaworld.models.engine import Engine, EngineConfig
from colaworld.models.flow import FlowConfig, SamplerConfig
from colaworld.models.imagination import Imagination, NextAction, given
from colaworld.models.video_transformer import VideoTransformer

LATENT = {"latent_channels": 3, "latent_height": 4, "latent_width": 4}
SOURCES = {"last_frame": FlowConfig(), "noise": FlowConfig(source="noise", mean_fraction=0.0)}


@pytest.fixture
def video() -> VideoTransformer:
    """A small model whose zero-initialised parts are filled, so that everything has an effect."""
    torch.manual_seed(0)
    model = VideoTransformer(**LATENT, width=16, depth=2, heads=2, max_frames=12).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def conditioner() -> ActionConditioner:
    torch.manual_seed(1)
    model = ActionConditioner(latent_action_dim=6, width=16, depth=2, heads=2, video_width=16, max_steps=12).eval()
    torch.nn.init.normal_(model.out[-1].weight, std=0.2)
    return model


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.no_grad():
        yield


def draw(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def looking(actions: Tensor) -> NextAction:
    """Latent actions that depend on the frames imagined so far, as an adapter's do."""
    return lambda step, recent: actions[:, step] + recent.mean(dim=(1, 2, 3))[:, :1]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_engine_and_the_plain_cache_agree_with_no_cache_at_all(video, conditioner, source, guidance, steps):
    arguments = video, conditioner, SOURCES[source], SamplerConfig(steps=steps, std=0.5, guidance=guidance)
    plain, engine = Imagination(*arguments), Engine(*arguments)
    state, actions = plain.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)).expand(3), looking(draw(3, 5, 6, seed=3))
    slow = plain.roll_out_uncached(state, actions, 5, noise())
    torch.testing.assert_close(plain.roll_out(state, actions, 5, noise()), slow, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(engine.roll_out(state, actions, 5, noise()), slow, rtol=1e-4, atol=1e-4)
    assert (slow[0] - slow[1]).abs().max() > 1e-2 and (slow[:, 0] - slow[:, 4]).abs().max() > 1e-2


def test_the_engine_needs_no_actions(video):
    plain, engine = Imagination(video, None, FlowConfig()), Engine(video, None, FlowConfig())
    state, actions = plain.start(draw(2, 2, 3, 4, 4), draw(2, 1, 6)), given(draw(2, 3, 6))
    torch.testing.assert_close(engine.roll_out(state, actions, 3), plain.roll_out(state, actions, 3))


@pytest.mark.parametrize(("guidance", "frames"), [(1.0, [1, 1, 2, 1, 2, 1]), (3.0, [2, 2, 3, 2, 3, 2])])
def test_a_frame_costs_as_many_passes_as_sampling_steps(video, conditioner, guidance, frames):
    engine = Engine(video, conditioner, FlowConfig(), SamplerConfig(steps=2, guidance=guidance))
    state, passes = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)), []
    handle = video.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0].shape[1]))
    engine.roll_out(state, given(draw(1, 3, 6)), 3)
    handle.remove()
    assert passes == frames  # the frame before joins each first pass but the first; the last one never does


def test_roll_outs_leave_nothing_behind_for_the_next(video, conditioner):
    engine = Engine(video, conditioner, FlowConfig())
    state, actions = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)), draw(4, 5, 6, seed=3)
    fresh = engine.roll_out(state.expand(4), given(actions), 5)
    spoilt = actions.clone()
    spoilt[1] = torch.nan
    bad = engine.roll_out(state.expand(4), given(spoilt), 5)
    assert bad[1].isnan().all() and torch.equal(bad[[0, 2, 3]], fresh[[0, 2, 3]])
    for count, horizon in ((4, 5), (2, 3), (1, 5), (4, 2)):
        found = engine.roll_out(state.expand(count), given(actions[:count]), horizon)
        torch.testing.assert_close(found, fresh[:count, :horizon], rtol=1e-4, atol=1e-5)


def test_room_is_kept_for_roll_outs_as_long_and_no_wider(video, conditioner):
    engine = Engine(video, conditioner, FlowConfig())
    state = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6))

    def room(count: int, horizon: int) -> Tensor:
        engine.roll_out(state.expand(count), given(draw(count, horizon, 6)), horizon)
        return engine._rooms["any"].keys[0]

    first = room(4, 4)
    assert first.data_ptr() == room(4, 4).data_ptr() == room(1, 4).data_ptr() == room(3, 4).data_ptr()
    assert first.shape == (4, 4, 2, 6, 8)  # 2 context frames, 3 remembered, 1 in the making
    assert room(2, 6).shape == (2, 4, 2, 8, 8)
    engine.release()
    assert not engine._rooms


def test_what_was_imagined_before_has_no_say_to_the_last_bit(video, conditioner):
    used = Engine(video, conditioner, FlowConfig())
    state = used.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6))
    for horizon in (6, 1, 2, 3):
        actions = draw(16, horizon, 6, seed=horizon)
        fresh = Engine(video, conditioner, FlowConfig()).roll_out(state.expand(16), given(actions), horizon)
        assert torch.equal(used.roll_out(state.expand(16), given(actions), horizon), fresh)


def test_where_gradients_are_wanted_nothing_is_written_in_place(video, conditioner):
    engine = Engine(video, conditioner, FlowConfig())
    state, actions = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)), draw(1, 3, 6).requires_grad_()
    with torch.enable_grad():
        engine.roll_out(state, given(actions), 3)[:, -1].square().sum().backward()
    assert (actions.grad.abs().amax(dim=2) > 0).all()
    assert not engine._rooms


def test_bfloat16_is_near_and_leaves_the_models_alone(video, conditioner):
    def imagined(dtype: str) -> Tensor:
        sampler = SamplerConfig(steps=3, std=0.5, guidance=2.0)
        engine = Engine(video, conditioner, FlowConfig(), sampler, EngineConfig(dtype=dtype))
        state = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)).expand(2)
        assert state.cache.keys[0].dtype == getattr(torch, dtype)
        return engine.roll_out(state, given(draw(2, 3, 6)), 3, noise())

    exact, rounded = imagined("float32"), imagined("bfloat16")
    assert rounded.dtype == torch.float32 and video.dtype == conditioner.dtype == torch.float32
    assert 0.0 < (exact - rounded).abs().mean() < 0.02 * exact.abs().mean()


def layout(value: object) -> object:
    """What compiled code is bound to: shapes, types and the order in memory."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    return None if value is None else [(layout(part.buffer), layout(part.places)) for part in value.keys]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_compiled_code_meets_the_same_layout_at_every_frame_and_in_every_plan(
    video, conditioner, guidance, monkeypatch
):
    seen, options = set(), []

    def spied(function, **asked):
        options.append(asked)

        def call(*inputs):
            seen.add(str([layout(value) for value in inputs]))
            addresses.add(inputs[-1].keys[0].buffer.data_ptr())
            return function(*inputs)

        return call

    addresses: set[int] = set()
    monkeypatch.setattr(torch, "compile", spied)
    arguments = video, conditioner, FlowConfig(), SamplerConfig(steps=2, std=0.5, guidance=guidance)
    engine = Engine(*arguments, EngineConfig(compile=True))
    state, actions = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)), draw(8, 5, 6)
    together = engine.roll_out(state.expand(8), given(actions), 5, noise())
    plain = Imagination(*arguments).roll_out(state.expand(8), given(actions), 5, noise())
    torch.testing.assert_close(together, plain, rtol=1e-4, atol=1e-4)
    some = engine.roll_out(state.expand(5), given(actions[:5]), 4, noise())  # five candidates fill up to eight
    torch.testing.assert_close(some, together[:5, :4])
    assert len(seen) == 2 and len(addresses) == 1  # with the frame before, and without; always in the same place
    assert options == [{"dynamic": False, "fullgraph": True, "mode": "default"}]


def test_a_pass_is_one_graph(conditioner, monkeypatch):
    graphs, compiled = [], torch.compile

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, mode, **asked: compiled(function, backend=count, **asked))
    video = VideoTransformer(**LATENT, width=16, depth=1, heads=2, max_frames=12).eval()
    torch.nn.init.normal_(video.unembed.weight)
    arguments = video, conditioner, FlowConfig(), SamplerConfig(steps=2)
    engine = Engine(*arguments, EngineConfig(compile=True))
    state, actions = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6)).expand(2), given(draw(2, 1, 6))
    found = engine.roll_out(state, actions, 1)
    torch.testing.assert_close(found, Engine(*arguments).roll_out(state, actions, 1))
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_more_batch_sizes_than_the_compilers_usual_limit_are_compiled(conditioner, monkeypatch):
    compiled = torch.compile

    def asis(graph, inputs):
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, mode, **asked: compiled(function, backend=asis, **asked))
    torch._dynamo.reset()
    video = VideoTransformer(**LATENT, width=16, depth=1, heads=2, max_frames=12).eval()
    with torch._dynamo.config.patch(recompile_limit=3):
        engine = Engine(video, conditioner, FlowConfig(), SamplerConfig(steps=1), EngineConfig(compile=True))
        start = engine.start(draw(1, 2, 3, 4, 4), draw(1, 1, 6))
        for batch in (1, 2, 4):  # two graphs each, with and without a frame to remember
            engine.roll_out(start.expand(batch), given(draw(batch, 2, 6)), 2)
    torch._dynamo.reset()


def test_memory_limits_become_numbers_of_candidates(video, conditioner):
    def limit(horizon: int = 4, **options) -> int | None:
        return Engine(video, conditioner, FlowConfig(), config=EngineConfig(**options)).limit(horizon)

    assert limit() is None and limit(max_batch=5) == 5 and limit(max_batch=5, compile=True) == 4
    assert limit(max_memory_mib=2) > 2 * limit(max_memory_mib=1, dtype="float32") - 2 > 1
    assert limit(8, max_memory_mib=1) < limit(2, max_memory_mib=1) < limit(2, max_memory_mib=1, dtype="bfloat16")
    assert limit(max_memory_mib=64, max_batch=3) == 3


def test_impossible_options_are_named(video):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        EngineConfig(dtype="float16")
    for name in ("max_batch", "max_memory_mib", "final_steps"):
        with pytest.raises(ValueError, match=f"{name} must be 1 or more, got 0"):
            EngineConfig(**{name: 0})
    with pytest.raises(ValueError, match="guidance=2.0 needs an action conditioner"):
        Engine(video, None, FlowConfig()).sampled(SamplerConfig(guidance=2.0))
