"""Quantization: what runs in integers, what it costs in accuracy, and whether it pays."""
