"""`python -m mlload`."""

from .cli import main

main()
