"""The endpoints of the HTTP API, one router per subject."""
