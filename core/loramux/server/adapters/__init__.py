"""The doors that show models and adapters, and load them."""
