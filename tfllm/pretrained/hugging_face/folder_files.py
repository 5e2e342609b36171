"""The files that are read from a model folder, for both loading and downloading one."""

from __future__ import annotations

from pathlib import Path

from tfllm.files import readable_json
from tfllm.pretrained.adapter_config import CONFIG as ADAPTER_CONFIG
from tfllm.pretrained.hugging_face.sentence_modules import LENGTHS, MODULES, PROMPTS
from tfllm.pretrained.hugging_face.tensor_files import INDEX, ONE_FILE
from tfllm.pretrained.replaced_folder import OURS
from tfllm.tokenizers.reading import BESIDE_TOKENIZERS, TOKENIZER_FILES

FILES = (
    *("config.json", "generation_config.json", OURS),
    *(ONE_FILE, INDEX, "model-*-of-*.safetensors"),
    *TOKENIZER_FILES,
    *BESIDE_TOKENIZERS,
    *(MODULES, PROMPTS, *LENGTHS),
    # To recognize an adapter and say so.
    *(ADAPTER_CONFIG, "adapter_model.safetensors"),
    # A preset of KerasHub.
    *("metadata.json", "task.json", "preprocessor.json", "image_converter.json"),
    *("model.weights.h5", "model_*.weights.h5", "model.weights.json", "assets/tokenizer/*"),
)
"""Names and patterns. They include no pickles, and no other formats of the same weights."""


def named_files(folder: Path) -> tuple[str, ...]:
    """Additional files that are named in `FILES`: modules, and weights with other names."""
    found = []
    modules = readable_json(folder / MODULES)
    for module in modules if isinstance(modules, list) else ():
        place = module.get("path") if isinstance(module, dict) else None
        if isinstance(place, str) and place and place == Path(place).name:
            found += [f"{place}/config.json", f"{place}/model.safetensors"]
    index = readable_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    names = set(shards.values()) if isinstance(shards, dict) else set()
    found += sorted(n for n in names if isinstance(n, str) and n.endswith(".safetensors"))
    return tuple(name for name in found if not (folder / name).exists())
