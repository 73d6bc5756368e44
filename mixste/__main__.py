"""`python -m mixste`: the command line by the interpreter that runs, wherever its scripts lie."""

from mixste.cli import main

main()
