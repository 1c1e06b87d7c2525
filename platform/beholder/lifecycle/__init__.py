"""What happens to a registered model: enrolment, refresh, retraining, erasure."""
