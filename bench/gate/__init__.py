"""What the bench of the gate measures with: the agent's own windows, a planted slow-down, and a neighbour."""
