import random

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def fixed_seeds():
    """As for all tests, but without TensorFlow's seed, which nothing here draws from: setting it
    throws away the compiled form of every function, and each test would make it anew."""
    random.seed(0)
    np.random.seed(0)
