"""Gradient checks: is backward the derivative of forward, to the last digits?

    report = check_gradients(layer, x)
    print(report)                       # the worst tensor and entry, backward's value and the true one
    report.plot("check.png")            # where it is wrong, and the V of step against error

It serves any layer with `forward(x, mode)` and `backward(dy, x, cache)`, yours as well as ours, and whole networks.
How it is done: check.py (what is compared), complex_step.py (the derivative and its tolerance), differences.py (a
second opinion by real steps), adjoint.py (linear layers), kinks.py (ReLU and maxima), context.py (which unit of a
network), second_order.py (Hessian products), policies.py (what other checkers would have said), command.py (the
command line).
"""
