"""Metrics of video on moving squares: known answers, what must raise a distance, and files that are others."""

import hashlib
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchmetrics.functional.image import lpips as library_lpips

from colaworld.experiments import feature_networks
from colaworld.experiments.feature_networks import RANDOM_NAME, RandomVideoFeatures
from colaworld.experiments.video_metrics import PSNR_CAP, VideoMetricsConfig, metrics_table, video_metrics

CONTEXT, HORIZON, CLIPS = 2, 10, 24
ALEXNET_SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""Convolutions of torchvision's AlexNet: place in ``features``, and channels out, channels in, kernel."""


def moving_squares(count: int = CLIPS, seed: int = 0) -> Tensor:
    """Coloured squares of 12 pixels that cross a textured ground, ``(count, 12, 3, 64, 64)``."""
    draw = torch.Generator().manual_seed(seed)
    ground = 0.3 + 0.1 * torch.rand(3, 64, 64, generator=draw)
    videos = ground.repeat(count, CONTEXT + HORIZON, 1, 1, 1)
    for video in videos:
        place = torch.rand(2, generator=draw) * 20
        speed = 1 + torch.rand(2, generator=draw) * 1.7
        colour = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=draw)
        for time, frame in enumerate(video):
            row, column = (place + speed * time).int().tolist()
            frame[:, row : row + 12, column : column + 12] = colour
    return videos


def frechet(truth: Tensor, imagined: Tensor, horizon: int = HORIZON) -> float:
    return video_metrics(truth, imagined, horizons=(horizon,))[str(horizon)]["frechet"]["value"]


def blurred(videos: Tensor) -> Tensor:
    frames = rearrange(videos, "n t c h w -> (n t) c h w")
    smooth = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return rearrange(smooth, "(n t) c h w -> n t c h w", n=len(videos))


def frozen(videos: Tensor) -> Tensor:
    return torch.cat([videos[:, :CONTEXT], videos[:, CONTEXT - 1 : CONTEXT].expand(-1, HORIZON, -1, -1, -1)], dim=1)


