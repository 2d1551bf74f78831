"""The hardware loop: reach a board, put things there, measure, judge."""
