"""Everything of `FreezeSchedule`."""
