"""Training of the embedded model: `python -m sinkscope.shapes.train --help`."""
