"""The whole line on one machine, all of it real but DRBD, which replays captures."""
