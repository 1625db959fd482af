"""What fewer steps cost in quality: the large study of a bundled model, from which presets and `ddimkit recommend` draw.

    python benchmarks/quality_study.py [--model mnist] [--weights FOLDER] [--work quality-study] [--samples 10000] [--long 2000]
                                       [--noisy 2000] [--batch 1000] [--data DIR] [--since FILE] [--minutes M] [--compile]
                                       [--device cpu] [--out results/….json] [--pictures DIR] [--install]

The work is a sweep whose quality part draws ``--samples`` images of each configuration of up to 100 steps at eta 0, ``--noisy``
where there is noise, and ``--long`` of more steps. On two CPU cores it takes many hours, on a GPU minutes. It can be stopped and
taken up again: ``--work`` keeps all images' features, ``--minutes`` ends the drawing in time, and ``--since`` takes from an earlier
result of the same weights what already rests on as many images. ``--weights`` names a folder of one's own with model and yardstick,
instead of those that are published. ``--data``, the folder of the original data files, looks for
memorised training images. ``--install`` puts the result into the package.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from _subjects import find_model, find_yardstick, pick_device
from ddimkit import DDIMSampler, TradeoffCurve, recommend, sweep
from ddimkit.models.data import load_images
from ddimkit.quality import Training, Yardstick, nearest
from ddimkit.samplers.named import sigma_hat
from ddimkit.tradeoff import studies
from ddimkit.tradeoff.charts import draw_charts, save_grid
from ddimkit.tradeoff.judging import Judging, SampleCounts
from ddimkit.tradeoff.report import write_report

STEPS = (10, 20, 50, 100, 250, 500, 1000)
ETAS = (0.0, 0.2, 0.5, 1.0)
SHOWN = "DDIM-50"
PICTURES = ("quality.png", "samples.png", "nearest.png")


def study(arguments: argparse.Namespace, yardstick: Yardstick) -> TradeoffCurve:
    """Measure, or go on measuring."""
    bar = tqdm(unit="call", unit_scale=True)

    def progress(done: int, total: int, what: str) -> None:
        bar.total, bar.n = total, done
        bar.set_description(what)

    judging = Judging(
        yardstick,
        SampleCounts(arguments.samples, arguments.long, arguments.noisy),
        study=TradeoffCurve.load(arguments.since) if arguments.since else None,
        batch=arguments.batch,
        reuse=True,
        compile=arguments.compile,
        deadline_seconds=None if arguments.minutes is None else 60 * arguments.minutes,
    )
    with bar:
        return sweep(
            find_model(arguments.model, arguments.weights),
            steps=STEPS,
            etas=ETAS,
            samplers=(DDIMSampler, sigma_hat),
            eta_max_steps=100,
            judging=judging,
            device=pick_device(arguments.device),
            out=arguments.work,
            progress=progress,
        )


def draw_nearest(drawn: NDArray[np.float32], real: NDArray[np.uint8], path: Path) -> None:
    """Images drawn, and below each the training image nearest to it, by pixels."""
    shown = drawn[:12]
    found = nearest(shown.reshape(len(shown), -1), real.reshape(len(real), -1) / 127.5 - 1)
    beside = (real[found.index] / 127.5 - 1).astype(np.float32)
    save_grid(np.concatenate((shown, beside)), path, columns=len(shown))


def main() -> None:
    """Measure, write everything, and say what follows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--weights", type=Path, help="folder of your own with model and yardstick, instead of the published ones")
    parser.add_argument("--work", type=Path, default=Path("quality-study"), help="keeps what is drawn, the report and the charts")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--noisy", type=int, default=2000)
    parser.add_argument("--batch", type=int, help="images drawn at once; 64 on a CPU and 1000 elsewhere by default")
    parser.add_argument("--data", type=Path, help="folder of the original data files, to look for memorised images")
    parser.add_argument("--since", type=Path, help="an earlier result: what rests on as many images there is not drawn again")
    parser.add_argument("--minutes", type=float, help="end the drawing after so long")
    parser.add_argument("--compile", action="store_true", help="draw with the model compiled; times are measured without")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    parser.add_argument("--pictures", type=Path, help="also put the charts there, MODEL-NAME.png")
    parser.add_argument("--install", action="store_true", help="put the result into the package's own data")
    arguments = parser.parse_args()
    yardstick, real = find_yardstick(arguments.model, arguments.weights, pick_device(arguments.device)), None
    if arguments.data:
        real, others = load_images(arguments.model, arguments.data)[0], load_images(arguments.model, arguments.data, "test")[0]
        yardstick = replace(yardstick, training=Training.of(real, others, yardstick.extractor))
    curve, result = study(arguments, yardstick), arguments.work / "results.json"
    curve.save(result)
    draw_charts(curve, arguments.work)
    if real is not None:
        draw_nearest(curve.samples[SHOWN], real, arguments.work / "nearest.png")
    print(write_report(curve, arguments.work).read_text())
    print("\n".join(recommend(curve).reasons))
    targets = [arguments.out] if arguments.out else []
    targets += [Path(studies.__file__).parent / "data" / f"{arguments.model}.json"] if arguments.install else []
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result, target)
    for name in PICTURES if arguments.pictures else ():
        if (arguments.work / name).exists():
            shutil.copyfile(arguments.work / name, arguments.pictures / f"{arguments.model}-{name}")


if __name__ == "__main__":
    main()
