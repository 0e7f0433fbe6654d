"""Models with data and a score: what quantizers are compared on.

The data and how it becomes inputs are the zoo's own (score.py).
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Array = np.ndarray[Any, Any]
Feed = dict[str, Any]

CALIBRATED = 100
EXPORTERS = ("ts", "dynamo")
_IMAGES_A_RUN = 50
_PAIRS = 250
_SENTENCES_FROM = 700


@dataclass(frozen=True, slots=True)
class Task:
    """A model's samples: to calibrate on (without labels), to score on, and one to time.

    `score` makes a number of all outputs [rows, ...], more for better; `classes` says whether they
    are scores of classes, so that agreement with the float model can be told.
    """

    calibration: Sequence[Feed]
    test: Sequence[Feed]
    timed: Feed
    score_name: str
    score: Callable[[Array], float]
    classes: bool


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a model's outputs are, and how near to the float model's."""

    score: float
    agreement: float
    sqnr_db: float


def outputs(model: Path, task: Task) -> Array:
    """The first output for all rows, [rows, ...], as onnxruntime runs the model by default."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = [np.asarray(session.run(None, feed)[0]) for feed in task.test]
    if not task.classes:
        found = [tokens.mean(axis=1) for tokens in found]
    return np.concatenate([each.reshape(len(each), -1) for each in found]).astype(np.float64)


def quality(task: Task, wanted: Array, given: Array) -> Quality:
    """What a model's outputs are worth."""
    agreement = math.nan
    if task.classes:
        agreement = float((wanted.argmax(axis=1) == given.argmax(axis=1)).mean())
    noise = max(float(np.square(wanted - given).sum()), 1e-30)
    sqnr = 10 * math.log10(float(np.square(wanted).sum()) / noise)
    return Quality(task.score(given), agreement, sqnr)


def tasks(zoo: Path, samples: int = CALIBRATED) -> Mapping[str, Callable[[Path], Task]]:
    """The task of each model that has one, by the model's name; `zoo` has score.py and data/.

    Of the images without labels there are `samples` at the most.
    """
    spec = importlib.util.spec_from_file_location("zoo_score", zoo / "score.py")
    assert spec is not None and spec.loader is not None
    own = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own)
    data = zoo / "data"
    return {
        **{
            f"effnet_lite0_{exporter}": lambda model: _photos(own, data, model, samples)
            for exporter in EXPORTERS
        },
        **{
            f"cifar_resnet{depth}_{exporter}": lambda model: _thumbnails(own, data, model, samples)
            for depth, exporter in itertools.product((20, 56), EXPORTERS)
        },
        "minilm_l6_sdpa_ts": lambda model: _sentences(own, data, model),
    }


def _photos(own: Any, data: Path, model: Path, samples: int) -> Task:
    images, labels = own.imagenet_test(data)
    return _images(own.imagenet_calibration(data)[:samples], images, labels, model, 1)


def _thumbnails(own: Any, data: Path, model: Path, samples: int) -> Task:
    with np.load(data / "cifar10" / "calibration.npz") as stored:
        calibration = own.cifar_input(stored["images"][:samples])
    images, labels = own.cifar_test(data)
    return _images(calibration, images, labels, model, _IMAGES_A_RUN)


def _images(calibration: Array, images: Array, labels: Array, model: Path, rows: int) -> Task:
    name = _inputs(model)[0]
    starts = range(0, len(images), rows)
    return Task(
        [{name: image[None]} for image in calibration],
        [{name: images[start : start + rows]} for start in starts],
        {name: calibration[:1]},
        "top-1",
        lambda scores: float((scores.argmax(axis=1) == labels).mean()),
        True,
    )


def _sentences(own: Any, data: Path, model: Path) -> Task:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.with_name("tokenizer.json")))
    tokenizer.no_padding()
    names = _inputs(model)

    def feed(sentence: str) -> Feed:
        told = tokenizer.encode(sentence)
        columns = {
            "input_ids": told.ids,
            "attention_mask": told.attention_mask,
            "token_type_ids": told.type_ids,
        }
        return {name: np.array([columns[name]], np.int64) for name in names}

    pairs = own.sick_sentences(data)
    others = itertools.islice(_of_pairs(pairs[_SENTENCES_FROM:]), CALIBRATED)
    likeness = np.array([score for score, _, _ in pairs[:_PAIRS]])

    def spearman(found: Array) -> float:
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        near = (unit[0::2] * unit[1::2]).sum(axis=1)
        return float(np.corrcoef(own.ranks(near), own.ranks(likeness))[0, 1])

    with np.load(model.with_name("inputs.npz")) as stored:
        timed = {name: stored[name] for name in stored.files}
    test = [feed(sentence) for sentence in _of_pairs(pairs[:_PAIRS])]
    return Task([feed(each) for each in others], test, timed, "Spearman", spearman, False)


def _of_pairs(pairs: Sequence[tuple[float, str, str]]) -> Iterator[str]:
    for _, first, second in pairs:
        yield first
        yield second


def _inputs(model: Path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [value.name for value in session.get_inputs()]
