"""Load and save: where data lies, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from onnxopt import atomic, io, target
from onnxopt.errors import BadModel, BadOutput
from onnxopt.tensors import StoredTensor

ROOT = Path(__file__).resolve().parents[1]
FLOAT = onnx.TensorProto.FLOAT
WEIGHTS = {"a": 3000, "b": 5000, "c": 10}


def chain(weights: dict[str, int] = WEIGHTS) -> onnx.ModelProto:
    """x plus each of some weights in turn, each of its own length and number, as scalars would."""
    nodes, tensors, last = [], [], "x"
    for number, (name, size) in enumerate(weights.items()):
        tensors.append(numpy_helper.from_array(np.full(size, number, np.float32), name))
        nodes.append(helper.make_node("Concat", [last, name], [f"y_{name}"], axis=0))
        last = f"y_{name}"
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n"])]
    outputs = [helper.make_tensor_value_info(last, FLOAT, ["m"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scatter(proto: onnx.ModelProto, folder: Path, files: dict[str, tuple[str, int]]) -> Path:
    """Write the proto with some initializers outside: name to (file, offset)."""
    for tensor in proto.graph.initializer:
        if tensor.name not in files:
            continue
        location, offset = files[tensor.name]
        path = folder / location
        path.parent.mkdir(exist_ok=True, parents=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(offset)
            file.write(tensor.raw_data)
        place(tensor, location, offset, len(tensor.raw_data))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def place(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A model with its three weights in two files, one of them aligned and with a tail."""
    folder = tmp_path / "in"
    folder.mkdir()
    files = {"b": ("data.bin", 4096), "a": ("data.bin", 65536), "c": ("sub/small.bin", 0)}
    path = scatter(chain(), folder, files)
    with (folder / "data.bin").open("ab") as file:
        file.write(b"tail")
    return path


def folder_of(path: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def places(path: Path) -> dict[str, tuple[str, ...]]:
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {t.name: tuple(entry.value for entry in t.external_data) for t in tensors}


# Reading


@pytest.mark.parametrize("form", ["path", "text", "bytes", "proto", "ir"])
def test_a_model_may_come_in_any_form(tmp_path: Path, form: str) -> None:
    proto = chain()
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    source: Any = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "proto": proto,
        "ir": ir.serde.deserialize_model(proto),
    }[form]
    assert io.to_proto(io.load(source)) == proto


def test_large_weights_are_mapped_and_small_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(chain(), path)
    tensors = {name: value.const_value for name, value in io.load(path).graph.initializers.items()}
    apart = {
        name: isinstance(t, StoredTensor) and t.region is not None for name, t in tensors.items()
    }
    assert apart == {"a": True, "b": True, "c": False}
    assert all((t.numpy() == i).all() for i, t in enumerate(tensors.values()) if t is not None)


@pytest.mark.parametrize(
    "dtype", ["FLOAT16", "BFLOAT16", "FLOAT8E5M2", "INT4", "UINT2", "BOOL", "DOUBLE", "COMPLEX64"]
)
def test_a_mapped_tensor_of_any_type_reads_as_it_was_written(dtype: str, tmp_path: Path) -> None:
    kind = ir.DataType[dtype]
    values = (np.arange(40001) % 2).astype(kind.numpy())
    proto = chain({})
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    tensor = io.load(path).graph.initializers["w"].const_value
    assert isinstance(tensor, StoredTensor)
    assert tensor.region is not None
    assert tensor.dtype == kind
    assert (tensor.numpy() == values).all()
    assert tensor.numpy().flags.aligned
    assert tensor.tobytes() == proto.graph.initializer[0].raw_data


def test_external_weights_read_as_they_were_written(outside: Path) -> None:
    values = io.load(outside).graph.initializers.values()
    assert [set(value.const_value.numpy()) for value in values] == [{0.0}, {1.0}, {2.0}]


def test_a_model_behind_a_link_finds_its_data_beside_what_it_points_to(
    outside: Path, tmp_path: Path
) -> None:
    """A download cache keeps all files of a model in one folder and links to them from another."""
    view = tmp_path / "view"
    (view / "sub").mkdir(parents=True)
    for name in ("model.onnx", "data.bin", "sub/small.bin"):
        (view / name).symlink_to(outside.parent / name)
    assert len(io.load(view / "model.onnx").graph.initializers) == 3


def bad_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath("model.onnx").write_bytes(data) and None


def cut_data(folder: Path) -> None:
    os.truncate(folder / "data.bin", 70000)


