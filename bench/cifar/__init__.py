"""Networks on CIFAR-10 that the benches of structured pruning and of transfer start from."""
