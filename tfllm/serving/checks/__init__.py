"""Would TensorFlow Serving serve a SavedModel? One module a kind of rule."""
