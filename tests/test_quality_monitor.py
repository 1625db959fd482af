"""The monitor: few false alarms on what was approved, alarms where images change, and a state that goes on elsewhere."""

import json
import threading
import time

import numpy as np
import pytest
import torch

from ddimkit import DDIMKitError
from ddimkit.quality import Extractor, FeatureStatistics, QualityMonitor
from ddimkit.quality.monitor import Limits

PIXELS = Extractor(lambda x: x.flatten(1), name="pixels", sha256="pixels", rounding="none")
WINDOW = 50


def images(seed: int, count: int) -> torch.Tensor:
    """Skewed, correlated pixels: nothing normal about them."""
    draw = torch.Generator().manual_seed(seed)
    white = torch.rand(count, 1, 2, 3, generator=draw).clamp_min(1e-12).log().neg()
    return white + 0.5 * white.roll(1, 3)


APPROVED = images(0, 4000)


def monitor(false_alarm: float = 0.1) -> QualityMonitor:
    return QualityMonitor.approve(PIXELS, APPROVED, window=WINDOW, false_alarm=false_alarm)


def test_false_alarms_are_as_rare_as_stated() -> None:
    """A thousand windows of unchanged images: 100 alarms expected, give or take 9.5 a standard deviation."""
    found = monitor().update(images(1, 1000 * WINDOW))
    assert len(found) == 1000
    assert 65 <= sum(r.drifted for r in found) <= 140
    assert np.mean([r.spread for r in found]) == pytest.approx(1.0, abs=0.05)


def test_the_default_rate_is_one_in_a_hundred() -> None:
    """Of 1500 windows of 500 images, where 15 alarms are expected, give or take 3.9 and what the limits themselves err."""
    found = QualityMonitor.approve(PIXELS, images(2, 40_000)).update(images(3, 1500 * 500))
    assert found[0].number == 0
    assert len(found) == 1500
    assert 4 <= sum(r.drifted for r in found) <= 34


@pytest.mark.parametrize(("approved", "window"), [(2000, 500), (1400, 100)])
def test_false_alarms_are_rare_with_many_features_and_few_approved_images(approved: int, window: int) -> None:
    """64 features; what is measured on the images that set the measure would look better than any others do."""

    def normal(seed: int, count: int) -> torch.Tensor:
        return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    alarms = []
    for seed in range(4):
        watch = QualityMonitor.approve(PIXELS, normal(seed, approved), window=window, false_alarm=0.05)
        alarms += [r.drifted for r in watch.update(normal(100 + seed, 50 * window))]
    assert np.mean(alarms) < 0.15


def test_few_approved_images_raise_no_more_false_alarms() -> None:
    """Four windows of approved images, the fewest: what they average is itself half as uncertain as what a window averages."""
    draw, shares = np.random.default_rng(0), []
    for seed in range(40):
        limits = Limits.of(draw.exponential(size=(400, 5)), window=100, false_alarm=0.05, seed=seed)
        watch = QualityMonitor(PIXELS, limits)
        reports = watch.update(torch.from_numpy(draw.exponential(size=(10_000, 5)))[:, None, None, :])
        shares.append(np.mean([r.drifted for r in reports]))
    # Windows beside the same approved images are alike in their alarms: each approval counts once.
    assert abs(np.mean(shares) - 0.05) < 3 * np.std(shares, ddof=1) / np.sqrt(len(shares))


def test_features_that_never_moved_are_watched() -> None:
    """A feature that hardly varied among approved images, and is no leading component, moves by 20 of its standard deviations."""
    quiet = torch.tensor([1.0, 0.02]).view(1, 1, 1, 2)

    def pair(seed: int, count: int, moved: float = 0.0) -> torch.Tensor:
        drawn = torch.randn(count, 1, 1, 2, generator=torch.Generator().manual_seed(seed)) * quiet
        return drawn + torch.tensor([0.0, moved]).view(1, 1, 1, 2)

    watch = QualityMonitor.approve(PIXELS, pair(0, 2000), window=100)
    assert len(watch.limits.basis) == 1
    assert not any(r.drifted for r in watch.update(pair(1, 500)))
    assert all(r.drifted for r in watch.update(pair(2, 500, 0.4)))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda x: x + 0.5, "shift"),
        (lambda x: x * 0.6 + x.mean() * 0.4, "variety lost"),
        (lambda x: x + 1.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9)), "noise"),
        (lambda x: x[:1].expand(len(x), -1, -1, -1), "one image again and again"),
    ],
)
def test_changes_raise_an_alarm(change, what: str) -> None:
    watch = monitor(0.01)
    reports = watch.update(change(images(2, 4 * WINDOW)))
    assert all(r.drifted for r in reports), what
    assert watch.figures()["drifted"] is True
    assert watch.figures()["alarms"] == 4


