"""The plan: the jobs of an experiment, each with its slice of the options and an address that digests its code."""
