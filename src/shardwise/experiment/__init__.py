"""A study measured on the machine at hand: predicted before, run, compared, corrected, judged."""
