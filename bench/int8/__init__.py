"""What `bench/int8_accuracy.py` compares: the models, their data, and the peers, each in an environment of its own."""
