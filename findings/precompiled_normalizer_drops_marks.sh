#!/usr/bin/env bash
# One would expect that the normalizer "Precompiled" of `tokenizers`, which holds the normalization
# table of a SentencePiece model (T5, mBART, XLM-R, ...), normalizes text as SentencePiece does.
#
# What happens: SentencePiece replaces the longest entry of the table at each place. `tokenizers`
# goes from grapheme to grapheme; where one is shorter than six bytes, the SHORTEST entry that its
# bytes begin with replaces the whole of it. So the accent behind a ligature, a full-width letter or
# an already accented letter is lost: U+FF41 U+0301 becomes "a" in the one and "a" with acute in the
# other, and a model that was trained with SentencePiece gets other ids from its fast tokenizer.
#
# Seen with sentencepiece 0.2.3 and tokenizers 0.22.2, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  sentencepiece==0.2.3 tokenizers==0.22.2 protobuf==7.36.2
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys
import unicodedata

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

print(f"sentencepiece {sentencepiece.__version__}, tokenizers {tokenizers.__version__}")
written = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 20),
    model_writer=written,
    vocab_size=60,
    hard_vocab_limit=False,
    model_type="unigram",
    minloglevel=2,
)
proto = sentencepiece_model_pb2.ModelProto()
proto.ParseFromString(written.getvalue())
print(f"table: {proto.normalizer_spec.name}")
own = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
fast = tokenizers.normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)

expected = {
    "\ufb01\u0301": ("fi\u0301", "fi"),  # a ligature with an acute accent
    "\uff41\u0301": ("\u00e1", "a"),  # a full-width "a" with one
    "a\u0301\u0302": ("\u00e1\u0302", "\u00e1"),  # "a" with two accents
}
changed = False
for text, values in expected.items():
    seen = (own.normalize(text).lstrip("\u2581"), fast.normalize_str(text))
    print(f"{ascii(text)}: sentencepiece {ascii(seen[0])}, tokenizers {ascii(seen[1])}, "
          f"NFKC {ascii(unicodedata.normalize('NFKC', text))}")
    changed |= seen != values
sys.exit("the behaviour has changed" if changed else 0)
PYTHON
