"""``python -m nbgather``: the command line."""

from nbgather.apps.cli import main

main()
