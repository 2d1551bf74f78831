"""What `bench/peers.py` compares: recipes of ours, TF-MOT's own pipelines, and quantizers that only convert."""
