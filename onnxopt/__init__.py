"""onnxopt: rewrite ONNX graphs, prove that nothing changed, measure what it brought."""

__version__ = "0.1.0"
