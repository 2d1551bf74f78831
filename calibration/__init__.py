"""Data in, checked samples and ranges out. numpy only."""
