"""`python -m app` is the command `harmonium`."""

from app.cli import main

main()
