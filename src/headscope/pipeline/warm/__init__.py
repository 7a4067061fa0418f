"""One process beside Snakemake that has imported what jobs need: importing takes seconds, and a fork milliseconds.

`start` starts and ends it, `server` is its loop, `client` hands a batch over to it, and `request` is what a client
says. Where there is none (a cluster, another system than Linux, after a crash), a batch runs in its own process.
"""
