"""The ground floor: pure helpers without policy, used by every room and imported from nowhere else."""