def out_of_order(videos: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    orders = [CONTEXT + torch.randperm(HORIZON, generator=draw) for _ in videos]
    return torch.stack([video[torch.cat([torch.arange(CONTEXT), o])] for video, o in zip(videos, orders, strict=True)])


def test_known_answers() -> None:
    truth = moving_squares(4) * 0.8
    report = video_metrics(truth, truth + 0.1)
    assert list(report) == ["1", "5", "10"]
    for metrics in report.values():
        assert metrics["psnr"] == pytest.approx([20.0] * 4, abs=1e-3)  # -10 log10(0.1 ** 2)
        assert metrics["lpips"] is None
        assert metrics["frechet"]["n"] == 4 and metrics["frechet"]["value"] is None
    same = video_metrics(truth, truth)["10"]
    assert same["psnr"] == [PSNR_CAP] * 4
    assert same["ssim"] == pytest.approx([1.0] * 4)
    assert same["frechet"]["plain"] == pytest.approx(0.0, abs=1e-6)


def test_a_horizon_reads_its_own_frame_of_its_own_clip() -> None:
    truth = moving_squares(3)
    imagined = truth.clone()
    imagined[1, CONTEXT - 1 + 5] = 1 - imagined[1, CONTEXT - 1 + 5]
    report = video_metrics(truth, imagined)
    changed = {(step, clip) for step, metrics in report.items() for clip in range(3) if metrics["psnr"][clip] < 50}
    assert changed == {("5", 1)}
    assert [metrics["ssim"][1] < 0.9 for metrics in report.values()] == [False, True, False]
    assert [metrics["frechet"]["plain"] > 1e-4 for metrics in report.values()] == [False, True, True]  # of h frames


def test_the_context_is_no_prediction() -> None:
    truth = moving_squares(4)
    imagined = truth.clone()
    imagined[:, :CONTEXT] = 0
    assert video_metrics(truth, imagined) == video_metrics(truth, truth)


def test_distance_falls_as_videos_get_closer() -> None:
    truth = moving_squares()
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    distances = [frechet(truth, (truth + scale * noise).clamp(0, 1)) for scale in (0.2, 0.1, 0.03, 0.0)]
    assert all(farther > 1.2 * closer for farther, closer in zip(distances[:-2], distances[1:-1], strict=True))
    assert distances[-2] > distances[-1] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("damage", [blurred, frozen, out_of_order])
def test_blur_freeze_and_wrong_order_raise_the_distance(damage) -> None:
    truth, others = moving_squares(), moving_squares(2 * CLIPS)[CLIPS:]
    # Other clips of the same kind are the yardstick: their distance is what the choice of clips alone makes.
    assert frechet(truth, damage(truth)) > 3 * abs(frechet(truth, others))
    assert frechet(truth, damage(truth)) > 0.01


def test_a_still_is_judged_by_its_appearance() -> None:
    truth = moving_squares()
    assert frechet(truth, blurred(truth), 1) > 0.01
    features = RandomVideoFeatures()
    still = truth[:2, :1]
    assert torch.allclose(features(still), features(still.expand(-1, 6, -1, -1, -1)), atol=1e-5)


def test_random_features_are_the_same_everywhere() -> None:
    """Pins ``conv3d-random-v1``: whoever changes these numbers gives the extractor another version."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    waves = [torch.sin((rows * (c + 1) + columns + 3 * t) / 7.0) for t in range(4) for c in range(3)]
    video = rearrange(torch.stack(waves) / 2 + 0.5, "(t c) h w -> 1 t c h w", c=3)
    features = RandomVideoFeatures()(video)
    assert RANDOM_NAME == "conv3d-random-v1" and features.shape == (1, 16)
    assert features[0, [0, 5, 10, 15]].tolist() == pytest.approx([-0.6979, -0.5358, -1.5672, -1.208], abs=1e-3)
    before = torch.get_rng_state()
    torch.manual_seed(123)
    assert torch.equal(RandomVideoFeatures()(video), features)
    torch.set_rng_state(before)


def test_without_the_file_nothing_is_called_fvd() -> None:
    report = video_metrics(moving_squares(4), moving_squares(4, seed=1))
    assert {metrics["frechet"]["name"] for metrics in report.values()} == {RANDOM_NAME}
    assert "fvd" not in metrics_table({"a": report}).lower()


class SmallI3D(nn.Module):
    """Answers the public I3D's call, checks what it is given, and is as short-sighted in time."""

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        assert x.shape[1] == 3 and x.shape[2] >= 9 and resize and return_features
        if rescale:
            x = 2 * x / 255 - 1
        assert x.min() >= -1 and x.min() < -0.1 and x.max() > 0.1 and x.max() <= 1
        change = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(2, 3, 4))
        return torch.cat([10 * change, x.std(dim=(2, 3, 4)), x[:, :, 0].mean(dim=(2, 3))], dim=1)


def fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def i3d_file(tmp_path: Path) -> Path:
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(SmallI3D()).save(str(path))
    return path


