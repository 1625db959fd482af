"""How do time and samples depend on the number of steps? The whole sweep, as ``ddimkit sweep`` runs it.

    python benchmarks/step_sweep.py [the options of `ddimkit sweep`]

Every run is timed by ``torch.utils.benchmark``'s synchronised clock, on CUDA if there is one; ``docs/benchmarks.md`` says how.
"""

import sys

from ddimkit.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    main()
