"""Model in, smaller model out. Knows no board."""
