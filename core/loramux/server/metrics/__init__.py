"""What operators see of requests: figures, an access line each, and traces."""