def link_out(folder: Path) -> None:
    shutil.move(folder / "data.bin", folder.parent / "data.bin")
    (folder / "data.bin").symlink_to(folder.parent / "data.bin")


def relocate(location: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.copy(folder / "data.bin", folder.parent / "data.bin")
        where = location.replace("ABSOLUTE", str(folder))
        rewrite(folder, lambda g: place(g.initializer[0], where, 65536, 12000))

    return change


def rewrite(folder: Path, change: Callable[[onnx.GraphProto], Any]) -> None:
    path = folder / "model.onnx"
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    path.write_bytes(proto.SerializeToString())


def graph(change: Callable[[onnx.GraphProto], Any]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, change)


def cycle(graph: onnx.GraphProto) -> None:
    graph.node[0].input.append("y_c")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an empty file": (bad_bytes(b""), "no ONNX graph"),
    "some text": (bad_bytes(b"hello, this is not a model\n" * 9), "not an ONNX model"),
    "a pointer of Git LFS": (bad_bytes(b"version https://git-lfs.github.com/spec/v1"), "git lfs"),
    "a checkpoint": (bad_bytes(b"PK\x03\x04rest"), "export it to ONNX"),
    "a model of another runtime": (bad_bytes(b"\x20\0\0\0ORTM" + bytes(40)), "ORT format"),
    "a file cut off": (bad_bytes(chain().SerializeToString()[:20000]), "cut off"),
    "a small file cut off": (bad_bytes(chain({"c": 9}).SerializeToString()[:-5]), "cut off"),
    "no file": (lambda folder: (folder / "model.onnx").unlink(), "No such file"),
    "a folder": (
        lambda folder: ((folder / "model.onnx").unlink(), (folder / "model.onnx").mkdir()),
        "is a folder",
    ),
    "no data file": (lambda folder: (folder / "data.bin").unlink(), "data.bin can't be read"),
    "a short data file": (cut_data, "too short: it has 70000 bytes"),
    "data above the folder": (relocate("../data.bin"), "outside of"),
    "data above the folder in a long way": (relocate("sub/../../data.bin"), "outside of"),
    "data at an absolute path": (relocate("ABSOLUTE/data.bin"), "outside of"),
    "data behind a link": (link_out, "outside of"),
    "data of the wrong length": (
        graph(lambda g: place(g.initializer[0], "data.bin", 65536, 11999)),
        "can't lie at offset '65536' with length '11999'",
    ),
    "data before the file": (
        graph(lambda g: place(g.initializer[0], "data.bin", -4, 12000)),
        "can't lie at offset '-4'",
    ),
    "an external string tensor": (
        graph(lambda g: setattr(g.initializer[0], "data_type", onnx.TensorProto.STRING)),
        "can't be external",
    ),
    "a cycle": (graph(cycle), "cycle through node 'y_a' (Concat)"),
    "a value made twice": (
        graph(lambda g: g.node.append(helper.make_node("Relu", ["x"], ["y_a"]))),
        "two values are called 'y_a'",
    ),
    "a constant made twice": (
        graph(lambda g: g.initializer.append(g.initializer[0])),
        "two initializers are called 'a'",
    ),
    "an input given twice": (
        graph(lambda g: g.input.append(g.input[0])),
        "'x' names an input twice",
    ),
    "a dangling input": (
        graph(lambda g: g.node[0].input.append("ghost")),
        "node 'y_a' (Concat) reads 'ghost', which nothing makes",
    ),
    "a dangling output": (
        graph(lambda g: g.output.append(helper.make_tensor_value_info("ghost", FLOAT, None))),
        "nothing makes the graph output 'ghost'",
    ),
    "a name that is not UTF-8": (
        lambda folder: folder.joinpath("model.onnx").write_bytes(
            folder.joinpath("model.onnx").read_bytes().replace(b"y_b", b"y_\xff")
        ),
        "is not UTF-8",
    ),
    "an unknown element type": (
        graph(lambda g: setattr(g.initializer[0], "data_type", 99)),
        "unknown element type 99",
    ),
    "a weight of the wrong size": (
        graph(lambda g: g.initializer.add(name="w", data_type=1, dims=[9], raw_data=bytes(5000))),
        "needs 36 bytes of data and has 5000",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_refused_with_a_hint(outside: Path, name: str) -> None:
    spoil, word = BAD[name]
    spoil(outside.parent)
    with pytest.raises(BadModel) as raised:
        io.load(outside)
    assert word in str(raised.value)
    assert raised.value.hint
    assert raised.value.exit_code == 2


def test_external_data_without_a_folder_is_refused(outside: Path) -> None:
    with pytest.raises(BadModel, match="no folder to look in"):
        io.load(outside.read_bytes())


LEGAL: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "an empty graph": lambda m: m.graph.Clear(),
    "no import of ai.onnx": lambda m: setattr(m.opset_import[0], "domain", "ai.onnx.ml"),
    "an opset that is not out yet": lambda m: setattr(m.opset_import[0], "version", 999),
    "an IR version that is not out yet": lambda m: setattr(m, "ir_version", 999),
    "an op without a schema": lambda m: setattr(m.graph.node[0], "op_type", "Frobnicate"),
    "a domain without schemas": lambda m: setattr(m.graph.node[0], "domain", "nobody"),
    "a dim of -1": lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=-1),
    "an empty weight": lambda m: m.graph.initializer.add(name="w", data_type=1, dims=[0, 3]),
}


