"""`python -m tfllm.cli`, as the workers of `tfllm launch` are started."""

import sys

from tfllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
