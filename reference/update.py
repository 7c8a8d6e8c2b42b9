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


def orthogonalised(g):
    """What three rounds of s' = a s + b s^3 + c s^5 make of the singular values s of g / |g|, over the norm of it all.

    Jordan et al. 2024, "Muon", whose Newton-Schulz iteration does it without the singular values.
    """
    if not g.any():
        return np.zeros(g.shape)
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / np.sqrt(sum(one * one for one in s))
    for _ in range(3):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s / np.sqrt(sum(one * one for one in s))) @ vt


def muon(w, g, v, lr, momentum):
    """(w, v) after a step of Muon on filters w (kh, kw, C_in, C_out): as a matrix with a column for each output.

    v' = momentum v + g;  o = orthogonalised(g + momentum v');  w' = w - lr |w| o, stretched to the length of w.
    """
    v = momentum * np.asarray(v, np.float64) + g
    columns = np.stack([(g + momentum * v)[..., k].ravel() for k in range(w.shape[-1])], axis=1)
    o = orthogonalised(columns).reshape(w.shape)
    length = np.linalg.norm(w.ravel())
    moved = w - lr * length * o
    return moved * length / np.linalg.norm(moved.ravel()), v