@pytest.mark.parametrize("name", LEGAL)
def test_an_unusual_model_simply_works(name: str) -> None:
    proto = chain()
    LEGAL[name](proto)
    assert io.to_proto(io.load(proto)) == proto


# Writing


def test_the_layout_of_external_data_is_kept(outside: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = folder_of(outside.parent)
    io.save(io.load(outside), out / "model.onnx")
    assert folder_of(out) == before
    assert folder_of(outside.parent) == before


def test_a_rewritten_weight_stays_external_and_the_others_stay_in_order(
    outside: Path, tmp_path: Path
) -> None:
    model = io.load(outside)
    new = ir.tensor(np.full(6000, 7, np.float32), name="new")
    old = model.graph.initializers.pop("b")
    value = ir.Value(name="new", const_value=new, type=old.type, shape=new.shape)
    model.graph.initializers.add(value)
    model.graph[1].replace_input_with(1, value)
    out = io.save(model, tmp_path / "out.onnx")
    assert places(out) == {
        "a": ("data.bin", "0", "12000"),
        "c": ("sub/small.bin", "0", "40"),
        "new": ("data.bin", "12032", "24000"),
    }
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    assert [set(weights[name]) for name in ("a", "c", "new")] == [{0.0}, {2.0}, {7.0}]


def test_weights_that_came_through_another_tool_go_back_outside(
    outside: Path, tmp_path: Path
) -> None:
    model = io.load(outside)
    through = io.load(io.to_proto(model))
    through.graph.meta.update(model.graph.meta)
    out = io.save(through, tmp_path / "out.onnx")
    assert {name: entry[:1] for name, entry in places(out).items()} == {
        "a": ("data.bin",),
        "b": ("data.bin",),
        "c": (),
    }


def test_aligned_weights_stay_aligned_and_dense_ones_dense(tmp_path: Path) -> None:
    for gap, wanted in ((0, "12000"), (4096 - 12000 % 4096, "12288")):
        folder = tmp_path / str(gap)
        folder.mkdir()
        starts = {"c": 0, "a": 40 + (4056 if gap else 0)}
        starts["b"] = starts["a"] + 12000 + gap
        files = {name: ("data.bin", start) for name, start in starts.items()}
        model = io.load(scatter(chain(), folder, files))
        for node in model.graph:
            if node.inputs[1].name == "c":
                model.graph.outputs[0] = node.inputs[0]
                model.graph.remove(node, safe=True)
        del model.graph.initializers["c"]
        out = io.save(model, folder / "out.onnx")
        assert {name: entry[1] for name, entry in places(out).items()} == {"a": "0", "b": wanted}


def test_weights_that_share_data_go_on_sharing_it(tmp_path: Path) -> None:
    proto = chain({"a": 3000, "b": 3000, "c": 5})
    path = scatter(proto, tmp_path, {"a": ("data.bin", 0), "b": ("data.bin", 0)})
    model = io.load(path)
    model.graph.initializers["c"].const_value = ir.tensor(np.zeros(2000, np.float32))
    out = io.save(model, tmp_path / "out.onnx", external="file")
    assert places(out)["a"] == places(out)["b"]
    assert (tmp_path / "out.onnx.data").stat().st_size < 12000 + 8000 + 100


@pytest.mark.parametrize(
    ("external", "files"),
    [
        ("keep", {"out.onnx", "data.bin", "sub/small.bin"}),
        ("inline", {"out.onnx"}),
        ("file", {"out.onnx", "out.onnx.data"}),
    ],
)
def test_the_place_of_weights_may_be_chosen(
    outside: Path, tmp_path: Path, external: Any, files: set[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    io.save(io.load(outside), out / "out.onnx", external=external)
    assert set(folder_of(out)) == files
    loaded = onnx.load(out / "out.onnx").graph.initializer
    assert [numpy_helper.to_array(tensor)[0] for tensor in loaded] == [0, 1, 2]


def test_data_of_the_input_is_not_replaced_even_under_the_default_name(tmp_path: Path) -> None:
    path = scatter(chain(), tmp_path, {"a": ("out.onnx.data", 0)})
    out = io.save(io.load(path), tmp_path / "out.onnx", external="file")
    assert {entry[0] for entry in places(out).values() if entry} == {"out.onnx.data1"}
    assert io.to_proto(io.load(path)) == chain()


def test_beside_the_input_other_names_are_chosen_for_data(outside: Path) -> None:
    before = folder_of(outside.parent)
    out = io.save(io.load(outside), outside.with_name("out.onnx"))
    after = folder_of(outside.parent)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"out.onnx", "out.onnx.data", "out.onnx.data1"}
    assert io.to_proto(io.load(out)) == io.to_proto(io.load(outside))


def test_data_of_another_model_is_not_replaced_and_that_of_an_old_result_is(
    outside: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "data.bin").write_bytes(b"precious")
    model = io.load(outside)
    io.save(model, out / "model.onnx")
    assert (out / "data.bin").read_bytes() == b"precious"
    first = folder_of(out)
    io.save(model, out / "model.onnx")
    assert folder_of(out) == first


def test_what_does_not_fit_into_a_proto_becomes_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "PROTO_LIMIT", target._ROOM + 20_000)
    out = io.save(io.load(chain()), tmp_path / "out.onnx")
    assert places(out)["a"] == ("out.onnx.data", "0", "12000")
    assert places(out)["c"] == ()
    assert io.to_proto(io.load(out)) == chain()


def test_what_does_not_fit_into_a_proto_is_refused_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "PROTO_LIMIT", 20_000)
    model = io.load(chain())
    for write in (
        io.to_proto,
        io.to_bytes,
        lambda m: io.save(m, tmp_path / "o", external="inline"),
    ):
        with pytest.raises(BadModel, match="do not fit into one protobuf"):
            write(model)
    assert folder_of(tmp_path) == {}


