"""Beam search with the original Transformer (base size): tfllm compared with `transformers`.

Both read one Marian folder with random weights, on which the speed does not depend. tfllm runs as a
graph without XLA, as TensorFlow Serving runs it; `transformers` runs on PyTorch in a separate
environment (`--torch PYTHON`; this project does not require it). No token ends a text, so that both
take the same number of steps; the tests check that both find the same texts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from side_by_side import interleaved, print_table

from tfllm import pretrained
from tfllm.generation.beam_options import BeamOptions
from tfllm.generation.beam_search import beam_search
from tfllm.generation.encoder_decoder_decoder import EncoderDecoderDecoder
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.models.sizes import size
from tfllm.optimization.precision import choose_precision

Run = Callable[[list[list[int]], int, int], list[list[int]]]


def ours(folder: Path, dtype: str) -> Run:
    decoder = EncoderDecoderDecoder(pretrained.load(folder, dtype=dtype).model)
    searches = {}

    def run(rows: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        if beams not in searches:
            options = BeamOptions(width=beams, num_best=1)

            def search(sources: tf.RaggedTensor, limits: tf.Tensor) -> tf.Tensor:
                nothing = tf.constant([-1])
                return beam_search(decoder, sources, limits, options, end_token_ids=nothing)

            signature = [
                tf.RaggedTensorSpec([None, None], tf.int32),
                tf.TensorSpec([None], tf.int32),
            ]
            searches[beams] = tf.function(search, input_signature=signature, autograph=False)
        limits = tf.fill([len(rows)], new_tokens)
        found = searches[beams](tf.ragged.constant(rows, tf.int32), limits)
        return found.token_ids[:, 0].numpy().tolist()

    return run


@contextlib.contextmanager
def torch_marian(python: Path, folder: Path, dtype: str) -> Iterator[Run]:
    script = Path(__file__).with_name("torch_translation.py")
    with subprocess.Popen(
        [python, script, folder, dtype],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as peer:  # fmt: skip
        assert peer.stdin is not None and peer.stdout is not None
        stdin, stdout = peer.stdin, peer.stdout
        if stdout.readline() != "ready\n":
            raise RuntimeError(f"{python} must have torch and transformers; it did not start")

        def run(rows: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
            stdin.write(json.dumps([rows, beams, new_tokens]) + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        yield run
        stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[16])
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--torch", type=Path, help="a Python with torch and transformers")
    options = parser.parse_args()
    config = size("transformer-base")
    table = [(
        f"beam search, {options.beams} beams, the original Transformer's base size, "
        f"{options.source_tokens} + {options.new_tokens} tokens",
        "sequences", "tokens/s", "compared with the first",
    )]  # fmt: skip
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = pretrained.save(EncoderDecoder(config), place / "base")
        contestants: dict[str, Run] = {}
        if options.torch:
            peer = stack.enter_context(torch_marian(options.torch, folder, "float32"))
            contestants["transformers MarianMT on PyTorch, float32"] = peer
        for dtype in dict.fromkeys(["float32", choose_precision("auto")]):
            contestants[f"tfllm, {dtype}, no XLA"] = ours(folder, dtype)
        chance = np.random.default_rng(0)
        for batch in options.batch:
            rows = chance.integers(2, config.vocab_size, (batch, options.source_tokens)).tolist()
            given = (rows, options.beams, options.new_tokens)
            runs = {name: functools.partial(run, *given) for name, run in contestants.items()}
            for name, run in runs.items():
                lengths = {len(row) for row in run()}
                assert lengths == {options.new_tokens}, (name, lengths)
            seconds = interleaved(runs, options.rounds)
            base = next(iter(seconds.values()))
            for name, value in seconds.items():
                rate = batch * options.new_tokens / value
                table.append((name, str(batch), f"{rate:.0f}", f"{base / value:.2f}x"))
    title = (
        f"Beam search, {options.beams} beams, transformer-base, sources of "
        f"{options.source_tokens} tokens, {options.new_tokens} new"
    )
    print_table(title, table)


if __name__ == "__main__":
    main()
