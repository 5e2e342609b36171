#!/usr/bin/env bash
# safetensors.torch.save_model of a model with tied weights.
#
# One would expect that the file holds a tied weight under the name by which the model's library
# saves and looks for it: model.embed_tokens.weight of a Llama, shared.weight of a T5,
# model.shared.weight of a Marian. It holds the first name of the alphabet alone (lm_head.weight,
# decoder.embed_tokens.weight), and names the dropped ones in the file's metadata. transformers ties
# them again as it loads; a reader that looks for the weight under its usual name finds none.
#
# Seen with safetensors 0.8.0, transformers 5.24.0, torch 2.13.0 (CPU), Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 safetensors==0.8.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import safetensors, torch, transformers
from safetensors import safe_open
from safetensors.torch import save_model
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

transformers.logging.set_verbosity_error()
print("safetensors", safetensors.__version__, "transformers", transformers.__version__)
sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
llama = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=24, tie_word_embeddings=True))
t5 = T5ForConditionalGeneration(
    T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
)
expected = {
    "llama": ("lm_head.weight", {"model.embed_tokens.weight"}),
    "t5": (
        "decoder.embed_tokens.weight",
        {"shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"},
    ),
}
for name, model in (("llama", llama), ("t5", t5)):
    save_model(model, f"{name}.safetensors")
    with safe_open(f"{name}.safetensors", "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    kept, dropped = expected[name]
    print(f"{name}: the file holds {kept}: {kept in names}; metadata: {metadata}")
    assert kept in names and not dropped & names, names
    assert all(metadata[other] == kept for other in dropped), metadata
PYTHON
