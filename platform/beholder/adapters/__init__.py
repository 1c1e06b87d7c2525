"""Thousands of users' adapters as one set of tensors: trained in one pass, scored in one batch, kept in shards."""
