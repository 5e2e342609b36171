#!/usr/bin/env bash
# One would expect: the log-likelihood of a continuation does not depend on which other requests are
# in the same call.
#
# What happens: lm-evaluation-harness groups requests whose tokens, context and continuation without
# its last token, are the same, and computes their logits once (`logits_cache`, on by default). Where
# the split between context and continuation differs within a group, the shorter continuation is read
# off at the first place of the longer one: it gets the log-probability of its token at another place.
# The greedy flag beside it is right. Either request alone, or `logits_cache=False`, gives the
# right value.
#
# Versions: lm-eval 0.4.13, transformers 4.57.6, torch 2.13.0 (CPU), Python 3.10 to 3.12.
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.13.0 lm-eval==0.4.13 transformers==4.57.6 accelerate

cat > "$work/finding.py" <<'PYTHON'
import platform
import sys

import lm_eval
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

print(
    f"Python {platform.python_version()}, lm-eval {lm_eval.__version__}, "
    f"transformers {transformers.__version__}, torch {torch.__version__}"
)
words = ["<unk>", "<end>", "the", "cat", "sat", "on", "mat", "dog"]
tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
)
torch.manual_seed(0)
config = GPT2Config(
    vocab_size=len(words), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5,
    bos_token_id=1, eos_token_id=1,
)
model = GPT2LMHeadModel(config).eval()


def log_likelihoods(pairs, **options):
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, **options)
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
        for i, pair in enumerate(pairs)
    ]
    return [round(value, 4) for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]


long, short = ("the cat", " sat on mat"), ("the cat sat on", " mat")
ids = torch.tensor([[2, 3, 4, 5]])
with torch.no_grad():
    expected = round(float(torch.log_softmax(model(ids).logits[0, -1], -1)[6]), 4)
alone = log_likelihoods([short])[0]
together = log_likelihoods([long, short])[1]
uncached = log_likelihoods([long, short], logits_cache=False)[1]
print(f"log p(mat | the cat sat on), by the model itself:        {expected}")
print(f"lm-eval, the request alone:                              {alone}")
print(f"lm-eval, beside log p(sat on mat | the cat):             {together}")
print(f"lm-eval, beside it, with logits_cache=False:             {uncached}")
right = abs(alone - expected) < 1e-3 and abs(uncached - expected) < 1e-3
if not right or abs(together - expected) < 1e-3:
    sys.exit("the behaviour has changed")
print("as described: the value depends on the other request")
PYTHON
HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 "$work/env/bin/python" -W ignore "$work/finding.py" 2> "$work/log" \
  || { tail -5 "$work/log" >&2; exit 1; }
