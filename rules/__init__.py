"""Rules: the op and pattern knowledge of onnxopt, one family a file."""
