"""One step of each optimiser, number by number. Every function gives the new values and changes nothing.

Weight decay is the gradient of 1/2 weight_decay |w|^2, added to the gradient before anything else.
"""

import numpy as np


def sgd(w, g, v, lr, momentum, weight_decay, nesterov):
    """(w, v) after a step of gradient descent with (Nesterov's) momentum; v = 0 before the first.

    g' = g + weight_decay w;  v' = momentum v + g';  w' = w - lr v', with Nesterov w - lr (g' + momentum v').
    Sutskever et al. 2013, section 2, with the learning rate taken out of v.
    """
    w, v = np.array(w, np.float64), np.array(v, np.float64)
    for i in np.ndindex(w.shape):
        d = g[i] + weight_decay * w[i]
        v[i] = momentum * v[i] + d
        w[i] -= lr * (d + momentum * v[i] if nesterov else v[i])
    return w, v


def rmsprop(w, g, s, v, lr, decay, momentum, eps, weight_decay):
    """(w, s, v) after a step of RMSProp, epsilon inside the root, as the Inception papers' code has it.

    g' = g + weight_decay w;  s' = decay s + (1 - decay) g'^2;  v' = momentum v + lr g' / sqrt(s' + eps);  w' = w - v'.
    """
    w, s, v = (np.array(a, np.float64) for a in (w, s, v))
    for i in np.ndindex(w.shape):
        d = g[i] + weight_decay * w[i]
        s[i] = decay * s[i] + (1 - decay) * d * d
        v[i] = momentum * v[i] + lr * d / np.sqrt(s[i] + eps)
        w[i] -= v[i]
    return w, s, v
