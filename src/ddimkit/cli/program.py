"""All commands as one program, and how it ends."""

import io
import sys

import typer

from ddimkit.cli.check import check
from ddimkit.cli.display import INTERRUPTED
from ddimkit.cli.generate import generate
from ddimkit.cli.learn import learn
from ddimkit.cli.plan import plan
from ddimkit.cli.recommend import recommend
from ddimkit.cli.sample import sample
from ddimkit.cli.sweep import sweep
from ddimkit.errors import DDIMKitError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ddimkit",
    help="Samplers for diffusion models: draw samples, measure what fewer steps cost, choose how few are enough.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (sample, plan, sweep, recommend, learn, check, generate):
    app.command()(command)


def main() -> None:
    """Run the command line; what the user can mend is said in one line, without a traceback."""
    _replace_unshowable()
    code = _run()
    if code == INTERRUPTED:
        print("ddimkit: stopped", file=sys.stderr)
    if code:
        raise SystemExit(code)


def _replace_unshowable() -> None:
    """Make the standard streams print ``?`` for what their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _run() -> object:
    """The exit code: None or 0 where all went well."""
    try:
        return app(standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        return INTERRUPTED
    except (DDIMKitError, ValueError, TypeError, OSError) as error:
        sys.exit(f"ddimkit: {error}")
    except Exception as error:
        # click's own usage errors know how to show themselves.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or code is None:
            raise
        show()
        return code
