"""TensorFlow Serving's protocols as data: requests, replies and errors, without connections."""
