"""What do faults cost a bulk generation? Each is injected, the same command goes on, and the files are compared.

    python benchmarks/generate_faults.py [--quick] [--out results/….json]

Processes are killed by SIGKILL before each of their file operations, in the middle of writes and at random moments. Operations fail
as on a full disk or in a read-only folder, files are damaged, the clock jumps. After each fault the same call is made again, and
the folder is compared byte for byte with that of an undisturbed run. ``--quick`` injects fewer of each kind.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from _faults import Place, Tally, all_faults
from _script import options, start, write

_HEAD = f"{'fault':<46}{'injected':>9}{'images lost':>13}{'doubled':>9}{'drawn again':>13}"


def main(argv: Sequence[str] | None = None) -> list[Tally]:
    """Inject all faults, print the table and write it."""
    parser = options(__doc__)
    arguments = parser.parse_args(argv)
    start(arguments)
    tallies = list[Tally]()
    print(_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for tally in all_faults(Place.of(Path(folder)), thorough=not arguments.quick):
            tallies.append(tally)
            print(_line(tally), flush=True)
    total = Tally("all", *(sum(getattr(tally, name) for tally in tallies) for name in ("injected", "lost", "doubled", "redrawn")))
    print(_line(total))
    write(arguments, {}, {"faults": [asdict(tally) for tally in tallies]})
    return tallies


def _line(tally: Tally) -> str:
    wrong = "".join(f"\n    {line}" for line in tally.wrong)
    return f"{tally.kind:<46}{tally.injected:>9}{tally.lost:>13}{tally.doubled:>9}{tally.redrawn:>13}{wrong}"


if __name__ == "__main__":
    main()
