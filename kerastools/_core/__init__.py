"""Floor 0: pure helpers without policy, used by every room; they import none."""
