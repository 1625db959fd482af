"""The bundled evaluator measures what it should: worse images are further away, in every way in which they can be worse."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ddimkit import DDIMSampler, WeightsError, load_pretrained
from ddimkit._features.augment import augment, cover
from ddimkit._features.recipe import CIFAR10_FEATURES, FeatureRecipe
from ddimkit._features.train import train
from ddimkit._training.session import Session
from ddimkit.quality import Evaluator, Extractor, Quality, Reference, difference, load_evaluator
from ddimkit.quality import evaluator as evaluators
from ddimkit.quality.evaluator import read_evaluator
from ddimkit.weights._tensorfile import read_tensors

WEIGHTS = Path(evaluators.__file__).parent / "weights"
COUNT = 200


@pytest.fixture(scope="module")
def mnist() -> Evaluator:
    return load_evaluator("mnist")


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """Images of the bundled model, of which the tests make worse ones."""
    bundle = load_pretrained("mnist")
    return bundle.sampler(DDIMSampler, steps=10).sample(bundle.model, (COUNT, *bundle.sample_shape), seed=0).clamp(-1, 1)


def evaluated(mnist: Evaluator, images: torch.Tensor) -> Quality:
    return mnist.evaluate(images, range(len(images)))


def growing(mnist: Evaluator, series: list[torch.Tensor]) -> bool:
    """Whether each set of images is clearly further from the real ones than the one before, by either distance."""
    found = [evaluated(mnist, images) for images in series]
    return all(
        difference(worse, better, name).interval[0] > 0
        for name in ("kernel", "frechet")
        for better, worse in itertools.pairwise(found)
    )


def test_the_network_is_as_good_as_promised() -> None:
    file = read_tensors(WEIGHTS / "mnist-features.safetensors", kind="ddimkit-features", schema=1)
    assert file.settings["figures"]["test_accuracy"] >= 0.993
    assert (WEIGHTS / "mnist-features.safetensors").stat().st_size <= 500_000


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_scale_runs_from_real_images_to_noise(split) -> None:
    found = load_evaluator("mnist", split)
    assert found.reference.label.reference == f"mnist {split}"
    assert found.reference.label.images == {"train": 60_000, "test": 10_000}[split]
    assert found.real_vs_real.count == 10_000
    assert found.real_vs_real.precision.value > 0.7
    assert found.noise.precision.value < 0.05
    # Other real images are as far as chance moves the reference itself; noise is thousands of times further.
    assert abs(found.real_vs_real.kernel.value) < 5e-4
    assert found.noise.kernel.interval[0] > 1000 * 5e-4
    assert sum(found.reference.classes) == found.reference.label.images


def test_digits_lie_between_real_images_and_noise(mnist: Evaluator, digits: torch.Tensor) -> None:
    bundle = load_pretrained("mnist")
    crude = bundle.sampler(DDIMSampler, steps=2).sample(bundle.model, (COUNT, *bundle.sample_shape), seed=0)
    found, worse = evaluated(mnist, digits), evaluated(mnist, crude)
    assert mnist.real_vs_real.kernel.interval[1] < found.kernel.value
    assert found.kernel.interval[1] < 0.1 < worse.kernel.interval[0]
    assert worse.kernel.interval[1] < 0.05 * mnist.noise.kernel.value
    assert min(found.classes) > 0
    assert found.class_distance is not None
    assert found.class_distance.value < 0.2


def test_noise_makes_them_worse(mnist: Evaluator, digits: torch.Tensor) -> None:
    noise = torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    assert growing(mnist, [(digits + level * noise).clamp(-1, 1) for level in (0.0, 0.3, 0.6, 1.2)])


def test_blur_makes_them_worse(mnist: Evaluator, digits: torch.Tensor) -> None:
    blurred = [digits]
    for _ in range(3):
        blurred.append(F.avg_pool2d(F.pad(blurred[-1], (1, 1, 1, 1), value=-1.0), 3, stride=1))
    assert growing(mnist, blurred)


def test_missing_classes_make_them_worse(mnist: Evaluator, digits: torch.Tensor) -> None:
    """As many images, of fewer and fewer digits."""
    classes = mnist.extractor.classes(mnist.extractor(digits))
    series = []
    for kept in (10, 6, 3, 1):
        some = digits[torch.from_numpy(np.flatnonzero(classes < kept))]
        series.append(some[torch.arange(COUNT) % len(some)])
    assert growing(mnist, series)
    distances = [evaluated(mnist, images).estimate("class_distance").value for images in series]
    assert distances == sorted(distances)


def test_memorised_duplicates_make_them_worse(mnist: Evaluator, digits: torch.Tensor) -> None:
    """A few images again and again: each is as good as before, the variety is not."""
    series = [digits[torch.arange(COUNT) % different] for different in (COUNT, 20, 3)]
    assert growing(mnist, series)
    recalls = [evaluated(mnist, images).recall.value for images in series]
    assert recalls[0] > recalls[1] >= recalls[2]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for path in WEIGHTS.glob("mnist-*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert read_evaluator("mnist", tmp_path).real_vs_real.to_dict() == load_evaluator("mnist").real_vs_real.to_dict()
    scale = tmp_path / "mnist-scale-test.json"
    scale.write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(WeightsError, match="no scale"):
        read_evaluator("mnist", tmp_path)
    with pytest.raises(WeightsError, match="SHA-256"):
        read_evaluator("mnist", tmp_path, "test", evaluators._PRETRAINED["mnist"])
    scale.unlink()
    with pytest.raises(WeightsError, match="missing"):
        read_evaluator("mnist", tmp_path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="mnist"):
        load_evaluator("imagenet")
    with pytest.raises(ValueError, match="'all'"):
        load_evaluator("mnist", "all")  # type: ignore[arg-type]


def test_images_are_turned_scaled_and_moved_but_stay_images() -> None:
    images = torch.full((64, 1, 28, 28), -1.0)
    images[:, :, 10:18, 10:18] = 1
    moved = augment(images, FeatureRecipe(), torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.min() >= -1
    assert moved.max() <= 1
    assert (moved[:, :, :2] == -1).all()
    assert len({float(m.sum()) for m in moved}) > 60
    torch.testing.assert_close(
        augment(images, FeatureRecipe(degrees=0, scale=0, shift=0), torch.Generator()), images, atol=1e-5, rtol=0
    )


def test_the_recipe_makes_an_evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes that are easy to tell apart, learnt in four epochs; the files read back."""
    numbers = np.random.default_rng(0)

    def load(dataset: str, folder: Path, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
        labels = numbers.integers(0, 2, 512 if split == "train" else 128).astype(np.uint8)
        images = numbers.integers(0, 60, (len(labels), 1, 8, 8)).astype(np.uint8)
        images[labels == 1, :, 2:6, 2:6] += 150
        images.setflags(write=False)
        return images, labels

    monkeypatch.setattr("ddimkit._features.train.load_images", load)
    _, figures = train(
        FeatureRecipe(epochs=4, batch_size=32, ema_decay=0.5), tmp_path, Session(tmp_path, progress=False), device="cpu"
    )
    assert figures["test_accuracy"] > 0.95
    made = read_evaluator("mnist", tmp_path, "train")
    file = read_tensors(tmp_path / "mnist-features.safetensors", kind="ddimkit-features", schema=1)
    assert file.settings["figures"]["test_accuracy"] > 0.95
    assert made.reference.label.images == 512
    assert made.real_vs_real.count == 128
    assert made.real_vs_real.kernel.value < made.noise.kernel.value


def test_the_pixels_mean_and_covariance_are_known(mnist: Evaluator) -> None:
    """From which the sweep predicts errors; of large images they are left out."""
    assert mnist.pixels is not None
    count = np.asarray(mnist.pixels.count)
    assert count.sum() == 784
    # The variance of all pixels on [0, 1] is 52.7.
    assert (count * mnist.pixels.spectrum).sum() == pytest.approx(52.7 * 4, rel=0.02)
    wide = Extractor(lambda x: x.flatten(1)[:, :3], name="three", sha256="1")
    large = torch.rand(6, 1, 65, 65) * 2 - 1
    assert Evaluator.of(wide, Reference.of("large", wide(large), wide), large, noise_images=6).pixels is None


def test_whole_pixels_keep_images_sharp() -> None:
    """Neither turned nor scaled, an image is moved by whole pixels and mirrored: its values are those it had."""
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recipe = FeatureRecipe(degrees=0, scale=0, shift=3.0, flip=True)
    moved = augment(images, recipe, torch.Generator().manual_seed(0))
    places = [(across, down, flip) for across in range(-3, 4) for down in range(-3, 4) for flip in (False, True)]
    found = set()
    for before, after in zip(images, moved, strict=True):
        for across, down, flip in places:
            wide = F.pad(before.flip(2) if flip else before, (3, 3, 3, 3), value=-1.0)
            if torch.allclose(after, wide[:, 3 + down : 19 + down, 3 + across : 19 + across], atol=1e-5):
                found.add((across, down, flip))
                break
        else:
            pytest.fail("an image is not one of the 98 moves")
    assert len(found) > 30


def test_a_square_is_covered_inside_the_image() -> None:
    images = torch.ones(200, 3, 8, 10)
    covered = cover(images, 4, torch.Generator().manual_seed(0))
    assert bool((images == 1).all())
    hidden = covered[:, 0] == 0
    assert bool((covered.eq(0) == hidden[:, None]).all())
    assert hidden.sum(dim=(1, 2)).tolist() == [16] * 200
    rows, columns = hidden.any(dim=2).float().argmax(dim=1), hidden.any(dim=1).float().argmax(dim=1)
    assert {int(row) for row in rows} == set(range(5))
    assert {int(column) for column in columns} == set(range(7))


def test_the_recipe_of_cifar10_covers_and_mirrors() -> None:
    images = torch.ones(8, 3, 32, 32)
    images[:, :, :, :16] = 0.5
    changed = augment(images, CIFAR10_FEATURES, torch.Generator().manual_seed(0))
    assert bool((changed == 0).any(dim=1).sum(dim=(1, 2)).ge(64).all())
    middle = changed[:, 0, :, 24].amax(dim=1)
    assert {round(float(value), 3) for value in middle} == {0.5, 1.0}
