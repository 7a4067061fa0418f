"""The workflow: options become a plan of addressed jobs, stages carry them out, the store keeps results whole.

Snakemake and Hydra are used from here alone. `config` composes and checks options, `plan` turns them into nodes,
`store` reads and writes results, `stages` and `assets` make them, `commands` are the command line, `tracking` replays
results.
"""
