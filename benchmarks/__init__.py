"""Measurements of jirgee against other ways to do the same work. Part of the repository, not of the distribution."""
