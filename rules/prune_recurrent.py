"""How channels pass recurrent layers: one hidden unit has a row in each gate."""

from onnxopt.rewrite import ChannelFlow, Flow, Resize

_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
_INITIAL = (5, 6)


def _recurrent(flow: Flow) -> None:
    gates = _GATES[flow.node.op_type]
    hidden = flow.of(2, 2)
    if hidden.size is None:
        return
    flow.label(hidden, "recurrent")
    stacked = [(1, 1, gates), (2, 1, gates), (3, 1, 2 * gates), (7, 1, 3)]
    for index, axis, count in stacked:
        if flow.rank(index):
            outer, inner = flow.split(flow.of(index, axis), (count, hidden.size))
            flow.keep_parts(outer, "has these gates")
            flow.equal(hidden, inner)
    for index in _INITIAL:
        if flow.rank(index):
            flow.equal(hidden, flow.of(index, 2))
    flow.equal(flow.of(0, 2), flow.of(1, 2))
    flow.give([None, None, None, hidden])
    for index in (1, 2):
        flow.give([None, None, hidden], index)
    for index in range(len(flow.node.outputs)):
        flow.writes(-1, (1, 1), (3, 1) if flow.rank(3) else None, index)
    flow.reads(0, 2, (1, 2))
    # Whatever the state of a unit becomes, none of the others may see it.
    flow.reads(2, 2, (2, 2))


def _shrink(resize: Resize) -> None:
    kept = resize.kept(2, 2)
    if kept is not None:
        resize.set("hidden_size", len(kept))


RECURRENT = ChannelFlow(("GRU", "LSTM", "RNN"), _recurrent, _shrink)
