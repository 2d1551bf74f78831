"""Quantization after training: ranges, repairs and integers, decided once for every runtime."""
