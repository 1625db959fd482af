"""The command line, a thin face over the library: ``ddimkit sample | plan | sweep | recommend | learn | check | generate``.

A command is a module of its name, and :mod:`ddimkit.cli.program` puts them together; what several commands take is in
:mod:`ddimkit.cli.arguments`, what they show in :mod:`ddimkit.cli.display`. It needs the ``study`` extra:
``pip install 'ddimkit[study]'``.
"""

import sys

try:
    from ddimkit.cli.program import app, main
except ModuleNotFoundError as missing:
    needed = (missing.name or "").partition(".")[0]
    if needed not in ("rich", "typer"):
        raise
    sys.exit(f"ddimkit's command line needs {needed}: pip install 'ddimkit[study]'")

__all__ = ["app", "main"]
