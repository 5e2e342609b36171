"""Distribution: which workers train together, on which devices, and how they are started."""
