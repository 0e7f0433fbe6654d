"""Kernels for LSTM, GRU and RNN."""

from __future__ import annotations

from typing import Any

import torch

from onnxopt.distill.kernels import Call, Tensor, kernel

_DEFAULTS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
# Gates as ONNX stacks them, in the order in which torch wants them.
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}


@kernel("LSTM", "GRU", "RNN")
def _recurrent(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> Any:
    _refuse(call, x, lengths, peepholes)
    batch_first = call.attr("layout", 0) == 1
    if batch_first:
        x = x.transpose(0, 1)
        hidden = None if hidden is None else hidden.transpose(0, 1)
        cell = None if cell is None else cell.transpose(0, 1)
    size = r.shape[-1]
    empty = x.new_zeros(len(w), x.shape[1], size)
    hidden, cell = (empty if state is None else state for state in (hidden, cell))
    outputs, hiddens, cells = [], [], []
    for number, backwards in enumerate(_directions(call)):
        steps = x.flip(0) if backwards else x
        weights = _weights(call, w[number], r[number], None if b is None else b[number])
        y, h, c = _run(call, steps, weights, hidden[number], cell[number])
        outputs.append(y.flip(0) if backwards else y)
        hiddens.append(h)
        cells.append(c)
    y, h, c = torch.stack(outputs, 1), torch.stack(hiddens), torch.stack(cells)
    if batch_first:
        y, h, c = y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return (y, h, c)[: max(call.outputs, 1)] if call.outputs > 1 else y


def _directions(call: Call) -> tuple[bool, ...]:
    given = call.text("direction", "forward")
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[given]


def _refuse(call: Call, x: Tensor, lengths: Tensor | None, peepholes: Tensor | None) -> None:
    names = call.attr("activations")
    plain = _DEFAULTS[call.op_type] * len(_directions(call))
    if names and [n.decode() if isinstance(n, bytes) else n for n in names] != plain:
        raise call.refuse("it has activations of its own")
    if call.attr("clip") or call.attr("input_forget", 0) or peepholes is not None:
        raise call.refuse("it has a clip, peepholes or a coupled input gate")
    whole = x.shape[1 if call.attr("layout", 0) == 1 else 0]
    if lengths is not None and any(int(length) != whole for length in lengths.tolist()):
        raise call.refuse("its sequences differ in length")


def _weights(call: Call, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    """Weights and biases of one direction, with the gates in torch's order."""
    order = _ORDER[call.op_type]

    def sorted_gates(stacked: Tensor) -> Tensor:
        gates = stacked.chunk(len(order), 0)
        return torch.cat([gates[place] for place in order], 0)

    both = (w.new_zeros(2 * len(w)) if b is None else b).chunk(2)
    return [sorted_gates(part) for part in (w, r, *both)]


def _run(
    call: Call, steps: Tensor, weights: list[Tensor], hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    flags = (True, 1, 0.0, False, False, False)
    start = hidden.unsqueeze(0)
    if call.op_type == "LSTM":
        y, h, c = torch._VF.lstm(steps, (start, cell.unsqueeze(0)), weights, *flags)
        return y, h[0], c[0]
    if call.op_type == "GRU" and not call.attr("linear_before_reset", 0):
        return _gru(steps, weights, hidden)
    compute = torch._VF.gru if call.op_type == "GRU" else torch._VF.rnn_tanh
    y, h = compute(steps, start, weights, *flags)
    return y, h[0], h[0]


def _gru(steps: Tensor, weights: list[Tensor], hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The form that resets the hidden state before it is multiplied, which torch does not have."""
    w, r, input_bias, hidden_bias = weights
    reset_r, update_r, new_r = r.chunk(3, 0)
    reset_b, update_b, new_b = (input_bias + hidden_bias).chunk(3, 0)
    outputs = []
    for x in steps @ w.T:
        reset_x, update_x, new_x = x.chunk(3, -1)
        reset = torch.sigmoid(reset_x + hidden @ reset_r.T + reset_b)
        update = torch.sigmoid(update_x + hidden @ update_r.T + update_b)
        new = torch.tanh(new_x + (reset * hidden) @ new_r.T + new_b)
        hidden = (1 - update) * new + update * hidden
        outputs.append(hidden)
    return torch.stack(outputs), hidden, hidden
