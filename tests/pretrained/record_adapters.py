"""Record adapters that PEFT makes for the tiny models in `references/`, and PEFT's logits.

The recorded folders in `adapters/` were made with Python 3.11, peft 0.21.2, transformers 5.24.0 and
torch 2.13.0 (CPU). None of them is needed to run the tests. To make the folders again (the seeds
are fixed), use the environment that `record_references.py` describes, with peft:

    /tmp/transformers/bin/pip install peft==0.21.2
    /tmp/transformers/bin/python tests/pretrained/record_adapters.py

`reference.npz` holds token ids `[2, T]` and their logits with the adapter.

To check the way back, that PEFT computes the same as tfllm from an adapter that tfllm saved: the
first command, with tfllm's Python, makes adapters of several kinds and writes them with tfllm's
results; the second opens them with PEFT and compares.

    python tests/pretrained/record_adapters.py --expect FOLDER
    /tmp/transformers/bin/python tests/pretrained/record_adapters.py --check FOLDER
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ADAPTERS = HERE / "adapters"
ADAPTED = {
    # Ranks and alphas of their own, and every projection.
    "llama": (
        "llama_tied",
        {
            "target_modules": "all-linear",
            "r": 3,
            "lora_alpha": 7,
            "lora_dropout": 0.1,
            "rank_pattern": {"down_proj": 5, r"model\.layers\.1\.self_attn\.q_proj": 2},
            "alpha_pattern": {"mlp.up_proj": 11},
        },
    ),
    # Some projections of some layers, scaled by the square root of the rank.
    "qwen": (
        "qwen2",
        {
            "target_modules": ["q_proj", "v_proj", "gate_proj"],
            "layers_to_transform": [0, 2],
            "r": 4,
            "lora_alpha": 6,
            "use_rslora": True,
        },
    ),
    # Weights stored the other way round, queries, keys and values in one, a name in two places.
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj", "mlp.c_fc"], "r": 2, "lora_alpha": 4}),
}
OURS = {
    "llama_all": ("llama_tied", {}),
    "qwen_some": ("qwen2", {"targets": ("k_proj", "down_proj"), "layers": (1,), "rank": 3}),
    # Three updates within the one module that GPT-2 has for queries, keys and values.
    "gpt2_apart": ("gpt2", {"targets": ("q_proj", "v_proj", "o_proj"), "rank": 2, "alpha": 5.0}),
    # One update of queries, keys and values, which are three modules for others.
    "llama_fused": ("llama_untied", {"targets": ("c_attn", "c_fc"), "rank": 2}),
}

LARGEST_DIFFERENCE = 1e-4
"""of two float32 logits: what `tests.rounding`, which needs TensorFlow, gives for 400 additions of
values up to 8, of which these models have about so many"""


def record() -> None:
    """Have PEFT make each adapter, and write it with its logits."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for number, (name, (base, options)) in enumerate(ADAPTED.items()):
        torch.manual_seed(100 + number)
        model = AutoModelForCausalLM.from_pretrained(HERE / "references" / base)
        # Not the start of a training, which is zero, but an adapter that does something.
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)
        adapted = get_peft_model(model, config).eval()
        for variable_name, variable in adapted.named_parameters():
            if "lora_B" in variable_name:
                variable.data.mul_(4.0)
        folder = ADAPTERS / name
        shutil.rmtree(folder, ignore_errors=True)
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        ids = np.load(HERE / "references" / base / "reference.npz")["token_ids"]
        with torch.no_grad():
            logits = adapted(torch.tensor(ids, dtype=torch.long)).logits.numpy()
            with adapted.disable_adapter():
                without = adapted(torch.tensor(ids, dtype=torch.long)).logits.numpy()
        np.savez_compressed(folder / "reference.npz", token_ids=ids, logits=logits)
        print(f"{name}: moves the logits by up to {abs(logits - without).max():.3f}")


def expect(folder: Path) -> None:
    """With tfllm: make adapters, and write them with the logits."""
    from tfllm import pretrained
    from tfllm.config import LoraConfig
    from tfllm.pretrained.adapters import save_adapter

    for name, (base, options) in OURS.items():
        path = HERE / "references" / base
        model = pretrained.load(path, dropout=0.0).model
        model.add_adapter(LoraConfig(**options))
        rng = np.random.default_rng(0)
        for variable in model.trainable_variables:
            variable.assign(rng.normal(0, 0.3, variable.shape))
        save_adapter(model, folder / name, base=str(path))
        ids = np.load(path / "reference.npz")["token_ids"]
        np.savez(folder / f"{name}.npz", token_ids=ids, logits=model(ids).numpy())


def check(folder: Path) -> int:
    """With PEFT: open what `expect` wrote, and compare."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    status = 0
    for name in OURS:
        config = json.loads((folder / name / "adapter_config.json").read_text())
        model = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
        adapted = PeftModel.from_pretrained(model, folder / name).eval()
        expected = np.load(folder / f"{name}.npz")
        ids = torch.tensor(expected["token_ids"], dtype=torch.long)
        with torch.no_grad():
            logits = adapted(ids).logits.numpy()
            with adapted.disable_adapter():
                without = adapted(ids).logits.numpy()
        difference = abs(logits - expected["logits"]).max()
        print(
            f"{name}: largest difference {difference:.2e} "
            f"(the adapter moves the logits by up to {abs(logits - without).max():.2f})"
        )
        status |= difference > LARGEST_DIFFERENCE
    return int(status)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expect", type=Path, metavar="FOLDER")
    parser.add_argument("--check", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.expect:
        expect(options.expect)
    elif options.check:
        sys.exit(check(options.check))
    else:
        record()
