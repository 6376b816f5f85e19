"""`python -m fakes.engine`: one simulated engine."""

import sys

from fakes.engine.run import main

if __name__ == "__main__":
    sys.exit(main())
