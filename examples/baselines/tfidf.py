"""Logistic regression on TF-IDF of words and word pairs: the baseline of text classifiers.

Needs scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def predict_tfidf(
    texts: Sequence[str], labels: Sequence[str], questions: Sequence[str]
) -> list[dict[str, Any]]:
    """Classify texts with logistic regression on TF-IDF of words and word pairs.

    Args:
        texts: Texts to train on.
        labels: Labels of these texts, at least two different ones.
        questions: Texts to classify.

    Returns:
        For each question, its "label" and the "probability" of it.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    # The strength of the regularization is chosen by cross-validation, for a strong baseline.
    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(class_weight="balanced", max_iter=2000),
    )
    grid = {"logisticregression__C": [1, 10, 100, 1000]}
    search = GridSearchCV(pipeline, grid, scoring="f1_macro", cv=4)
    model = search.fit(list(texts), list(labels)).best_estimator_
    answers = []
    for row in model.predict_proba(list(questions)):
        best = int(row.argmax())
        answers.append({"label": str(model.classes_[best]), "probability": float(row[best])})
    return answers
