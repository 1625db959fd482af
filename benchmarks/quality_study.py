"""What fewer steps cost in quality: the large study of a bundled model, from which presets and `ddimkit recommend` draw.

    python benchmarks/quality_study.py [--model mnist] [--work quality-study] [--samples 10000] [--long 2000] [--noisy 2000]
                                       [--device cpu] [--out results/….json] [--install]

The work is a sweep whose quality part draws ``--samples`` images of each configuration of up to 100 steps at eta 0, ``--noisy``
where there is noise, and ``--long`` of more steps, the baseline first. On two CPU cores it takes many hours, on a GPU minutes: it
is stopped and taken up again as often as need be, and a later call may ask for more images. ``--install`` puts the result into the
package.
"""

import argparse
import shutil
from pathlib import Path

from tqdm import tqdm

from ddimkit import DDIMSampler, TradeoffCurve, load_pretrained, recommend, sweep
from ddimkit.quality import load_yardstick
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.charts import draw_charts
from ddimkit.tradeoff.configurations import sigma_hat
from ddimkit.tradeoff.judging import Judging, SampleCounts
from ddimkit.tradeoff.report import write_report

STEPS = (10, 20, 50, 100, 250, 500, 1000)
ETAS = (0.0, 0.2, 0.5, 1.0)


def study(arguments: argparse.Namespace) -> TradeoffCurve:
    """Measure, or go on measuring."""
    bar = tqdm(unit="call", unit_scale=True)

    def progress(done: int, total: int, what: str) -> None:
        bar.total, bar.n = total, done
        bar.set_description(what)

    counts = SampleCounts(arguments.samples, arguments.long, arguments.noisy)
    with bar:
        return sweep(
            load_pretrained(arguments.model),
            steps=STEPS,
            etas=ETAS,
            samplers=(DDIMSampler, sigma_hat),
            eta_max_steps=100,
            judging=Judging(load_yardstick(arguments.model), counts),
            device=arguments.device,
            out=arguments.work,
            progress=progress,
        )


def main() -> None:
    """Measure, write everything, and say what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--work", type=Path, default=Path("quality-study"), help="keeps what is drawn, the report and the charts")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--noisy", type=int, default=2000)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    parser.add_argument("--install", action="store_true", help="put the result into the package's own data")
    arguments = parser.parse_args()
    curve, result = study(arguments), arguments.work / "results.json"
    curve.save(result)
    draw_charts(curve, arguments.work)
    print(write_report(curve, arguments.work).read_text())
    print("\n".join(recommend(curve).reasons))
    targets = [arguments.out] if arguments.out else []
    targets += [Path(studies.__file__).parent / "data" / f"{arguments.model}.json"] if arguments.install else []
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result, target)


if __name__ == "__main__":
    main()
