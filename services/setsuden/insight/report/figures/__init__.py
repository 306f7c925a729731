"""What follows from the totals: grams, euros, counterfactuals, curves and findings."""
