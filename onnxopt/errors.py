"""What can go wrong, each with a hint that tells the user what to do."""

from __future__ import annotations


class OnnxoptError(Exception):
    """The base of every error this package raises on purpose.

    Args:
        message: What is wrong and where.
        hint: What to do about it; empty when the message says it all.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class BadModel(OnnxoptError):
    """The model can't be read, or is not a valid ONNX model."""


class BadInput(OnnxoptError):
    """Data, feeds or options that do not fit the model or each other."""


class BadOutput(OnnxoptError):
    """The result can't be written where it should go."""


class RuntimeFailed(OnnxoptError):
    """onnxruntime refused to load or to run a model."""


class RuleError(OnnxoptError):
    """A rule, a rule pack or a pass is not written as it must be."""


class MissingExtra(OnnxoptError):
    """An optional dependency is not installed; the hint names the extra."""


class ParityFailed(OnnxoptError):
    """Two models that must agree do not."""

    exit_code = 1
