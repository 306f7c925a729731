"""How the built-in bundles are made: networks, distillation, quantization, gate and curve.

Needs the ``[train]`` extra to run; importing a module of it needs only numpy.
"""
