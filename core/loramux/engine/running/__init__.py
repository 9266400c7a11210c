"""One forward pass: inputs, model, sampling."""
