"""Figures of generated images: what they are relative to, what rounding does, and how they are kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from ddimkit import DDIMKitError, WeightsError
from ddimkit.quality import (
    Extractor,
    KernelStatistics,
    Quality,
    Reference,
    Training,
    difference,
    evaluate,
    evaluate_images,
    kernel_distance,
)
from ddimkit.quality.features import to_bytes
from ddimkit.quality.network import FeatureNetwork, FeatureNetworkConfig, load_network, save_network


def extractor(rounding="uint8", sha256: str = "abc", classes: bool = True) -> Extractor:
    """Means of quarters of an image; the brighter half is its class."""
    return Extractor(
        lambda x: torch.nn.functional.avg_pool2d(x, 2).flatten(1),
        name="quarters",
        sha256=sha256,
        classify=(lambda f: torch.stack((f[:, :2].sum(1), f[:, 2:].sum(1)), 1)) if classes else None,
        rounding=rounding,
    )


def images(seed: int, count: int, shift: float = 0.0) -> torch.Tensor:
    return torch.empty(count, 1, 4, 4).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed)).add(shift).clamp(-1, 1)


REAL = images(0, 600)


def reference(made: Extractor | None = None, **settings) -> Reference:
    made = made or extractor()
    return Reference.of("squares test", made(REAL), made, **settings)


@pytest.mark.promise(39)
def test_figures_carry_what_they_are_relative_to() -> None:
    found = evaluate_images(images(1, 50), range(10, 60), reference(), extractor())
    assert found.label.reference == "squares test"
    assert (found.label.images, found.label.extractor, found.label.extractor_sha256) == (600, "quarters", "abc")
    assert found.label.rounding == "uint8"
    assert found.seeds == ((10, 60),)
    assert found.count == 50
    assert sum(found.classes) == 50


@pytest.mark.promise(39)
@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: (reference(extractor(sha256="xyz")), extractor(sha256="xyz")), "extractor_sha256"),
        (lambda: (reference(extractor("none")), extractor("none")), "rounding"),
        (lambda: (Reference.of("squares train", extractor()(REAL), extractor()), extractor()), "squares train"),
        (lambda: (Reference.of("squares test", extractor()(REAL[:300]), extractor()), extractor()), "300"),
        (lambda: (Reference.of("squares test", extractor()(REAL.flip(2) * 0.9), extractor()), extractor()), "spread"),
    ],
)
def test_figures_of_different_measures_refuse_to_be_compared(other, says: str) -> None:
    x = images(1, 50)
    against, made = other()
    a, b = evaluate_images(x, range(50), reference(), extractor()), evaluate_images(x, range(50), against, made)
    with pytest.raises(ValueError, match=says):
        difference(a, b)
    assert difference(a, a).value == 0


@pytest.mark.promise(39)
def test_features_of_another_extractor_are_refused() -> None:
    with pytest.raises(ValueError, match="extractor_sha256"):
        evaluate_images(images(1, 50), range(50), reference(), extractor(sha256="xyz"))
    with pytest.raises(ValueError, match="rounding"):
        evaluate_images(images(1, 50), range(50), reference(), extractor("none"))


def test_frechet_distances_of_different_numbers_are_refused() -> None:
    a, b = (evaluate_images(images(1, n), range(n), reference(), extractor()) for n in (50, 60))
    with pytest.raises(ValueError, match="use 'kernel'"):
        difference(a, b, "frechet")
    for figure in ("precision", "recall", "class_distance"):
        with pytest.raises(ValueError, match="use 'kernel'"):
            difference(a, b, figure)
    assert difference(a, b, "kernel").value == pytest.approx(a.kernel.value - b.kernel.value)


def test_every_figure_moves_the_right_way() -> None:
    """Images like the real ones, brighter ones, and one image copied: a constant could not pass."""
    good, bright, copies = (
        evaluate_images(x, range(300), reference(), extractor())
        for x in (images(2, 300), images(2, 300, 0.4), images(2, 3).repeat(100, 1, 1, 1))
    )
    assert difference(bright, good).interval[0] > 0
    assert difference(copies, good).interval[0] > 0
    assert difference(bright, good, "frechet").interval[0] > 0
    assert good.kernel.interval[0] < 0.02 < bright.kernel.value
    assert good.precision.value > 0.8
    assert good.recall.value > 0.8
    assert copies.recall.value < 0.3
    assert difference(copies, good, "class_distance").interval[0] > 0
    assert difference(copies, good, "recall").interval[1] < 0


def test_the_reference_decides() -> None:
    """Judged against another split, the figures are others: a measure that ignores its reference fails here."""
    bright = Reference.of("squares test", extractor()(images(3, 600, 0.4)), extractor())
    x = images(4, 300, 0.4)
    assert evaluate_images(x, range(300), bright, extractor()).kernel.value < 0.2 * abs(
        evaluate_images(x, range(300), reference(), extractor()).kernel.value
    )


def test_images_are_rounded_to_what_a_file_can_hold() -> None:
    """To the nearest, and clamped; the same image in bytes gives the same features bit for bit."""
    x = torch.tensor([-1.5, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 0.0, 1.0, 7.0])
    assert to_bytes(x).tolist() == [0, 0, 0, 1, 128, 255, 255]
    drawn = images(5, 20)
    made = extractor()
    np.testing.assert_array_equal(made(drawn), made(to_bytes(drawn).numpy()))
    assert np.abs(made(drawn) - extractor("none")(drawn)).max() > 1e-4


def test_rounding_changes_figures_and_is_not_forgotten() -> None:
    x = images(6, 100)
    rounded = evaluate_images(x, range(100), reference(), extractor())
    plain = evaluate_images(x, range(100), reference(extractor("none")), extractor("none"))
    assert rounded.kernel.value != plain.kernel.value


def test_batches_do_not_matter() -> None:
    np.testing.assert_array_equal(extractor()(images(7, 23), batch_size=4), extractor()(images(7, 23), batch_size=23))


def test_figures_survive_json() -> None:
    found = evaluate_images(images(1, 50), [*range(20), *range(100, 130)], reference(), extractor())
    assert found.seeds == ((0, 20), (100, 130))
    read = Quality.from_dict(json.loads(json.dumps(found.to_dict())), found.label)
    assert read.to_dict() == found.to_dict()
    assert (read.label, read.count, read.classes) == (found.label, 50, found.classes)


def test_an_extractor_without_classes_has_no_class_figures() -> None:
    made = extractor(classes=False)
    found = evaluate_images(images(1, 50), range(50), reference(made), made)
    assert found.classes == ()
    assert found.class_distance is None


def test_a_class_that_nothing_is_in_is_counted() -> None:
    """As where a sampler drops a class, or a small reference has none of it."""
    dark = REAL.clone()
    dark[:, :, 2:] = -1
    made = extractor()
    against = Reference.of("dark below", made(dark), made)
    assert against.classes.tolist() == [600, 0]
    found = evaluate_images(images(1, 50), range(50), against, made)
    assert len(found.classes) == 2


def test_arrays_that_cannot_be_written_to_are_taken() -> None:
    pixels = to_bytes(images(1, 6)).numpy()
    pixels.setflags(write=False)
    assert extractor()(pixels).shape == (6, 4)


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    made, path = reference(kept=100), tmp_path / "reference.safetensors"
    sha256 = made.save(path)
    read = Reference.load(path, sha256=sha256)
    assert read.label == made.label
    x = images(8, 60)
    a, b = (evaluate_images(x, range(60), r, extractor()) for r in (made, read))
    assert a.to_dict() == b.to_dict()
    assert (a.kernel.value, a.frechet.value, a.manifold) == (b.kernel.value, b.frechet.value, 60)
    assert len(read.features) == 100
    with pytest.raises(WeightsError, match="SHA-256"):
        Reference.load(path, sha256="0" * 64)


def test_wide_features_are_judged_too(tmp_path: Path) -> None:
    """Too wide to be kept as sums, they are compared with the kept images themselves."""
    with pytest.raises(ValueError, match="too wide"):
        KernelStatistics.of(np.zeros((3, 2048)))
    wide = Extractor(lambda x: x.flatten(1).repeat(1, 13), name="wide", sha256="abc")
    made = Reference.of("squares test", wide(REAL), wide, kept=300)
    x = images(8, 60)
    found = evaluate_images(x, range(60), made, wide)
    spread = np.linspace(0, 599, 300).astype(int)
    assert found.kernel.value == pytest.approx(kernel_distance(wide(x), wide(REAL)[spread]), rel=1e-6)
    assert Reference.of("squares test", wide(REAL), wide, kept=200).label != made.label  # the kernel distance rests on them
    made.save(tmp_path / "wide.safetensors")
    assert evaluate_images(x, range(60), Reference.load(tmp_path / "wide.safetensors"), wide).kernel.value == found.kernel.value


def test_features_beyond_half_precision_survive_their_file(tmp_path: Path) -> None:
    large = Extractor(lambda x: 1e5 * x.flatten(1), name="large", sha256="abc")
    made = Reference.of("squares test", large(REAL), large)
    made.save(tmp_path / "large.safetensors")
    np.testing.assert_array_equal(Reference.load(tmp_path / "large.safetensors").features, made.features)
    assert np.isfinite(made.features).all()


def test_memorised_images_are_found() -> None:
    """Of copies of training images all, of images like them about one in a hundred."""
    made = extractor("none")
    training = Training.of(REAL, images(10, 2000), made)
    fresh, copied = (evaluate(made(x), range(len(x)), reference(made), made, training) for x in (images(11, 2000), REAL[:50]))
    assert fresh.estimate("memorised").value == pytest.approx(0.01, abs=0.008)
    assert copied.estimate("memorised").value == 1
    assert difference(copied, fresh, "memorised").interval[0] > 0.9
    assert Quality.from_dict(json.loads(json.dumps(fresh.to_dict())), fresh.label).to_dict() == fresh.to_dict()
    assert fresh.training == (600, training.threshold)
    with pytest.raises(ValueError, match="at least 100"):
        Training.of(REAL, images(10, 50), made)
    other = evaluate(made(REAL[:50]), range(50), reference(made), made, Training.of(REAL[:300], images(10, 2000), made))
    with pytest.raises(ValueError, match="different training images"):
        difference(copied, other, "memorised")
    with pytest.raises(ValueError, match="another extractor"):
        evaluate(made(REAL[:50]), range(50), reference(made), made, Training.of(REAL, images(10, 200), extractor("none", "xyz")))


def test_copies_are_found_even_where_held_out_images_are_copies_too() -> None:
    """The threshold is then 0, and a copy is as near as that."""
    made = extractor("none")
    training = Training.of(REAL, REAL[:200], made)
    assert training.threshold == pytest.approx(0, abs=1e-9)
    assert training.near(made(REAL[:50])).all()


NETWORKS = {
    FeatureNetworkConfig(1, (4, 8), classes=3): 8,
    FeatureNetworkConfig(1, (4, 8), blocks=2, classes=3, family="convnext"): 8,
}


@pytest.mark.parametrize(("config", "width"), NETWORKS.items(), ids=str)
def test_a_network_survives_its_file(config: FeatureNetworkConfig, width: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = FeatureNetwork(config).eval()
    path = tmp_path / "net.safetensors"
    sha256 = save_network(network, {"test_accuracy": 0.5}, path)
    made = load_network(path, name="tiny", sha256=sha256)
    assert made.sha256 == sha256
    x = images(9, 10)
    features = made(x)
    assert features.shape == (10, width)
    assert (features >= 0).all()
    np.testing.assert_allclose(features, Extractor(network, "tiny", "x")(x), atol=2e-3)  # float16 weights
    assert made.classes(features).shape == (10,)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_network(path, name="tiny", sha256="0" * 64)


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n", b"{}"])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    for load in (lambda: load_network(path, name="bad"), lambda: Reference.load(path)):
        with pytest.raises(WeightsError, match="no safetensors file"):
            load()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3)}, path, {"format": "something"})
    for load in (lambda: load_network(path, name="bad"), lambda: Reference.load(path)):
        with pytest.raises(DDIMKitError, match="something"):
            load()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: extractor("uint16"), ValueError, "uint16"),
        (lambda: extractor(sha256=""), ValueError, "hash"),
        (lambda: Extractor(torch.nn.Flatten(), "train mode", "x"), ValueError, "eval"),
        (lambda: extractor()(images(1, 0)), ValueError, "there must be images"),
        (lambda: extractor()(images(1, 5), batch_size=0), ValueError, "batch size"),
        (lambda: extractor()(images(1, 5) * np.nan), ValueError, "NaN"),
        (lambda: extractor()(torch.zeros(5, 1, 4, 4, dtype=torch.int64)), TypeError, "floating point"),
        (lambda: Extractor(lambda x: x, "images", "x")(images(1, 5)), ValueError, r"\(B, d\)"),
        (lambda: extractor(classes=False).classes(np.zeros((2, 4))), ValueError, "no classes"),
        (lambda: evaluate_images(images(1, 4), range(4), reference(), extractor()), ValueError, "at least 5"),
        (lambda: evaluate_images(images(1, 6), range(5), reference(), extractor()), ValueError, "5 seeds"),
        (lambda: evaluate(np.zeros((6, 3)), range(6), reference(), extractor()), ValueError, "width 3"),
        (lambda: evaluate_images(images(1, 6), [0] * 6, reference(), extractor()), ValueError, "its own"),
        (lambda: evaluate_images(images(1, 6), range(6), reference(), extractor()).estimate("fid"), ValueError, "'fid'"),
        (
            lambda: evaluate_images(images(1, 6), range(6), reference(), extractor()).estimate("memorised"),
            ValueError,
            "training images",
        ),
        (lambda: FeatureNetworkConfig(widths=()), ValueError, "at least 1"),
        (lambda: FeatureNetworkConfig(family="vgg"), ValueError, "family must be"),  # type: ignore[arg-type]
        (lambda: FeatureNetwork(FeatureNetworkConfig(3, (4,))).eval()(images(1, 2)), ValueError, "3, H, W"),
    ],
)
def test_bad_input_raises_naming_the_fault(call, error, says: str) -> None:
    with pytest.raises(error, match=says):
        call()
