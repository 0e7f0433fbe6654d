"""How channels pass operators that read images at places given by another input."""

from onnxopt.rewrite import ChannelFlow, Flow


def _grid_sample(flow: Flow) -> None:
    """One grid for all channels of an image."""
    flow.equal(flow.of(0, 0), flow.of(1, 0))
    flow.give([flow.of(0, 0), flow.of(0, 1), *(None for _ in range(flow.rank(0) - 2))])


def _regions(flow: Flow) -> None:
    """One box for all channels of an image."""
    flow.give([None, flow.of(0, 1), None, None])


GRID_SAMPLE = ChannelFlow(("GridSample",), _grid_sample)
REGIONS = ChannelFlow(("MaxRoiPool", "RoiAlign"), _regions)
