"""`python -m tfllm.cli`, which `tfllm launch` starts its workers with."""

import sys

from tfllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
