"""The benchmarks: their timing, ratios and fits against known answers, and every script's rehearsal from end to end."""

import functools
import importlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import speed_page
from _contest import Contender, Contest, Exponent, Ratio, contest, median_interval
from _kernels import Traffic, kind_of, time_by_kind
from _networks import network, same_weights, tuned
from ddimkit import DDIMSampler, NoiseSchedule

ROOT = Path(__file__).parent.parent
SCRIPTS = ("sampler_overhead", "unet_forward", "end_to_end", "scaling", "roofline")
WITH_DIFFUSERS = ("unet_forward", "end_to_end")


@dataclass
class Machine:
    """A clock that contenders push forward, at a pace that changes from round to round."""

    now: float = 0.0
    pace: float = 1.0
    order: list[str] = field(default_factory=list[str])

    def clock(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float, units: int = 1, paces: Sequence[float] = ()) -> Contender:
        turns = iter(paces)

        def run() -> None:
            self.pace = next(turns, self.pace)
            self.order.append(name)
            self.now += seconds * self.pace

        return Contender(run, units)


def test_contenders_take_turns_and_every_round_begins_with_another() -> None:
    machine = Machine()
    contest({name: machine.contender(name, 1.0) for name in "abc"}, 4, clock=machine.clock)
    assert "".join(machine.order) == "abc" + "abc" + "bca" + "cab" + "abc"  # the first to warm up


def test_seconds_are_those_of_a_unit_and_ratios_those_of_one_round() -> None:
    machine = Machine()
    # Warm-up, then rounds at three paces: the medians say little, the ratios everything.
    runs = {"steady": machine.contender("steady", 3.0, paces=(1, 1, 10, 4)), "other": machine.contender("other", 4.0, units=2)}
    found = contest(runs, 1, clock=machine.clock)
    assert found.seconds == {"steady": (3.0,), "other": (2.0,)}
    assert found.ratio("other", "steady") == Ratio(2 / 3)
    found = Contest({"slow": (2.0, 20.0, 6.0), "fast": (1.0, 10.0, 2.0)})
    assert found.ratio("slow", "fast", 1.0) == Ratio(2.0, goal=1.0)
    assert found.median("slow") == 6.0
    assert found.fastest(["slow", "fast"]) == "fast"
    assert found.figures()["slow"] == {"median_us": 6e6, "low_us": 4e6, "high_us": 13e6}


def test_short_calls_are_repeated_within_a_turn() -> None:
    machine = Machine()
    found = contest({"a": machine.contender("a", 0.25), "b": machine.contender("b", 3.0)}, 2, least=1.0, clock=machine.clock)
    assert machine.order.count("a") == 1 + 1 + 2 * 4  # warm-up, trial, two turns
    assert machine.order.count("b") == 1 + 1 + 2
    assert found.seconds == {"a": (0.25, 0.25), "b": (3.0, 3.0)}


def test_a_ratio_has_the_interval_of_its_median_and_a_verdict() -> None:
    ratios = (0.9, 1.2, 1.0, 1.1, 1.3, 0.8)
    found = Contest({"a": ratios, "b": (1.0,) * 6}).ratio("a", "b", 1.0)
    assert (found.ratio, found.low, found.high) == (pytest.approx(1.05), 0.8, 1.3)
    assert found.verdict == "reached within the interval"
    assert Ratio(1.05, 1.01, 1.1, goal=1.0).verdict == "not reached"
    assert Ratio(1.0, goal=1.0).verdict == "reached"
    assert Ratio(1.1, goal=1.0).verdict == "not reached"
    assert Ratio(1.1).verdict == ""
    assert str(Ratio(1.05, 0.8, 1.3, 1.0)) == "1.050 (0.800 to 1.300), goal 1.000: reached within the interval"


def test_exponents_are_those_of_powers() -> None:
    sizes = {"one": 10.0, "two": 20.0, "three": 80.0}
    seconds = {name: tuple(pace * 0.3 * size**1.5 for pace in (1, 2, 3, 4, 5, 6)) for name, size in sizes.items()}
    found = Contest(seconds).exponent(sizes, goal=1.5)
    assert found.exponent == pytest.approx(1.5)
    assert found.r_squared == pytest.approx(1)
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert found.verdict == "reached"
    assert Exponent(1.011, 1.0, goal=1.0).verdict == Exponent(1.0, 0.9994, goal=1.0).verdict == "not reached"
    with pytest.raises(ValueError, match="three different sizes"):
        Contest(seconds).exponent({"one": 10.0, "two": 20.0})


