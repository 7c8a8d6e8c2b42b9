// A batch of training images from a data set that lies on the device as uint8 (data.py): gathered, cropped from a
// border of one colour, mirrored, normalised.
#include "common.cuh"

// choice[n] = (image, top, left, mirrored): where batch image n comes from. images (.., H, W, C) uint8 with their
// labels; x (N, H, W, C). The crop begins at row `top` and column `left` of the image with a border of `pad` pixels.
extern "C" __global__ void augment(const unsigned char* __restrict__ images, const int* __restrict__ labels,
                                   const int* __restrict__ choice, const float* __restrict__ mean,
                                   const float* __restrict__ scale, const unsigned char* __restrict__ fill,
                                   float* __restrict__ x, int* __restrict__ chosen, int N, int H, int W, int C, int pad) {
  EACH_ELEMENT(i, N * H * W * C);
  const int c = i % C, column = i / C % W, row = i / C / W % H, n = i / C / W / H;
  const int image = choice[4 * n], h = choice[4 * n + 1] + row - pad;
  const int w = choice[4 * n + 2] + (choice[4 * n + 3] ? W - 1 - column : column) - pad;
  const float pixel = inside(h, H) && inside(w, W) ? images[(((long long)image * H + h) * W + w) * C + c] : fill[c];
  x[i] = (pixel - mean[c]) * scale[c];
  if (c == 0 && row == 0 && column == 0) chosen[n] = labels[image];
}
