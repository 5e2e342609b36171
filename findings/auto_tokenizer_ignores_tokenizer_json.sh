#!/usr/bin/env bash
# One would expect that AutoTokenizer gives the ids of the tokenizer.json that is in the folder, as
# long as tokenizer_config.json names the generic class PreTrainedTokenizerFast.
#
# What happens: transformers 4.57 does. transformers 5.24 has a list of model types whose class it
# knows better (qwen2 among them): of their tokenizer.json it takes the vocabulary and the merges,
# and puts the family's own normalizer (NFC) and split pattern in place of those in the file. The
# very same tokenizer.json has its own ids again when config.json says qwen3 or llama. Nothing is
# said, so a model with another tokenizer than Qwen's silently gets other ids than in training.
#
# Seen with transformers 4.57.6 and 5.24.0, Python 3.11; no network and no model is needed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
for version in 4.57.6 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "transformers==$version"
done
cat > "$folder/write.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(
    special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
)
tokenizer.train_from_iterator(["it is 1984, and 1984 was 12345 days ago"] * 9, trainer)
for kind in ("qwen2", "qwen3"):
    place = Path(sys.argv[1]) / kind
    place.mkdir(exist_ok=True)
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "config.json").write_text(json.dumps({"model_type": kind}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers
from tokenizers import Tokenizer

text = "in 1984 cafe\u0301"
for kind in ("qwen2", "qwen3"):
    place = Path(sys.argv[1]) / kind
    file = Tokenizer.from_file(str(place / "tokenizer.json")).encode(text).ids
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    ids = tokenizer(text)["input_ids"]
    same = ids == file
    print(f"transformers {transformers.__version__}, {kind}, {type(tokenizer).__name__}: "
          f"{'the ids of tokenizer.json' if same else f'{ids}, and tokenizer.json has {file}'}")
    if same != (kind == "qwen3" or transformers.__version__.startswith("4.")):
        sys.exit("the behaviour has changed")
PYTHON
"$folder/4.57.6/bin/python" "$folder/write.py" "$folder"
for version in 4.57.6 5.24.0; do
  "$folder/$version/bin/python" -W ignore "$folder/read.py" "$folder"
done
