"""Which weights matter least: by magnitude, by second derivatives of the loss, by the layer's own inputs."""
