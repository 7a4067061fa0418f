"""The plan (configuration to nodes), the stages (slice in, folder out) and their bookkeeping."""
