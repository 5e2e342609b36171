"""What `fit`, `evaluate` and `predict` of a model take and raise, over Keras' own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from tfllm.optimization.labels import class_weight_table, errors_in_words


class FitArguments:
    """Weights of classes that hold token by token, and errors in words; before `keras.Model`."""

    train_function: Any
    _class_weights: np.ndarray | None

    labels_are_classes = True
    """whether integer labels are numbers of classes, of which -100 is none"""

    @property
    def num_classes(self) -> int | None:
        """How many classes labels can be, where the model knows."""
        return None

    classes_name = "num_classes"
    """what that number is called, for errors"""

    def check_class_weight(self) -> None:
        """Refuse weights of classes where labels are something else.

        Raises:
            ValueError: the labels of this model are no classes.
        """
        if not self.labels_are_classes:
            raise ValueError(
                f"class_weight is for labels that are classes, and those of {type(self).__name__} "
                "are not; give sample_weight"
            )

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `keras.Model`; see the class for labels, and for `class_weight`."""
        keras_model: Any = super()
        return self._trained(keras_model.fit, args, kwargs)

    def train_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `keras.Model`; see the class for labels, and for `class_weight`."""
        keras_model: Any = super()
        return self._trained(keras_model.train_on_batch, args, kwargs)

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `keras.Model`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.evaluate(*args, **kwargs)

    def predict(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `keras.Model`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.predict(*args, **kwargs)

    def test_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `keras.Model`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.test_on_batch(*args, **kwargs)

    def predict_on_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `keras.Model`."""
        keras_model: Any = super()
        with errors_in_words():
            return keras_model.predict_on_batch(*args, **kwargs)

    def _trained(self, method: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Call a method with all but `class_weight`: Keras would take the place of the largest
        label of a row for its class."""
        bound = inspect.signature(method).bind(*args, **kwargs)
        class_weight = bound.arguments.pop("class_weight", None)
        if class_weight is not None:
            self.check_class_weight()
            self._class_weights = class_weight_table(class_weight, self.num_classes)
            self.train_function = None  # the weights are a part of it
        try:
            with errors_in_words():
                return method(*bound.args, **bound.kwargs)
        finally:
            if class_weight is not None:
                self._class_weights = self.train_function = None
