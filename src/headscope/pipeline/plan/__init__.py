"""The plan: which jobs an experiment needs, each with its slice of the options and an address that digests its code."""
