"""``python -m nbgather``: the command line."""

from nbgather.cli import main

main()
