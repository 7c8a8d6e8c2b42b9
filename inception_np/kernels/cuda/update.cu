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
