"""A Transformer in five lines, and its attention weights for one sentence.

    python examples/01_transformer.py [--epochs 60] [--out attention.png]

A small causal Transformer learns forty sentences, word by word, with plain `compile` and `fit`.
Then it completes a sentence, and the attention weights of "The cat sat on the mat" are drawn: each
row shows on which earlier words the prediction of the next word is based. Takes less than a minute
on two cores. Needs matplotlib (`pip install "tfllm[plot]"`).
"""

from __future__ import annotations

import argparse
import importlib.util

import keras
import numpy as np

import tfllm
from tfllm.charts import model_charts as charts

SENTENCE = "The cat sat on the mat"

# The place depends on the animal, which comes two or more words before it: to predict the last
# word, a model has to look back at the second.
PLACES = {
    "cat": "mat",
    "dog": "rug",
    "bird": "branch",
    "hen": "nest",
    "frog": "stone",
    "owl": "barn",
    "king": "throne",
    "child": "swing",
}
TEMPLATES = (
    "The {who} sat on the {where}",
    "The {who} slept on the {where}",
    "A {who} sat on the {where}",
    "Today the {who} sat on the {where} again",
    "The old {who} slept quietly on the {where}",
)
SENTENCES = [
    template.format(who=who, where=where) for template in TEMPLATES for who, where in PLACES.items()
]

PAD, END = "<pad>", "<end>"
WORDS = [PAD, END, *sorted({word for s in SENTENCES for word in s.split()})]
ID = {word: i for i, word in enumerate(WORDS)}


def encode(sentence: str) -> list[int]:
    return [ID[word] for word in sentence.split()]


def training_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, next words, and weights that are 0 at padding; each `[sentences, time]`."""
    rows = [[*encode(s), ID[END]] for s in SENTENCES]
    length = max(map(len, rows))
    ids = np.array([row + [ID[PAD]] * (length - len(row)) for row in rows], "int32")
    x, y = ids[:, :-1], ids[:, 1:]
    return x, y, (y != ID[PAD]).astype("float32")


def complete(model: keras.Model, text: str) -> str:
    """Append the most likely word until the sentence ends."""
    ids = encode(text)
    while len(ids) < 12:
        following = int(np.argmax(model(np.array([ids]))[0, -1]))
        if following == ID[END]:
            break
        ids.append(following)
    return " ".join(WORDS[i] for i in ids)


def draw(model: tfllm.Transformer, sentence: str, path: str) -> None:
    """Draw every layer's attention weights (the mean of its heads) as a heat map."""
    layers = [
        np.mean(w, axis=(0, 1)) for w in model.attention_weights(np.array([encode(sentence)]))
    ]
    figure = charts.attention_map(
        layers, sentence.split(), causal=True, y_label="predicting the word after ...",
        title=f"Attention of a small Transformer (mean of the heads): “{sentence}”",
    )  # fmt: skip
    charts.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60, help="passes over the sentences")
    parser.add_argument("--out", default="attention.png", help="file for the picture")
    arguments = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:  # before the training rather than after it
        parser.error("the picture needs matplotlib: pip install 'tfllm[plot]'")

    keras.utils.set_random_seed(0)
    x, y, weights = training_data()
    model = tfllm.Transformer(vocab_size=len(WORDS), embedding_dim=64, num_heads=2, num_layers=2)
    model.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    model.fit(x, y, sample_weight=weights, batch_size=8, epochs=arguments.epochs, verbose=2)

    for start in ("The cat sat on", "Today the frog", "The old king"):
        print(f"{start} ... -> {complete(model, start)}")
    draw(model, SENTENCE, arguments.out)
    print(f"attention weights of “{SENTENCE}”: {arguments.out}")


if __name__ == "__main__":
    main()
