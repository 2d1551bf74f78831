"""Which channels of a Keras network go together, and how to take some of them out."""
