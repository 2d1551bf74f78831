"""The networks of "Deep Compression", and the pictures they are trained on."""