def test_the_input_is_replaced_on_request_only(outside: Path) -> None:
    before = folder_of(outside.parent)
    model = io.load(outside)
    with pytest.raises(BadOutput, match="is the model that was read"):
        io.save(model, outside)
    with pytest.raises(BadOutput, match="holds weights of the model"):
        io.save(model, outside.with_name("data.bin"), overwrite=True)
    assert folder_of(outside.parent) == before
    model.graph.initializers["c"].const_value = ir.tensor(np.full(10, 5, np.float32))
    io.save(model, outside, overwrite=True)
    assert set(folder_of(outside.parent)) == set(before)
    again = [numpy_helper.to_array(t)[0] for t in onnx.load(outside).graph.initializer]
    assert again == [0, 1, 5]
    # The model in memory still reads what it was loaded from.
    assert model.graph.initializers["b"].const_value.numpy()[0] == 1


@pytest.mark.parametrize(
    ("path", "word"),
    [("", "is a folder"), ("no/out.onnx", "does not exist"), ("pipe", "not a regular file")],
)
def test_a_bad_place_is_refused(tmp_path: Path, path: str, word: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadOutput, match=word) as raised:
        io.save(io.load(chain()), tmp_path / path)
    assert raised.value.hint


def test_a_closed_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadOutput, match="can't be written to"):
        io.save(io.load(chain()), tmp_path / "out.onnx")


