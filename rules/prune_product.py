"""How channels pass matrix products: the inner axis ends there, a weight's outer axis begins."""

from onnxopt.rewrite import ChannelFlow, Flow


def _gemm(flow: Flow) -> None:
    row = 1 if flow.node.attr("transA", 0) else 0
    column = 0 if flow.node.attr("transB", 0) else 1
    flow.equal(flow.of(0, 1 - row), flow.of(1, 1 - column))
    layouts = [flow.of(0, row), flow.of(1, column)]
    for axis in range(1, flow.rank(2) + 1):
        layouts[-axis] = flow.equal(layouts[-axis], flow.of(2, -axis))
    flow.give(layouts)
    flow.writes(1, (1, column), (2, -1) if flow.rank(2) else None)
    flow.reads(0, 1 - row, (1, 1 - column))


def _matmul(flow: Flow) -> None:
    _product(flow, -2, -1, -2, -1)


def _fused_matmul(flow: Flow) -> None:
    left, right = flow.node.attr("transA", 0), flow.node.attr("transB", 0)
    if flow.node.attr("transBatchA", 0) or flow.node.attr("transBatchB", 0):
        return
    _product(flow, *((-1, -2) if left else (-2, -1)), *((-1, -2) if right else (-2, -1)))


def _product(flow: Flow, row: int, left: int, right: int, column: int) -> None:
    """The axes of the operands: the rows and the inner axis, the inner axis and the columns."""
    ranks = flow.rank(0), flow.rank(1)
    left, right = (-1 if ranks[0] == 1 else left), (-1 if ranks[1] == 1 else right)
    flow.equal(flow.of(0, left), flow.of(1, right))
    layouts = []
    for axis in range(max(ranks), 2, -1):
        met = [flow.of(index, -axis) for index in (0, 1) if ranks[index] >= axis]
        layouts.append(flow.equal(*met))
    if flow.computes_both():
        flow.label(flow.of(0, left), "head width")
        flow.label(flow.of(1, column), "head width")
        if layouts:
            flow.label(layouts[-1], "heads")
    layouts += [flow.of(0, row)] if ranks[0] > 1 else []
    layouts += [flow.of(1, column)] if ranks[1] > 1 else []
    flow.give(layouts)
    flow.reads(0, left, (1, right))
    flow.reads(1, right, (0, left))
    if ranks[1] > 1:
        flow.writes(-1, (1, column))
    if ranks[0] > 1:
        flow.writes(-1 if ranks[1] == 1 else -2, (0, row))


def _einsum(flow: Flow) -> None:
    terms, arrow, made = flow.node.attr("equation").replace(" ", "").partition("->")
    operands = terms.split(",")
    if not arrow or "." in terms or any(len(set(term)) < len(term) for term in operands):
        return
    axes: dict[str, list[tuple[int, int]]] = {}
    for index, term in enumerate(operands):
        for axis, letter in enumerate(term):
            axes.setdefault(letter, []).append((index, axis))
    layouts = {
        letter: flow.equal(*(flow.of(*place) for place in places))
        for letter, places in axes.items()
    }
    flow.give([layouts[letter] for letter in made])
    for letter, places in axes.items():
        for index, axis in places if letter not in made else ():
            other = next((place for place in places if place[0] != index), None)
            flow.reads(index, axis, other)
        for place in places if letter in made and len(places) == 1 else ():
            flow.writes(made.index(letter), place)


GEMM = ChannelFlow(("Gemm",), _gemm)
MATMUL = ChannelFlow(("MatMul",), _matmul)
FUSED_MATMUL = ChannelFlow(
    ("FusedMatMul", "TransposeMatMul"), _fused_matmul, domain="com.microsoft"
)
FUSED_GEMM = ChannelFlow(("FusedGemm",), _gemm, domain="com.microsoft")
EINSUM = ChannelFlow(("Einsum",), _einsum)
