"""Record tiny random T5 and Marian models with the results of `transformers`; check the way back.

They are made like those of `record_references.py`, whose docstring says what to install:

    /tmp/transformers/bin/python tests/pretrained/record_encoder_decoders.py [NAME ...]

`encoder_decoder_references/NAME/reference.npz` holds sources with their lengths and texts `[3, T]`,
the logits of the texts, the result of greedy decoding (the tokens, and each step's logits) and of
beam search with its scores. The script prints how much a padded row differs from the same row
without padding. `exact_logits` are the logits in float64, where the two differ by less than 1e-12:
their difference in float32 is rounding. `--exact` adds only these to what is recorded.

The way back: the first command, with tfllm's Python, reads and saves every recorded model and
writes what it computes; the second opens the folders with `transformers` and compares.

    python tests/pretrained/record_encoder_decoders.py --resave FOLDER
    /tmp/transformers/bin/python tests/pretrained/record_encoder_decoders.py --check FOLDER/*/
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

REFERENCES = Path(__file__).parent / "encoder_decoder_references"
SOURCE_LENGTHS = (23, 9, 1)
TIME = 19
NUM_NEW_TOKENS = 12
NUM_BEAMS = 3
LENGTH_PENALTY = 0.7

# Sizes that divide nothing. (transformers 5 decodes with a cache only where the decoder has no more
# layers than the encoder.)
T5: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 18,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "d_kv": 5,
    "d_ff": 22,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 13,
    "decoder_start_token_id": 0,
}
MARIAN: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 18,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 22,
    "decoder_ffn_dim": 22,
    "max_position_embeddings": 31,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 96,
    "decoder_start_token_id": 96,
    "eos_token_id": 0,
    "forced_eos_token_id": None,
}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "t5": ("T5", T5, {}),
    "t5_v1_1": (
        "T5",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        {"dtype": "bfloat16", "max_shard_size": "20KB"},
    ),
    "marian": ("Marian", MARIAN, {}),
    "marian_relu": (
        "Marian",
        {**MARIAN, "activation_function": "relu", "scale_embedding": False, "decoder_layers": 1},
        {},
    ),
}

LARGEST_DIFFERENCE = 1e-4
"""of two float32 logits: what `tests.rounding`, which needs TensorFlow, gives for 400 additions of
values up to 8, of which these models have about so many"""


def classes(family: str):
    import transformers

    name = {"T5": "T5ForConditionalGeneration", "Marian": "MarianMTModel"}[family]
    return getattr(transformers, f"{family}Config"), getattr(transformers, name)


def record(names: list[str]) -> None:
    import torch

    for seed, (name, (family, settings, storage)) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        torch.manual_seed(seed)
        config_class, model_class = classes(family)
        config = config_class(**settings)
        model = model_class(config).eval()
        if settings.get("tie_word_embeddings") is False:  # transformers 5 ties them all the same
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                is_scale = "norm" in key and key.endswith("weight")
                parameter.normal_(1.0 if is_scale else 0.0, 0.3)
            if "final_logits_bias" in dict(model.named_buffers()):
                model.final_logits_bias.normal_(0.0, 0.5)
        folder = REFERENCES / name
        shutil.rmtree(folder, ignore_errors=True)
        options = dict(storage)
        dtype = getattr(torch, options.pop("dtype", "float32"))
        if family == "Marian":
            model.generation_config.bad_words_ids = [[settings["pad_token_id"]]]
        model.to(dtype).save_pretrained(folder, **options)
        model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
        model.generation_config.forced_eos_token_id = None
        vocab_size = settings["vocab_size"]
        width = max(SOURCE_LENGTHS)
        source = torch.randint(1, vocab_size - 1, (len(SOURCE_LENGTHS), width))
        mask = torch.arange(width) < torch.tensor(SOURCE_LENGTHS)[:, None]
        text = torch.randint(1, vocab_size - 1, (len(SOURCE_LENGTHS), TIME))
        text[:, 0] = settings["decoder_start_token_id"]
        given = outputs(model, source, mask, text)
        with torch.no_grad():
            apart = 0.0
            for row, length in enumerate(SOURCE_LENGTHS):
                alone = model(
                    input_ids=source[row : row + 1, :length], decoder_input_ids=text[row : row + 1]
                ).logits
                apart = max(apart, np.abs(alone[0].numpy() - given["logits"][row]).max())
        np.savez_compressed(
            folder / "reference.npz",
            source_ids=source.numpy().astype(np.int32),
            source_lengths=np.array(SOURCE_LENGTHS, np.int32),
            token_ids=text.numpy().astype(np.int32),
            **given,  # type: ignore[arg-type]
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(
            f"{name}: {size:,} bytes, logits' standard deviation {given['logits'].std():.2f}; "
            f"a padded row differs by {apart:.1e} from the row alone"
        )


def outputs(model, source, mask, text) -> dict[str, np.ndarray]:
    import torch

    given = {"input_ids": source, "attention_mask": mask.long()}
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": NUM_NEW_TOKENS,
        "return_dict_in_generate": True,
        "num_beams": 1,
    }
    with torch.no_grad():
        logits = model(**given, decoder_input_ids=text).logits
        ends, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
        greedy = model.generate(**given, **options, output_logits=True)
        model.generation_config.eos_token_id = ends
        options |= {"num_beams": NUM_BEAMS, "num_return_sequences": NUM_BEAMS}
        options |= {"length_penalty": LENGTH_PENALTY, "early_stopping": "never"}
        beams = model.generate(**given, **options, output_scores=True)
    beam_ids = np.full((len(source) * NUM_BEAMS, NUM_NEW_TOKENS), -1, np.int32)
    beam_ids[:, : beams.sequences.shape[1] - 1] = beams.sequences[:, 1:].numpy()
    return {
        "logits": logits.numpy(),
        "generated": greedy.sequences[:, 1:].numpy().astype(np.int32),
        "generated_logits": torch.stack(greedy.logits, 1).numpy(),
        "beam_ids": beam_ids.reshape(len(source), NUM_BEAMS, -1),
        "beam_scores": beams.sequences_scores.numpy().reshape(len(source), NUM_BEAMS),
        "end_token_id": np.array(ends, np.int32),
    }


def exact(names: list[str]) -> None:
    """Add the logits in float64; both paths, whose difference is printed."""
    import torch

    for name in names or MODELS:
        path = REFERENCES / name / "reference.npz"
        recorded = dict(np.load(path))
        model = classes(MODELS[name][0])[1].from_pretrained(path.parent, dtype=torch.float64).eval()
        for module in model.modules():
            if type(module).__name__ == "T5LayerNorm":  # which else squares in float32
                module.forward = functools.partial(float64_norm, module)  # type: ignore[method-assign]
        source, text = (torch.tensor(recorded[k]).long() for k in ("source_ids", "token_ids"))
        lengths = recorded["source_lengths"]
        mask = torch.arange(source.shape[1]) < torch.tensor(lengths)[:, None]
        with torch.no_grad():
            options = {"attention_mask": mask.long(), "decoder_input_ids": text}
            padded = model(input_ids=source, **options).logits.numpy()
            alone = [
                model(input_ids=source[i : i + 1, :n], decoder_input_ids=text[i : i + 1]).logits[0]
                for i, n in enumerate(lengths)
            ]
        apart = np.abs(padded - np.stack(alone)).max()
        print(
            f"{name}: in float64 a padded row differs by {apart:.1e} from the row alone; the "
            f"logits recorded in float32 are off by {np.abs(recorded['logits'] - padded).max():.1e}"
        )
        assert apart < 1e-12  # float64's rounding, of some 1000 additions of values up to 30
        np.savez_compressed(path, **{**recorded, "exact_logits": padded})


def float64_norm(norm: Any, x: Any) -> Any:
    """A root mean square norm in the dtype of what comes in."""
    return norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()


def expected_path(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.expected.npz"


def resave(folder: Path) -> None:
    """Read every recorded model, save it with tfllm, and write what it computes."""
    import tfllm.pretrained

    for name in MODELS:
        model = tfllm.pretrained.load(REFERENCES / name).model
        saved = tfllm.pretrained.save(model, folder / name)
        expect(model, saved)


def expect(model, saved: Path) -> None:
    generator = np.random.default_rng(0)
    most = model.config.vocab_size - 1
    source = generator.integers(1, most, (3, 17)).astype(np.int32)
    mask = np.arange(17) < np.array([[17], [5], [11]])
    text = generator.integers(1, most, (3, 9)).astype(np.int32)
    text[:, 0] = model.config.decoder_start_token_id
    inputs = {"source_ids": source, "source_mask": mask, "token_ids": text}
    inputs["logits"] = model(inputs).numpy()
    np.savez_compressed(expected_path(saved), **inputs)  # type: ignore[arg-type]
    print(f"written: {expected_path(saved)}")


def check(folder: Path) -> bool:
    """Whether transformers computes from a folder what tfllm does; prints the differences."""
    import json

    import torch

    expected = np.load(expected_path(folder))
    values = json.loads((folder / "config.json").read_text())
    _, model_class = classes({"t5": "T5", "marian": "Marian"}[values["model_type"]])
    model, report = model_class.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    problems = {key: value for key, value in report.items() if value}
    with torch.no_grad():
        logits = (
            model.eval()(
                input_ids=torch.from_numpy(expected["source_ids"].astype(np.int64)),
                attention_mask=torch.from_numpy(expected["source_mask"].astype(np.int64)),
                decoder_input_ids=torch.from_numpy(expected["token_ids"].astype(np.int64)),
            ).logits
        ).numpy()
    difference = np.abs(logits - expected["logits"]).max()
    print(f"{folder}: {type(model).__name__}, {model.num_parameters():,} parameters")
    print(f"  keys missing, unexpected or misshapen: {problems or 'none'}")
    print(f"  largest difference of a logit: {difference:.2e} (largest {np.abs(logits).max():.2f})")
    return not problems and difference < LARGEST_DIFFERENCE


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the models to record")
    parser.add_argument("--exact", action="store_true", help="add the logits in float64 alone")
    parser.add_argument("--resave", type=Path, metavar="FOLDER")
    parser.add_argument("--check", type=Path, nargs="+", metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.resave:
        resave(arguments.resave)
    elif arguments.check:
        folders = [folder for folder in arguments.check if folder.is_dir()]
        return 0 if all([check(folder) for folder in folders]) else 1
    else:
        if not arguments.exact:
            record(arguments.names)
        exact(arguments.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
