"""`python -m mlload`."""

import os
import sys

# `-m` puts the working directory first among the places of modules: a checkpoint's own torch.py, or the inspect.py in cli/, would be run.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]

from .cli import main

main()