def test_batches_of_any_size_give_the_same_windows() -> None:
    x, whole, pieces = images(3, 230), monitor(), monitor()
    wanted = whole.update(x)
    found = [report for part in x.split(7) for report in pieces.update(part)]
    assert [r.number for r in found] == [0, 1, 2, 3]
    np.testing.assert_allclose([(r.shift, r.spread) for r in found], [(r.shift, r.spread) for r in wanted], rtol=1e-10)
    exact = FeatureStatistics.of(PIXELS(x))
    np.testing.assert_allclose(pieces.statistics.mean, exact.mean, rtol=1e-12)
    np.testing.assert_allclose(pieces.statistics.scatter, exact.scatter, rtol=1e-10)
    assert pieces.figures()["images"] == 230


def test_a_restored_monitor_goes_on_where_it_was() -> None:
    x, watch = images(4, 175), monitor()
    watch.update(x[:75])
    restored = QualityMonitor.restore(PIXELS, json.loads(json.dumps(watch.state())))
    assert restored.figures() == watch.figures()
    assert restored.update(x[75:]) == watch.update(x[75:])
    assert restored.state() == watch.state()


def test_memory_does_not_grow() -> None:
    watch = monitor()
    watch.update(images(5, 60))
    before = len(json.dumps(watch.state()))
    watch.update(images(6, 6000))
    assert len(json.dumps(watch.state())) < 1.1 * before


def test_threads_share_a_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    merge = FeatureStatistics.merge

    def slow(self: FeatureStatistics, other: FeatureStatistics) -> FeatureStatistics:
        time.sleep(0.002)  # so that another thread would come in between
        return merge(self, other)

    monkeypatch.setattr(FeatureStatistics, "merge", slow)
    watch, parts = monitor(), images(7, 800).split(20)
    workers = [threading.Thread(target=lambda i=i: [watch.update(p) for p in parts[i::8]]) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert watch.figures()["images"] == 800
    assert watch.figures()["windows"] == 800 // WINDOW
    np.testing.assert_allclose(watch.statistics.mean, PIXELS(torch.cat(parts)).mean(axis=0), rtol=1e-10)


def test_figures_are_plain_numbers() -> None:
    watch = monitor()
    empty = watch.figures()
    assert empty["images"] == 0
    assert empty["drifted"] is None
    assert json.loads(json.dumps(empty)) == empty


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: QualityMonitor.approve(PIXELS, APPROVED[:199], window=50), "4 windows"),
        (lambda: QualityMonitor.approve(PIXELS, APPROVED, window=19), "at least 20"),
        (lambda: QualityMonitor.approve(PIXELS, APPROVED, window=50, false_alarm=0.0), "false_alarm"),
        (lambda: QualityMonitor.approve(PIXELS, torch.zeros(400, 1, 2, 3), window=50), "nothing to compare"),
        (lambda: QualityMonitor.approve(PIXELS, torch.randn(200, 1, 8, 8), window=50), "leading components need at least"),
    ],
)
def test_bad_settings_raise(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_states_of_something_else_are_refused() -> None:
    other = Extractor(lambda x: x.flatten(1), name="others", sha256="others", rounding="none")
    state = monitor().state()
    for extractor, damaged, says in (
        (other, state, "another extractor"),
        (PIXELS, {**state, "schema_version": 1}, "schema 1"),
        (PIXELS, {"schema_version": 2}, "no state"),
        (PIXELS, {**state, "window": {**state["window"], "filled": 50}}, "do not fit"),
        (PIXELS, {**state, "window": {**state["window"], "sum": [0.0]}}, "do not fit"),
    ):
        with pytest.raises(DDIMKitError, match=says):
            QualityMonitor.restore(extractor, damaged)
