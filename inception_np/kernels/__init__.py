"""Arrays in, arrays out. The body of each kernel is the formula, which runs on any array module. In its place
`@dispatch` (dispatch.py) runs a fast twin, of the same name in cpu/ or cuda/, for the arrays that have one. No kernel
knows what a Param or a Layer is.

Shapes everywhere: activations (N, H, W, C), convolution weights (kh, kw, C_in // groups, C_out). `stride`, `dilation`
and `size` are pairs (h, w); `pads` is ((top, bottom), (left, right)).
"""
