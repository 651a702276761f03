"""`python -m prefrep`: the same as the command `prefrep`."""

from prefrep.cli.main import run

run()