@pytest.mark.parametrize(("count", "place"), [(0, 0), (5, 0), (6, 1), (8, 1), (9, 2), (25, 8), (27, 8), (100, 40)])
def test_the_interval_of_a_median_is_that_of_the_tables(count: int, place: int) -> None:
    values = [float(v) for v in range(count, 0, -1)]
    assert median_interval(values) == ((place, count + 1 - place) if place else None)


@given(count=st.integers(0, 200), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_the_narrowest_that_keeps_its_confidence(count: int, confidence: float) -> None:
    found = median_interval(range(1, count + 1), confidence)
    place = int(found[0]) if found else 0
    # It misses the median where fewer than `place` of the fair throws fall on one side.
    missed = [2 * sum(math.comb(count, i) for i in range(k)) / 2**count for k in (place, place + 1)]
    assert missed[0] <= 1 - confidence
    assert missed[1] > 1 - confidence or place == count


def goals(ratios: dict[str, Ratio]) -> dict[str, float | None]:
    return {pair: ratio.goal for pair, ratio in ratios.items()}


def test_ours_is_compared_with_the_best_that_theirs_can_do() -> None:
    from end_to_end import compare as compare_runs
    from unet_forward import compare as compare_forwards

    eager = {"diffusers": (5.0,), "diffusers, channels_last": (4.0,), "ours": (3.0,), "ours, channels_last": (2.0,)}
    compiled = {
        "diffusers, compiled": (1.5,),
        "diffusers, channels_last, compiled": (1.6,),
        "ours, channels_last, compiled": (1.0,),
    }
    against_eager = {"ours, channels_last / diffusers, channels_last": 1.0, "ours, channels_last / diffusers": 1 / 1.1}
    assert goals(compare_forwards(Contest(eager))) == against_eager
    found = compare_forwards(Contest(eager | compiled))
    assert goals(found) == against_eager | {"ours, channels_last, compiled / diffusers, compiled": 1.0}
    assert [ratio.ratio for ratio in found.values()] == [2 / 4, 2 / 5, 1 / 1.5]
    best = {"diffusers": (1.0,), "diffusers, channels_last": (4.0,), "ours": (3.0,)}
    assert goals(compare_forwards(Contest(best))) == {"ours / diffusers": 1 / 1.1}

    runs = {"diffusers": (9.0,), "diffusers, compiled": (4.0,), "ours": (3.0,), "ours, compiled": (2.0,)}
    assert goals(compare_runs(Contest(runs))) == {"ours / diffusers": 1.0, "ours, compiled / diffusers, compiled": 1.0}
    graphs = runs | {"ours, captured": (1.0,), "ours, compiled, captured": (0.5,)}
    assert goals(compare_runs(Contest(graphs), launch_bound=True)) == {
        "ours / diffusers": 1.0,
        "ours, compiled, captured / diffusers, compiled": 1 / 1.5,
        "ours, compiled, captured / diffusers": 0.1,
        "ours, captured / ours": None,
        "ours, compiled, captured / ours, compiled": None,
    }


def test_a_captured_run_draws_what_the_plain_one_does() -> None:
    from end_to_end import captured_run, our_run

    model, image = network("tiny")
    drawn = captured_run(model, (2, *image), 3)()
    assert isinstance(drawn, torch.Tensor)
    assert drawn.shape == (2, *image)
    assert torch.equal(drawn, our_run(model, (2, *image), 3)())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "convolution"),
        ("aten::addmm", "matmul and attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "matmul and attention"),
        ("nvjet_tst_128x64", "matmul and attention"),
        ("aten::native_group_norm", "norm"),
        ("void at::native::RowwiseMomentsCUDAKernel<float>", "norm"),
        ("aten::silu_", "elementwise"),
        ("aten::copy_", "copies"),
        ("aten::constant_pad_nd", "copies"),
        ("triton_per_fused_convolution_native_group_norm_silu_3", "fused"),
        ("triton_tem_fused_convolution_5", "convolution"),
        ("aten::empty", "other"),
        ("aten::view", "other"),
    ],
)
def test_kernels_are_told_apart_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_traffic_counts_what_kernels_read_and_write() -> None:
    x = torch.ones(1000)
    for work, moved in (
        (lambda: x + x.view(10, 100).reshape(-1), 12_000),
        (lambda: x.view(10, 100).t(), 0),
        (lambda: torch.empty(1000), 0),
        (lambda: x.mul_(1.0), 8_000),
    ):
        with Traffic() as traffic:
            work()
        assert traffic.moved == moved


