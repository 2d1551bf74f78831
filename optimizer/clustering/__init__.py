"""Weight sharing: which values a kernel keeps, and how they are trained."""
