"""Serving: one copy of the base, any mix of users in a batch."""
