"""What is said of quality follows from the figures, either way."""

from dataclasses import replace

import pytest

from curves import curve, judged, quality, result, study
from ddimkit.tradeoff.findings import findings, lines
from ddimkit.tradeoff.quality_findings import quality_findings, scale


def said(*results, **settings) -> str:
    found = study(*results, **settings)
    return "\n".join(quality_findings(found, lines(found, every_eta=True)))


def test_nothing_judged_nothing_said() -> None:
    assert quality_findings(curve(result()), lines(curve(result()), every_eta=True)) == []
    assert "Kernel distance" not in "\n".join(findings(curve(result())))


def test_the_scale_is_said() -> None:
    assert "other real images 0, DDPM-1000 1 (" in said(*judged({10: 2.0}))
    assert "noise 100" in said(*judged({10: 2.0}))
    unjudged = curve(*judged({10: 2.0}), floor=quality(0.0), noise=quality(100.0))
    assert scale(unjudged) == "Kernel distance to real images, the scale: other real images 0, DDPM-1000 not judged, noise 100."
    assert scale(curve(result())) is None


@pytest.mark.promise(41)
def test_every_count_is_placed_beside_the_baseline() -> None:
    text = said(*judged({10: 2.0}), *judged({20: 1.01}, width=0.03), *judged({50: 1.0, 100: 0.9}))
    assert "DDIM with eta 0 beside DDPM-1000: better at 100; no difference at 20 (±0.06), 50 (±0); worse at 10 steps." in text
    assert "better" not in said(*judged({10: 2.0, 20: 1.5})).split("More")[0]


@pytest.mark.promise(42)
def test_where_more_steps_are_worse_it_is_said() -> None:
    assert "More steps are not better everywhere for DDIM with eta 0: 100 steps are worse than 50 by 0.5" in said(
        *judged({10: 3.0, 50: 1.0, 100: 1.5})
    )
    assert "More steps are not better" not in said(*judged({10: 3.0, 50: 1.5, 100: 1.0}))
    # Each a little worse than the one before, which two neighbours alone cannot show.
    slowly = said(*judged({10: 1.0, 50: 1.06, 100: 1.12, 250: 1.18}, width=0.03))
    assert "250 steps are worse than 10 by 0.18" in slowly


@pytest.mark.promise(41)
def test_eta_is_compared_at_the_same_steps() -> None:
    plain = judged({10: 2.0, 20: 1.0, 50: 1.0})
    text = said(*plain, *judged({10: 1.0, 20: 1.0, 50: 1.2}, eta=0.5))
    assert "better for DDIM-10 eta 0.5; worse for DDIM-50 eta 0.5; no difference for 1 configurations" in text
    assert "eta above 0" not in said(*plain)


def test_how_well_the_prediction_foretells_is_said() -> None:
    measured = judged({10: 3.0, 20: 2.0, 50: 1.5, 100: 1.0})
    right = [replace(c, predicted_distance=p) for c, p in zip(measured, (8.0, 4.0, 2.0, 1.0), strict=True)]
    text = said(*right)
    assert "rank correlation 1.00 with the measured distances over 4 configurations, 0 of 6 clear differences the wrong way" in text
    wrong = [replace(c, predicted_distance=p) for c, p in zip(measured, (0.5, 4.0, 2.0, 1.0), strict=True)]
    text = said(*wrong)
    assert "rank correlation -0.20" in text
    assert (
        "3 of 6 clear differences the wrong way round, 0 of them between samplers or etas, the largest: DDIM-10 was foretold "
        "better than DDIM-100." in text
    )
    noisy = [replace(c, predicted_distance=9.0) for c in judged({10: 0.5}, eta=1.0)]
    assert "4 of 10 clear differences the wrong way round, 4 of them between samplers or etas" in said(*right, *noisy)
    equal = [replace(c, predicted_distance=p) for c, p in zip(measured, (4.0, 4.0 * (1 + 1e-12), 2.0, 1.0), strict=True)]
    assert "0 of 5 clear differences" in said(*equal)
    assert "rank correlation 0.95" in said(*equal)
    alike = [replace(c, predicted_distance=float(c.steps)) for c in judged({10: 1.0, 20: 1.0, 50: 1.0, 100: 1.0})]
    assert "0 of 0 clear differences" in said(*alike)
    assert "Predicted" not in said(*right[:3])
    assert "Predicted" not in said(*measured)


def test_what_more_images_would_narrow_is_said() -> None:
    wide = replace(result(steps=20), quality=quality(1.0, width=0.5, count=50))
    text = said(wide, *judged({10: 2.0, 50: 1.0}, width=0.01))
    assert "More images would narrow the difference of DDIM-20 (50 images) from DDPM-1000 (1,000) most: it is known to ±" in text
    settled = replace(wide, quality=quality(9.0, width=0.5, count=50))
    assert "The widest interval is DDIM-20's, ±" in said(settled, *judged({10: 2.0}))
    assert "from 50 images" in said(settled, *judged({10: 2.0}))
