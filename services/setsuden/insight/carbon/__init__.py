"""Grams, litres and euros of a joule: grids, sites and prices, each with its source and year."""
