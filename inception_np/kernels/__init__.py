"""Arrays in, arrays out. Each file has the plain version, which runs on any array module, and chooses a fast one by the
type of the array it is given. No kernel knows what a Param or a Layer is.

Shapes everywhere: activations (N, H, W, C), convolution weights (kh, kw, C_in // groups, C_out). `stride`, `dilation`
and `size` are pairs (h, w); `pads` is ((top, bottom), (left, right)).
"""
