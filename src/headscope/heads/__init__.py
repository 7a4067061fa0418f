"""The method: pure tensors, knows no model and no configuration."""