def test_a_full_disk_leaves_nothing_behind(outside: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    io.save(io.load(outside), outside.with_name("out.onnx"))
    before = folder_of(outside.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(BadOutput, match="can't be written: File too large") as raised:
            io.save(io.load(outside), outside.with_name("out.onnx"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.hint
    assert folder_of(outside.parent) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
@pytest.mark.parametrize("moves", range(6))
def test_a_stop_at_any_move_leaves_the_old_files_as_they_were(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type, moves: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    io.save(io.load(chain()), out / "model.onnx", external="file")
    io.save(io.load(outside), out / "model.onnx")
    before = folder_of(out)
    model = io.load(outside)
    model.graph.initializers["b"].const_value = ir.tensor(np.full(5000, 9, np.float32))
    replace, count = os.replace, iter(range(99))

    def stopping(source: Any, goal: Any) -> None:
        if next(count) == moves:
            raise error("stopped")
        replace(source, goal)

    monkeypatch.setattr(atomic.os, "replace", stopping)
    with pytest.raises(BadOutput if error is OSError else error):
        io.save(model, out / "model.onnx")
    assert folder_of(out) == before


def test_at_no_moment_a_model_stands_beside_data_of_another(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    io.save(io.load(outside), out / "model.onnx")
    model = io.load(outside)
    model.graph.initializers["b"].const_value = ir.tensor(np.full(5000, 9, np.float32))
    model.doc_string = "new"
    replace, seen = os.replace, []

    def looking(source: Any, goal: Any) -> None:
        replace(source, goal)
        files = folder_of(out)
        if "model.onnx" in files:
            new_data = np.full(5000, 9, np.float32).tobytes() in files["data.bin"]
            seen.append((b"new" in files["model.onnx"], new_data))

    monkeypatch.setattr(atomic.os, "replace", looking)
    io.save(model, out / "model.onnx")
    assert seen == [(True, True)]


def test_a_failing_save_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    assert gc.isenabled()
    model = io.load(chain())
    model.graph.initializers["a"].const_value = None
    with pytest.raises(BadModel, match="has no data"):
        io.save(model, tmp_path / "out.onnx")
    assert gc.isenabled()


def test_the_same_model_gives_the_same_bytes_whatever_the_hash_seed(
    outside: Path, tmp_path: Path
) -> None:
    code = """
import sys, numpy as np, onnx_ir as ir
from onnxopt import io
model = io.load(sys.argv[1])
model.metadata_props.update({"b": "1", "a": "2"})
model.graph[0].metadata_props.update({"z": "1", "y": "2"})
model.graph.initializers["b"].const_value = ir.tensor(np.zeros(6000, np.float32))
io.save(model, sys.argv[2])
"""
    found = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        command = [sys.executable, "-c", code, str(outside), str(out / "model.onnx")]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        found.append(folder_of(out))
    assert found[0] == found[1]


def test_a_model_of_onnx_ir_keeps_its_data_files(outside: Path, tmp_path: Path) -> None:
    before = folder_of(outside.parent)
    wanted = io.to_proto(io.load(outside))
    model = ir.load(outside)
    assert io.to_proto(model) == wanted
    out = io.save(model, tmp_path / "out.onnx")
    assert {entry[0] for entry in places(out).values()} == {"data.bin", "sub/small.bin"}
    # It goes on reading its files whenever it is asked, so that none of them may be replaced.
    io.save(model, outside)
    after = folder_of(outside.parent)
    assert {**after, "model.onnx": b""} == {**after, **before, "model.onnx": b""}
    assert io.to_proto(io.load(outside)) == wanted


def test_a_model_of_onnx_ir_whose_data_is_gone_is_refused(outside: Path, tmp_path: Path) -> None:
    model = ir.load(outside)
    (outside.parent / "data.bin").unlink()
    with pytest.raises(BadModel, match="data of tensor 'b' can't be read"):
        io.save(model, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


# Looking


def test_a_skeleton_satisfies_the_checker_and_holds_no_large_data(outside: Path) -> None:
    model = io.load(outside)
    bare = io.skeleton(model)
    onnx.checker.check_model(bare, full_check=True)
    assert bare.ByteSize() < 1000
    assert [info.name for info in bare.graph.input] == ["x", "b", "a"]
    assert [tensor.name for tensor in bare.graph.initializer] == ["c"]


def test_a_skeleton_keeps_the_integers_that_shapes_are_made_of(tmp_path: Path) -> None:
    proto = chain({})
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(1000), "shape"))
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(10000), "labels"))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    bare = io.skeleton(io.load(path))
    assert [tensor.name for tensor in bare.graph.initializer] == ["shape"]


def test_the_size_of_a_model_is_that_of_its_one_file(outside: Path, tmp_path: Path) -> None:
    out = io.save(io.load(outside), tmp_path / "one.onnx", external="inline")
    size = out.stat().st_size
    assert abs(io.model_bytes(io.load(outside)) - size) < 200
    info = io.file_info(outside)
    assert info.graph_bytes == outside.stat().st_size
    assert info.external_bytes == 65536 + 12000 + 4 + 40
    assert [file.name for file in info.external_files] == ["data.bin", "small.bin"]
    assert info.external_tensors == 3


def test_a_deep_copy_shares_the_files(outside: Path) -> None:
    model = io.load(outside)
    assert io.to_proto(model.clone(deep_copy=True)) == io.to_proto(model)
