"""A network of another architecture learns more from its teacher than from the teacher's labels.

The teacher is `models/digits_mlp.onnx`, a multi-layer perceptron with a scaler; the student a small
convolutional network with random weights. `digits.npz` holds rows of the handwritten digits that
scikit-learn ships (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import onnxopt
from onnxopt import io
from onnxopt.runtime.sessions import Session
from tests.distill.models import model

F = np.float32
ROOT = Path(__file__).resolve().parents[2]
DIGITS = np.load(Path(__file__).with_name("digits.npz"))
ROWS = 120
CERTAIN = 30.0


def _student(seed: int) -> ir.Model:
    random = np.random.default_rng(seed)

    def normal(*shape: int, fan_in: int) -> Any:
        return (random.normal(size=shape) * np.sqrt(2 / fan_in)).astype(F)

    return model(
        """
        g (float[n,64] X) => (float[n,10] scores) {
          shares = Mul(X, unit)
          picture = Reshape(shares, shape)
          a = Conv<pads = [1, 1, 1, 1]>(picture, k1, c1)
          b = Relu(a)
          c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(b, k2, c2)
          d = Relu(c)
          flat = Flatten(d)
          scores = Gemm(flat, w, v)
        }
        """,
        {
            "unit": np.array(1 / 16, F),
            "shape": np.array([-1, 1, 8, 8]),
            "k1": normal(8, 1, 3, 3, fan_in=9),
            "c1": np.zeros(8, F),
            "k2": normal(16, 8, 3, 3, fan_in=72),
            "c2": np.zeros(16, F),
            "w": normal(256, 10, fan_in=256),
            "v": np.zeros(10, F),
        },
    )


def _teacher(*, labels_only: bool) -> ir.Model:
    """The perceptron with its probabilities, or with the likeliest class alone, as scores."""
    proto = onnx.load(ROOT / "models" / "digits_mlp.onnx")
    (output,) = (value for value in proto.graph.output if value.name == "probabilities")
    kept = onnx.ValueInfoProto.FromString(output.SerializeToString())
    del proto.graph.output[:]
    if labels_only:
        make = onnx.helper.make_node
        proto.graph.node.append(make("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0))
        proto.graph.node.append(make("OneHot", ["best", "ten", "ends"], ["certain"], axis=1))
        for name, array in (("ten", np.array(10)), ("ends", np.array([0, CERTAIN], F))):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        kept.name = "certain"
    proto.graph.output.append(kept)
    return io.load(proto)


def _right(student: ir.Model) -> float:
    session = Session.open(student, optimize=True, threads=1)
    (scores,) = session.run({"X": DIGITS["held"].astype(F)})
    return float((scores.argmax(1) == DIGITS["labels"]).mean())


def _taught(seed: int, *, labels_only: bool) -> float:
    result = onnxopt.distill(
        _teacher(labels_only=labels_only),
        _student(seed),
        data={"X": DIGITS["unlabelled"][seed * ROWS : (seed + 1) * ROWS].astype(F)},
        temperature=1.0 if labels_only else 6.0,
        steps=250,
        batch=30,
        learning_rate=2e-2,
        seed=seed,
        threads=1,
    )
    return _right(result.model)


def test_answers_teach_another_architecture_more_than_labels_made_of_them() -> None:
    from_answers = [_taught(seed, labels_only=False) for seed in range(3)]
    from_labels = [_taught(seed, labels_only=True) for seed in range(3)]
    assert min(from_answers) > 0.85
    assert np.mean(from_answers) > np.mean(from_labels) + 0.02, (from_answers, from_labels)
