"""TensorRT on the board: engines built, kept, run and looked into. For Python 3.6 and TensorRT 8.0 to 11.4."""
