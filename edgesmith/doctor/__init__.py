"""`edgesmith doctor`: what works on this machine and on boards, what brings the rest, and a self-test of boards."""
