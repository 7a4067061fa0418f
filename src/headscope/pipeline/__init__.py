"""The workflow: options become a plan of addressed jobs, stages run them, the store keeps results whole.

Only this room uses Snakemake and Hydra. `config` composes and checks options, `plan` turns them into jobs, `store`
reads and writes results, `stages` and `assets` make them, `commands` are the command line, `tracking` replays results.
"""
