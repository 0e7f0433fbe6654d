"""What a tensor of some rank would lead to: whether a reader of it fails."""

from __future__ import annotations

from onnxopt.rewrite import NodeView, Operand, ops

_WANTED = {"Gemm": 2, "GRU": 3, "LSTM": 3, "RNN": 3}
_SAME_RANK = ops.ELEMENTWISE_UNARY | {"Dropout", "Softmax"}


class Fails(Exception):
    """An operator got a tensor of a rank that it does not take."""


class Ranks:
    """Follows the rank of one node's output through the graph and through settled branches."""

    def __init__(self, root: NodeView) -> None:
        self._root = root
        self._ranks: dict[Operand, int] = {}
        self._numbers: dict[Operand, float] = {}

    def fails(self, rank: int) -> bool:
        """Whether an operator surely fails if the root's output has that rank."""
        self._ranks[self._root.output] = rank
        nodes = [NodeView(node) for node in self._root.node.graph or ()]
        known = 0
        try:
            while len(self._ranks) + len(self._numbers) > known:
                known = len(self._ranks) + len(self._numbers)
                for node in nodes:
                    self._follow(node)
        except Fails:
            return True
        return False

    def _follow(self, node: NodeView) -> None:
        if node.is_op("If"):
            self._follow_branch(node)
        x = node.input(0)
        if x is None or not node.is_op() or node.output in self._ranks:
            return
        if x in self._numbers:
            self._compute(node, x)
        if x in self._ranks:
            self._move(node, self._ranks[x])

    def _move(self, node: NodeView, rank: int) -> None:
        """What the node gives for a first input of that rank."""
        weight = node.input(1)
        wanted = _WANTED.get(node.op_type)
        if node.is_op("Conv", "ConvTranspose") and weight is not None:
            wanted = weight.rank
        if node.is_op("Transpose") and node.has("perm"):
            wanted = len(node.attr("perm"))
        if wanted is not None and wanted != rank:
            raise Fails
        if node.is_op("Shape") and not node.has("start") and not node.has("end"):
            # The number of dims stands for the list of them: nothing else is asked of it.
            self._numbers[node.output] = rank
        elif node.is_op("Unsqueeze", "Squeeze"):
            count = len(node.axes() or [])
            if count:
                self._ranks[node.output] = rank + (count if node.is_op("Unsqueeze") else -count)
        elif node.is_op(*_SAME_RANK) or wanted is not None:
            self._ranks[node.output] = rank

    def _compute(self, node: NodeView, x: Operand) -> None:
        """What the node gives for a first input that is a known number."""
        producer = x.producer
        of_dims = producer is not None and producer.is_op("Shape")
        other = node.input(1)
        if of_dims:
            if node.is_op("Size"):
                self._numbers[node.output] = self._numbers[x]
        elif node.is_op("Not"):
            self._numbers[node.output] = not self._numbers[x]
        elif node.is_op("Identity", "Cast"):
            self._numbers[node.output] = self._numbers[x]
        elif node.is_op("Equal") and other is not None and other.scalar is not None:
            self._numbers[node.output] = self._numbers[x] == other.scalar

    def _follow_branch(self, node: NodeView) -> None:
        condition = node.input(0)
        if condition is None or condition not in self._numbers:
            return
        graph = node.attr("then_branch" if self._numbers[condition] else "else_branch")
        for inner in graph:
            self._follow(NodeView(inner))
        for given, outer in zip(graph.outputs, node.outputs, strict=True):
            rank = self._ranks.get(Operand(given), Operand(given).rank)
            if rank is not None:
                self._ranks[outer] = rank
