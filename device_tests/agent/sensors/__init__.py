"""What a board tells of itself while it works: power rails, temperatures, throttling, clocks. Nothing is changed."""
