"""What `fit`, `evaluate` and `predict` of a model accept and raise beyond what Keras does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tfllm.optimization.labels import class_weight_table, errors_in_words


class FitArguments:
    """Mixin for class weights that apply to each token, and for readable errors about ids.

    It precedes `keras.Model` among the bases.
    """

    train_function: Any
    _class_weights: np.ndarray | None

    labels_are_classes = True
    """whether integer labels are class indices, and -100 is a label to ignore"""

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the labels, if the model knows it."""
        return None

    classes_name = "num_classes"
    """the name of that number, for errors"""

    def check_class_weight(self) -> None:
        """Check that the labels of this model are classes, so that classes can have weights.

        Raises:
            ValueError: the labels are not classes.
        """
        if not self.labels_are_classes:
            raise ValueError(
                "class_weight needs labels that are classes, and the labels of "
                f"{type(self).__name__} are not; use sample_weight instead"
            )

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Like `keras.Model.fit`, but `class_weight` applies to each label and -100 is ignored."""
        keras_model: Any = super()
        return self._trained(keras_model.fit, args, kwargs)

    def train_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Like `keras.Model.train_on_batch`, with labels and `class_weight` as for `fit`."""
        keras_model: Any = super()
        return self._trained(keras_model.train_on_batch, args, kwargs)

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.evaluate`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.evaluate(*args, **kwargs)

    def predict(self: Any, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.predict`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.predict(*args, **kwargs)

    def test_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.test_on_batch`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.test_on_batch(*args, **kwargs)

    def predict_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        """See `keras.Model.predict_on_batch`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.predict_on_batch(*args, **kwargs)

    def _trained(self, method: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a method of Keras without `class_weight`, which the training step applies.

        Keras would take the index of a row's largest label for its class.
        """
        bound = inspect.signature(method).bind(*args, **kwargs)
        class_weight = bound.arguments.pop("class_weight", None)
        if class_weight is not None:
            self.check_class_weight()
            self._class_weights = class_weight_table(class_weight, self.num_classes)
            self.train_function = None  # it contains the weights
        try:
            with errors_in_words():
                return method(*bound.args, **bound.kwargs)
        finally:
            if class_weight is not None:
                self._class_weights = self.train_function = None
