"""Label-free training: a teacher's outputs teach a student that is an ONNX graph.

Nothing here imports torch before it is needed; it comes with the extra `distill`.
"""
