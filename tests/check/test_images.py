"""Pictures become the numbers that a network takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.check.data import read_data
from onnxopt.check.images import Preprocess
from onnxopt.errors import BadInput, MissingExtra

Image = pytest.importorskip("PIL.Image")


def taking(dims: str, element: str = "float") -> ir.Model:
    return ir.from_proto(
        parse(f"g ({element}[{dims}] x) => ({element}[{dims}] y) {{ y = Abs(x) }}")
    )


def folder(where: Path, *pictures: np.ndarray) -> Path:
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels.astype(np.uint8)).save(where / f"{index}.png")
    return where


def flat(height: int, width: int, *color: int) -> np.ndarray:
    return np.broadcast_to(np.uint8(color), (height, width, 3))


def values(spec: Path, model: ir.Model, how: str, batch: int = 1) -> list[Any]:
    return [feed["x"] for feed in read_data(spec, model, batch, preprocess=how)]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("raw", (51, 102, 255)),
        ("unit", (0.2, 0.4, 1.0)),
        ("symmetric", (-0.6, -0.2, 1.0)),
        ("imagenet", ((0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (1 - 0.406) / 0.225)),
        ("raw,bgr,mean=55/2/1,std=2/1/1", (100, 100, 50)),
    ],
)
def test_each_channel_is_scaled_as_asked(how: str, expected: Any, tmp_path: Path) -> None:
    data = folder(tmp_path, flat(8, 8, 51, 102, 255))
    (found,) = values(data, taking("1,3,4,4"), how)
    assert found.shape == (1, 3, 4, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, :, 2, 2], expected, rtol=1e-5)


def test_the_middle_is_cut_out_at_the_size_the_model_fixes(tmp_path: Path) -> None:
    pixels = np.zeros((70, 140, 3))
    pixels[:, 60:80] = 255
    (found,) = values(folder(tmp_path, pixels), taking("N,3,56,56"), "unit,resize=70")
    assert found[0, 0].mean() == pytest.approx(20 / 56, abs=0.01)
    assert found[0, 0, :, 28].min() == 1


def test_an_open_size_is_that_of_the_picture(tmp_path: Path) -> None:
    data = folder(tmp_path, flat(8, 6, 1, 1, 1), flat(5, 7, 1, 1, 1))
    assert [x.shape for x in values(data, taking("N,3,H,W"), "unit")] == [
        (1, 3, 8, 6),
        (1, 3, 5, 7),
    ]
    with pytest.raises(BadInput, match="different sizes"):
        values(data, taking("N,3,H,W"), "unit", batch=2)


def test_pictures_of_a_batch_are_stacked_in_the_order_of_their_names(tmp_path: Path) -> None:
    data = folder(tmp_path, *(flat(4, 4, 10 * i, 0, 0) for i in range(3)))
    found = values(data, taking("N,3,4,4"), "raw,resize=4", batch=2)
    assert [len(x) for x in found] == [2, 1]
    assert [float(x[0, 0, 0, 0]) for x in found] == [0, 20]


def test_channels_may_come_last_and_numbers_may_be_integers(tmp_path: Path) -> None:
    data = folder(tmp_path, flat(4, 4, 1, 2, 3))
    (found,) = values(data, taking("1,4,4,3", "uint8"), "raw,resize=4")
    assert found.dtype == np.uint8 and found[0, 0, 0].tolist() == [1, 2, 3]


def test_a_network_for_grey_pictures_gets_one_channel(tmp_path: Path) -> None:
    (found,) = values(folder(tmp_path, flat(9, 9, 80, 80, 80)), taking("1,1,4,4"), "raw")
    assert found.shape == (1, 1, 4, 4) and found[0, 0, 0, 0] == 80


def test_a_function_of_the_user_makes_the_input(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_pictures.py").write_text(
        "def own(pixels): return (pixels[:2, :2].T * 1.0).astype('float32')\n"
        "def doubles(pixels): return pixels[:2, :2].T * 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = folder(tmp_path, flat(4, 4, 7, 8, 9))
    (found,) = values(data, taking("1,3,2,2"), "my_pictures:own")
    assert found[0, :, 0, 0].tolist() == [7, 8, 9]
    with pytest.raises(BadInput, match="got float64"):
        values(data, taking("1,3,2,2"), "my_pictures:doubles")
    with pytest.raises(BadInput, match="no function 'missing'"):
        values(data, taking("1,3,2,2"), "my_pictures:missing")


@pytest.mark.parametrize(
    ("dims", "how", "problem"),
    [
        ("1,3,4,4", None, "nothing says how"),
        ("1,3,4,4", "vgg", "no preprocessing 'vgg'"),
        ("1,3,4,4", "unit,std=0", "'std=0'"),
        ("1,3,4,4", "unit,crop=0", "'crop=0'"),
        ("1,3,4,4", "unit,zoom=2", "'zoom=2'"),
        ("1,3,4", "unit", "pictures don't fit"),
        ("1,5,4,4", "unit", "pictures don't fit"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    dims: str, how: str | None, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=problem):
        read_data(folder(tmp_path, flat(4, 4, 1, 1, 1)), taking(dims), preprocess=how)


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"broken\.jpg can't be read"):
        values(tmp_path, taking("1,3,4,4"), "unit")


def test_preprocessing_of_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(BadInput, match="only pictures"):
        read_data(tmp_path, taking("1,3,4,4"), preprocess="unit")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    data = folder(tmp_path, flat(4, 4, 1, 1, 1))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtra, match=r"onnxopt\[images\]"):
        read_data(data, taking("1,3,4,4"), preprocess="unit")


def test_a_preset_can_be_changed_part_by_part() -> None:
    found = Preprocess.parse("imagenet,resize=256,crop=200x224,bgr")
    assert (found.resize, found.crop, found.bgr) == (256, (200, 224), True)
    assert found.std == (0.229, 0.224, 0.225)


def test_a_part_of_a_picture_is_at_least_a_quarter_of_it_and_fills_the_size(
    tmp_path: Path,
) -> None:
    rows = np.broadcast_to(np.arange(100)[:, None, None], (100, 100, 3))
    (photo,) = read_data(
        folder(tmp_path, rows), taking("1,3,16,16"), preprocess="raw,crop=16"
    ).photos()  # type: ignore[attr-defined]
    random = np.random.default_rng(0)
    parts = [photo["x"].part(random) for _ in range(30)]
    assert all(part.shape == (1, 3, 16, 16) and part.dtype == np.float32 for part in parts)
    spans = [float(np.ptp(part)) for part in parts]
    assert 30 < min(spans) < 60 and max(spans) > 70
    assert len({float(part.min()) for part in parts}) > 10
    whole = np.asarray(photo["x"])
    np.testing.assert_array_equal(whole, values(tmp_path, taking("1,3,16,16"), "raw,crop=16")[0])


def test_a_picture_of_no_fixed_size_is_not_cut(tmp_path: Path) -> None:
    found = read_data(folder(tmp_path, flat(9, 7, 1, 2, 3)), taking("N,3,H,W"), preprocess="raw")
    (photo,) = found.photos()  # type: ignore[attr-defined]
    assert photo["x"].part(np.random.default_rng(0)).shape == (1, 3, 9, 7)


def test_some_of_the_feeds_of_a_folder_are_the_same_as_among_all(tmp_path: Path) -> None:
    pictures = folder(tmp_path, *(flat(8, 8, shade, 0, 0) for shade in range(7)))
    found = read_data(pictures, taking("N,3,8,8"), 2, preprocess="raw")
    some = found.where(lambda number: number % 2 == 0)  # type: ignore[attr-defined]
    shades = [feed["x"][:, 0, 0, 0].tolist() for feed in some]
    assert shades == [[2, 3], [6]]
