"""Layers as products of smaller ones: which ranks, what they cost, what they lose, and the factors themselves."""
