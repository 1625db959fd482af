"""How long do 16 images take, and how long 10,000? One batch of either size at every step count.

    python benchmarks/bulk_time.py [--model cifar10] [--weights FOLDER] [--count 10000] [--batch 1000]
                                   [--steps 10,20,50,100,250,500,1000] [--work bulk-time] [--device cpu] [--out results/….json]

The many are drawn in whole batches, each of which takes as long as another: one is measured, and the time for all is its own times
their number. Interrupted, the same command goes on. ``--weights`` names a folder of one's own, instead of what is published.
"""

import argparse
import json
import math
from pathlib import Path

from tqdm import tqdm

from _subjects import find_model, pick_device
from ddimkit import DDIMSampler, ModelBundle, Study, sweep
from ddimkit.tradeoff.times import Times, speedup

FEW = 16


def measure(bundle: ModelBundle, images: int, arguments: argparse.Namespace) -> Study:
    """The times of one batch of so many images, or what an earlier call measured."""
    bar = tqdm(unit="call", unit_scale=True, desc=f"{images} images")

    def progress(done: int, total: int, what: str) -> None:
        bar.total, bar.n = total, done
        bar.set_description(f"{images} images: {what}")

    with bar:
        return sweep(
            bundle,
            steps=arguments.steps,
            samplers=(DDIMSampler,),
            seeds=range(images),
            device=pick_device(arguments.device),
            out=arguments.work / str(images),
            progress=progress,
        )


def rows(few: Study, many: Study, count: int) -> list[dict[str, object]]:
    """For each configuration the seconds of both, those of the many from one batch of them."""
    found = list[dict[str, object]]()
    for row in few.rows:
        one, batch = _times(few, row.label), _times(many, row.label)
        found.append(
            {
                "label": row.label,
                "calls": row.calls,
                "seconds_few": one.seconds,
                "seconds_batch": batch.seconds,
                "seconds_many": batch.seconds * math.ceil(count / batch.batch),
                "speedup_few": speedup(_times(few, few.baseline), one).value,
                "speedup_many": speedup(_times(many, many.baseline), batch).value,
            }
        )
    return found


def _times(study: Study, label: str) -> Times:
    times = study.row(label).times
    assert times is not None
    return times


def main() -> None:
    """Measure, print a table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cifar10")
    parser.add_argument("--weights", type=Path, help="folder of your own with the model, instead of the published one")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--batch", type=int, help="images at once; 64 on a CPU and 1000 elsewhere by default")
    parser.add_argument(
        "--steps", type=lambda text: [int(part) for part in text.split(",")], default=[10, 20, 50, 100, 250, 500, 1000]
    )
    parser.add_argument("--work", type=Path, default=Path("bulk-time"), help="keeps what is measured")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    arguments = parser.parse_args()
    batch = arguments.batch or (64 if pick_device(arguments.device).type == "cpu" else 1000)
    bundle = find_model(arguments.model, arguments.weights)
    few, many = (measure(bundle, images, arguments) for images in (FEW, batch))
    found = rows(few, many, arguments.count)
    print(f"{'':16} {f'{FEW} images':>12} {f'{arguments.count} images':>14} {'speed-up of each':>18}")
    for row in found:
        speedups = f"{row['speedup_few']:.3g}× {row['speedup_many']:.3g}×"
        print(f"{row['label']:16} {row['seconds_few']:>10.4g} s {row['seconds_many']:>12.4g} s {speedups:>18}")
    if arguments.out:
        named = {"model": few.model, "machine": few.machine, "versions": few.versions, "count": arguments.count, "batch": batch}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"schema_version": 1, **named, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
