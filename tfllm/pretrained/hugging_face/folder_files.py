"""The files of a model folder that are read: one list for who reads a folder and who fetches it."""

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
    # To say of an adapter that it is one.
    *(ADAPTER_CONFIG, "adapter_model.safetensors"),
    # A preset of KerasHub.
    *("metadata.json", "task.json", "preprocessor.json", "image_converter.json"),
    *("model.weights.h5", "model_*.weights.h5", "model.weights.json", "assets/tokenizer/*"),
)
"""names and patterns. Never pickles; of other formats of the same weights, nothing"""


def named_files(folder: Path) -> tuple[str, ...]:
    """Further files that those of `FILES` name: of modules, and weights of other names."""
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
