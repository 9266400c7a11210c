"""What every route stands on: bodies, errors, keys, disconnects."""
