"""Studies: rows that reproduce their samplers, paired differences from the covariance matrix, and files that read back."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimkit import (
    DDIMKitError,
    DDIMSampler,
    DDPMSampler,
    DPMSolverPPSampler,
    NoiseSchedule,
    PlanSampler,
    UniPCSampler,
    load_pretrained,
)
from ddimkit.prediction import DynamicThreshold
from ddimkit.quality.estimate import Z95
from ddimkit.samplers.named import sigma_hat
from ddimkit.tradeoff.committed import FOLDER, find_study
from ddimkit.tradeoff.evaluation import Evaluation, contradicts
from ddimkit.tradeoff.rows import label_of, sampler_from_dict, sampler_to_dict, shared_settings
from ddimkit.tradeoff.study import Study, distance_covariances, known_row
from plugins import AdamsBashforth2
from strategies import schedules
from studies import LINE, LINEAR, ddim, line, quality, row, study, toy, toy_evaluator

SAMPLERS = [
    DDIMSampler(LINEAR, steps=10),
    DDIMSampler(LINEAR, steps=10, eta=0.5, spacing="log_snr"),
    DDIMSampler(LINEAR, timesteps=[999, 500, 3]),
    DDPMSampler(LINEAR, steps=1000),
    sigma_hat(LINEAR, steps=7),
    DPMSolverPPSampler(LINEAR, steps=6, order=3),
    DPMSolverPPSampler(LINEAR, steps=6, order=2, eta=1.0),
    UniPCSampler(LINEAR, steps=8, order=3, variant="bh1"),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=label_of)
@pytest.mark.parametrize("clip", [None, (-1.0, 1.0), DynamicThreshold(0.9, max=2.0)])
def test_a_row_reads_back_as_the_sampler_it_was(sampler: PlanSampler, clip: Any) -> None:
    sampler = replace(sampler, clip=clip, prediction="v", **({"timesteps": ()} if sampler.steps else {}))
    saved = json.loads(json.dumps([sampler_to_dict(sampler), shared_settings(sampler)]))
    alone = replace(
        study(), rows=(row(sampler),), baseline=label_of(sampler), label=None, real_vs_real=None, noise=None, covariances={}
    )
    from_file = Study.from_dict(json.loads(json.dumps(alone.to_dict())))
    assert from_file.base.sampler == sampler
    assert sampler_from_dict(saved[0], LINEAR, {"prediction": "v", "clip": clip}) == sampler


def test_labels_tell_samplers_apart() -> None:
    assert [label_of(sampler) for sampler in SAMPLERS] == [
        "DDIM-10",
        "DDIM-10 eta 0.5 log_snr",
        "DDIM-3 list",
        "DDPM-1000",
        "sigma-hat-7",
        "DPM++3M-6",
        "DPM++2M-SDE-6",
        "UniPC3-bh1-8",
    ]


def test_samplers_of_other_classes_are_kept_as_their_tables(tmp_path: Path) -> None:
    made = study(row(AdamsBashforth2(LINEAR, steps=5), 2.0))
    made.save(tmp_path / "study.json")
    read = Study.load(tmp_path / "study.json").row("AdamsBashforth2-5")
    assert read.sampler.plan() == AdamsBashforth2(LINEAR, steps=5).plan()
    assert read.calls == 5


@given(
    distances=st.lists(st.floats(-1, 10), min_size=2, max_size=6),
    correlation=st.floats(0, 0.99),
    weights=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
)
def test_contrasts_are_those_of_the_covariance_matrix(distances: list[float], correlation: float, weights: list[float]) -> None:
    made = study(*line(dict(zip((10, 20, 50, 100, 250, 500), distances, strict=False))), correlation=correlation)
    names = [r.label for r in made.evaluated[1:]]
    chosen = np.array([0.0, *weights[: len(names)]])
    found = made.contrast(dict(zip(names, weights, strict=False)))
    assert found.value == pytest.approx(float(chosen[1:] @ distances), abs=1e-9)
    variance = float(chosen @ made.covariances["kernel"] @ chosen)
    assert found.margin == pytest.approx(Z95 * np.sqrt(max(variance, 0.0)), abs=1e-9)
    assert made.difference(names[0], names[1]).value == pytest.approx(distances[0] - distances[1])
    assert made.difference(names[0], names[0]).interval == (0.0, 0.0)


def test_covariances_of_rows_evaluated_now_are_those_of_their_influences() -> None:
    bundle, evaluator = toy(), toy_evaluator()
    samplers = [bundle.sampler(DDIMSampler, steps=steps, eta=eta) for steps, eta in ((10, 0.0), (20, 0.0), (10, 1.0))]
    images = [s.sample(bundle.model, (60, *bundle.sample_shape), seed=range(60)) for s in samplers]
    rows = [row(s, label=label_of(s), timed=False) for s in samplers]
    rows = [replace(r, quality=evaluator.evaluate(x, range(60))) for r, x in zip(rows, images, strict=True)]
    made = distance_covariances(rows)
    for metric, matrix in made.items():
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                assert a.quality is not None
                assert b.quality is not None
                apart = a.quality.estimate(metric) - b.quality.estimate(metric)
                variance = matrix[i, i] + matrix[j, j] - 2 * matrix[i, j]
                assert apart.margin == pytest.approx(Z95 * np.sqrt(max(variance, 0.0)), rel=1e-6, abs=1e-12)


def test_rows_of_an_earlier_study_keep_its_covariances_under_other_labels() -> None:
    known = study(*line(LINE), covariance=np.diag(np.arange(1.0, 7.0)) + 0.5)
    places = [3, 0, 5]
    kept = [replace(known.rows[i], label=f"mine {i}") for i in places]
    for metric, matrix in distance_covariances(kept, known).items():
        assert np.array_equal(matrix, known.covariances[metric][np.ix_(places, places)])


def test_a_study_survives_its_file(tmp_path: Path) -> None:
    made = study(
        *line(LINE), row(DDIMSampler(LINEAR, timesteps=[999, 640, 230]), 1.2, selected=1.1, search={"objective": "network"})
    )
    for path in (tmp_path / "study.json", str(tmp_path / "other.json")):
        made.save(path)
        read = Study.load(path)
        assert read.to_dict() == made.to_dict()
        assert [r.sampler for r in read.rows] == [r.sampler for r in made.rows]
        apart = [s.difference("DDIM-10", "DDIM-50").interval for s in (made, read)]
        assert apart[0] == pytest.approx(apart[1], rel=1e-2)
    assert not list(tmp_path.glob("*.partial"))


@given(schedule=schedules(min_size=4, max_size=9))
def test_a_study_of_any_schedule_reads_back(schedule: NoiseSchedule) -> None:
    sampler = DDPMSampler(schedule, steps=schedule.num_timesteps, prediction="v")
    made = replace(study(), schedule=schedule, rows=(row(sampler),), baseline=label_of(sampler), label=None, covariances={})
    read = Study.from_dict(json.loads(json.dumps(replace(made, real_vs_real=None, noise=None).to_dict())))
    assert read.schedule.is_same(schedule)
    assert read.base.calls == schedule.num_timesteps


def test_a_subset_keeps_what_is_known_of_its_rows() -> None:
    made = study(*line(LINE), ddim(500))
    part = made.subset(["DDIM-50", "DDIM-500"])
    assert [r.label for r in part.rows] == ["DDPM-1000", "DDIM-50", "DDIM-500"]
    assert part.difference("DDIM-50", "DDPM-1000").interval == made.difference("DDIM-50", "DDPM-1000").interval


def _damaged(change: Callable[[dict[str, Any]], None]) -> str:
    saved = study(*line(LINE)).to_dict()
    change(saved)
    return json.dumps(saved)


BAD: dict[str, tuple[str, str]] = {
    "something else": ('{"kind": "ddimkit-unet"}', "holds no study"),
    "a list": ("[]", "holds no study"),
    "an older schema": (_damaged(lambda s: s.update(schema_version=0)), "schema 0, and this version reads schema 1"),
    "truncated": (_damaged(lambda s: None)[:500], "is not a study"),
    "NaN": (_damaged(lambda s: s["rows"][1].update(predicted=float("nan"))), "it holds NaN"),
    "a row without its sampler": (_damaged(lambda s: s["rows"][1].pop("sampler")), "row 'DDIM-10' has no sampler"),
    "a sampler of another version": (
        _damaged(lambda s: s["rows"][1]["sampler"].update({"class": "Heun"})),
        "'Heun' is no sampler of this version",
    ),
    "an interval beside its value": (
        _damaged(lambda s: s["rows"][1]["quality"]["kernel"].update(low=9.0, high=10.0)),
        "lie in its interval",
    ),
    "no baseline": (_damaged(lambda s: s.update(baseline="DDIM-7")), "baseline 'DDIM-7' is none of the rows"),
    "two rows of one name": (_damaged(lambda s: s["rows"].append(s["rows"][1])), "label of its own"),
    "a matrix of another size": (_damaged(lambda s: s["covariances"]["kernel"]["errors"].pop()), "covariance"),
    "correlations above 1": (
        _damaged(lambda s: s["covariances"]["kernel"]["correlations"].__setitem__(1, [7.0])),
        "correlations lie in",
    ),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_study_gets_one_clear_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DDIMKitError, match=says) as caught:
        Study.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_not_measured_is_named() -> None:
    made = study(ddim(10), *line({20: 2.0}))
    with pytest.raises(KeyError, match="DDIM-7"):
        made.row("DDIM-7")
    with pytest.raises(ValueError, match="DDIM-10: the quality"):
        made.difference("DDIM-10", "DDIM-20")
    fewer = study(ddim(10, 2.0, count=500), *line({20: 2.0}))
    with pytest.raises(ValueError, match="use 'kernel'"):
        fewer.difference("DDIM-10", "DDIM-20", "frechet")


def test_the_committed_study_is_of_the_bundled_model_and_small() -> None:
    mnist = load_pretrained("mnist")
    found = find_study(mnist)
    assert found is not None
    assert found.model["weights_sha256"] == mnist.weights_sha256()
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) <= 400_000
    assert len(found.evaluated) == len(found.rows)
    for other in (
        replace(mnist, prediction="epsilon"),
        replace(mnist, clip=(-1.0, 1.0)),
        replace(mnist, schedule=NoiseSchedule.cosine()),
    ):
        assert find_study(other) is None
    assert find_study(toy()) is None


@pytest.mark.promise(61)
def test_the_committed_study_is_found_on_a_processor_without_avx512() -> None:
    """In a process whose numpy computes as on such a processor; where this one has no AVX-512 the two are the same anyway."""
    said = (
        "from ddimkit import load_pretrained, preset\nmnist = load_pretrained('mnist')\n"
        "print(preset('realtime', model=mnist).timesteps, preset('production', model=mnist, refinable=False).nfe)"
    )
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}
    command = [sys.executable, "-W", "ignore", "-c", said]
    plain, without = (
        subprocess.run(command, env=e, capture_output=True, text=True, check=True).stdout for e in ({**os.environ}, environment)
    )
    assert plain == without
    assert "999" in plain or "974" in plain


def test_an_earlier_study_stands_for_rows_that_it_has() -> None:
    """On a schedule of other last bits too; rows that it lacks are drawn."""
    bundle, evaluator = toy(), toy_evaluator()
    known = DDIMSampler(
        replace(bundle.schedule, signal=bundle.schedule.signal * (1 - 1e-15)), steps=10, prediction="x0", clip=(-1.0, 1.0)
    )
    figures = replace(quality(0.1, count=5000), label=evaluator.reference.label)
    before = study(row(known, quality=figures, source="before", selected=0.2))
    found = Evaluation(evaluator, images=20, study=before).rows(
        {label_of(s): s for s in (bundle.sampler(DDIMSampler, steps=n) for n in (10, 20))},
        bundle,
        1.0,
        device=torch.device("cpu"),
        folder=None,
        report=lambda *_: None,
    )
    assert known_row(before, bundle.sampler(DDIMSampler, steps=10)) is before.rows[1]
    assert found[0].quality is figures
    assert found[0].source.startswith("before")
    assert found[1].source == "this run"
    assert found[1].quality is not None
    assert found[1].quality.count == 20


@pytest.mark.parametrize(("apart", "expected"), [(0.0, False), (0.13, False), (0.15, True), (-0.15, True)])
def test_a_contradiction_is_more_than_three_standard_errors(apart: float, expected: bool) -> None:
    assert contradicts(quality(1.0 + apart, 0.03), quality(1.0, 0.0332)) is expected
