"""jirgee_export: a checkpoint -> an optimised, quantised, verified bundle."""
