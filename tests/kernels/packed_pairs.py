"""Packed long pairs, and the row tiles that a program visits by a work plan."""

import torch


def drawn(device, shares, tokens, group, seed):
    """Packed pairs of each KV head, as many long ones in the mean as its share says."""
    from headscope.kernels.prefill.packing import pack

    generator = torch.Generator().manual_seed(seed)
    long = torch.rand(len(shares), tokens * group, generator=generator) < torch.tensor(shares)[:, None]
    return pack(long.to(device))


def visits(plan, program):
    """Row tiles of a program: line, place, steps from and to, and all steps of the row tile."""
    begins = plan.begins.tolist()
    for line in range(int(plan.lines)):
        cuts, firsts = plan.cuts[line].tolist(), plan.firsts[line].tolist()
        start, stop, place = cuts[program], cuts[program + 1], firsts[program]
        while max(start, begins[place]) < stop:
            begin, end = begins[place : place + 2]
            yield line, place, max(start - begin, 0), min(stop, end) - begin, end - begin
            place += 1
        assert place == firsts[program + 1] + (begins[firsts[program + 1]] < stop) or start == stop
