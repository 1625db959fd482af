"""``python -m ddimkit``: the command line."""

from ddimkit.cli import main

main()
