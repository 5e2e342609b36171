"""Keras' `quantize` for tfllm's models: matrices become integers, in place."""

from __future__ import annotations

from typing import Any

from tfllm.keras_internals import layers_of
from tfllm.layers.projection import Projection
from tfllm.layers.quantized import INT8_POLICIES, assign_weights, check_int8, is_int8


class QuantizeMethods:
    """Mixin with `quantize` for models that can be recreated from their configuration.

    It precedes `keras.Model` among the bases. Keras would quantize layer by layer, and knows
    neither that the token embedding is also the projection to the vocabulary, nor what a
    `Projection` is.
    """

    built: bool

    def quantize(
        self: Any, mode: str | None = None, config: Any = None, filters: Any = None, **kwargs: Any
    ) -> None:
        """Round the model's matrices to 8-bit integers with a scale for each row, in place.

        The result is that of `with_dtype("int8_float32")` (or `"int8_bfloat16"` if the model
        computes in bfloat16): products stay floats, and an encoder's head is not quantized. The
        matrices are no longer trained, but an adapter (`enable_lora`) is. A compiled model is
        compiled again, with a new optimizer. Its parts (`model.encoder`) are new objects.

        Args:
            mode: "int8".
            config: instead of the mode, a `keras.quantizers.Int8QuantizationConfig` without a
                custom quantizer.
            filters: not supported.
            kwargs: `type_check`, as for Keras; it is ignored.

        Raises:
            ValueError: another mode, a custom quantizer or filters; the model is already int8, or
                computes in float16.
        """
        check_int8(mode, config, type(self).__name__)
        if filters is not None:
            raise ValueError(
                "filters are not supported: all matrices of a tfllm model are quantized, or none; "
                "leave filters out"
            )
        if unknown := set(kwargs) - {"type_check"}:
            raise ValueError(f"quantize has no argument {', '.join(sorted(unknown))}")
        if is_int8(self.dtype_policy):
            raise ValueError(f"the model is quantized already; its dtype is {self.dtype_policy}")
        policy = f"int8_{self.compute_dtype}"
        if policy not in INT8_POLICIES:
            raise ValueError(
                "a quantized model must compute in float32 or bfloat16; received one that computes "
                f"in {self.compute_dtype}. Use model.with_dtype('int8')"
            )
        compiled = self.get_compile_config() if self.compiled else None
        with self.distribute_strategy.scope():
            made = type(self).from_config({**self.get_config(), "dtype": policy})
            assign_weights(made.weights, self.weights)
        trained = {v.path for v in self.weights if v.trainable}
        for variable in made.weights:
            if variable.path not in trained:
                variable.trainable = False
        self._become(made)
        if compiled is not None:
            self.compile_from_config(compiled)

    def _become(self: Any, made: Any) -> None:
        """Take over the parts and the settings of another model of this class."""
        # Keras binds these to the object; the rest are the model's parts and its record of them.
        bound = ("build", "quantize", "_distribute_strategy")
        kept = {name: value for name, value in vars(self).items() if name in bound}
        step = ("gradient_accumulation", "detailed_logs", "votes_to_stop", "_text")
        kept |= {name: vars(self)[name] for name in step if name in vars(self)}
        vars(self).clear()
        vars(self).update({**vars(made), **kept})

    def _keep_floats_alone(self: Any) -> None:
        """Keep Keras from quantizing only some parts of this model if it is a layer of another."""
        for layer in layers_of(self):
            if isinstance(layer, Projection):
                layer.quantized_alone = False