def test_time_is_shared_out_by_kind() -> None:
    a = torch.ones(200, 200)
    shares = time_by_kind(lambda: a @ a, torch.device("cpu"))
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda kind: shares[kind]) == "matmul and attention"


@pytest.fixture(scope="module")
def rehearse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """A script's result with ``--quick``; each runs once."""

    @functools.cache
    def run(script: str) -> dict[str, Any]:
        if script in WITH_DIFFUSERS:
            pytest.importorskip("diffusers", reason="diffusers is not installed: it is in the dependency group bench")
        out = tmp_path_factory.mktemp("rehearsal") / "result.json"
        main: Callable[[Sequence[str]], None] = importlib.import_module(script).main
        main(["--quick", "--device", "cpu", "--out", str(out)])
        result: dict[str, Any] = json.loads(out.read_text())
        return result

    return run


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_time_to_quality_measures_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: it is in the dependency group bench")
    main: Callable[[Sequence[str]], None] = importlib.import_module("time_to_quality").main
    main(["--quick", "--device", "cpu", "--work", str(tmp_path), "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["times"]) == set(found["quality"])
    assert found["times"]["ours: learned-5"]["median_us"] > 0
    assert found["versions"]["diffusers"]
    assert len(list(tmp_path.glob("*-64.json"))) == len(found["quality"])  # from which the next call goes on
    assert "| diffusers: UniPCa-5 | 5 |" in capsys.readouterr().out


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_rehearsal_writes_a_result_that_the_documentation_shows(
    script: str, rehearse: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    result, out = rehearse(script), tmp_path / f"2026-01-02-{script}-rehearsal.json"
    out.write_text(json.dumps(result))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    assert result["machine"]["processor"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["settings"]["quick"] is True
    for case in result.get("cases", [result]):
        assert case["figures"]
        for figures in case["figures"].values():
            assert 0 < figures["low_us"] <= figures["median_us"] <= figures["high_us"]
        assert all(ratio["ratio"] > 0 for ratio in case["ratios"].values())
    assert "Not yet measured on a CPU" in speed_page.page(script, tmp_path)  # a rehearsal is no measurement
    out.write_text(json.dumps({**result, "settings": {**result["settings"], "quick": False}}))
    page = speed_page.page(script, tmp_path)
    assert f"{result['date']}, torch {torch.__version__}" in page
    assert page.count("Not yet measured") == 1  # on CUDA
    for case in result.get("cases", [result]):
        assert all(f"| {name} |" in page for name in (*case["figures"], *case["ratios"]))


def test_scaling_and_roofline_say_what_they_are_for(rehearse: Callable[[str], dict[str, Any]]) -> None:
    scaling = rehearse("scaling")
    assert [bool(case.get("fit")) for case in scaling["cases"]] == [True, True, True, True, False]
    assert scaling["cases"][0]["fit"]["goal"] == 1.0
    assert scaling["cases"][-1]["ratios"]["sample / bare forwards"]["goal"] == 1.02
    (case,) = rehearse("roofline")["cases"]
    model, image = network("tiny")
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert case["roofline"]["flops"] > 2 * 2 * image[1] * convolutions[0].weight.numel()
    assert case["roofline"]["bytes"] > sum(p.nbytes for p in model.parameters())
    assert sum(case["kinds"]["eager"].values()) == pytest.approx(1)


def test_precision_compares_the_same_seeds_and_is_shown(rehearse: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    result = rehearse("precision")
    assert [case["name"] for case in result["cases"]] == ["DDIM-4", "DDPM-4"]
    for case in result["cases"]:
        drift = case["drift"]["bfloat16"]
        assert list(drift) == ["1", "2", "3", "4"]
        assert all(0 < value < case["other_seeds"] / 4 for value in drift.values())
        assert case["gap"]["bfloat16"]["low"] <= case["gap"]["bfloat16"]["value"] <= case["gap"]["bfloat16"]["high"]
    shown = {**result, "settings": {**result["settings"], "quick": False}}
    (tmp_path / "2026-01-02-precision-rehearsal.json").write_text(json.dumps(shown))
    page = speed_page.page("precision", tmp_path)
    assert "| distance from float32 after |  | 1 | 2 | 3 | 4 | other seeds | kernel distance more by |" in page
    assert f"| DDPM-4 | bfloat16 | {result['cases'][1]['drift']['bfloat16']['1']:.1e} |" in page


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_networks_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: it is in the dependency group bench")
    import end_to_end
    from end_to_end import check_agreement as check_images
    from unet_forward import check_agreement, distances, networks

    theirs, ours, image = same_weights("tiny")
    x, t = torch.ones(2, *image), torch.tensor([3, 900])
    found = networks(theirs, ours, ())
    with torch.no_grad():
        wanted = theirs(x, t).sample
        assert torch.equal(tuned(theirs, fused=True)(x, t).sample, found["diffusers, channels_last, fused"](x, t))
    check_agreement(distances(found, wanted, x, t, "float32"))
    assert check_images(theirs, ours, tuple(x.shape), x.device) < 1e-4
    larger, ours_too, size = same_weights("mnist")  # whose images show what the tiny one's hide
    assert check_images(larger, ours_too, (2, *size), x.device) < 1e-4
    with monkeypatch.context() as patch:
        patch.setattr(end_to_end, "ddim", lambda steps: DDIMSampler(NoiseSchedule.linear(), steps, spacing="leading"))
        with pytest.raises(AssertionError, match="the pipeline's images differ from ours"):
            check_images(theirs, ours, tuple(x.shape), x.device)
    with torch.no_grad():
        ours.conv_out.bias += 1e-2
    with pytest.raises(AssertionError, match="ours differs from diffusers by"):
        check_agreement(distances(found, wanted, x, t, "float32"))
    with pytest.raises(AssertionError, match="ours differs from diffusers by"):
        check_images(theirs, ours, tuple(x.shape), x.device)


def test_the_newest_results_are_shown_and_where_there_are_none_the_command(tmp_path: Path) -> None:
    def result(date: str, device: str, name: str) -> None:
        ratio = {"ratio": 0.5, "goal": 1.0}
        machine: dict[str, Any] = {"processor": "P", "cores": 2, "threads": 1, "device": device}
        content = {
            "date": date,
            "machine": machine | ({"gpu": "G"} if device != "cpu" else {}),
            "versions": {"torch": "2.0"},
            "settings": {"rounds": 7},
            "figures": {name: {"median_us": 1500.0, "low_us": 2.0, "high_us": 2.5e6}},
            "ratios": {f"{name} / y": ratio},
        }
        (tmp_path / f"{date}-scaling-{device}-{name}.json").write_text(json.dumps(content))

    assert "python benchmarks/scaling.py --device cpu --out" in speed_page.page("scaling", tmp_path)
    for date, name in (("2026-01-01", "old"), ("2026-02-01", "a"), ("2026-02-01", "b")):
        result(date, "cpu", name)
    page = speed_page.page("scaling", tmp_path)
    assert "old" not in page
    assert "| a | 1.5 ms | 2 µs to 2.5 s |" in page
    assert "| b / y | 0.500 |  | ≤ 1.000 | reached |" in page
    assert "Not yet measured on CUDA. The command:\n\n```console\npython benchmarks/scaling.py --device cuda --out" in page
    result("2026-01-01", "cuda:0", "c")
    page = speed_page.page("scaling", tmp_path)
    assert "G, 2026-01-01, torch 2.0; 7 rounds." in page
    assert "Not yet" not in page


def test_documentation_and_readme_have_every_script() -> None:
    page, readme = (path.read_text() for path in (ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "README.md"))
    assert re.findall(r"```\{benchmark\} (\w+)", page) == [*SCRIPTS, "precision"]
    for script in (ROOT / "benchmarks").glob("[!_]*.py"):
        assert f"| `{script.name}` |" in readme
    for script in (*SCRIPTS, "precision"):
        assert f"`python benchmarks/{script}.py --device cuda" in readme
