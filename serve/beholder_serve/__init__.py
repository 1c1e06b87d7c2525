"""The HTTP service: one copy of the base, any mix of users in a batch."""
