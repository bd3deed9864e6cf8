"""Published results beside ours, computed anew: `make reproduce`, `make reproduce-full`."""
