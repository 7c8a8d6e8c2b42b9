// A batch of training images from a data set that lies on the device as uint8 (data/batches.py): gathered, cropped from a
// border of one colour, mirrored, a square cut out, normalised.
#include "common.cuh"

// choice[n] = (image, top, left, mirrored, cut_row, cut_column): where batch image n comes from. images (.., H, W, C)
// uint8 with their labels; x (N, H, W, C). The crop begins at row `top` and column `left` of the image with a border of
// `pad` pixels. In it, the square of `cutout` pixels from (cut_row, cut_column) has the border's colour.
extern "C" __global__ void augment(const unsigned char* __restrict__ images, const int* __restrict__ labels,
                                   const int* __restrict__ choice, const float* __restrict__ mean,
                                   const float* __restrict__ scale, const unsigned char* __restrict__ fill,
                                   Real* __restrict__ x, int* __restrict__ chosen, int N, int H, int W, int C, int pad,
                                   int cutout) {
  EACH_ELEMENT(i, N * H * W * C);
  const int c = i % C, column = i / C % W, row = i / C / W % H, n = i / C / W / H;
  const int* mine = choice + 6 * n;
  const int image = mine[0], h = mine[1] + row - pad, w = mine[2] + (mine[3] ? W - 1 - column : column) - pad;
  const bool cut = inside(row - mine[4], cutout) && inside(column - mine[5], cutout);
  const float pixel = !cut && inside(h, H) && inside(w, W) ? images[(((long long)image * H + h) * W + w) * C + c] : fill[c];
  x[i] = rounded<Real>((pixel - mean[c]) * scale[c]);
  if (c == 0 && row == 0 && column == 0) chosen[n] = labels[image];
}
