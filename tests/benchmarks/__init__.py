"""What `make bench` measures: onnxopt against other optimizers, and against itself."""
