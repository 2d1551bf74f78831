"""A Jetson made of nothing: a fake libcudart and a fake TensorRT, for trying out the board code without one. FAKE."""
