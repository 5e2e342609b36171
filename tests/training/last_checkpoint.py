"""What the last checkpoint of a run holds, read without the code under test."""

import json

from safetensors.numpy import load_file


def last_state(folder):
    """(its name, arrays by name, `progress.json`)"""
    checkpoint = max((folder / "checkpoints").glob("step-*"))
    return checkpoint.name, load_file(checkpoint / "state.safetensors"), progress(checkpoint)


def progress(checkpoint):
    return json.loads((checkpoint / "progress.json").read_text())
