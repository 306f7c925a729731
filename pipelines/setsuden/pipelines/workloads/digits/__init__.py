"""Handwritten digits: the image workload, 28 x 28 pixels, 10 classes, as on a meter.

``bundle.toml`` and three ONNX files are the trained cascade; ``data`` loads the images they were
trained and are judged on; ``python -m setsuden.pipelines.train.digits`` makes the files again.
"""
