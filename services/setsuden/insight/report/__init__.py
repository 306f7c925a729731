"""``setsuden report``: joules, grams and euros of a run, from its rows alone."""
