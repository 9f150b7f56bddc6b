"""``python -m understudy``: the same as the ``understudy`` command."""

from understudy.cli.commands import main

main()
