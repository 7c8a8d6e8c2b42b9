"""What the notebooks count that `summary` does not: how many layers with weights stand one behind the other."""

from ..compose import Concat, Residual
from ..layer import Layer, Param
from ..models.network import Network


def depth(layer: Layer) -> int:
    """Convolutions and linear layers on the longest way from x to y, as the papers count depth.

    Of several branches the longest counts. A separable convolution counts as two. Heads are not counted.
    """
    if isinstance(layer, Network):
        return depth(layer.trunk)
    if isinstance(getattr(layer, "weight", None), Param):
        return 1
    below = [depth(child) for child in layer.children().values() if isinstance(child, Layer)]
    return max(below, default=0) if isinstance(layer, (Concat, Residual)) else sum(below)
