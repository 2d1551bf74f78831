"""Filter banks that are a smaller bank and transforms: negation, quarter turns, reflections."""