@pytest.fixture
def alexnet_file(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for place, (out, into, size) in ALEXNET_SHAPES.items():
        weight = torch.randn(out, into, size, size, generator=draw) * (2 / (into * size * size)) ** 0.5
        tensors |= {f"features.{place}.weight": weight, f"features.{place}.bias": torch.full((out,), 0.01)}
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save(tensors, path)
    return path


def test_i3d_gives_fvd(i3d_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_networks, "I3D_SHA256", fingerprint(i3d_file))
    config = VideoMetricsConfig(fvd_weights=i3d_file, batch=5)
    truth = moving_squares(16)
    report = video_metrics(truth, frozen(truth), config)
    names = [metrics["frechet"]["name"] for metrics in report.values()]
    assert names == ["fvd, last frame held to 10 frames"] * 2 + ["fvd"]
    assert [metrics["frechet"]["features"] for metrics in report.values()] == [9, 9, 9]
    assert report["10"]["frechet"]["plain"] > 1e-4
    assert video_metrics(truth, truth, config)["10"]["frechet"]["plain"] == pytest.approx(0.0, abs=1e-6)


def test_lpips_is_the_librarys(alexnet_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torchmetrics, whose backbone needs torchvision: the same layers are handed to it here."""
    monkeypatch.setattr(feature_networks, "ALEXNET_SHA256", fingerprint(alexnet_file))
    truth, other = moving_squares(3), moving_squares(3, seed=1)
    config = VideoMetricsConfig(lpips_weights=alexnet_file, batch=2)
    report = video_metrics(truth, other, config)

    def backbone(net: str, pretrained: bool) -> nn.Sequential:
        pools = {2, 5, 12}
        places = [
            nn.Conv2d(into, out, size, stride=4 if place == 0 else 1, padding=2 if size > 3 else 1)
            if (out, into, size) != (0, 0, 0)
            else (nn.MaxPool2d(3, 2) if place in pools else nn.ReLU())
            for place in range(13)
            for out, into, size in [ALEXNET_SHAPES.get(place, (0, 0, 0))]
        ]
        features = nn.Sequential(*places)
        stored = torch.load(alexnet_file, weights_only=True)
        features.load_state_dict({name.removeprefix("features."): value for name, value in stored.items()})
        return features

    monkeypatch.setattr(library_lpips, "_get_tv_model_features", backbone)
    for step, metrics in report.items():
        frame = CONTEXT - 1 + int(step)
        expected = learned_perceptual_image_patch_similarity(
            truth[:, frame], other[:, frame], net_type="alex", reduction="none", normalize=True
        )
        assert metrics["lpips"] == pytest.approx(expected.tolist(), rel=1e-4)
    assert video_metrics(truth, truth, config)["1"]["lpips"] == pytest.approx([0.0] * 3, abs=1e-6)


@pytest.mark.parametrize("field", ["fvd_weights", "lpips_weights"])
def test_a_file_that_is_another_is_refused_with_its_hash(field: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        VideoMetricsConfig(**{field: tmp_path / "absent.pt"})
    path = tmp_path / "weights.pt"
    path.write_bytes(b"not the network")
    with pytest.raises(ValueError, match=f"weights.pt: its SHA-256 is {fingerprint(path)}"):
        VideoMetricsConfig(**{field: path})


def test_a_file_that_changes_after_the_check_is_refused(i3d_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_networks, "I3D_SHA256", fingerprint(i3d_file))
    config = VideoMetricsConfig(fvd_weights=i3d_file)
    i3d_file.write_bytes(b"swapped")
    with pytest.raises(ValueError, match="SHA-256"):
        video_metrics(moving_squares(2), moving_squares(2), config)


def test_the_table_prints_n_and_refuses_unequal_n() -> None:
    truth = moving_squares(9)
    report, fewer = video_metrics(truth, blurred(truth)), video_metrics(truth[:8], blurred(truth)[:8])
    *lines, few = metrics_table({"blurred": report}).splitlines()
    assert few.startswith(f"{RANDOM_NAME}: 9 clips are few for its 16 features")
    assert len(lines) == 4 and all(line.split()[-2:] == ["9", RANDOM_NAME] for line in lines[1:])
    with pytest.raises(ValueError, match="'fewer' has n = 8 .* n = 9"):
        metrics_table({"blurred": report, "fewer": fewer})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda videos: videos[:2], "got \\(3, 12, 3, 64, 64\\) and \\(2,"),
        (lambda videos: videos * 2, "imagined: pixels must lie in \\[0, 1\\]"),
        (lambda videos: videos * torch.nan, "imagined: pixels must lie"),
        (lambda videos: (videos * 255).byte(), "imagined: pixels must be floats in \\[0, 1\\], got torch.uint8"),
    ],
)
def test_bad_videos_are_named(change, message: str) -> None:
    videos = moving_squares(3)
    with pytest.raises(ValueError, match=message):
        video_metrics(videos, change(videos))


def test_clips_that_are_too_short_are_refused() -> None:
    videos = moving_squares(2)[:, :11]
    with pytest.raises(ValueError, match="11 frames for context 2"):
        video_metrics(videos, videos)
    with pytest.raises(ValueError, match="batch must be 1 or more"):
        VideoMetricsConfig(batch=0)
