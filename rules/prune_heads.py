"""What the operators of attention share: heads, their width, and the attributes that count them.

The scale of the scores is written down when the width changes: it was learned with the old one.
"""

from onnxopt.rewrite import Flow, Layout, Resize


def heads(flow: Flow, layout: Layout, count: int) -> tuple[Layout, Layout]:
    """The heads of an axis, and their width."""
    outer, width = flow.split(layout, (count, (layout.size or 0) // count))
    return named(flow, outer, width)


def named(flow: Flow, outer: Layout, width: Layout) -> tuple[Layout, Layout]:
    """Heads and width, with their names."""
    flow.label(outer, "heads")
    flow.label(width, "head width")
    return outer, width


def attend(flow: Flow, *parts: tuple[Layout, Layout]) -> tuple[Layout, Layout]:
    """The heads of the output and their width; query, key and value are tied on the way."""
    query, key, value = parts
    flow.equal(query[1], key[1])
    flow.equal(key[0], value[0])
    count, own = query[0].size or 1, key[0].size or 1
    tied = key[0] if count <= own else flow.merge([key[0], flow.new(count // own)])
    flow.equal(query[0], tied)
    return query[0], value[1]


def write_down(resize: Resize, index: int, width: int, counts: dict[str, int]) -> None:
    """Set the attributes that count heads, and the scale, where an operand's last axis changes.

    `counts` has for each attribute the operand whose heads it counts.
    """
    if resize.kept(index, -1) is None:
        return
    for name, operand in counts.items():
        kept, count = resize.kept(operand, -1), resize.node.attr(name)
        value = resize.node.input(operand)
        if kept is not None and value is not None and resize.node.has(name):
            size = (value.dim(-1) or 0) // count
            resize.set(name, len({int(at) // size for at in kept}))
    if not resize.node.attr("scale", 0.0):
        resize.set("scale", float(width) ** -0.5)
