// One step of an optimiser over flat vectors (kernels/update.py). The learning rate is read from device memory, so
// that a captured step can be launched again with another one. Each element of grad is used and then zeroed.
#include "common.cuh"

extern "C" __global__ void sgd_step(float* __restrict__ data, float* __restrict__ grad, float* __restrict__ velocity,
                                    const float* __restrict__ lr, float momentum, float weight_decay, int nesterov,
                                    int total) {
  EACH_ELEMENT(i, total);
  float g = grad[i] + weight_decay * data[i];
  if (velocity) {
    const float v = momentum * velocity[i] + g;
    velocity[i] = v;
    g = nesterov ? g + momentum * v : v;
  }
  data[i] -= *lr * g;
  grad[i] = 0;
}

extern "C" __global__ void rmsprop_step(float* __restrict__ data, float* __restrict__ grad, float* __restrict__ square,
                                        float* __restrict__ velocity, const float* __restrict__ lr, float decay, float momentum,
                                        float eps, float weight_decay, int total) {
  EACH_ELEMENT(i, total);
  const float g = grad[i] + weight_decay * data[i];
  const float s = decay * square[i] + (1 - decay) * g * g;
  const float v = momentum * velocity[i] + *lr * g / sqrtf(s + eps);
  square[i] = s;
  velocity[i] = v;
  data[i] -= v;
  grad[i] = 0;
}

// Running averages move towards their arrays; with `back`, the arrays become them then. A block has one of the pieces
// (blocks, 3): where it begins in an average and in its array, and how many numbers it has. The rate is read from device
// memory, as the learning rate is.
extern "C" __global__ void move_averages(const unsigned long long* __restrict__ pieces, const float* __restrict__ rate,
                                         int back) {
  const unsigned long long* piece = pieces + 3 * blockIdx.x;
  float* __restrict__ mean = (float*)piece[0];
  float* __restrict__ array = (float*)piece[1];
  const int count = (int)piece[2];
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const float m = mean[i] + *rate * (array[i] - mean[i]);
    mean[i] = m;
    if (back) array[i] = m;
  }
}
