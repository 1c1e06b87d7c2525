"""Annotations, how they are split into parts and folds, and the permutation of users that controls need."""
