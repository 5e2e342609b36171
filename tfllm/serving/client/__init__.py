"""A client of TensorFlow Serving, over REST or gRPC. Imports no TensorFlow for REST."""
