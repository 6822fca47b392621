"""``python -m pgstencil`` is the command ``pgstencil``."""

import os
import sys

from ._resident import binary

if __name__ == "__main__":
    program = binary()
    os.execv(program, [program, *sys.argv[1:]])
