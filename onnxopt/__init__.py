"""onnxopt: rewrite ONNX graphs, prove that nothing changed, measure what it brought."""
