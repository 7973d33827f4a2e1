# The CPU tiers, worst first: name and compiler flags.  kernels.cpp is compiled once for each.
hrun_room(cpu hrun_formats)
