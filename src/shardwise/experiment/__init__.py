"""A study measured on this machine: predict, run, compare, correct, judge claims."""
