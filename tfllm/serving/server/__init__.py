"""A server of SavedModels that speaks TensorFlow Serving's protocols."""
